"""One life of a scenario, from its first object to silence."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from scenarios import Scenario
from stand import Stand
from support.proxy import Fault

# Names the one case of a test that is tried.
ONLY = "LAKEHOUSE_ONLY"


def live(
    stand: Stand, scenario: Scenario, disturb: Callable[[Stand], Fault] | None = None, crash: bool = True
) -> Fault | None:
    """Lets the scenario happen until nothing more is written, with a fault, and a crash of the operator where it fires."""
    fault = disturb(stand) if disturb else None
    crash = crash and fault is not None
    over = threading.Event()

    def killer() -> None:
        assert fault is not None
        while not over.is_set():
            if fault.fired.wait(0.05):
                stand.crash()
                return

    thread = threading.Thread(target=killer)
    stand.start()
    if crash:
        thread.start()
    try:
        scenario.act(stand)
        stand.wait("silence", stand.settled, 120)
    finally:
        over.set()
        if crash:
            thread.join()
    assert not stand.world.errors, stand.world.errors
    assert not stand.complaints(), "\n".join(stand.complaints())
    stand.check_single_execution()
    return fault


@dataclass(frozen=True)
class Case:
    """One of many of a test. Its name says which, in every run of the test."""

    name: str
    run: Callable[[], bool]


def at_once(workers: int, cases: Iterable[Case]) -> dict[str, bool]:
    """What each case says, by its name. All are tried; the failures are told together, each with the command that tries it alone.

    That command sets LAKEHOUSE_ONLY, with which one case is tried.
    """
    wanted, every = os.environ.get(ONLY), list(cases)
    chosen = [case for case in every if wanted in (None, "", case.name)]
    assert chosen, f"{ONLY}={wanted}: there is no such case, but {', '.join(case.name for case in every)}"
    with ThreadPoolExecutor(workers) as pool:
        futures = [(case, pool.submit(case.run)) for case in chosen]
    # `tests/control/test_x.py::test_x[id] (call)`; a quote of the shell's is in none of these names.
    test = os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)")
    failures = [
        f"{case.name}: {error}\n  again: {ONLY}='{case.name}' tests/run '{test}'"
        for case, future in futures
        if (error := future.exception())
    ]
    assert not failures, f"{len(failures)} of {len(futures)} failed\n\n" + "\n\n".join(failures)
    return {case.name: future.result() for case, future in futures}
