"""A backfill on a real cluster: dry run, pause, resume, its end, and a schedule beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from documents import API_VERSION, pipeline, renamed_tables, sample
from kubernetes import Kubernetes, condition
from pyiceberg.catalog.sql import SqlCatalog
from support import readers

NAME = "backfilled"
DAYS = [f"2024-03-0{day}" for day in range(1, 6)]


@pytest.fixture
def backfilled(kubernetes: Kubernetes) -> Iterator[Kubernetes]:
    """A cluster with a pipeline of heartbeats that nothing triggers."""
    document = renamed_tables(pipeline("pulse.yaml", NAME, trigger={"external": {}}), NAME)
    kubernetes.apply(document)
    kubernetes.wait("the pipeline", lambda: condition(kubernetes.get("lhp", NAME), "Ready").get("status") == "True")
    yield kubernetes
    kubernetes.delete("lhb", f"{NAME}-dry", NAME)
    kubernetes.delete("lhp", NAME)


def backfill(name: str, **spec: Any) -> dict[str, Any]:
    """A backfill of five days."""
    span = {"start": "2024-03-01T00:00:00Z", "end": "2024-03-06T00:00:00Z"}
    return {
        "apiVersion": API_VERSION,
        "kind": "LakehouseBackfill",
        "metadata": {"name": name},
        "spec": {"pipeline": NAME, "range": span, **spec},
    }


def phase(kubernetes: Kubernetes, name: str) -> str:
    """Reason of a backfill's condition."""
    return str(condition(kubernetes.get("lhb", name), "Succeeded").get("reason", ""))


def days(kubernetes: Kubernetes) -> list[str]:
    """The days of the backfill's runs, in order."""
    runs = kubernetes.list("lhr", f"lakehouse.rs/backfill={NAME}")
    return sorted(run["spec"]["interval"]["start"][:10] for run in runs)


def test_five_days_with_a_pause(backfilled: Kubernetes) -> None:
    backfilled.apply(backfill(f"{NAME}-dry", dryRun=True, order="Backward"))
    backfilled.wait("the dry run", lambda: phase(backfilled, f"{NAME}-dry") == "DryRun", 60)
    shown = backfilled.get("lhb", f"{NAME}-dry")["status"]
    assert [start[:10] for start in shown["intervals"]] == DAYS[::-1]
    assert not backfilled.list("lhr", f"lakehouse.rs/backfill={NAME}-dry")

    backfilled.apply(backfill(NAME, maxParallel=1))
    backfilled.wait("its first run", lambda: days(backfilled), 60)
    backfilled.run("patch", "lhb", NAME, "--type=merge", "-p", '{"spec":{"state":"Suspended"}}')
    backfilled.wait("the pause", lambda: phase(backfilled, NAME) == "Suspended", 60)
    backfilled.wait("its runs to end", lambda: backfilled.get("lhb", NAME)["status"]["active"] == 0, 240)
    before = days(backfilled)
    assert 1 <= len(before) < 5 and before == DAYS[: len(before)]
    assert days(backfilled) == before, "no run follows while it is suspended"

    backfilled.run("patch", "lhb", NAME, "--type=merge", "-p", '{"spec":{"state":"Active","maxParallel":3}}')
    backfilled.run("wait", "--for=condition=Succeeded", f"lhb/{NAME}", "--timeout=420s", timeout=450)
    status = backfilled.get("lhb", NAME)["status"]
    assert (phase(backfilled, NAME), status["succeeded"], status["failed"]) == ("Completed", 5, 0)
    assert days(backfilled) == DAYS
    completed = backfilled.wait(
        "the pipeline to know", lambda: backfilled.get("lhp", NAME)["status"].get("completedIntervals"), 60
    )
    assert completed == [{"start": "2024-03-01T00:00:00Z", "end": "2024-03-06T00:00:00Z"}]

    # Its runs go with it.
    backfilled.delete("lhb", NAME)
    backfilled.wait("the runs to go", lambda: not days(backfilled), 120)


def test_the_samples_of_a_schedule_and_a_backfill(kubernetes: Kubernetes, catalog: SqlCatalog) -> None:
    heartbeat = pipeline("heartbeat.yaml", "heartbeat")
    # The hours of this very day are not what is asked here.
    heartbeat["spec"]["trigger"]["schedule"]["suspend"] = True
    (hours,) = sample("backfill.yaml")
    hours["spec"]["range"]["end"] = "2024-03-01T03:00:00Z"
    name = hours["metadata"]["name"]
    kubernetes.apply(heartbeat, hours)
    kubernetes.run("wait", "--for=condition=Succeeded", f"lhb/{name}", "--timeout=420s", timeout=450)
    assert kubernetes.get("lhb", name)["status"]["succeeded"] == 3
    assert condition(kubernetes.get("lhp", "heartbeat"), "Scheduled").get("reason") == "Suspended"
    assert len(readers.pyiceberg_rows(catalog, "silver.heartbeats")) == 180
    kubernetes.delete("lhb", name)
    kubernetes.delete("lhp", "heartbeat")
