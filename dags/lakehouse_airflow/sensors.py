"""Waiting for what an ingest leaves in the object store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
from airflow.providers.amazon.aws.triggers.s3 import S3KeyTrigger
from airflow.sdk.exceptions import AirflowSkipException
from airflow.triggers.base import TriggerEvent
from asgiref.sync import sync_to_async

from lakehouse_airflow.naming import Grain, Interval, Submission, scope_of


class ManifestTrigger(S3KeyTrigger):
    """Waits for the object, or for the failure of the task of the same DAG run that would put it."""

    def __init__(self, *, dag_id: str, run_id: str, maker: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dag_id = dag_id
        self.run_id = run_id
        self.maker = maker

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class and arguments, for the triggerer that goes on."""
        _, arguments = super().serialize()
        del arguments["hook_params"]
        arguments |= {"dag_id": self.dag_id, "run_id": self.run_id, "maker": self.maker}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The object's event, or status `lost`."""
        found = asyncio.ensure_future(anext(super().run()))
        try:
            while True:
                await asyncio.wait({found}, timeout=self.poke_interval)
                if found.done():
                    yield found.result()
                    return
                if await self._maker_failed():
                    yield TriggerEvent({"status": "lost"})
                    return
        finally:
            found.cancel()

    async def _maker_failed(self) -> bool:
        """Whether the task has failed for good; while it may be tried again it has not."""
        # not needed, and slow to import, where DAGs are read
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        ask = sync_to_async(RuntimeTaskInstance.get_task_states)
        states = await ask(dag_id=self.dag_id, task_ids=[self.maker], run_ids=[self.run_id])
        return states.get(self.run_id, {}).get(self.maker) in ("failed", "upstream_failed")


class ManifestSensor(S3KeySensor):
    """S3KeySensor that is skipped once the task that would put the object has failed: a DAG run ends with its ingest.

    :param maker: id of that task in the same DAG.
    """

    def __init__(self, *, maker: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.maker = maker

    def execute(self, context: Any) -> None:
        """Looks once, then waits in the triggerer."""
        if self.poke(context):
            return
        self.defer(
            timeout=timedelta(seconds=self.timeout),
            trigger=ManifestTrigger(
                dag_id=context["dag"].dag_id,
                run_id=context["run_id"],
                maker=self.maker,
                bucket_name=str(self.bucket_name),
                bucket_key=self.bucket_key,
                wildcard_match=self.wildcard_match,
                aws_conn_id=self.aws_conn_id,
                poke_interval=self.poke_interval,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Any, event: dict[str, Any]) -> None:
        """Goes on after the trigger has fired."""
        if event["status"] == "lost":
            raise AirflowSkipException(f"task {self.maker} has failed: nothing puts what this waits for")
        super().execute_complete(context, event)


def manifest_sensor(
    pipeline: str,
    *,
    grain: Grain = "daily",
    bucket: str = "bronze",
    task_id: str = "bronze",
    maker: str = "ingest",
    **kwargs: Any,
) -> ManifestSensor:
    """A deferrable sensor for the manifest that this DAG run's ingest puts: an older object does not satisfy it.

    Without a manifest an ingest does not exist, so its appearance is the moment from which silver can begin. The ingest is the
    task `maker` of the same DAG, which asks for the stage `ingest` alone.
    """

    def bucket_key(context: Any, **_: Any) -> str:
        interval = Interval.beginning(grain, context["data_interval_start"])
        scope = scope_of(context["dag"].dag_id, context["run_id"])
        return Submission(pipeline, interval, ("ingest",), scope).manifest_pattern()

    settings: dict[str, Any] = {
        "aws_conn_id": "aws_default",
        "deferrable": True,
        "poke_interval": 5,
        "timeout": timedelta(hours=2).total_seconds(),
    }
    return ManifestSensor(
        task_id=task_id,
        bucket_name=bucket,
        bucket_key=bucket_key,
        wildcard_match=True,
        maker=maker,
        **(settings | kwargs),
    )
