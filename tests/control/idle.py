"""An operator that has done its work."""

from __future__ import annotations

from dataclasses import dataclass

from stand import Stand


@dataclass(frozen=True)
class Idle:
    """An operator whose work is done."""

    stand: Stand
    # When it was, by time.monotonic(), and what had been asked and written by then.
    since: float
    calls: int
    writes: int
