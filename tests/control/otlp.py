"""A collector of OpenTelemetry traces on loopback: OTLP over HTTP with protobuf, decoded by the wire format alone.

Field numbers are those of opentelemetry/proto/trace/v1/trace.proto and collector/trace/v1/trace_service.proto.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

Field = tuple[int, int | bytes]


def fields(message: bytes) -> list[Field]:
    """The fields of a protobuf message, by number."""
    found: list[Field] = []
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        key = varint()
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == 0:
            value = varint()
        elif kind == 1:
            (value,) = struct.unpack_from("<Q", message, position)
            position += 8
        elif kind == 2:
            length = varint()
            value = message[position : position + length]
            position += length
        elif kind == 5:
            (value,) = struct.unpack_from("<I", message, position)
            position += 4
        else:
            raise ValueError(f"wire type {kind}")
        found.append((number, value))
    return found


def messages(message: bytes, number: int) -> list[bytes]:
    """The embedded messages, strings or bytes of a field."""
    return [value for found, value in fields(message) if found == number and isinstance(value, bytes)]


def integer(message: bytes, number: int) -> int:
    """An integer field; 0 where it is absent."""
    return next((value for found, value in fields(message) if found == number and isinstance(value, int)), 0)


def attributes(message: bytes, number: int) -> dict[str, str | int]:
    """Attributes whose values are strings or integers."""
    found: dict[str, str | int] = {}
    for pair in messages(message, number):
        (key,), (value,) = messages(pair, 1), messages(pair, 2)
        text = messages(value, 1)
        found[key.decode()] = text[0].decode() if text else integer(value, 3)
    return found


@dataclass(frozen=True)
class Span:
    """A span as it came."""

    trace: str
    span: str
    parent: str
    name: str
    start: int
    end: int
    attributes: dict[str, str | int]
    # 1: ok, 2: error
    status: int
    message: str
    resource: dict[str, str | int]


def decode(request: bytes) -> list[Span]:
    """The spans of an ExportTraceServiceRequest."""
    found = []
    for of_resource in messages(request, 1):
        resource = attributes(messages(of_resource, 1)[0], 1)
        for of_scope in messages(of_resource, 2):
            for span in messages(of_scope, 2):
                status = (messages(span, 15) or [b""])[0]
                found.append(
                    Span(
                        trace=messages(span, 1)[0].hex(),
                        span=messages(span, 2)[0].hex(),
                        parent=(messages(span, 4) or [b""])[0].hex(),
                        name=messages(span, 5)[0].decode(),
                        start=integer(span, 7),
                        end=integer(span, 8),
                        attributes=attributes(span, 9),
                        status=integer(status, 3),
                        message=(messages(status, 2) or [b""])[0].decode(),
                        resource=resource,
                    )
                )
    return found


class Collector:
    """Takes traces; a context manager."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.headers: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf":
                    collector.spans.extend(decode(body))
                    collector.headers.append(dict(self.headers.items()))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
