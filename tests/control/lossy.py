"""An API server whose watches do not tell all, or not in order, and whose lists are old."""

from __future__ import annotations

import asyncio
import enum
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from stand import sort_of
from support.http_proxy import HttpRequest, Tamper

# Longest time that an event waits for the next one, which then goes before it.
HELD_SECONDS = 0.3
# How late events of a server that lags come.
LAG_SECONDS = 1.5
GONE: dict[str, Any] = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Failure",
    "message": "too old resource version: made up by the test",
    "reason": "Expired",
    "code": 410,
}


class Fate(enum.Enum):
    """What becomes of the events of watches."""

    DROPPED = "some events never come"
    DUPLICATED = "events come twice, some of them again after newer ones"
    REORDERED = "events come after those that follow them"
    GONE = "the watch ends with 410 Gone in its midst"
    LAGGING = "events come late, and a watch that begins anew gets a list of an earlier time"


class Lossy(Tamper):
    """Lets a fate happen to the watches of one stand; `count` says how often."""

    def __init__(self, fate: Fate, seed: int, share: float = 0.4) -> None:
        self.fate, self.share = fate, share
        self._random = random.Random(f"{fate.name} {seed}")
        self.count: Counter[str] = Counter()
        # Answers to the first list of each collection.
        self._lists: dict[str, bytes] = {}

    def _happens(self, what: str) -> bool:
        happens = self._random.random() < self.share
        self.count[what] += happens
        return happens

    def lines(self, request: HttpRequest, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes] | None:
        if sort_of(request)[0] != "WATCH":
            return None
        return {
            Fate.DROPPED: self._dropped,
            Fate.DUPLICATED: self._duplicated,
            Fate.REORDERED: self._reordered,
            Fate.GONE: self._gone,
            Fate.LAGGING: self._late,
        }[self.fate](sort_of(request)[1], lines)

    async def _dropped(self, kind: str, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for line in lines:
            if not self._happens(f"{kind} dropped"):
                yield line

    async def _duplicated(self, kind: str, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        old: list[bytes] = []
        async for line in lines:
            yield line
            yield line
            if old and self._happens(f"{kind} again"):
                yield self._random.choice(old)
            old.append(line)

    async def _reordered(self, kind: str, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        held: bytes | None = None
        coming = asyncio.ensure_future(anext(lines, None))
        try:
            while True:
                done, _ = await asyncio.wait([coming], timeout=None if held is None else HELD_SECONDS)
                if not done:
                    assert held is not None
                    yield held
                    held = None
                    continue
                line = coming.result()
                if line is None:
                    break
                coming = asyncio.ensure_future(anext(lines, None))
                if held is None and self._happens(f"{kind} held"):
                    held = line
                    continue
                yield line
                if held is not None:
                    self.count["reordered"] += 1
                    yield held
                    held = None
        finally:
            coming.cancel()

    async def _gone(self, kind: str, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for line in lines:
            if self._happens(f"{kind} gone"):
                # What this event says is known only by the list that follows.
                yield json.dumps({"type": "ERROR", "object": GONE}).encode() + b"\n"
                return
            yield line

    async def _late(self, kind: str, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        queue: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()

        async def read() -> None:
            async for line in lines:
                queue.put_nowait((asyncio.get_running_loop().time() + LAG_SECONDS, line))
            queue.put_nowait(None)

        reading = asyncio.ensure_future(read())
        try:
            while (item := await queue.get()) is not None:
                await asyncio.sleep(item[0] - asyncio.get_running_loop().time())
                self.count[f"{kind} late"] += 1
                yield item[1]
        finally:
            reading.cancel()

    def wants(self, request: HttpRequest) -> bool:
        # The lists that watches begin with, in pages. What is decided on is asked of etcd, however much its cache lags.
        return self.fate is Fate.LAGGING and sort_of(request)[0] == "LIST" and "limit=" in request.query

    def body(self, request: HttpRequest, content: bytes) -> bytes:
        first = self._lists.setdefault(f"{request.path}?{request.query}", content)
        if first == content or not self._happens("old list"):
            return content
        return first
