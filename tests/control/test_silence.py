"""An operator with nothing to do writes nothing, and what it does costs few writes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from idle import Idle
from scenarios import EXTERNAL, LAKEHOUSE, pipeline, run
from stand import Stand

# Longer than everything that is looked at again: Lakehouses every minute.
LONG = 75
# Of a run with three stages that all succeed, without Events; docs/architecture.md has which.
WRITES = 12


def test_an_idle_operator_writes_nothing(idle: Idle) -> None:
    time.sleep(max(0.0, idle.since + LONG - time.monotonic()))
    written = idle.stand.traffic.writes()[idle.writes :]
    assert not [str(call) for call in written if call.resource != "leases"]
    assert len(idle.stand.traffic.calls) > idle.calls, "it looked at its Lakehouse again"


def test_a_run_costs_twelve_writes(stand: Callable[[str], Stand]) -> None:
    with stand("thrifty") as it:
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL, jobs={}))
        it.wait("the pipeline", lambda: (it.get("lakehousepipelines", "it") or {}).get("status"))
        # Its revision is made with the first run.
        it.apply(run("it-1"))
        it.wait("silence", it.settled)
        before = len(it.traffic.writes())
        days = [f"2024-01-0{day}T00:00:00Z" for day in (2, 3, 4, 5)]
        for start, end in pairwise(days):
            it.apply(run(f"it-{start[8:10]}", interval={"start": start, "end": end}))
        it.wait("silence", it.settled)
        written = Counter(
            (call.method, call.resource) for call in it.traffic.writes()[before:] if call.resource != "events"
        )
        assert sum(written.values()) <= WRITES * 3, written
        assert written["POST", "jobs"] == 9
        it.check_single_execution()
