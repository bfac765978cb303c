"""Fixtures of all Python tests. Services start once per session, on loopback, and only where a test asks for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lakehouse import Lakehouse
from support.minio import Minio
from support.postgres import Postgres
from support.replay import ReplayServer


@pytest.fixture
def lake(tmp_path: Path) -> Lakehouse:
    """An empty local folder of the laptop runner."""
    return Lakehouse(tmp_path / "lake")


@pytest.fixture
def replay() -> Iterator[ReplayServer]:
    """The recorded CoinCap answers over HTTP."""
    with ReplayServer() as server:
        yield server


@pytest.fixture(scope="session")
def minio() -> Iterator[Minio]:
    """An S3 store."""
    with Minio() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A SQL database for the catalog."""
    with Postgres() as server:
        yield server
