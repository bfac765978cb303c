"""Fixtures of the cluster tests: the cluster is up (tests/all, or `tests/cluster/cluster up`)."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator

import pytest
from documents import lakehouse
from kubernetes import Kubernetes, condition, connect
from operator_log import OperatorLog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table
from pyiceberg.table.snapshots import ancestors_of
from support.operator_logs import API_FAULTS, SLOW_CATALOG
from support.replay import ReplayServer

# Host ports of kind-config.yaml.
MINIO = "127.0.0.1:9000"
POSTGRES = "127.0.0.1:15432"


@pytest.fixture(scope="session")
def kubernetes() -> Kubernetes:
    """The cluster; the Lakehouse `main` is applied and answers."""
    cluster = connect()
    cluster.apply(lakehouse("main"))
    cluster.wait(
        "Lakehouse main to answer",
        lambda: all(
            condition(cluster.get("lh", "main"), kind).get("status") == "True"
            for kind in ("StoreReady", "CatalogReady")
        ),
        120,
    )
    return cluster


@pytest.fixture(scope="session")
def operator_deployment(kubernetes: Kubernetes) -> str:
    """Name of the operator's Deployment."""
    found = kubernetes.list("deployments", "app.kubernetes.io/name=lakehouse-operator")
    assert len(found) == 1
    name: str = found[0]["metadata"]["name"]
    return name


@pytest.fixture(scope="session")
def secret(kubernetes: Kubernetes) -> Callable[[str, str], str]:
    """A value of a Secret of the platform."""

    def value(name: str, key: str) -> str:
        return base64.b64decode(kubernetes.get("secret", name)["data"][key]).decode()

    return value


@pytest.fixture(scope="session")
def s3(secret: Callable[[str, str], str]) -> dict[str, str]:
    """How to reach MinIO from the host."""
    return {
        "endpoint": f"http://{MINIO}",
        "access_key_id": secret("minio-credentials", "access-key-id"),
        "secret_access_key": secret("minio-credentials", "secret-access-key"),
    }


@pytest.fixture(scope="session")
def catalog(secret: Callable[[str, str], str], s3: dict[str, str]) -> SqlCatalog:
    """PyIceberg on the cluster's Postgres catalog."""
    user, password = secret("catalog", "username"), secret("catalog", "password")
    return SqlCatalog(
        "lakehouse",
        **{
            "uri": f"postgresql+psycopg2://{user}:{password}@{POSTGRES}/catalog",
            # Tests delete the database's pod.
            "pool_pre_ping": "true",
            "py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO",
            "s3.endpoint": s3["endpoint"],
            "s3.access-key-id": s3["access_key_id"],
            "s3.secret-access-key": s3["secret_access_key"],
            "s3.region": "us-east-1",
        },
    )


@pytest.fixture(scope="session")
def snapshots(catalog: SqlCatalog) -> Callable[[str], dict[str, int]]:
    """Number of commits in the history of every table whose name begins with a prefix.

    A snapshot that a killed attempt left on the branch of its audit is none of them: it was never part of the table.
    """

    def history(table: Table) -> int:
        return len(list(ancestors_of(table.current_snapshot(), table.metadata)))

    def count(prefix: str) -> dict[str, int]:
        return {
            ".".join(identifier): history(catalog.load_table(identifier))
            for namespace in ("silver", "gold")
            for identifier in catalog.list_tables(namespace)
            if identifier[-1].startswith(prefix)
        }

    return count


@pytest.fixture(scope="session")
def gateway() -> str:
    """Address of this machine that the cluster's pods reach: the gateway of kind's network."""
    addresses = subprocess.run(
        ["docker", "network", "inspect", "kind", "-f", "{{range .IPAM.Config}}{{.Gateway}} {{end}}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return next(part for part in addresses if ":" not in part)


@pytest.fixture(scope="session")
def replay(gateway: str) -> Iterator[ReplayServer]:
    """The recorded CoinCap answers, served where the cluster's pods reach them."""
    with ReplayServer(host=gateway) as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What all tests left is looked through after them."""
    items.sort(key=lambda item: item.path.name == "test_credentials.py")


@pytest.fixture(scope="session")
def operator_log(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorLog]:
    """The logs of all operators of the session."""
    with OperatorLog(kubernetes, tmp_path_factory.mktemp("operators")) as log:
        yield log


@pytest.fixture(scope="module", autouse=True)
def operator_is_quiet(request: pytest.FixtureRequest, operator_log: OperatorLog) -> Iterator[None]:
    """After every module: the operator did not panic, and said nothing of faults but what a test planned, or what an API server under load causes.

    `@pytest.mark.operator_says("pattern", …)` names the messages that a test or a module makes it say.
    """
    yield
    of_module = [item for item in request.session.items if item.path == request.path]
    planned = [pattern for item in of_module for mark in item.iter_markers("operator_says") for pattern in mark.args]
    lines = operator_log.loud([*API_FAULTS, *SLOW_CATALOG, *planned])
    assert not lines, f"{len(lines)} lines that nobody planned:\n" + "\n".join(lines[:40])
