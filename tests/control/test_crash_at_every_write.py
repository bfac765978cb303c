"""The operator is killed before, during and after each of its writes: what is there in the end is what an undisturbed one leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from api import JSON
from lives import Case, at_once, live
from scenarios import SCENARIOS, Scenario
from stand import Call, Stand
from support.operator_logs import API_FAULTS
from support.proxy import Spot

# Connections end with the crashes.
pytestmark = pytest.mark.operator_says(*API_FAULTS)


SPOTS = {Spot.REQUESTED: "before", Spot.APPLIED: "during", Spot.ANSWERED: "after"}
# Stands at work at the same time: most of their time they wait.
AT_ONCE = 6


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_crash_at_every_write(
    stand: Callable[[str], Stand], scenario: Scenario, soak: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with stand(f"{scenario}-undisturbed") as undisturbed:
        live(undisturbed, scenario)
        expected, calls = undisturbed.outcome(), undisturbed.traffic.writes()
    assert len(calls) > 10
    points = [(call, spot) for call in calls for spot in SPOTS]
    if not soak:
        # Every fourth write, at one of the three spots; `make soak` tries all.
        points = [point for index, point in enumerate(points) if index % 12 == 4 * ((index // 12) % 3)]
    cases = [
        Case(f"{SPOTS[spot]} {call}", partial(killed, stand, scenario, number, (call, spot), expected))
        for number, (call, spot) in enumerate(points)
    ]
    tried = at_once(AT_ONCE, cases)
    with capsys.disabled():
        missed = [name for name, met in tried.items() if not met]
        print(
            f"\n  {scenario}: killed at {len(tried) - len(missed)} of {len(tried)} points of {len(calls)} writes",
            end=" ",
        )
        print(f"(not reached: {', '.join(missed)})" if missed else "", end="", flush=True)
    # The order of what happens at the same time differs from life to life, so some calls may not come.
    assert len(missed) <= 0.2 * len(tried)


def killed(
    stand: Callable[[str], Stand], scenario: Scenario, number: int, point: tuple[Call, Spot], expected: JSON
) -> bool:
    """Whether the point was reached; whatever was, the outcome is the expected one."""
    call, spot = point
    with stand(f"{scenario}-{number}") as disturbed:
        fault = live(disturbed, scenario, lambda it: it.expect(call, spot))
        outcome = disturbed.outcome()
        assert outcome == expected, f"{disturbed.name}: killed {SPOTS[spot]} {call}\n{disturbed.describe()}"
        assert fault is not None
        return fault.fired.is_set()
