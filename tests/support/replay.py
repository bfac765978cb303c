"""An HTTP server that answers with recordings, and with whatever errors a test asks for.

A request with `at=<RFC 3339 time>` gets the recording of that date. Scripted answers are given first, one per request.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from support.coincap import recordings
from support.serving import ServerInThread

_NO_RECORDING = b'{"error":"nothing was recorded for this time"}'


@dataclass(frozen=True)
class Request:
    """A request that arrived."""

    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    at: float
    """Seconds on the monotonic clock."""


@dataclass(frozen=True)
class Answer:
    """A scripted answer."""

    status: int = 200
    body: bytes | None = None
    """None: the recording that the request asks for."""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before anything is sent."""
    cut_after: int | None = None
    """Send only so many bytes of the body, then close the connection."""


class ReplayServer(ServerInThread):
    """The server."""

    def __init__(self, host: str = "127.0.0.1", answers: dict[str, bytes] | None = None) -> None:
        self.requests: list[Request] = []
        self._answers = answers if answers is not None else {date: r.body for date, r in recordings().items()}
        self._script: deque[Answer] = deque()
        self._delays: dict[str, float] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        super().__init__(_Server((host, 0), self))
        self.url = f"http://{host}:{self.port}"

    def answer(self, *answers: Answer) -> None:
        """The next requests get these answers, one each."""
        with self._lock:
            self._script.extend(answers)

    def record(self, date: str, body: bytes) -> None:
        """From now on `body` is what was recorded for `date`."""
        with self._lock:
            self._answers[date] = body

    def delay(self, date: str, seconds: float) -> None:
        """From now on what was recorded for `date` comes so late, unless a scripted answer comes instead."""
        with self._lock:
            self._delays[date] = seconds

    def times(self) -> list[str]:
        """What `at` each request asked for."""
        return [time for request in self.requests for time in request.query.get("at", [])]

    def next_answer(self, request: Request) -> Answer:
        """What `request` gets."""
        date = request.query.get("at", [""])[0][:10]
        with self._lock:
            self.requests.append(request)
            scripted = self._script.popleft() if self._script else None
            recorded = self._answers.get(date)
            delay = self._delays.get(date, 0.0)
        if scripted is not None and scripted.body is not None:
            return scripted
        status, body = (200, recorded) if recorded is not None else (404, _NO_RECORDING)
        if scripted is None:
            return Answer(status, body, delay=delay)
        return Answer(scripted.status, body, scripted.headers, scripted.delay, scripted.cut_after)

    def pause(self, seconds: float) -> None:
        """Waits, but not longer than the server lives."""
        self._closing.wait(seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        super().__exit__(kind, error, trace)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], replay: ReplayServer) -> None:
        self.replay = replay
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        replay = self.server.replay
        answer = replay.next_answer(Request(url.path, parse_qs(url.query), headers, time.monotonic()))
        replay.pause(answer.delay)
        body = answer.body or b""
        try:
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if answer.cut_after is None else body[: answer.cut_after])
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            # The client did not wait: that is what the test is about.
            self.close_connection = True
        if answer.cut_after is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Requests are in `ReplayServer.requests`; nothing is printed."""
