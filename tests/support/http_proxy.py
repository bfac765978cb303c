"""A proxy for HTTP/1.1: one request after another; bytes stay as they are, for some are signed."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from support.proxy import Fault, Spot, Stream, World

CHUNK = 1 << 16


@dataclass(frozen=True)
class HttpRequest:
    """A request as it passes by."""

    method: str
    # Decoded path.
    path: str
    query: str
    length: int

    def __str__(self) -> str:
        return f"{self.method} {self.path}{'?' if self.query else ''}{self.query} ({self.length} bytes)"


def http_request(method: str, path: str, query: str = "") -> Callable[[object], bool]:
    """Matches requests by method and, as regular expressions found anywhere, path and query."""

    def matches(request: object) -> bool:
        return (
            isinstance(request, HttpRequest)
            and re.fullmatch(method, request.method) is not None
            and re.search(path, request.path) is not None
            and re.search(query, request.query) is not None
        )

    return matches


class Tamper:
    """Changes answers on their way; as it is, none."""

    def lines(self, request: HttpRequest, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes] | None:
        """The lines that the client gets instead of those of a chunked answer; None: what the server says. After the last one the connection ends."""
        return None

    def wants(self, request: HttpRequest) -> bool:
        """Whether `body` is to be asked about the answer to this request."""
        return False

    def body(self, request: HttpRequest, content: bytes) -> bytes:
        """The body that the client gets."""
        return content


@dataclass
class Head:
    """First line and headers of a message, with the bytes they came in."""

    raw: bytes
    first: str
    headers: dict[str, str]

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.first.split(" ")[1])

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", "0"))

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()


async def read_head(reader: asyncio.StreamReader) -> Head:
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Head(raw, first, headers)


async def pieces(reader: asyncio.StreamReader, count: int) -> AsyncIterator[bytes]:
    """Exactly `count` bytes, as they come."""
    while count > 0:
        piece = await reader.read(min(CHUNK, count))
        if not piece:
            raise EOFError("the peer closed within a body")
        count -= len(piece)
        yield piece


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """A chunked body with its framing, trailers included."""
    while True:
        size = await reader.readuntil(b"\r\n")
        yield size
        count = int(size.split(b";")[0], 16)
        if count == 0:
            break
        async for piece in pieces(reader, count + 2):
            yield piece
    while True:
        trailer = await reader.readuntil(b"\r\n")
        yield trailer
        if trailer == b"\r\n":
            return


async def unchunked(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What a chunked body holds, as it comes."""
    while count := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        async for piece in pieces(reader, count):
            yield piece
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass


async def split(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines, with their ends."""
    rest = b""
    async for piece in content:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line + b"\n"


async def pass_tampered(
    world: World, client: Stream, server: Stream, answer: Head, request: HttpRequest
) -> bool | None:
    """Passes an answer on that is changed on its way; whether the connection goes on, None where nothing is changed."""
    tamper: Tamper | None = world.tamper
    if tamper is None or answer.status != 200:
        return None
    if tamper.wants(request):
        read = unchunked(server.reader) if answer.chunked else pieces(server.reader, answer.length)
        content = tamper.body(request, b"".join([piece async for piece in read]))
        kept = [
            line
            for line in answer.raw.split(b"\r\n")[1:-2]
            if not line.lower().startswith((b"content-length", b"transfer-"))
        ]
        head = [answer.first.encode(), *kept, b"content-length: %d" % len(content), b"", b""]
        await world.send(client, b"\r\n".join(head) + content)
        return True
    if answer.chunked and (lines := tamper.lines(request, split(unchunked(server.reader)))) is not None:
        await world.send(client, answer.raw)
        async for line in lines:
            await world.send(client, b"%x\r\n" % len(line) + line + b"\r\n")
        await world.send(client, b"0\r\n\r\n")
        return False
    return None


async def handle(world: World, client: Stream, server: Stream) -> None:
    """Serves one connection until a side closes it."""
    while True:
        head = await read_head(client.reader)
        method, target, _ = head.first.split(" ", 2)
        url = urlsplit(target)
        request = HttpRequest(method, unquote(url.path), url.query, head.length)
        fault = await world.begin(request)
        if fault is not None and fault.spot is Spot.REQUESTED:
            await world.fire(fault, request, client)
        await world.send(server, head.raw)
        answer = None
        if "expect" in head.headers:
            answer = await read_head(server.reader)
            if answer.status == 100:
                await world.send(client, answer.raw)
                answer = None
        if answer is None:
            await pass_body(world, client, server, head, request, fault)
            answer = await read_head(server.reader)
        if not await pass_answer(world, client, server, answer, request, fault):
            return


async def pass_body(
    world: World, client: Stream, server: Stream, head: Head, request: HttpRequest, fault: Fault | None
) -> None:
    if head.chunked:
        async for piece in chunks(client.reader):
            await world.send(server, piece)
        return
    half = head.length // 2
    async for piece in pieces(client.reader, half):
        await world.send(server, piece)
    if fault is not None and fault.spot is Spot.HALF_SENT:
        await world.fire(fault, request, client)
    async for piece in pieces(client.reader, head.length - half):
        await world.send(server, piece)


async def pass_answer(
    world: World, client: Stream, server: Stream, answer: Head, request: HttpRequest, fault: Fault | None
) -> bool:
    """Passes an answer on; whether the connection goes on."""
    if fault is not None and not 200 <= answer.status < 300:
        # What the server refused did not happen.
        world.unclaim(fault)
        fault = None
    if fault is not None and fault.spot is Spot.APPLIED:
        await world.fire(fault, request, client)
    if fault is None and (goes_on := await pass_tampered(world, client, server, answer, request)) is not None:
        return goes_on
    await world.send(client, answer.raw)
    bodiless = request.method == "HEAD" or answer.status in (204, 304)
    if not bodiless and answer.chunked:
        async for piece in chunks(server.reader):
            await world.send(client, piece)
    elif not bodiless:
        half = answer.length // 2
        async for piece in pieces(server.reader, half):
            await world.send(client, piece)
        if fault is not None and fault.spot is Spot.HALF_ANSWERED:
            await world.fire(fault, request, client)
        async for piece in pieces(server.reader, answer.length - half):
            await world.send(client, piece)
    if fault is not None and fault.spot is Spot.ANSWERED:
        world.fire_at_next(fault)
    return answer.headers.get("connection", "").lower() != "close"
