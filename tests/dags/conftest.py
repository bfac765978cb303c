"""Fixtures of the DAG tests: an Airflow home in a temporary folder, a fake cluster, a webhook.

The environment is set before anything imports Airflow, which reads it once.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.serving import ServerInThread

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"
HOME = Path(tempfile.mkdtemp(prefix="lakehouse-airflow-"))
CANARY = "canary-7f3a-not-for-eyes"
"""Stands in every secret that Airflow holds here; it may turn up nowhere else."""

os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
    "AIRFLOW__API_AUTH__JWT_SECRET": CANARY,
    "AIRFLOW__CORE__FERNET_KEY": "",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}
sys.path.insert(0, str(DAGS))

if TYPE_CHECKING:
    from airflow.sdk import DAG
    from fake_api import FakeApi


def pytest_sessionfinish() -> None:
    """Removes Airflow's home."""
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def database() -> None:
    """Airflow's own tables, in SQLite."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture(scope="session")
def dags() -> dict[str, DAG]:
    """Every DAG of the folder, as the pinned Airflow reads it: without an error and without a warning."""
    from airflow.dag_processing.dagbag import DagBag

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        bag = DagBag(dag_folder=str(DAGS), bundle_name="dags-folder")
    assert not bag.import_errors
    assert not bag.captured_warnings
    return dict(bag.dags)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    """A cluster and an object store; `kubernetes_default` and `aws_default` lead to them."""
    from fake_api import FakeApi

    with FakeApi() as server:
        config = tmp_path / "kubeconfig"
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "fake",
                    "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
                    "clusters": [{"name": "fake", "cluster": {"server": server.address}}],
                    "users": [{"name": "fake", "user": {"token": CANARY}}],
                }
            )
        )
        extra = {"kube_config_path": str(config), "namespace": "lakehouse"}
        store = {"endpoint_url": server.address, "region_name": "us-east-1"}
        connections: dict[str, dict[str, Any]] = {
            "KUBERNETES_DEFAULT": {"conn_type": "kubernetes", "extra": extra},
            "AWS_DEFAULT": {"conn_type": "aws", "login": "reader", "password": CANARY, "extra": store},
        }
        for name, connection in connections.items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
        yield server


class Webhook:
    """What a webhook was sent."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.status = 200
        self.address = ""


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A webhook on loopback."""
    told = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.paths.append(self.path)
            told.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(told.status)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ServerInThread(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        told.address = f"http://127.0.0.1:{server.port}"
        yield told


@pytest.fixture
def alerts(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> Webhook:
    """The webhook that the connection `lakehouse_alerts` leads to."""
    connection = {"conn_type": "http", "host": f"{webhook.address}/services", "password": f"T1/{CANARY}"}
    monkeypatch.setenv("AIRFLOW_CONN_LAKEHOUSE_ALERTS", json.dumps(connection))
    return webhook
