"""Fixtures of the fault tests: the stand, and what undisturbed runs leave."""

from collections.abc import Iterator

import pytest
from faults import baseline
from faults.baseline import Baseline
from faults.stand import Stand
from support.minio import Minio
from support.postgres import Postgres


@pytest.fixture(scope="session")
def _stand(minio: Minio, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return Stand(minio, postgres, tmp_path_factory.mktemp("jobs"))


@pytest.fixture
def stand(_stand: Stand) -> Iterator[Stand]:
    """The stand, tidied up after the test."""
    yield _stand
    _stand.tidy()


@pytest.fixture(scope="session")
def ingest_baseline(_stand: Stand) -> Baseline:
    return baseline.ingest(_stand)


@pytest.fixture(scope="session")
def first_silver_baseline(_stand: Stand) -> Baseline:
    return baseline.first_silver(_stand)


@pytest.fixture(scope="session")
def silver_baseline(_stand: Stand, first_silver_baseline: Baseline) -> Baseline:
    return baseline.silver(_stand, first_silver_baseline)


@pytest.fixture(scope="session")
def unaudited_silver_baseline(_stand: Stand, first_silver_baseline: Baseline) -> Baseline:
    return baseline.unaudited_silver(_stand, first_silver_baseline)


@pytest.fixture(scope="session")
def gold_baseline(_stand: Stand, silver_baseline: Baseline) -> Baseline:
    return baseline.gold(_stand, silver_baseline)
