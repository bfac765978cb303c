"""The trigger of LakehouseRunOperator: waits in the triggerer for the outcome of one LakehouseRun and shows what happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal

import aiohttp
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.triggers.base import BaseTrigger, TriggerEvent
from kubernetes_asyncio.client import ApiException, CoreV1Api, CustomObjectsApi
from kubernetes_asyncio.watch import Watch

from lakehouse_airflow.client import CANCELLED, MERGE_PATCH, reason_of
from lakehouse_airflow.runs import GROUP, RUNS, VERSION, Run, finished, outcome, stages_of

OnKill = Literal["cancel", "leave"]

WATCH_SECONDS = 240
"""How long one watch lasts before the run is read again: a connection that died in silence is noticed by then."""
LONGEST_PAUSE = 30.0
"""Most seconds between two tries to reach the API server."""
LAST_LOG_SECONDS = 10.0
"""How long the last lines of a stage's log are waited for after the run has ended."""


class LakehouseRunTrigger(BaseTrigger):
    """Fires once: when the run is finished, gone, may not be read, or `deadline` has passed.

    It holds nothing that the cluster does not hold too, so a triggerer that takes it over reads the run again and goes on;
    log lines since the stage's beginning are then shown again.
    """

    def __init__(
        self,
        run: str,
        namespace: str,
        kubernetes_conn_id: str = "kubernetes_default",
        deadline: float | None = None,
        on_kill_action: OnKill = "leave",
        logs: bool = True,
    ) -> None:
        super().__init__()
        self.run_name = run
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.deadline = deadline
        self.on_kill_action = on_kill_action
        self.logs = logs
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._followed: dict[str, asyncio.Task[None]] = {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where the class is and what makes an equal one."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "run": self.run_name,
                "namespace": self.namespace,
                "kubernetes_conn_id": self.kubernetes_conn_id,
                "deadline": self.deadline,
                "on_kill_action": self.on_kill_action,
                "logs": self.logs,
            },
        )

    @cached_property
    def hook(self) -> AsyncKubernetesHook:
        """The connection to the cluster, as the triggerer is given it."""
        return AsyncKubernetesHook(conn_id=self.kubernetes_conn_id)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Waits for the outcome."""
        try:
            async with asyncio.timeout(self._remaining()):
                event = await self._wait()
        except TimeoutError:
            event = {"status": "timeout"}
        finally:
            await self._end_logs()
        yield TriggerEvent({"run": self.run_name, **event})

    def _remaining(self) -> float | None:
        return None if self.deadline is None else max(self.deadline - time.time(), 0)

    async def _wait(self) -> dict[str, Any]:
        """Reads the run, then watches it from there on, until one of the two says how it ended."""
        pause = 1.0
        while True:
            try:
                async with self.hook.get_conn() as connection:
                    api = CustomObjectsApi(connection)
                    found: Run = await api.get_namespaced_custom_object(
                        GROUP, VERSION, self.namespace, RUNS, self.run_name
                    )
                    if event := self._look(found):
                        return event
                    pause = 1.0
                    if event := await self._watch(api, found["metadata"]["resourceVersion"]):
                        return event
            except ApiException as error:
                if error.status == 404:
                    return {"status": "deleted"}
                if error.status in (401, 403):
                    return {"status": "refused", "message": reason_of(error)}
                if error.status == 410:
                    # The watch began at a version that the API server has forgotten: read again.
                    continue
                pause = await self._pause(pause, reason_of(error))
            except (aiohttp.ClientError, OSError) as error:
                pause = await self._pause(pause, str(error) or type(error).__name__)

    async def _pause(self, pause: float, why: str) -> float:
        self.log.warning("the API server did not answer (%s): next try in %.0f s", why, pause)
        await asyncio.sleep(pause)
        return min(pause * 2, LONGEST_PAUSE)

    async def _watch(self, api: CustomObjectsApi, version: str) -> dict[str, Any] | None:
        """Follows changes until the run has ended or the watch has; None means: read again."""
        async with Watch() as watch:
            changes = watch.stream(
                api.list_namespaced_custom_object,
                GROUP,
                VERSION,
                self.namespace,
                RUNS,
                field_selector=f"metadata.name={self.run_name}",
                resource_version=version,
                timeout_seconds=WATCH_SECONDS,
                # Without a limit of its own a connection that died in silence would be read from for ever.
                _request_timeout=WATCH_SECONDS + 30,
            )
            async for change in changes:
                if not isinstance(change, dict):
                    # Half a line: the connection broke in it.
                    return None
                if change["type"] == "DELETED":
                    return {"status": "deleted"}
                if event := self._look(change["raw_object"]):
                    return event
        return None

    def _look(self, found: Run) -> dict[str, Any] | None:
        """Shows what changed, follows the logs of what runs; the event once the run is finished."""
        for stage in stages_of(found):
            told = (stage["state"], stage.get("attempt", 0), stage.get("reason"))
            if self._seen.get(stage["name"]) != told:
                self._seen[stage["name"]] = told
                self.log.info("%s", describe(stage))
            job = stage.get("job")
            if self.logs and job and stage["state"] not in ("Pending", "Skipped") and job not in self._followed:
                running = stage["state"] == "Running"
                self._followed[job] = asyncio.create_task(self._follow(stage["name"], job, running))
        return {"status": "finished", "outcome": outcome(found)} if finished(found) else None

    async def _follow(self, stage: str, job: str, running: bool) -> None:
        """Shows the log of a Job's pod line by line; a log that cannot be read is said once and harms nothing."""
        try:
            async with self.hook.get_conn() as connection:
                api = CoreV1Api(connection)
                pod = await self._started_pod(api, job, running)
                if pod is None:
                    return
                answer = await api.read_namespaced_pod_log(
                    pod,
                    self.namespace,
                    follow=True,
                    _preload_content=False,
                    _request_timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
                )
                if answer.status != 200:
                    # Without preloading the client takes any answer for the log.
                    refused = ApiException(status=answer.status, reason=answer.reason)
                    refused.body = await answer.text()
                    raise refused
                async for line in answer.content:
                    level, text = readable(line.decode(errors="replace").rstrip())
                    self.log.log(level, "[%s] %s", stage, text)
        except (ApiException, aiohttp.ClientError, OSError, ValueError) as error:
            why = reason_of(error) if isinstance(error, ApiException) else error
            self.log.warning("the log of %s (job %s) cannot be shown: %s", stage, job, why)

    async def _started_pod(self, api: CoreV1Api, job: str, running: bool) -> str | None:
        """Name of the Job's newest pod, once it has a log to read; None when the stage has ended and its pods are gone."""
        while True:
            pods = (await api.list_namespaced_pod(self.namespace, label_selector=f"job-name={job}")).items
            started = [pod for pod in pods if pod.status.phase in ("Running", "Succeeded", "Failed")]
            if started:
                return str(max(started, key=lambda pod: pod.metadata.creation_timestamp).metadata.name)
            if not running:
                return None
            await asyncio.sleep(1)

    async def _end_logs(self) -> None:
        """Gives the logs a moment for their last lines, then leaves them."""
        tasks = list(self._followed.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=LAST_LOG_SECONDS)
        for task in late:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)

    async def on_kill(self) -> None:
        """The task was marked or cleared by a person: cancels the run, or leaves it, as told."""
        if self.on_kill_action == "leave":
            self.log.info("run %s goes on: on_kill_action is leave", self.run_name)
            return
        async with self.hook.get_conn() as connection:
            try:
                await CustomObjectsApi(connection).patch_namespaced_custom_object(
                    GROUP, VERSION, self.namespace, RUNS, self.run_name, CANCELLED, _content_type=MERGE_PATCH
                )
            except ApiException as error:
                if error.status != 404:
                    raise
        self.log.info("run %s cancelled", self.run_name)


def readable(line: str) -> tuple[int, str]:
    """Level and text of a log line: jobs write JSON, which a person reads as its message and what else it says."""
    try:
        record = json.loads(line)
        text = str(record.pop("message"))
        level = logging.getLevelNamesMapping().get(str(record.pop("level", "INFO")), logging.INFO)
    except (ValueError, KeyError, AttributeError, TypeError):
        return logging.INFO, line
    facts = [f"{name}={value}" for name, value in record.items() if name not in ("timestamp", "target")]
    return level, " ".join([text, *facts])


def describe(stage: dict[str, Any]) -> str:
    """One line on where a stage stands."""
    words = [f"{stage['name']}: {stage['state']}"]
    if stage.get("attempt"):
        words.append(f"attempt {stage['attempt']}")
    if stage["state"] == "Succeeded":
        words.append(f"{stage.get('rowsRead', 0)} rows read, {stage.get('rowsWritten', 0)} written")
        if quarantined := stage.get("rowsQuarantined"):
            words.append(f"{quarantined} in quarantine")
    elif stage.get("reason"):
        words.append(": ".join(part for part in (stage["reason"], stage.get("message")) if part))
    return ", ".join(words)
