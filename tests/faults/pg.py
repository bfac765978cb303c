"""The proxy before Postgres: reads its protocol (version 3) far enough to know which statement runs with what."""

import asyncio
import re
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from support.proxy import Answer, Fault, Spot, Stream, World

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
# Messages after which the client waits for the server.
FLUSHING = frozenset(b"SHQpXcfdF")


@dataclass(frozen=True)
class PgRequest:
    """A statement that is executed, as it passes by."""

    sql: str
    parameters: tuple[str, ...]

    def __str__(self) -> str:
        return f"{' '.join(self.sql.split())} {list(self.parameters)}"


def statement(sql: str, *parameters: str) -> Callable[[object], bool]:
    """Matches statements by a regular expression and by parameters that must be among theirs."""

    def matches(request: object) -> bool:
        return (
            isinstance(request, PgRequest)
            and re.search(sql, request.sql, re.IGNORECASE) is not None
            and set(parameters) <= set(request.parameters)
        )

    return matches


def failure() -> Answer:
    """What a server says that is told to stop."""
    fields = (
        b"".join(
            kind + text + b"\0"
            for kind, text in [
                (b"S", b"FATAL"),
                (b"V", b"FATAL"),
                (b"C", b"57P01"),
                (b"M", b"terminating connection due to administrator command"),
            ]
        )
        + b"\0"
    )
    return Answer(b"E" + struct.pack("!I", len(fields) + 4) + fields)


@dataclass
class Session:
    """What is known of one connection."""

    statements: dict[bytes, str] = field(default_factory=dict)
    portals: dict[bytes, PgRequest] = field(default_factory=dict)
    # Per awaited ReadyForQuery: the request and fault that it answers.
    awaited: deque[tuple[PgRequest | None, Fault | None]] = field(default_factory=deque)

    def executed(self, kind: int, body: bytes) -> PgRequest | None:
        """Follows one message of the client; the statement, when it executes one."""
        if kind == ord("P"):
            name, sql, _ = body.split(b"\0", 2)
            self.statements[name] = sql.decode()
        elif kind == ord("B"):
            portal, name, rest = body.split(b"\0", 2)
            self.portals[portal] = PgRequest(self.statements.get(name, ""), parameters(rest))
        elif kind == ord("E"):
            return self.portals.get(body.split(b"\0", 1)[0])
        elif kind == ord("Q"):
            return PgRequest(body.rstrip(b"\0").decode(), ())
        return None


def parameters(rest: bytes) -> tuple[str, ...]:
    """The parameters of a Bind message after its names; binary ones are shown as text as far as they are text."""
    (formats,) = struct.unpack_from("!H", rest)
    at = 2 + 2 * formats
    (count,) = struct.unpack_from("!H", rest, at)
    at += 2
    found = []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", rest, at)
        at += 4
        if length >= 0:
            found.append(rest[at : at + length].decode(errors="replace"))
            at += length
        else:
            found.append("NULL")
    return tuple(found)


async def message(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """One typed message: its type, its body, all its bytes."""
    head = await reader.readexactly(5)
    body = await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
    return head[0], body, head + body


async def handle(world: World, client: Stream, server: Stream) -> None:
    """Serves one connection until a side closes it."""
    await startup(world, client, server)
    session = Session()
    pumps = [
        asyncio.create_task(from_client(world, client, server, session)),
        asyncio.create_task(from_server(world, client, server, session)),
    ]
    try:
        done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in done:
            pump.result()
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def startup(world: World, client: Stream, server: Stream) -> None:
    """The messages without a type, up to the one that names user and database."""
    while True:
        head = await client.reader.readexactly(8)
        length, code = struct.unpack("!II", head)
        await world.send(server, head + await client.reader.readexactly(length - 8))
        if code not in (SSL_REQUEST, GSS_REQUEST):
            return
        answer = await server.reader.readexactly(1)
        if answer != b"N":
            raise ValueError("the server encrypts: this proxy needs one that does not")
        await world.send(client, answer)


async def from_client(world: World, client: Stream, server: Stream, session: Session) -> None:
    held, request = b"", None
    while True:
        kind, body, raw = await message(client.reader)
        held += raw
        request = session.executed(kind, body) or request
        if kind not in FLUSHING:
            continue
        fault = None
        if request is not None:
            fault = await world.begin(request)
            if fault is not None and fault.spot is Spot.REQUESTED:
                await world.fire(fault, request, client)
        if kind in b"SQ":
            session.awaited.append((request, fault))
            request = None
        await world.send(server, held)
        held = b""


async def from_server(world: World, client: Stream, server: Stream, session: Session) -> None:
    held, tag = b"", b""
    while True:
        kind, body, raw = await message(server.reader)
        held += raw
        request, fault = session.awaited[0] if session.awaited else (None, None)
        if kind == ord("C"):
            tag = body.rstrip(b"\0")
        if kind == ord("Z"):
            if session.awaited:
                session.awaited.popleft()
            # Outside of a transaction, and with a row: it happened. Otherwise the fault waits for another request.
            if fault is not None and not (body == b"I" and tag.endswith(b" 1")):
                world.unclaim(fault)
                fault = None
            if fault is not None and fault.spot is Spot.APPLIED:
                await world.fire(fault, request, client)
        elif fault is not None:
            continue
        await world.send(client, held)
        held = b""
        if kind == ord("Z"):
            tag = b""
            if fault is not None and fault.spot is Spot.ANSWERED:
                world.fire_at_next(fault)
