"""The smallest pipeline: a heartbeat per minute, fetched and written as Parquet files, once a day.

Silver begins when ingest has ended and the sensor has seen the manifest that ingest put; the sensor waits in the triggerer
meanwhile, for the manifest of this very DAG run. Apply deploy/airflow/pulse.yaml first.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG
from lakehouse_airflow.defaults import DAILY, every, history, late_after, task_defaults
from lakehouse_airflow.pods import submit_stage
from lakehouse_airflow.sensors import manifest_sensor

with DAG(
    "pulse",
    description="Heartbeats to Parquet: ingest beside a sensor, then silver",
    schedule=every(DAILY),
    **history("pulse"),
    max_active_runs=2,
    tags=["lakehouse"],
    default_args=task_defaults(),
    deadline=late_after(timedelta(hours=3)),
    doc_md=__doc__,
):
    ingest = submit_stage("pulse", "ingest")
    silver = submit_stage("pulse", "silver", writes=["silver.pulses"])
    [ingest, manifest_sensor("pulse")] >> silver
