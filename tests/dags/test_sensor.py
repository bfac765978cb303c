"""The sensor beside an ingest: it waits for the manifest, and is skipped when the ingest has failed for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from airflow.providers.amazon.aws.triggers.s3 import S3KeyTrigger
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import TriggerEvent
from lakehouse_airflow.sensors import ManifestSensor, ManifestTrigger, manifest_sensor

FOUND = TriggerEvent({"status": "success"})
RUN = "scheduled__2024-06-23T00:00:00+00:00"


class Named:
    """A DAG, as far as the sensor asks."""

    dag_id = "pulse"


def trigger() -> ManifestTrigger:
    """The trigger that the sensor of `pulse` waits with, quickened, as the triggerer makes it from what was kept."""
    sensor = manifest_sensor("pulse", poke_interval=0.01)
    sensor.poke = lambda *_: False  # type: ignore[method-assign]
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute({"dag": Named, "run_id": RUN})
    path, arguments = deferred.value.trigger.serialize()
    assert path == "lakehouse_airflow.sensors.ManifestTrigger"
    return ManifestTrigger(**arguments)


def fire(states: list[str | None], appears_after: float, monkeypatch: pytest.MonkeyPatch) -> TriggerEvent:
    """The first event, where the ingest goes through these states and the object appears after so many seconds."""

    async def object_appears(_: S3KeyTrigger) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(appears_after)
        yield FOUND

    def asked(dag_id: str, task_ids: list[str], run_ids: list[str]) -> dict[str, Any]:
        assert (dag_id, task_ids, run_ids) == ("pulse", ["ingest"], [RUN])
        return {RUN: {"ingest": states.pop(0) if len(states) > 1 else states[0]}}

    async def first() -> TriggerEvent:
        return await asyncio.wait_for(anext(trigger().run()), timeout=10)

    monkeypatch.setattr(S3KeyTrigger, "run", object_appears)
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(asked))
    return asyncio.run(first())


def test_the_object_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fire([None, "queued", "deferred"], 0.1, monkeypatch) is FOUND


def test_an_ingest_that_may_be_tried_again_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fire(["running", "up_for_retry", "deferred", "success"], 0.2, monkeypatch) is FOUND


def test_a_failed_ingest_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    event = fire(["up_for_retry", "running", "failed"], 5, monkeypatch)
    with pytest.raises(AirflowSkipException, match=r"^task ingest has failed: nothing puts what this waits for$"):
        manifest_sensor("pulse").execute_complete({}, event.payload)


def test_an_object_that_is_there_needs_no_waiting() -> None:
    sensor: ManifestSensor = manifest_sensor("pulse")
    sensor.poke = lambda *_: True  # type: ignore[method-assign]
    sensor.execute({"dag": Named, "run_id": RUN})
    sensor.execute_complete({}, FOUND.payload)
