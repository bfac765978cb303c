"""Fixtures of the tests of the operator against a real API server."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane
from idle import Idle
from kubelet import Kubelet
from scenarios import EXTERNAL, LAKEHOUSE, pipeline, run
from stand import Stand


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
def stand(plane: ControlPlane, kubelet: Kubelet, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Stand]:
    """Makes a stand in a namespace of this name."""
    folder: Path = tmp_path_factory.mktemp("stands")
    return lambda name: Stand(plane, kubelet, name, folder)


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether the long forms are wanted: `make soak`."""
    return os.environ.get("LAKEHOUSE_SOAK", "") not in ("", "0")


@pytest.fixture(scope="session", autouse=True)
def idle(stand: Callable[[str], Stand]) -> Iterator[Idle]:
    """One that is idle from the beginning, while other tests run."""
    with stand("idle") as it:
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL), run())
        it.wait("silence", it.settled, 120)
        yield Idle(it, time.monotonic(), len(it.traffic.calls), len(it.traffic.writes()))
