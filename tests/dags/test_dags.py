"""Every DAG under the pinned Airflow: it is read without a warning and has the shape that its description promises."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import Asset, CronDataIntervalTimetable
from lakehouse_airflow.sensors import ManifestSensor

if TYPE_CHECKING:
    from airflow.sdk import DAG

EDGES = {
    "hello_world": {"hello": set()},
    "pulse": {"ingest": {"silver"}, "bronze": {"silver"}, "silver": set()},
    "crypto_daily": {"ingest": {"silver"}, "bronze": {"silver"}, "silver": {"gold"}, "gold": set()},
    "crypto_report": {"report": set()},
    "shop_daily": {"ingest": {"silver"}, "silver": {"gold"}, "gold": set()},
    "sensors_end_to_end": {
        "upload": {"ingest"},
        "ingest": {"silver"},
        "silver": {"accept"},
        "accept": {"gold"},
        "gold": set(),
    },
    "maintenance": {"crypto": set(), "pulse": set(), "shop": set(), "uploads": set()},
}
SCHEDULED = ("pulse", "crypto_daily", "shop_daily", "sensors_end_to_end")


def test_every_dag_has_its_tasks_in_order(dags: dict[str, DAG]) -> None:
    found = {name: {task.task_id: set(task.downstream_task_ids) for task in dag.tasks} for name, dag in dags.items()}
    assert found == EDGES


def test_every_dag_survives_serialization(dags: dict[str, DAG]) -> None:
    from airflow.serialization.encoders import coerce_to_core_timetable
    from airflow.serialization.serialized_objects import DagSerialization

    for name, dag in dags.items():
        again = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
        assert {task.task_id for task in again.tasks} == set(EDGES[name])
        assert coerce_to_core_timetable(dag.timetable).summary == again.timetable.summary


@pytest.mark.parametrize("name", SCHEDULED)
def test_intervals_are_whole_days_in_utc(name: str, dags: dict[str, DAG]) -> None:
    from airflow.serialization.encoders import coerce_to_core_timetable

    assert isinstance(dags[name].timetable, CronDataIntervalTimetable)
    timetable = coerce_to_core_timetable(dags[name].timetable)
    interval = timetable.infer_manual_data_interval(run_after=datetime(2024, 6, 23, tzinfo=UTC))
    assert (interval.start, interval.end) == (datetime(2024, 6, 22, tzinfo=UTC), datetime(2024, 6, 23, tzinfo=UTC))


@pytest.mark.parametrize("name", sorted(EDGES))
def test_every_task_retries_ends_and_tells(name: str, dags: dict[str, DAG]) -> None:
    from lakehouse_airflow.notifier import LakehouseNotifier

    for task in dags[name].tasks:
        assert task.retries == 2
        assert task.retry_exponential_backoff == 2
        assert task.max_retry_delay == timedelta(minutes=10)
        assert task.execution_timeout == timedelta(hours=2)
        assert [type(callback) for callback in task.on_failure_callback] == [LakehouseNotifier]
    assert dags[name].max_active_runs <= 2
    assert not dags[name].on_failure_callback


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_late_dag_run_is_told(name: str, dags: dict[str, DAG]) -> None:
    (deadline,) = dags[name].deadline
    assert deadline.interval == timedelta(hours=3)
    assert deadline.callback.path == "lakehouse_airflow.notifier.LakehouseNotifier"
    assert deadline.callback.kwargs == {"late_after": 3 * 60 * 60}


def test_stages_are_pods_where_the_description_says_so(dags: dict[str, DAG]) -> None:
    for name in ("pulse", "crypto_daily"):
        kinds = {task.task_id: type(task) for task in dags[name].tasks}
        assert kinds.pop("bronze") is ManifestSensor
        assert set(kinds.values()) == {KubernetesPodOperator}
    assert {task.task_type for task in dags["shop_daily"].tasks} == {"LakehouseRunOperator"}
    kinds = {task.task_id: task.task_type for task in dags["sensors_end_to_end"].tasks}
    assert {name for name, kind in kinds.items() if kind == "LakehouseRunOperator"} == {"ingest", "silver", "gold"}


def test_maintenance_is_one_run_per_pipeline_and_week(dags: dict[str, DAG]) -> None:
    from pathlib import Path

    import yaml
    from airflow.serialization.encoders import coerce_to_core_timetable

    dag = dags["maintenance"]
    for task in dag.tasks:
        operator: Any = task
        assert (operator.task_type, operator.pipeline, operator.stages) == (
            "LakehouseRunOperator",
            task.task_id,
            ("maintenance",),
        )
        assert not task.outlets
    # The run's interval must begin one of the pipeline's: midnight does for hourly and daily ones.
    timetable = coerce_to_core_timetable(dag.timetable)
    interval = timetable.infer_manual_data_interval(run_after=datetime(2024, 6, 26, 12, tzinfo=UTC))
    assert (interval.start, interval.end) == (datetime(2024, 6, 16, tzinfo=UTC), datetime(2024, 6, 23, tzinfo=UTC))
    deploy = Path(__file__).resolve().parents[2] / "deploy" / "airflow"
    documents = [d for path in deploy.glob("*.yaml") for d in yaml.safe_load_all(path.read_text())]
    pipelines = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "LakehousePipeline"}
    assert set(dag.task_ids) == set(pipelines)
    assert all("maintenance" in spec and spec["interval"] == "daily" for spec in pipelines.values())


def test_the_sensor_waits_for_one_key_in_bronze(dags: dict[str, DAG]) -> None:
    for name in ("pulse", "crypto_daily"):
        sensor: Any = dags[name].get_task("bronze")
        assert (sensor.aws_conn_id, sensor.bucket_name, sensor.wildcard_match) == ("aws_default", "bronze", True)
        assert dags[name].has_task(sensor.maker)


def test_outlets_are_the_tables_of_the_pipelines(dags: dict[str, DAG]) -> None:
    from pathlib import Path

    import yaml

    deploy = Path(__file__).resolve().parents[2] / "deploy" / "airflow"
    for name, file in (
        ("pulse", "pulse"),
        ("crypto_daily", "crypto"),
        ("shop_daily", "shop"),
        ("sensors_end_to_end", "uploads"),
    ):
        spec = next(
            d for d in yaml.safe_load_all((deploy / f"{file}.yaml").read_text()) if d["kind"] == "LakehousePipeline"
        )["spec"]
        for layer in ("silver", "gold"):
            if not spec.get(layer):
                continue
            outlets = [outlet for outlet in dags[name].get_task(layer).outlets if isinstance(outlet, Asset)]
            expected = {f"lakehouse://lakehouse/{layer}/{table['name']}" for table in spec[layer]}
            assert {outlet.uri for outlet in outlets} == expected


def test_the_report_follows_the_table(dags: dict[str, DAG]) -> None:
    (summary,) = dags["crypto_report"].timetable.asset_condition.objects
    assert summary in dags["crypto_daily"].get_task("gold").outlets
    assert summary.uri == "lakehouse://lakehouse/gold/daily_summary"


def test_the_report_tells_what_was_written(dags: dict[str, DAG]) -> None:
    from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
    from airflow.sdk.execution_time.context import TriggeringAssetEventsAccessor

    def event(name: str, **extra: Any) -> AssetEventDagRunReferenceResult:
        layer, _, table = name.partition(".")
        uri = f"lakehouse://lakehouse/{layer}/{table}"
        source = dict.fromkeys(("source_task_id", "source_dag_id", "source_run_id", "source_map_index"))
        return AssetEventDagRunReferenceResult(
            asset={"name": f"lakehouse/{name}", "uri": uri, "extra": {}},
            extra=extra,
            source_aliases=[],
            timestamp=datetime(2024, 6, 23, tzinfo=UTC),
            **source,
        )

    report: Any = dags["crypto_report"].get_task("report")
    written = [event("gold.daily_summary", rows_written=20), event("gold.rankings", rows_written=3)]
    assert report.python_callable(TriggeringAssetEventsAccessor.build(written)) == [{"rows_written": 20}]
    # Started by hand there is nothing to tell.
    assert report.python_callable(TriggeringAssetEventsAccessor.build([])) == []


def test_parameters_of_the_form_are_checked(dags: dict[str, DAG]) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    assert dags["crypto_daily"].params["limit"] == 20
    with pytest.raises(ParamValidationError):
        dags["sensors_end_to_end"].params.get_param("max_quarantined_percent").resolve(101)
    with pytest.raises(ParamValidationError):
        dags["crypto_daily"].params.get_param("limit").resolve(0)
    with pytest.raises(ParamValidationError):
        dags["crypto_daily"].params.get_param("on_kill").resolve("shrug")


def test_what_is_uploaded_is_what_the_pipeline_reads() -> None:
    import csv
    from datetime import date
    from pathlib import Path

    import yaml
    from sensors_end_to_end import LANDING, measured_by_hand

    deploy = Path(__file__).resolve().parents[2] / "deploy"
    (lakehouse,) = yaml.safe_load_all((deploy / "lakehouse.yaml").read_text())
    assert lakehouse["spec"]["buckets"]["landing"] == LANDING
    (spec,) = (d["spec"] for d in yaml.safe_load_all((deploy / "airflow" / "uploads.yaml").read_text()))
    (table,) = (table for table in spec["silver"] if table["from"] == "checks")
    records = list(csv.DictReader(measured_by_hand(date(2024, 6, 22)).splitlines()))
    assert [f"/{name}" for name in records[0]] == [column["from"] for column in table["columns"]]
    assert {record["checked_at"][:10] for record in records} == {"2024-06-22"}
    assert measured_by_hand(date(2024, 6, 22)) != measured_by_hand(date(2024, 6, 23))


def test_history_is_caught_up_from_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from lakehouse_airflow.defaults import history

    assert history("crypto_daily")["catchup"] is False
    monkeypatch.setenv("LAKEHOUSE_CATCHUP_CRYPTO_DAILY", "2024-06-20")
    import crypto_daily

    dag = importlib.reload(crypto_daily).dag
    assert dag.catchup
    assert dag.start_date == datetime(2024, 6, 20, tzinfo=UTC)
    monkeypatch.setenv("LAKEHOUSE_CATCHUP_CRYPTO_DAILY", "June")
    with pytest.raises(ValueError, match=r"^LAKEHOUSE_CATCHUP_CRYPTO_DAILY=June: write a date such as 2024-06-20$"):
        history("crypto_daily")
