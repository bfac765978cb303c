"""Runs whenever `gold.daily_summary` was written, by whichever DAG: says in its log what is new. A place to begin one's own."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import DAG, task
from lakehouse_airflow.assets import table
from lakehouse_airflow.defaults import task_defaults

SUMMARY = table("gold.daily_summary")


@task
def report(triggering_asset_events: Any = None) -> list[dict[str, Any]]:
    """The writes that this DAG run is about, as their events tell them."""
    writes = [dict(event.extra) for event in triggering_asset_events[SUMMARY]]
    for write in writes:
        logging.getLogger(__name__).info("gold.daily_summary: %s", write)
    return writes


with DAG(
    "crypto_report",
    description="Says what was written to gold.daily_summary",
    schedule=[SUMMARY],
    catchup=False,
    max_active_runs=1,
    tags=["lakehouse"],
    default_args=task_defaults(),
    doc_md=__doc__,
):
    report()
