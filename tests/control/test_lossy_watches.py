"""Watches that lose, double and reorder events, end in their midst, or lag: runs end as they do otherwise, each stage executed once.

A watch never tells twice what it has told or should have: what brings an operator on after a lost event is that it lists everything anew from
time to time (`--resync`), and that it looks again at what works or waits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from lives import Case, at_once, live
from lossy import Fate, Lossy
from scenarios import EXTERNAL, LAKEHOUSE, RUN, SCENARIOS, Scenario, pipeline, run, succeeds
from stand import Stand, sort_of
from support.http_proxy import HttpRequest, Tamper
from support.operator_logs import API_FAULTS

pytestmark = pytest.mark.operator_says(*API_FAULTS)

RESYNC = "--resync=2s"
# Most of their time these stands wait.
AT_ONCE = 10


def test_lossy_watches(stand: Callable[[str], Stand], soak: bool, capsys: pytest.CaptureFixture[str]) -> None:
    scenarios = SCENARIOS if soak else [it for it in SCENARIOS if it.name in ("retry", "edit")]
    expected = {}

    def undisturbed(scenario: Scenario) -> None:
        with stand(f"{scenario}-told") as it:
            live(it, scenario)
            expected[scenario.name] = it.outcome()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(undisturbed, scenarios))
    happened: Counter[str] = Counter()

    def ends_the_same(scenario: Scenario, fate: Fate, seed: int) -> bool:
        with stand(f"{scenario}-{fate.name.lower()}-{seed}") as it:
            it.flags = (RESYNC,)
            lossy = it.world.tamper = Lossy(fate, seed)
            live(it, scenario)
            it.wait("the same end", lambda: it.outcome() == expected[scenario.name])
            it.check_single_execution()
            happened[fate.name.lower()] += sum(lossy.count.values())
            return True

    every = [(scenario, fate, seed) for seed in range(5 if soak else 1) for fate in Fate for scenario in scenarios]
    cases = [
        Case(f"{scenario} {fate.name.lower()} {seed}", partial(ends_the_same, scenario, fate, seed))
        for scenario, fate, seed in every
    ]
    lives = Counter(name.split()[1] for name in at_once(AT_ONCE, cases))
    with capsys.disabled():
        print(f"\n  {lives.total()} lives, {dict(happened)}", end=" ", flush=True)
    # Each of them met what it is about.
    assert all(happened[fate] >= count for fate, count in lives.items()), happened


class Untold(Tamper):
    """No watch tells of runs."""

    async def _nothing(self, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for line in lines:
            if b'"BOOKMARK"' in line[:30]:
                yield line

    def lines(self, request: HttpRequest, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes] | None:
        return self._nothing(lines) if sort_of(request) == ("WATCH", "lakehouseruns") else None


def test_a_run_that_no_watch_tells_of_begins_when_all_is_listed_anew(stand: Callable[[str], Stand]) -> None:
    with stand("untold") as it:
        it.world.tamper = Untold()
        operator = it.start("--resync=1h")
        it.apply(LAKEHOUSE, pipeline(EXTERNAL))
        it.wait("the watch of runs", lambda: it.traffic.counts["WATCH", "lakehouseruns"])
        it.wait("the pipeline", lambda: (it.get("lakehousepipelines", "it") or {}).get("status"))
        it.apply(run())
        time.sleep(3)
        assert "status" not in (it.get("lakehouseruns", RUN) or {}), "the watch told of it after all"
        it.kill(operator)
        it.api.delete(it.path("lakehouseruns", RUN))
        it.start(RESYNC)
        it.wait("another watch of runs", lambda: it.traffic.counts["WATCH", "lakehouseruns"] > 1)
        it.apply(run())
        succeeds(it)
        it.check_single_execution()
