"""Whole DAG runs in one process (`dag.test()`): real operators, triggers and sensors against the fake cluster and store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from conftest import CANARY, Webhook
from fake_api import FakeApi, Status, stage, status_of
from lakehouse_airflow.runs import outcome

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG

pytestmark = pytest.mark.usefixtures("database", "no_deadlines")


def done(run: dict[str, Any]) -> Status:
    """A run that succeeded: each stage wrote one table with 7 rows."""
    stages = [
        stage(
            name,
            report=f"s3://{name}/report.json",
            tables=[{"name": f"{name}.{table}", "snapshot": "4711", "rowsWritten": 7} for table in TABLES[name]],
        )
        for name in run["spec"].get("stages", TABLES)
    ]
    return status_of("True", *stages, reason="Completed", rowsRead=8, rowsWritten=7)


TABLES: dict[str, list[str]] = {"ingest": [], "silver": ["events", "coins"], "gold": ["daily_sales", "daily_summary"]}


def at(day: int) -> datetime:
    """The logical date whose data interval is that day of June 2024."""
    return datetime(2024, 6, day + 1, tzinfo=UTC)


def states(run: DagRun) -> dict[str, str]:
    """State of every task."""
    return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}


def xcom(run: DagRun, task: str, key: str = "return_value") -> Any:
    """A task's XCom."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.scalars(
            XComModel.get_many(run_id=run.run_id, key=key, task_ids=task, dag_ids=run.dag_id)
        ).first()
        return XComModel.deserialize_value(found) if found else None


def events(uri: str) -> list[dict[str, Any]]:
    """Extras of the events of an asset."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id).where(AssetModel.uri == uri)
        return [dict(event.extra) for event in session.scalars(query)]


@pytest.fixture(scope="module")
def no_deadlines(dags: dict[str, DAG]) -> Iterator[None]:
    """`dag.test()` of the pinned Airflow cannot run a DAG with a deadline: it looks for the alert in the wrong form."""
    before = {name: dag.deadline for name, dag in dags.items()}
    for dag in dags.values():
        dag.deadline = None
    yield
    for name, deadline in before.items():
        dags[name].deadline = deadline


@pytest.fixture
def once(dags: dict[str, DAG]) -> Iterator[None]:
    """Tasks are tried once: a retry's pause would be waited for."""
    tasks = [task for dag in dags.values() for task in dag.tasks]
    before = [task.retries for task in tasks]
    for task in tasks:
        task.retries = 0
    yield
    for task, retries in zip(tasks, before, strict=True):
        task.retries = retries


def test_a_day_of_the_shop(api: FakeApi, dags: dict[str, DAG]) -> None:
    api.autopilot = done
    run = dags["shop_daily"].test(logical_date=at(22))
    assert states(run) == {"ingest": "success", "silver": "success", "gold": "success"}
    assert [made["spec"]["stages"] for made in api.runs.values()] == [["ingest"], ["silver"], ["gold"]]
    assert {made["spec"]["interval"]["start"] for made in api.runs.values()} == {"2024-06-22T00:00:00Z"}
    silver = next(name for name in api.runs if "-silver-" in name)
    assert xcom(run, "silver", "run") == silver
    assert xcom(run, "silver") == outcome(api.runs[silver])
    assert xcom(run, "silver", "_link_ReportLink") == "http://localhost:9001/browser/silver/report.json"
    (event,) = events("lakehouse://lakehouse/silver/events")
    assert event == {
        "run": silver,
        "interval_start": "2024-06-22T00:00:00Z",
        "interval_end": "2024-06-23T00:00:00Z",
        "rows_written": 7,
        "snapshot": "4711",
    }


def test_the_task_waits_in_the_triggerer(api: FakeApi, dags: dict[str, DAG]) -> None:
    threading.Thread(target=finish_each, args=(api, 3), daemon=True).start()
    run = dags["shop_daily"].test(logical_date=at(21))
    assert set(states(run).values()) == {"success"}
    assert api.calls["watch"] == 3


def finish_each(api: FakeApi, count: int) -> None:
    """The operator: a run is done once somebody watches it."""
    end = time.monotonic() + 120
    finished = 0
    while finished < count and time.monotonic() < end:
        waiting = [name for name, made in list(api.runs.items()) if "status" not in made]
        if waiting and api.calls["watch"] > finished:
            api.set_status(waiting[0], done(api.runs[waiting[0]]))
            finished += 1
        time.sleep(0.05)


def test_a_run_that_fails_fails_the_dag_run_and_is_told_once(
    api: FakeApi, dags: dict[str, DAG], alerts: Webhook, once: None
) -> None:
    def bad(run: dict[str, Any]) -> Status:
        if run["spec"]["stages"] != ["silver"]:
            return done(run)
        failed = stage("silver", "Failed", reason="ExpectationFailed", message="9 rows", report="s3://silver/r.json")
        return status_of("False", failed, reason="StageFailed", message="silver")

    api.autopilot = bad
    before = events("lakehouse://lakehouse/silver/events")
    run = dags["shop_daily"].test(logical_date=at(20))
    assert run.state == "failed"
    assert states(run) == {"ingest": "success", "silver": "failed", "gold": "upstream_failed"}
    (body,) = alerts.bodies
    assert body["text"] == "shop_daily.silver failed: ExpectationFailed: 9 rows"
    told = {field["title"]: field["value"] for field in body["attachments"][0]["fields"]}
    assert (told["Pipeline"], told["Stage"], told["Report"]) == ("shop", "silver", "s3://silver/r.json")
    assert told["Run"] == next(name for name in api.runs if "-silver-" in name)
    assert xcom(run, "silver")["outcome"] == "Failed"
    assert xcom(run, "silver", "_link_ReportLink") == "http://localhost:9001/browser/silver/r.json"
    assert events("lakehouse://lakehouse/silver/events") == before


def test_a_pipeline_that_is_not_there_is_not_tried_again(api: FakeApi, dags: dict[str, DAG], alerts: Webhook) -> None:
    api.pipelines.clear()
    run = dags["shop_daily"].test(logical_date=at(19))
    assert states(run)["ingest"] == "failed"
    assert [ti.try_number for ti in run.get_task_instances() if ti.task_id == "ingest"] == [1]
    assert "no LakehousePipeline shop in namespace lakehouse" in alerts.bodies[0]["text"]


def test_a_day_of_sensors_from_the_upload_to_gold(api: FakeApi, dags: dict[str, DAG]) -> None:
    from datetime import date

    from sensors_end_to_end import measured_by_hand

    api.autopilot = done
    run = dags["sensors_end_to_end"].test(logical_date=at(22), run_conf={"max_quarantined_percent": 0})
    assert states(run) == dict.fromkeys(("upload", "ingest", "silver", "accept", "gold"), "success")
    # The file was there before ingest was asked for.
    assert api.uploads == {"landing/checks/2024-06-22/airflow.csv": measured_by_hand(date(2024, 6, 22)).encode()}
    assert xcom(run, "upload") == "s3://landing/checks/2024-06-22/airflow.csv"
    assert [made["spec"]["stages"] for made in api.runs.values()] == [["ingest"], ["silver"], ["gold"]]
    assert {made["spec"]["pipeline"] for made in api.runs.values()} == {"uploads"}
    assert [made["spec"].get("refresh") for made in api.runs.values()] == [None, None, "Stale"]
    assert xcom(run, "accept").endswith(": 0 of 8 rows are in quarantine")


def test_too_many_rows_in_quarantine_end_the_dag_run_before_gold(
    api: FakeApi, dags: dict[str, DAG], alerts: Webhook
) -> None:
    def dirty(run: dict[str, Any]) -> Status:
        return done(run) | {"rowsRead": 100, "rowsQuarantined": 6}

    api.autopilot = dirty
    # Said each time: `dag.test()` leaves what it was told in the DAG.
    run = dags["sensors_end_to_end"].test(logical_date=at(21), run_conf={"max_quarantined_percent": 5})
    assert states(run) == {
        "upload": "success",
        "ingest": "success",
        "silver": "success",
        "accept": "failed",
        "gold": "upstream_failed",
    }
    assert len(api.runs) == 2, "no run of gold"
    assert [ti.try_number for ti in run.get_task_instances() if ti.task_id == "accept"] == [1]
    (body,) = alerts.bodies
    silver = next(name for name in api.runs if "-silver-" in name)
    assert f"run {silver}: 6 of 100 rows are in quarantine, more than 5 %" in body["text"]
    assert body["text"].startswith("sensors_end_to_end.accept failed: ")
    again = dags["sensors_end_to_end"].test(logical_date=at(17), run_conf={"max_quarantined_percent": 6})
    assert states(again)["gold"] == "success", "as many as are tolerated"


def client(api: FakeApi) -> Callable[..., dict[str, Any]]:
    """What a client pod does, in place of the pod: takes the task's arguments, leaves an outcome."""

    def execute(self: KubernetesPodOperator, context: Any) -> dict[str, Any]:
        arguments = dict(zip(self.arguments[2::2], self.arguments[3::2], strict=False))
        pipeline, day = self.arguments[1], arguments["--interval"][:10]
        asked = arguments["--stage"]
        name = f"{pipeline}-{day}-{asked}-{len(api.runs) + 1}"
        spec = {
            "pipeline": pipeline,
            "stages": [asked],
            "interval": {"start": f"{day}T00:00:00Z", "end": f"{day}T23:59:59Z"},
            "arguments": list(self.arguments),
        }
        api.add_run({"metadata": {"name": name}, "spec": spec}, done({"spec": spec}))
        return outcome(api.runs[name])

    return execute


def test_a_day_of_crypto(api: FakeApi, dags: dict[str, DAG], monkeypatch: pytest.MonkeyPatch) -> None:
    from lakehouse_airflow.naming import Interval, Submission, scope_of

    monkeypatch.setattr(KubernetesPodOperator, "execute", client(api))
    # An ingest of another DAG run was here before: it must not satisfy the sensor.
    interval = Interval.beginning("daily", datetime(2024, 6, 22, tzinfo=UTC))
    folder = "crypto/_manifests/dt=2024-06-22"
    older = Submission("crypto", interval, ("ingest",), scope_of("crypto_daily", "manual__before"))
    api.objects["bronze"].add(f"{folder}/run={older.run_name(1)}-00000000.json")
    dag_run_id = "manual__" + at(22).isoformat()
    ours = Submission("crypto", interval, ("ingest",), scope_of("crypto_daily", dag_run_id))

    def put_later() -> None:
        end = time.monotonic() + 60
        # The sensor has looked once in the worker and at least once in the triggerer.
        while api.calls["list objects"] < 3 and time.monotonic() < end:
            time.sleep(0.05)
        api.objects["bronze"].add(f"{folder}/run={ours.run_name(1)}-11111111.json")

    monkeypatch.setattr(dags["crypto_daily"].get_task("bronze"), "poke_interval", 0.5)
    threading.Thread(target=put_later, daemon=True).start()
    run = dags["crypto_daily"].test(run_after=at(22), logical_date=at(22), run_conf={"limit": 35, "on_kill": "cancel"})
    assert run.run_id == dag_run_id
    assert states(run) == {"ingest": "success", "bronze": "success", "silver": "success", "gold": "success"}
    assert api.calls["list objects"] >= 4
    ingest, silver, gold = (made["spec"]["arguments"] for made in api.runs.values())
    assert ingest == [
        *("submit", "crypto", "--namespace", "lakehouse", "--interval", "2024-06-22T00:00:00+00:00"),
        *("--stage", "ingest", "--parameter", "limit=35"),
        *("--scope", f"crypto_daily/{dag_run_id}", "--key", f"crypto_daily/{dag_run_id}/0"),
        *("--wait", "--timeout", "2h", "--on-terminate", "cancel", "--outcome-file", "/airflow/xcom/return.json"),
        *("--output", "text"),
    ]
    assert "--parameter" not in silver + gold
    assert events("lakehouse://lakehouse/gold/daily_summary")[0]["rows_written"] == 7
    assert xcom(run, "gold")["tables"][1]["name"] == "gold.daily_summary"


def in_order(monkeypatch: pytest.MonkeyPatch, first: str, second: str) -> None:
    """Keeps one task from running before another has.

    `dag.test()` runs tasks one at a time, in the order of a set, so a sensor would wait for ever for a task that comes after it.
    """
    from airflow.sdk.definitions import dag

    real, begun = dag._run_task, set[str]()

    def run(*, ti: Any, **arguments: Any) -> Any:
        if ti.task_id == second and first not in begun:
            return None  # it stays scheduled, and the next round asks again
        begun.add(ti.task_id)
        return real(ti=ti, **arguments)

    monkeypatch.setattr(dag, "_run_task", run)


def test_a_failed_ingest_ends_the_dag_run(
    api: FakeApi, dags: dict[str, DAG], alerts: Webhook, once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensor beside it does not wait for what nobody puts, and is no second failure to tell of."""

    def execute(self: KubernetesPodOperator, context: Any) -> None:
        raise RuntimeError("Pod x returned a failure.\nerror: run y: stage ingest failed: SourceRefused: 404")

    monkeypatch.setattr(KubernetesPodOperator, "execute", execute)
    monkeypatch.setattr(dags["pulse"].get_task("bronze"), "poke_interval", 0.5)
    in_order(monkeypatch, "ingest", "bronze")
    begun = time.monotonic()
    run = dags["pulse"].test(logical_date=at(18))
    assert run.state == "failed"
    assert states(run) == {"ingest": "failed", "bronze": "skipped", "silver": "upstream_failed"}
    assert time.monotonic() - begun < 60
    assert [body["text"] for body in alerts.bodies] == [
        "pulse.ingest failed: RuntimeError: run y: stage ingest failed: SourceRefused: 404"
    ]


def test_the_sensor_goes_on_in_another_triggerer() -> None:
    from airflow.sdk._shared.module_loading import import_string
    from airflow.sdk.serde import deserialize, serialize
    from lakehouse_airflow.sensors import ManifestTrigger

    first = ManifestTrigger(
        dag_id="d", run_id="r", maker="ingest", bucket_name="bronze", bucket_key="k*", poke_interval=3
    )
    path, stored = first.serialize()
    again = import_string(path)(**deserialize(serialize(stored)))
    assert isinstance(again, ManifestTrigger)
    assert again.serialize() == (path, stored)
    assert (again.maker, again.bucket_key, again.poke_interval) == ("ingest", "k*", 3)


def test_no_credential_shows(api: FakeApi, dags: dict[str, DAG], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendered templates, XCom, serialized DAGs, pod specs: the canary of the connections stands nowhere."""
    import json

    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    monkeypatch.setattr(KubernetesPodOperator, "execute", client(api))
    monkeypatch.setattr("airflow.providers.amazon.aws.sensors.s3.S3KeySensor.poke", lambda *_, **__: True)
    api.autopilot = done
    for name in ("crypto_daily", "shop_daily", "pulse", "sensors_end_to_end"):
        dags[name].test(logical_date=at(10))
    with create_session() as session:
        rendered = [json.dumps(row.rendered_fields) for row in session.scalars(select(RenderedTaskInstanceFields))]
        pushed = [str(row.value) for row in session.scalars(select(XComModel))]
        stored = [json.dumps(row.data) for row in session.scalars(select(SerializedDagModel))]
    assert any("2024-06-10" in text for text in rendered)
    assert any("/_manifests/dt=2024-06-10/run=pulse-2024-06-10-ingest-" in text for text in rendered)
    for text in [*rendered, *pushed, *stored, json.dumps(list(api.runs.values()))]:
        assert CANARY not in text
