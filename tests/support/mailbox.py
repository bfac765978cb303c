"""A mail server of the tests: it wants a login, keeps what it is told, and refuses on demand."""

from __future__ import annotations

import base64
import socket
import socketserver
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from support.serving import ServerInThread


@dataclass
class Mailbox:
    """What a mail server was given."""

    port: int = 0
    mails: list[str] = field(default_factory=list)
    """Mails that it took, each with its headers."""
    logins: list[tuple[str, str]] = field(default_factory=list)
    """Names and passwords, of which it knows none, as they came."""
    refusal: str = ""
    """How it answers a login, such as `535 5.7.8 no`; empty: every login is fine."""
    encrypted: bool = False
    """Whether the last login came over TLS."""


@contextmanager
def mailbox(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, starttls: bool = False) -> Iterator[Mailbox]:
    """A mail server at `host` and a free port; with `tls` from the first byte on, or from the command STARTTLS on."""
    box = Mailbox()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
            connection, address = super().get_request()
            # A client that never shakes hands would keep the server waiting.
            connection.settimeout(10)
            return connection, address

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that does not trust the server goes without a word, which is no fault of the test's."""

    class Session(socketserver.BaseRequestHandler):
        def setup(self) -> None:
            self.connection: socket.socket = self.request
            if tls and not starttls:
                self.connection = tls.wrap_socket(self.connection, server_side=True)
            self.lines = self.connection.makefile("rb")

        def encrypt(self, context: ssl.SSLContext) -> None:
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.lines = self.connection.makefile("rb")

        def hear(self) -> str:
            """The next line."""
            if not (line := self.lines.readline()):
                raise ConnectionError("the client is gone")
            return line.decode().rstrip("\r\n")

        def say(self, *lines: str) -> None:
            self.connection.sendall("".join(f"{line}\r\n" for line in lines).encode())

        def handle(self) -> None:
            self.say("220 here")
            while True:
                word, _, rest = self.hear().partition(" ")
                match word.upper():
                    case "EHLO":
                        offered = ["STARTTLS"] if starttls and not isinstance(self.connection, ssl.SSLSocket) else []
                        self.say("250-here", *(f"250-{what}" for what in offered), "250 AUTH PLAIN")
                    case "STARTTLS" if tls and starttls:
                        self.say("220 go on")
                        self.encrypt(tls)
                    case "AUTH":
                        _, name, password = base64.b64decode(rest.removeprefix("PLAIN ")).decode().split("\0")
                        box.logins.append((name, password))
                        box.encrypted = isinstance(self.connection, ssl.SSLSocket)
                        self.say(box.refusal or "235 fine")
                    case "DATA":
                        self.say("354 go on")
                        box.mails.append("\n".join(iter(self.hear, ".")))
                        self.say("250 taken")
                    case "QUIT":
                        self.say("221 bye")
                        return
                    case _:
                        self.say("250 fine")

    with ServerInThread(Server((host, 0), Session)) as server:
        box.port = server.port
        yield box
