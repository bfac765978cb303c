"""LakehouseRunOperator: a task that is one LakehouseRun, without a pod of its own while it waits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from lakehouse_airflow import assets
from lakehouse_airflow.client import Lakehouse, Refused
from lakehouse_airflow.defaults import CONSOLE
from lakehouse_airflow.links import ReportLink, console_page
from lakehouse_airflow.naming import Interval, Refresh, Submission, checked_refresh, in_order, key_of, scope_of
from lakehouse_airflow.runs import Outcome, Request, failure_line, finished, name_of, outcome, report_of
from lakehouse_airflow.triggers import LakehouseRunTrigger, OnKill

RUN_KEY = "run"
"""XCom key under which the run's name stands as soon as it is known."""


class LakehouseRunFailed(AirflowException):
    """The run ended without success, or the task may not go on waiting for it."""


class LakehouseRunOperator(BaseOperator):
    """Makes the LakehouseRun of the DAG run's data interval, or adopts it, and waits for its outcome in the triggerer.

    The same task of the same DAG run finds its run again, whatever died in between: a run that is not finished is adopted, one
    that succeeded is not executed again unless the task was cleared, one that failed is followed by the next with `retryOf`.

    :param pipeline: name of the LakehousePipeline. (templated)
    :param stages: stages to run; all but maintenance when absent.
    :param interval_start: begin of the interval; by default the DAG run's data interval's. (templated)
    :param parameters: values that replace the pipeline's parameters of the same name. (templated)
    :param inputs_from: run whose bronze objects are the input of silver. (templated)
    :param refresh: `Stale` or `Full`: intervals that gold computes beside this one, those whose inputs have changed since or all.
    :param namespace: where the pipeline is; by default what the connection says, or the namespace Airflow runs in. (templated)
    :param on_kill_action: `cancel` or `leave`: what becomes of the run when a person marks or clears the waiting task, or when
        the task's `execution_timeout` has passed. (templated)
    :param logs: whether the logs of the stages' pods are shown in the task's log.
    """

    template_fields: Sequence[str] = (
        "pipeline",
        "interval_start",
        "parameters",
        "inputs_from",
        "namespace",
        "on_kill_action",
        "console",
    )
    operator_extra_links = (ReportLink(),)
    ui_color = "#dff3e8"

    def __init__(
        self,
        *,
        pipeline: str,
        stages: Sequence[str] | None = None,
        interval_start: str = "{{ data_interval_start | ts }}",
        parameters: Mapping[str, str] | None = None,
        inputs_from: str | None = None,
        refresh: Refresh | None = None,
        namespace: str | None = None,
        kubernetes_conn_id: str = "kubernetes_default",
        on_kill_action: OnKill = "leave",
        logs: bool = True,
        console: str = CONSOLE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.stages = in_order(stages)
        self.interval_start = interval_start
        self.parameters = dict(parameters or {})
        self.inputs_from = inputs_from
        self.refresh = checked_refresh(refresh, self.stages)
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.on_kill_action = on_kill_action
        self.logs = logs
        self.console = console
        self.report_page = ""
        self._run: str | None = None

    @cached_property
    def lakehouse(self) -> Lakehouse:
        """The cluster, as this task may use it."""
        hook = KubernetesHook(conn_id=self.kubernetes_conn_id)
        return Lakehouse(hook.custom_object_client, self.namespace or hook.get_namespace() or "default")

    def execute(self, context: Any) -> Outcome:
        """Makes or adopts the run, then waits in the triggerer."""
        if self.on_kill_action not in ("cancel", "leave"):
            raise AirflowFailException(f"on_kill_action {self.on_kill_action!r} is not one of cancel, leave")
        try:
            run = self.lakehouse.make_or_adopt(self._request(context))
        except (Refused, ValueError) as error:
            raise AirflowFailException(str(error)) from error
        self._run = name_of(run)
        context["ti"].xcom_push(key=RUN_KEY, value=self._run)
        if finished(run):
            self.log.info("run %s has done this already", self._run)
            return self._end(context, outcome(run))
        self.log.info("waiting for run %s", self._run)
        left = self._seconds_left(context)
        self.defer(
            trigger=LakehouseRunTrigger(
                run=self._run,
                namespace=self.lakehouse.namespace,
                kubernetes_conn_id=self.kubernetes_conn_id,
                deadline=None if left is None else time.time() + left,
                on_kill_action=self.on_kill_action,
                logs=self.logs,
            ),
            method_name="execute_complete",
            # The trigger ends by itself at the deadline; this is for a triggerer that cannot.
            timeout=None if left is None else timedelta(seconds=left + 120),
        )
        raise AssertionError("defer has returned")

    def _request(self, context: Any) -> Request:
        dag_id, run_id = context["dag"].dag_id, context["run_id"]
        grain = self.lakehouse.grain(self.pipeline)
        try:
            start = datetime.fromisoformat(self.interval_start)
        except ValueError as error:
            raise ValueError(
                f"interval_start {self.interval_start!r}: write a time such as 2024-06-22T00:00:00Z"
            ) from error
        interval = Interval.beginning(grain, start)
        return Request(
            submission=Submission(self.pipeline, interval, self.stages, scope_of(dag_id, run_id)),
            key=key_of(dag_id, run_id, context["dag_run"].clear_number or 0),
            parameters={name: str(value) for name, value in self.parameters.items()},
            inputs_from=self.inputs_from or None,
            refresh=self.refresh,
        )

    def _seconds_left(self, context: Any) -> float | None:
        """What is left of `execution_timeout`, which counts from the beginning of the try."""
        if self.execution_timeout is None:
            return None
        begun = context["ti"].start_date.timestamp()
        return float(max(begun + self.execution_timeout.total_seconds() - time.time(), 1))

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Outcome:
        """Goes on after the trigger has fired."""
        self._run = run = event["run"]
        match event["status"]:
            case "finished":
                return self._end(context, event["outcome"])
            case "timeout":
                if self.on_kill_action == "cancel":
                    self.lakehouse.cancel(run)
                raise LakehouseRunFailed(
                    f"run {run} has not ended within {self.execution_timeout}; on_kill_action is {self.on_kill_action}"
                )
            case "deleted":
                raise LakehouseRunFailed(f"run {run} was deleted before it had an outcome")
            case "refused":
                raise AirflowFailException(f"run {run} may not be watched: {event['message']}")
            case other:
                raise LakehouseRunFailed(f"run {run}: the trigger ended with {other}")

    def _end(self, context: Any, result: Outcome) -> Outcome:
        """The task's result, its link and the events of its outlets; raises when the run did not succeed."""
        self.report_page = console_page(self.console, report_of(result))
        if result["outcome"] != "Succeeded":
            context["ti"].xcom_push(key="return_value", value=result)
            raise LakehouseRunFailed(failure_line(result))
        assets.record(context, result)
        self.log.info("run %s succeeded: %s rows written", result["run"], result["rowsWritten"])
        return result

    def on_kill(self) -> None:
        """The worker was told to stop while it made the run: cancels it, or leaves it, as told."""
        if self._run and self.on_kill_action == "cancel":
            self.lakehouse.cancel(self._run)
