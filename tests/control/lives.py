"""One life of a scenario, from its first object to silence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from scenarios import Scenario
from stand import Stand
from support.proxy import Fault


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


def at_once(workers: int, cases: Iterable[Callable[[], bool]]) -> list[bool]:
    """What each case says. All are tried; the failures are told together."""
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(case) for case in cases]
    failures = [str(error) for future in futures if (error := future.exception())]
    assert not failures, f"{len(failures)} of {len(futures)} failed\n\n" + "\n\n".join(failures)
    return [future.result() for future in futures]
