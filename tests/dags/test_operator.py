"""LakehouseRunOperator step by step: what it hands to the triggerer, and what it makes of each way the waiting ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from fake_api import FakeApi, stage, status_of
from lakehouse_airflow.links import console_page
from lakehouse_airflow.operators import LakehouseRunFailed, LakehouseRunOperator
from lakehouse_airflow.triggers import LakehouseRunTrigger

NAME = "crypto-2024-06-22-silver-d1c0a31e-1"


class Pushed(dict[str, Any]):
    """XComs."""

    def xcom_push(self, key: str, value: Any) -> None:
        self[key] = value

    start_date = datetime.now(UTC)


def context(clear_number: int = 0) -> dict[str, Any]:
    return {
        "dag": SimpleNamespace(dag_id="d"),
        "run_id": "r",
        "dag_run": SimpleNamespace(clear_number=clear_number),
        "ti": Pushed(),
    }


def operator(**more: Any) -> LakehouseRunOperator:
    settings = {"task_id": "silver", "pipeline": "crypto", "stages": ["silver"], "console": "http://console"}
    return LakehouseRunOperator(**(settings | {"interval_start": "2024-06-22T00:00:00+00:00"} | more))


def deferred(task: LakehouseRunOperator, around: dict[str, Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        task.execute(around)
    return caught.value


def test_it_makes_the_run_names_it_and_waits(api: FakeApi) -> None:
    around = context()
    waiting = deferred(operator(execution_timeout=timedelta(minutes=5), on_kill_action="cancel"), around)
    assert list(api.runs) == [NAME]
    assert around["ti"]["run"] == NAME
    assert isinstance(waiting.trigger, LakehouseRunTrigger)
    assert waiting.trigger.run_name == NAME
    assert waiting.trigger.namespace == "lakehouse"
    assert waiting.trigger.on_kill_action == "cancel"
    assert waiting.trigger.deadline is not None
    # The trigger ends by itself before Airflow ends it.
    assert waiting.timeout is not None
    assert timedelta(minutes=5) < waiting.timeout <= timedelta(minutes=7)


def test_without_a_limit_it_waits_as_long_as_it_takes(api: FakeApi) -> None:
    waiting = deferred(operator(), context())
    assert isinstance(waiting.trigger, LakehouseRunTrigger)
    assert (waiting.trigger.deadline, waiting.timeout) == (None, None)


def test_a_worker_that_died_is_followed_by_one_that_adopts(api: FakeApi) -> None:
    deferred(operator(), context())
    again = context()
    deferred(operator(), again)
    assert again["ti"]["run"] == NAME
    assert list(api.runs) == [NAME]


def test_a_retry_takes_the_outcome_and_a_cleared_task_makes_the_next_run(api: FakeApi) -> None:
    deferred(operator(), context())
    api.set_status(NAME, status_of("True", stage("silver"), reason="Completed", rowsWritten=5))
    assert operator().execute(context() | {"task": operator(), "outlet_events": {}})["rowsWritten"] == 5
    assert list(api.runs) == [NAME]
    deferred(operator(), context(clear_number=1))
    assert len(api.runs) == 2


def test_a_limit_that_has_passed_leaves_or_cancels(api: FakeApi) -> None:
    deferred(operator(), context())
    event = {"run": NAME, "status": "timeout"}
    with pytest.raises(LakehouseRunFailed, match=r"has not ended within 0:05:00; on_kill_action is leave$"):
        operator(execution_timeout=timedelta(minutes=5)).execute_complete(context(), event)
    assert api.patches == []
    with pytest.raises(LakehouseRunFailed, match=r"on_kill_action is cancel$"):
        operator(on_kill_action="cancel").execute_complete(context(), event)
    assert [patch[0] for patch in api.patches] == [NAME]


@pytest.mark.parametrize(
    ("event", "error", "line"),
    [
        ({"status": "deleted"}, LakehouseRunFailed, f"run {NAME} was deleted before it had an outcome"),
        (
            {"status": "refused", "message": "no rights"},
            AirflowFailException,
            f"run {NAME} may not be watched: no rights",
        ),
        ({"status": "odd"}, LakehouseRunFailed, f"run {NAME}: the trigger ended with odd"),
    ],
)
def test_other_ends(event: dict[str, Any], error: type[Exception], line: str) -> None:
    with pytest.raises(error, match=f"^{line}$"):
        operator().execute_complete(context(), {"run": NAME} | event)


def test_a_cancelled_run_fails_the_task_and_leaves_its_outcome(api: FakeApi) -> None:
    around = context()
    result = {
        "run": NAME,
        "outcome": "Cancelled",
        "reason": "Cancelled",
        "message": "by request",
        "stages": [stage("silver", "Skipped")],
    }
    with pytest.raises(LakehouseRunFailed, match=f"^run {NAME}: Cancelled: by request$"):
        operator().execute_complete(around, {"run": NAME, "status": "finished", "outcome": result})
    assert around["ti"]["return_value"] == result


def test_killed_in_the_worker_it_cancels_or_leaves(api: FakeApi) -> None:
    for action, patches in (("leave", 0), ("cancel", 1)):
        task = operator(on_kill_action=action)
        task.on_kill()
        deferred(task, context())
        task.on_kill()
        assert len(api.patches) == patches


def test_bad_input_is_refused_without_a_retry(api: FakeApi) -> None:
    with pytest.raises(AirflowFailException, match=r"^on_kill_action 'shrug' is not one of cancel, leave$"):
        operator(on_kill_action="shrug").execute(context())
    with pytest.raises(AirflowFailException, match=r"does not begin a daily interval"):
        operator(interval_start="2024-06-22T01:00:00+00:00").execute(context())
    with pytest.raises(
        AirflowFailException, match=r"^interval_start 'June': write a time such as 2024-06-22T00:00:00Z$"
    ):
        operator(interval_start="June").execute(context())
    with pytest.raises(ValueError, match=r"^stage 'bronze' is not one of"):
        operator(stages=["bronze"])
    assert api.runs == {}


@pytest.mark.parametrize(
    ("console", "uri", "page"),
    [
        (
            "http://localhost:9001/",
            "s3://silver/_lakehouse/runs/a/b.json",
            "http://localhost:9001/browser/silver/_lakehouse%2Fruns%2Fa%2Fb.json",
        ),
        ("", "s3://silver/x", ""),
        ("http://localhost:9001", "", ""),
        ("http://localhost:9001", "file:///lake/x", ""),
    ],
)
def test_the_page_of_a_report(console: str, uri: str, page: str) -> None:
    assert console_page(console, uri) == page
