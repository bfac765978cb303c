"""Fixtures of the tests of the operator against a real API server."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane
from kubelet import Kubelet
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
