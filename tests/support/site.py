"""A web server whose answers are given by path, with all that a page with scripts can ask for."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from support.serving import ServerInThread

HTML = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Page:
    """An answer."""

    body: bytes | str = b""
    kind: str = HTML
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    endless: bool = False
    """Nothing more is sent, and the connection stays open as long as the server lives."""


@dataclass(frozen=True)
class Visit:
    """A request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes


class Site(ServerInThread):
    """Answers GET and POST with the page of the path; of a list one after the other, the last one again and again. All else is 404."""

    def __init__(self, pages: Mapping[str, Page | list[Page]], host: str = "127.0.0.1") -> None:
        self.pages = {path: list(page) if isinstance(page, list) else [page] for path, page in pages.items()}
        self.visits: list[Visit] = []
        self.closing = threading.Event()
        self.connections = 0
        super().__init__(_Server((host, 0), self))
        self.url = f"http://{host}:{self.port}"

    def paths(self, method: str = "GET") -> list[str]:
        """What was asked for."""
        return [visit.path for visit in self.visits if visit.method == method]

    def visit(self, path: str) -> Visit:
        """The one request for `path`."""
        (visit,) = [visit for visit in self.visits if visit.path == path]
        return visit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        super().__exit__(kind, error, trace)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], site: Site) -> None:
        self.site = site
        super().__init__(address, _Handler)

    def process_request(self, request: object, client_address: object) -> None:
        self.site.connections += 1
        super().process_request(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        site = self.server.site
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        site.visits.append(Visit(self.command, self.path, headers, body))
        pages = site.pages.get(self.path, [Page("nothing is here", status=404)])
        page = pages.pop(0) if len(pages) > 1 else pages[0]
        content = page.body.encode() if isinstance(page.body, str) else page.body
        try:
            self.send_response(page.status)
            for name, value in {"Content-Type": page.kind, **page.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) + page.endless))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()
            if page.endless:
                site.closing.wait(120)
                self.close_connection = True
        except (BrokenPipeError, ConnectionResetError):
            # The client did not wait: that is what the test is about.
            self.close_connection = True

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Requests are in `Site.visits`; nothing is printed."""
