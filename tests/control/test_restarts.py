"""The API server is restarted again and again while runs are at work: each run ends, and each stage is executed once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

import pytest
from control_plane import ControlPlane
from scenarios import EXTERNAL, LAKEHOUSE, pipeline, run
from stand import Stand, succeeded_condition
from support.operator_logs import API_BEGINS

pytestmark = pytest.mark.operator_says(*API_BEGINS)


def test_api_server_restarts(plane: ControlPlane, stand: Callable[[str], Stand], soak: bool) -> None:
    restarts, runs = (20, 100) if soak else (2, 12)
    with stand("restarts") as it:
        it.start()
        # All are counted at the end: none may go beyond the limit of a history before.
        kept = {"succeeded": runs, "failed": runs}
        it.apply(LAKEHOUSE, pipeline(EXTERNAL, maxConcurrentRuns=10, historyLimits=kept))
        for number in range(runs):
            day = date(2024, 1, 1) + timedelta(number)
            interval = {"start": f"{day}T00:00:00Z", "end": f"{day + timedelta(1)}T00:00:00Z"}
            it.apply(run(f"it-{day}", interval=interval))

        def ended() -> int:
            return sum(succeeded_condition(one).get("status") == "True" for one in it.runs())

        for restart in range(restarts):
            # Spread over the work.
            it.wait(
                f"progress before restart {restart}", lambda at=restart: ended() >= runs * at // (restarts + 1), 240
            )
            plane.restart_api_server()
        it.wait("every run to succeed", lambda: ended() == runs, 600)
        it.wait("silence", it.settled, 120)
        it.check_single_execution()
        assert not it.complaints(), "\n".join(it.complaints())
        stages = [stage for one in it.runs() for stage in one["status"]["stages"]]
        assert {(stage["state"], stage["attempt"]) for stage in stages} == {("Succeeded", 1)}
