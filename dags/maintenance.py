"""Once a week every pipeline's tables are maintained: small files are put together, old snapshots go, and so does what attempts left behind.

A task per pipeline, each a LakehouseRun with the one stage `maintenance`, for the interval that begins with the week. The runs of data go on
meanwhile. Pipelines that are applied without `spec.maintenance` are refused: take them out of the list, or add `maintenance: {}` to them.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from lakehouse_airflow.defaults import WEEKLY, every, history, late_after, task_defaults
from lakehouse_airflow.operators import LakehouseRunOperator

PIPELINES = ("crypto", "pulse", "shop", "uploads")

with DAG(
    "maintenance",
    description="Compaction, expiry of snapshots and removal of orphans, once a week",
    schedule=every(WEEKLY),
    **history("maintenance"),
    max_active_runs=1,
    tags=["lakehouse"],
    default_args=task_defaults(),
    deadline=late_after(timedelta(hours=3)),
    params={"on_kill": Param("leave", enum=["leave", "cancel"], title="When a task is stopped")},
    doc_md=__doc__,
):
    for pipeline in PIPELINES:
        LakehouseRunOperator(
            task_id=pipeline,
            pipeline=pipeline,
            stages=["maintenance"],
            on_kill_action="{{ params.on_kill }}",
        )
