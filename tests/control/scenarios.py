"""Seven lives of a pipeline. Each is told by what a person or another program does, and waits for what the operator made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kubelet import Attempt, End, failed, succeeded
from stand import IMAGES, Stand, succeeded_condition

JSON = dict[str, Any]
API = "lakehouse.rs/v1alpha1"
RUN = "it-2024-01-01"

LAKEHOUSE: JSON = {
    "apiVersion": API,
    "kind": "Lakehouse",
    "metadata": {"name": "main"},
    # Nothing answers there: that a store is away keeps no run from starting, its jobs are the ones that meet it.
    "spec": {
        "objectStore": {"endpoint": "http://127.0.0.1:9", "credentialsSecret": "none"},
        "catalog": {"sql": {"uriSecret": {"name": "none", "key": "uri"}}},
    },
}


def pipeline(trigger: JSON, **changes: Any) -> JSON:
    """The smallest definition with three stages."""
    column = {"name": "ts", "from": "/ts", "type": "timestamptz", "required": True}
    spec = {
        "lakehouse": "main",
        "interval": "daily",
        "trigger": trigger,
        "jobs": {"backoff": "1s", "retries": 2, "ttlAfterFinished": "1h"},
        "ingest": [{"name": "heartbeat", "pulse": {"every": "60s"}}],
        "silver": [
            {
                "name": "beats",
                "from": "heartbeat",
                "table": {"format": "parquet"},
                "write": {"overwrite": {}},
                "columns": [column],
            }
        ],
        "gold": [
            {
                "name": "days",
                "table": {"format": "parquet"},
                "write": {"overwrite": {}},
                "sql": "SELECT count(*) AS n FROM silver.beats",
            }
        ],
        **changes,
    }
    return {"apiVersion": API, "kind": "LakehousePipeline", "metadata": {"name": "it"}, "spec": spec}


def run(name: str = RUN, **spec: Any) -> JSON:
    """A run of it for the first of January 2024."""
    interval = {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T00:00:00Z"}
    return {
        "apiVersion": API,
        "kind": "LakehouseRun",
        "metadata": {"name": name},
        "spec": {"pipeline": "it", "interval": interval, **spec},
    }


EXTERNAL: JSON = {"external": {}}
ON_APPLY: JSON = {"onApply": {"start": "2024-01-01T00:00:00Z"}}


@dataclass
class Scenario:
    """A life: `act` is called once with an operator at work that may be killed and started again at any time."""

    name: str
    act: Callable[[Stand], None]

    def __str__(self) -> str:
        return self.name


class Gate:
    """Keeps a stage from ending until the test says so."""

    def __init__(
        self, stage: str, end: Callable[[Attempt], End | None] = lambda attempt: succeeded(attempt.stage)
    ) -> None:
        self.stage, self.opened, self._end = stage, False, end

    def __call__(self, attempt: Attempt) -> End | None:
        return self._end(attempt) if attempt.stage != self.stage or self.opened else None


def stage_state(stand: Stand, stage: str, name: str = RUN) -> str:
    """State of a stage as its run says."""
    found = stand.get("lakehouseruns", name) or {}
    stages = (found.get("status") or {}).get("stages", [])
    return next((str(it["state"]) for it in stages if it["name"] == stage), "")


def working(stand: Stand, stage: str) -> Gate:
    """A run is made and gets to `stage`, which works until the gate is opened."""
    gate = Gate(stage)
    stand.end = gate
    stand.apply(LAKEHOUSE, pipeline(EXTERNAL), run())
    stand.wait(f"{stage} to run", lambda: stage_state(stand, stage) == "Running")
    return gate


def succeeds(stand: Stand, name: str = RUN) -> None:
    """Waits for the run's success."""
    stand.wait(f"{name} to succeed", lambda: has_succeeded(stand, name))


def has_succeeded(stand: Stand, name: str) -> bool:
    """Whether the run has ended well."""
    return succeeded_condition(stand.get("lakehouseruns", name) or {}).get("status") == "True"


def success(stand: Stand) -> None:
    """A definition is applied and makes its run."""
    stand.apply(LAKEHOUSE, pipeline(ON_APPLY))
    stand.wait("the run", stand.runs)


def retry(stand: Stand) -> None:
    """Silver fails once so that it can be tried again, gold for good."""

    def end(attempt: Attempt) -> End:
        if attempt.stage == "silver" and attempt.number == 1:
            return failed("StoreUnavailable", True)
        return failed("SqlFailed", False) if attempt.stage == "gold" else succeeded(attempt.stage)

    stand.end = end
    stand.apply(LAKEHOUSE, pipeline(EXTERNAL), run())


def edit(stand: Stand) -> None:
    """The definition changes while its run is at work: that run goes on with the old one, and the new one makes its own."""
    gate = Gate("ingest")
    stand.end = gate
    stand.apply(LAKEHOUSE, pipeline(ON_APPLY))
    first = stand.wait("the first run", stand.runs)[0]["metadata"]["name"]
    stand.wait("ingest to run", lambda: stage_state(stand, "ingest", first) == "Running")
    changed = pipeline(ON_APPLY, parameters={"edited": "yes"})
    stand.api.merge(stand.path("lakehousepipelines", "it"), {"spec": changed["spec"]})
    stand.wait("the second run", lambda: len(stand.runs()) == 2)
    gate.opened = True
    succeeds(stand, first)


def suspend(stand: Stand) -> None:
    """A run is suspended while its first stage is at work, stays so after that stage, and is resumed."""
    gate = working(stand, "ingest")
    stand.api.merge(stand.path("lakehouseruns", RUN), {"spec": {"state": "Suspended"}})
    gate.opened = True
    stand.wait("ingest to be done", lambda: stage_state(stand, "ingest") == "Succeeded")
    suspended = lambda: succeeded_condition(stand.get("lakehouseruns", RUN) or {}).get("reason") == "Suspended"  # noqa: E731
    stand.wait("the run to be suspended", suspended)
    assert not any(attempt.stage == "silver" for attempt in stand.node.ran)
    stand.api.merge(stand.path("lakehouseruns", RUN), {"spec": {"state": "Active"}})
    succeeds(stand)


def delete(stand: Stand) -> None:
    """A run is deleted while silver is at work: nothing of it stays, and another one of the same name is a new run."""
    gate = working(stand, "silver")
    stand.api.delete(stand.path("lakehouseruns", RUN))
    stand.wait(
        "its objects to go",
        lambda: not (stand.runs() or stand.items("jobs") or stand.items("configmaps") or stand.items("pods")),
    )
    gate.opened = True
    stand.apply(run())
    succeeds(stand)


def upgrade(stand: Stand) -> None:
    """An operator of another release takes over while ingest is at work: what was begun ends as it began."""
    gate = working(stand, "ingest")
    stand.replace(LATER)
    gate.opened = True
    succeeds(stand)


def adoption(stand: Stand) -> None:
    """The status of a run is lost, as by a restored backup: its Jobs are found again."""
    gate = working(stand, "ingest")
    stand.forget(RUN)
    gate.opened = True
    succeeds(stand)


def cancel(stand: Stand) -> None:
    """A run is cancelled while silver is at work."""
    working(stand, "silver")
    stand.api.merge(stand.path("lakehouseruns", RUN), {"spec": {"state": "Cancelled"}})
    stand.wait(
        "the end", lambda: succeeded_condition(stand.get("lakehouseruns", RUN) or {}).get("status") == "False", 90
    )


LATER = {stage: image.replace(":one", ":two") for stage, image in IMAGES.items()}
SCENARIOS = [
    Scenario("success", success),
    Scenario("retry", retry),
    Scenario("edit", edit),
    Scenario("suspend", suspend),
    Scenario("delete", delete),
    Scenario("upgrade", upgrade),
    Scenario("adoption", adoption),
]
CANCEL = Scenario("cancel", cancel)
