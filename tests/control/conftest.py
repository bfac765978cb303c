"""Fixtures of the tests of the operator against a real API server."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane
from idle import Idle
from kubelet import Kubelet
from lives import ONLY
from scenarios import EXTERNAL, LAKEHOUSE, pipeline, run
from stand import Stand
from support.operator_logs import API_BEGINS


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """etcd, kube-apiserver and the controllers of Jobs and owners, for all tests."""
    with ControlPlane() as running:
        yield running


@pytest.fixture(scope="session")
def kubelet(plane: ControlPlane) -> Iterator[Kubelet]:
    """What ends pods, in all namespaces."""
    with Kubelet(plane.api) as playing:
        yield playing
        assert not playing.errors


@pytest.fixture(scope="session")
def stands() -> list[Stand]:
    """Every stand that was made so far."""
    return []


@pytest.fixture(scope="session")
def stand(
    plane: ControlPlane, kubelet: Kubelet, stands: list[Stand], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Stand]:
    """Makes a stand in a namespace of this name."""
    folder: Path = tmp_path_factory.mktemp("stands")

    def make(name: str) -> Stand:
        made = Stand(plane, kubelet, name, folder)
        stands.append(made)
        return made

    return make


@pytest.fixture(scope="module", autouse=True)
def operators_are_quiet(request: pytest.FixtureRequest, stands: list[Stand]) -> Iterator[None]:
    """After every module: no operator panicked, and none said what it says of faults, but for those that a test planned.

    `@pytest.mark.operator_says("pattern", …)` names the messages that a test or a module makes it say.
    """
    before = len(stands)
    yield
    of_module = [item for item in request.session.items if item.path == request.path]
    allowed = [pattern for item in of_module for mark in item.iter_markers("operator_says") for pattern in mark.args]
    lines = [line for it in stands[before:] for line in it.loud(allowed)]
    assert not lines, f"{len(lines)} lines that nobody planned:\n" + "\n".join(lines[:40])


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether the long forms are wanted: by `make soak`, and where one of their cases is tried alone."""
    return os.environ.get("LAKEHOUSE_SOAK", "") not in ("", "0") or bool(os.environ.get(ONLY))


@pytest.fixture(scope="session", autouse=True)
def idle(stand: Callable[[str], Stand]) -> Iterator[Idle]:
    """One that is idle from the beginning, while other tests run."""
    with stand("idle") as it:
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL), run())
        it.wait("silence", it.settled, 120)
        yield Idle(it, time.monotonic(), len(it.traffic.calls), len(it.traffic.writes()))
        # test_restarts takes the API server away from it, too.
        assert not it.loud(API_BEGINS), it.loud(API_BEGINS)
