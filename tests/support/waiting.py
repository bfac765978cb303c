"""Waiting for what another process does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    what: str, condition: Callable[[], T], seconds: float, every: float = 0.05, state: Callable[[], str] | None = None
) -> T:
    """The first true value of `condition`, asked every so many seconds.

    After `seconds` it fails with what was waited for, and with what `state` then says.
    """
    deadline = time.monotonic() + seconds
    while not (seen := condition()):
        if time.monotonic() > deadline:
            now = f":\n{state()}" if state else ""
            raise AssertionError(f"after {seconds:.0f} s still waiting for {what}{now}")
        time.sleep(every)
    return seen
