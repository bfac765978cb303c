"""Sensors from end to end, once a day: hand measurements are uploaded, and held against what the devices say.

`upload` puts the day's file where the source `checks` looks for it; put your own export in the place of `measured_by_hand`. Ingest takes it and the
readings of the devices, silver makes a Delta table of the checks and an Iceberg table of the readings, gold reads both. Between them
`accept` looks at what silver had to put aside: when that is more than `max_quarantined_percent` of the rows, the DAG run ends there, gold keeps
what it has, and people are told. Once the rows are mended (upload the file again) clear `upload` and what comes after it. Gold computes the later days again that read the day.
Apply deploy/airflow/uploads.yaml first.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param, chain, task
from airflow.sdk.exceptions import AirflowFailException
from lakehouse_airflow.assets import tables
from lakehouse_airflow.defaults import DAILY, every, history, late_after, task_defaults
from lakehouse_airflow.operators import LakehouseRunOperator

PIPELINE = "uploads"
LANDING = "landing"
"""Bucket that `files` sources read: `spec.buckets.landing` of the Lakehouse."""
WRITES = {
    "ingest": [],
    "silver": ["silver.field_checks", "silver.station_readings"],
    "gold": ["gold.fct_checks", "gold.calibration"],
}


def measured_by_hand(day: date) -> str:
    """An example of an export: three checks, the same for the same day."""
    lines = [
        f"d0000{device},{day}T{8 + device:02}:05:00Z,{15 + (day.toordinal() + device) % 6}.50,ada"
        for device in range(1, 4)
    ]
    return "\n".join(["device_id,checked_at,temperature,technician", *lines]) + "\n"


@task
def upload(data_interval_start: datetime | None = None) -> str:
    """Puts the day's file into the landing layer, in the place of one that is there, and answers its address."""
    # slow to import, where DAGs are read
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    assert data_interval_start is not None, "the timetable gives every DAG run an interval"
    day = data_interval_start.date()
    key = f"checks/{day}/airflow.csv"
    S3Hook("aws_default").load_string(measured_by_hand(day), key, bucket_name=LANDING, replace=True)
    return f"s3://{LANDING}/{key}"


@task
def accept(silver: dict[str, Any], percent: int | str) -> str:
    """Fails for good when silver put more than `percent` of the rows aside: trying again would not make them better."""
    read, aside = int(silver["rowsRead"]), int(silver["rowsQuarantined"])
    said = f"run {silver['run']}: {aside} of {read} rows are in quarantine"
    if aside * 100 > read * int(percent):
        raise AirflowFailException(
            f"{said}, more than {percent} %: look into quarantine.field_checks and quarantine.station_readings"
        )
    return said


with DAG(
    "sensors_end_to_end",
    description="Uploaded checks and sensor readings to silver in Delta and Iceberg, and to gold",
    schedule=every(DAILY),
    **history("sensors_end_to_end"),
    max_active_runs=2,
    tags=["lakehouse"],
    default_args=task_defaults(),
    deadline=late_after(timedelta(hours=3)),
    params={
        "on_kill": Param("leave", enum=["leave", "cancel"], title="When a task is stopped"),
        "max_quarantined_percent": Param(
            5,
            type="integer",
            minimum=0,
            maximum=100,
            title="Tolerated share of rows in quarantine",
            description="In percent of the rows that silver read; more of them end the DAG run before gold",
        ),
    },
    doc_md=__doc__,
):
    stages = {
        stage: LakehouseRunOperator(
            task_id=stage,
            pipeline=PIPELINE,
            stages=[stage],
            # A file that comes late for an earlier day changes the week after it too.
            refresh="Stale" if stage == "gold" else None,
            on_kill_action="{{ params.on_kill }}",
            outlets=tables(written),
        )
        for stage, written in WRITES.items()
    }
    accepted = accept(stages["silver"].output, "{{ params.max_quarantined_percent }}")
    chain(upload(), stages["ingest"], stages["silver"], accepted, stages["gold"])
