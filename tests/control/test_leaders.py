"""Two operators: one leads, and one that sleeps past its lease changes nothing when it wakes up."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from control_plane import RELEASE
from scenarios import EXTERNAL, LAKEHOUSE, has_succeeded, pipeline, run, succeeds
from stand import Stand

# One that lost its lease says so.
pytestmark = pytest.mark.operator_says(
    "^the lease ", "^event could not be published", "not sent: this operator does not hold the lease"
)


JSON = dict[str, Any]


def started(stand: Stand) -> subprocess.Popen[bytes]:
    """One more operator of the release, with short times."""
    return stand.start(
        "--leader-elect",
        f"--lease-name={RELEASE}",
        f"--lease-namespace={stand.name}",
        "--lease-duration=4s",
        "--lease-renew-deadline=3s",
        "--lease-retry-period=1s",
    )


def leader(stand: Stand) -> int | None:
    """Number of the operator that the lease names."""
    lease = stand.api.get(f"/apis/coordination.k8s.io/v1/namespaces/{stand.name}/leases/{RELEASE}") or {}
    holder = (lease.get("spec") or {}).get("holderIdentity") or ""
    numbers = [number for number in range(len(stand.operators)) if holder.startswith(f"{stand.name}-{number}_")]
    return numbers[0] if numbers else None


def day(number: int) -> JSON:
    """A run for a day of its own."""
    start = date(2024, 1, 1) + timedelta(number)
    interval = {"start": f"{start}T00:00:00Z", "end": f"{start + timedelta(1)}T00:00:00Z"}
    return run(f"it-{number}", interval=interval)


def living_leader(stand: Stand, asleep: int | None) -> list[int]:
    """Number of the operator that leads, if it is not the one that sleeps; two are kept alive, as a Deployment does.

    One that cannot renew its lease in time, on a machine with other work, has ended; one that sleeps has not.
    """
    while sum(operator.poll() is None for operator in stand.operators) < 2:
        started(stand)
    found = leader(stand)
    return [] if found in (None, asleep) or stand.operators[found].poll() is not None else [found]


def ended_once(stand: Stand) -> None:
    """Every run succeeded, with one Job per stage."""
    assert not stand.complaints(), "\n".join(stand.complaints())
    stand.check_single_execution()
    for found in stand.runs():
        stages = found["status"]["stages"]
        assert [(it["state"], it["attempt"]) for it in stages] == [("Succeeded", 1)] * 3, stand.describe()


def test_a_leader_that_sleeps_past_its_lease_changes_nothing(
    stand: Callable[[str], Stand], soak: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = 50 if soak else 4
    with stand("sleeping-leader") as it:
        it.apply(LAKEHOUSE, pipeline(EXTERNAL))
        for number in range(rounds):
            sleeper = it.wait("a leader", lambda: living_leader(it, None))[0]
            it.apply(day(number))
            # Each time at another moment of the run's life.
            time.sleep(0.07 * (number % 12))
            it.operators[sleeper].send_signal(signal.SIGSTOP)
            it.wait("another leader", lambda asleep=sleeper: living_leader(it, asleep))
            it.operators[sleeper].send_signal(signal.SIGCONT)
            # It notices, and ends in order to begin anew.
            assert it.operators[sleeper].wait(20) == 1
            it.wait(
                f"it-{number} to succeed",
                lambda name=f"it-{number}": living_leader(it, None) and has_succeeded(it, name),
            )
        it.wait("silence", it.settled, 120)
        ended_once(it)
    with capsys.disabled():
        print(f"\n  {rounds} leaders slept past their lease", end="", flush=True)


def test_a_rollout_hands_the_lease_over_at_once(stand: Callable[[str], Stand]) -> None:
    with stand("rollout") as it:
        started(it)
        first = it.wait("a leader", lambda: None if leader(it) is None else [leader(it)])[0]
        it.apply(LAKEHOUSE, pipeline(EXTERNAL), day(0))
        started(it)
        time.sleep(1.5)
        it.operators[first].send_signal(signal.SIGTERM)
        assert it.operators[first].wait(20) == 0
        begun = time.monotonic()
        it.wait("the other one to lead", lambda: leader(it) == 1 - first)
        # The lease was given back: its end, 4 s later, was not waited for.
        assert time.monotonic() - begun < 3
        succeeds(it, "it-0")
        it.apply(day(1))
        succeeds(it, "it-1")
        it.wait("silence", it.settled, 120)
        ended_once(it)
