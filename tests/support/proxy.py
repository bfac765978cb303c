"""What stands between a job and its services: connections that can be held, cut, or answered wrongly at one point.

A `World` runs the proxies of one job in a thread of its own. A `Fault` names one request and the spot within it; when a
request gets there the fault fires, once. A fault that holds stops every byte of every connection at that moment, so the
test can kill the job exactly there. Nothing in the job knows of any of this.
"""

import asyncio
import contextlib
import enum
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

# Longest wait for anything that the loop is asked to do.
PATIENCE_SECONDS = 10.0


class Spot(enum.Enum):
    """How far a request and its answer got."""

    REQUESTED = "nothing of the request was passed on"
    HALF_SENT = "half of the request's body was passed on"
    APPLIED = "the server has answered, nothing of the answer was passed on"
    HALF_ANSWERED = "half of the answer's body was passed on"
    ANSWERED = "the answer was passed on, the next request was not"


@dataclass(frozen=True)
class Hold:
    """Stops everything."""


@dataclass(frozen=True)
class Reset:
    """Resets the connection (TCP RST)."""


@dataclass(frozen=True)
class Answer:
    """Gives the client these bytes instead of the server's answer, then closes."""

    content: bytes


@dataclass(frozen=True)
class Silence:
    """Leaves this request without an answer, and its connection open; everything else goes on."""


@dataclass
class Fault:
    """What goes wrong, once: `action`, when a request that `matches` got to `spot`."""

    matches: Callable[[Any], bool]
    spot: Spot
    action: Hold | Reset | Silence | Answer = field(default_factory=Hold)
    fired: threading.Event = field(default_factory=threading.Event)
    # The request at which it fired, for messages.
    at: str = ""
    claimed: bool = False


class Meeting:
    """Holds each request that `matches` until `count` of them have come, or `seconds` have passed."""

    def __init__(self, matches: Callable[[Any], bool], count: int, seconds: float) -> None:
        self.matches, self.count, self.seconds = matches, count, seconds
        self.came = 0
        # Set when one has come.
        self.one = threading.Event()
        self.over = asyncio.Event()
        self.met = False

    async def wait(self) -> None:
        self.came += 1
        self.one.set()
        if self.came == self.count and not self.over.is_set():
            self.met = True
            self.over.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), self.seconds)
        self.over.set()


@dataclass
class Stream:
    """One side of a proxied connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        """Closes with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Handler = Callable[["World", Stream, Stream], Awaitable[None]]


class World:
    """The proxies of a job and the fault that waits for it."""

    # What changes answers on their way, for protocols whose handler asks it (`http_proxy.Tamper`).
    tamper: Any = None

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._faults: list[Fault] = []
        self._meetings: list[Meeting] = []
        self._next: Fault | None = None
        self._observers: list[Callable[[Any], None]] = []
        self.errors: list[str] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    # What a test calls.

    def listen(self, handler: Handler, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Starts a proxy before the service at `port`, which may speak TLS; its own port, which does not."""
        return self._call(self._listen(handler, port, tls))

    def expect(self, fault: Fault) -> Fault:
        """Lets `fault` happen to the first request that reaches it."""

        async def add() -> None:
            self._faults.append(fault)

        self._call(add())
        return fault

    def observe(self, observer: Callable[[Any], None]) -> None:
        """Tells `observer` of every request when it has come, in the proxies' thread."""

        async def add() -> None:
            self._observers.append(observer)

        self._call(add())

    def gather(self, matches: Callable[[Any], bool], count: int, seconds: float) -> Meeting:
        """Makes the requests that `matches` go on together; see `Meeting`."""

        async def add() -> Meeting:
            meeting = Meeting(matches, count, seconds)
            self._meetings.append(meeting)
            return meeting

        return self._call(add())

    def dismiss(self, meeting: Meeting) -> None:
        """Lets everyone go on who waits."""

        async def end() -> None:
            meeting.over.set()

        self._call(end())

    def cut(self) -> None:
        """Ends every connection, forgets every fault and lets new connections through."""
        self._call(self._cut())

    def close(self) -> None:
        """Ends everything."""

        async def end() -> None:
            for server in self._servers:
                server.close()
            await self._cut()

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self._loop.close()

    # What a handler calls.

    async def begin(self, request: Any) -> Fault | None:
        """A request has come and nothing of it was passed on. The fault that it will meet, if any."""
        await self._open.wait()
        for observer in self._observers:
            observer(request)
        if self._next is not None:
            fault, self._next = self._next, None
            await self.fire(fault, request)
        for meeting in self._meetings:
            if meeting.matches(request):
                await meeting.wait()
        for fault in self._faults:
            if not fault.claimed and fault.matches(request):
                fault.claimed = True
                return fault
        return None

    async def send(self, stream: Stream, content: bytes) -> None:
        """Passes bytes on, unless everything is held."""
        await self._open.wait()
        stream.writer.write(content)
        await stream.writer.drain()

    async def fire(self, fault: Fault, request: Any, client: Stream | None = None) -> None:
        """Lets the fault happen. Does not return: the connection is over."""
        fault.at = str(request)
        if isinstance(fault.action, Hold):
            self._open.clear()
            fault.fired.set()
            # Until `cut` cancels this task.
            await asyncio.Event().wait()
        if isinstance(fault.action, Silence):
            fault.fired.set()
            await asyncio.Event().wait()
        if client is not None:
            if isinstance(fault.action, Reset):
                client.reset()
            elif isinstance(fault.action, Answer):
                client.writer.write(fault.action.content)
                await client.writer.drain()
        fault.fired.set()
        raise ConnectionAbortedError("ended by a fault")

    def fire_at_next(self, fault: Fault) -> None:
        """Lets the fault happen when the next request comes, on whatever connection."""
        self._next = fault

    def unclaim(self, fault: Fault) -> None:
        """The request was refused by the server: the fault waits for another one."""
        fault.claimed = False

    # The loop's side.

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    async def _listen(self, handler: Handler, port: int, tls: ssl.SSLContext | None) -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            client, server = Stream(reader, writer), None
            try:
                server = Stream(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20, ssl=tls))
                await handler(self, client, server)
            except (asyncio.CancelledError, OSError, EOFError):
                pass
            except Exception as error:  # A proxy that cannot read its protocol must fail the test, not the job.
                self.errors.append(f"{type(error).__name__}: {error}")
            finally:
                for stream in (client, server):
                    if stream is not None:
                        stream.writer.close()
                self._tasks.discard(task)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 20)
        self._servers.append(server)
        return server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        self._faults.clear()
        self._meetings.clear()
        self._next = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._open.set()
