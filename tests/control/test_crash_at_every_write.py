"""The operator is killed before, during and after each of its writes: what is there in the end is what an undisturbed one leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from api import JSON
from scenarios import SCENARIOS, Scenario
from stand import Call, Stand
from support.proxy import Fault, Spot

SPOTS = {Spot.REQUESTED: "before", Spot.APPLIED: "during", Spot.ANSWERED: "after"}
# Stands at work at the same time: most of their time they wait.
AT_ONCE = 6


def live(stand: Stand, scenario: Scenario, disturb: Callable[[Stand], Fault] | None = None) -> Fault | None:
    """Lets the scenario happen, with a kill where the fault says, until nothing more is written."""
    fault = disturb(stand) if disturb else None
    over = threading.Event()

    def killer() -> None:
        assert fault is not None
        while not over.is_set():
            if fault.fired.wait(0.05):
                stand.crash()
                return

    thread = threading.Thread(target=killer)
    stand.start()
    if fault:
        thread.start()
    try:
        scenario.act(stand)
        stand.wait("silence", stand.settled, 90)
    finally:
        over.set()
        if fault:
            thread.join()
    assert not stand.world.errors, stand.world.errors
    assert not stand.complaints(), "\n".join(stand.complaints())
    stand.check_single_execution()
    return fault


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
        # Every write, at one of the three spots; all of them by `make soak`.
        points = [point for index, point in enumerate(points) if index % 3 == (index // 3) % 3]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tried = list(pool.map(lambda numbered: killed(stand, scenario, *numbered, expected), enumerate(points)))
    with capsys.disabled():
        missed = [f"{SPOTS[spot]} {call}" for (call, spot), met in zip(points, tried, strict=True) if not met]
        print(f"\n  {scenario}: killed at {sum(tried)} of {len(points)} points of {len(calls)} writes", end=" ")
        print(f"(not reached: {', '.join(missed)})" if missed else "", end="", flush=True)
    # The order of what happens at the same time differs from life to life, so some calls may not come.
    assert sum(tried) >= 0.8 * len(points)


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
