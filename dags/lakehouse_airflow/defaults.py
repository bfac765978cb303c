"""What every DAG of the lakehouse has in common: names, timetable, retries, timeouts, whom to tell."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import AsyncCallback, CronDataIntervalTimetable, DeadlineAlert, DeadlineReference

from lakehouse_airflow.notifier import LakehouseNotifier

NAMESPACE = os.environ.get("LAKEHOUSE_NAMESPACE", "lakehouse")
"""Namespace of the pipelines: part of every asset's URI, so it must be known when a DAG is read."""
CLIENT_IMAGE = "{{ var.value.get('lakehouse_cli_image', 'lakehouse/cli:dev') }}"
"""Image of the client pods: the Airflow variable `lakehouse_cli_image`."""
CONSOLE = "{{ var.value.get('lakehouse_console_url', 'http://localhost:9001') }}"
"""Address of MinIO's console as a browser reaches it: the Airflow variable `lakehouse_console_url`."""
SERVICE_ACCOUNT = "lakehouse-client"
"""Service account of the client pods; the platform chart makes it."""

HOURLY = "0 * * * *"
DAILY = "0 0 * * *"
WEEKLY = "0 0 * * 0"
MONTHLY = "0 0 1 * *"


def every(cron: str) -> CronDataIntervalTimetable:
    """A timetable with data intervals in UTC. A plain cron string would give intervals without length."""
    return CronDataIntervalTimetable(cron, timezone="UTC")


def history(dag_id: str) -> dict[str, Any]:
    """`start_date` and `catchup` of a DAG: history is caught up from the date in `LAKEHOUSE_CATCHUP_<DAG_ID>`, such as 2024-06-20.

    Without it only the newest complete interval is run; `airflow backfill create` runs any range by hand.
    """
    name = f"LAKEHOUSE_CATCHUP_{dag_id.upper()}"
    text = os.environ.get(name)
    if not text:
        return {"start_date": datetime(2010, 1, 1, tzinfo=UTC), "catchup": False}
    try:
        since = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"{name}={text}: write a date such as 2024-06-20") from error
    return {"start_date": since, "catchup": True}


def task_defaults(notifier: LakehouseNotifier | None = None) -> dict[str, Any]:
    """`default_args`: two retries with growing pauses, a limit on each try, and a word to people when a task has failed for good."""
    return {
        "owner": "lakehouse",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(hours=2),
        "on_failure_callback": [notifier or LakehouseNotifier()],
    }


def late_after(after: timedelta) -> DeadlineAlert:
    """Tells people when a DAG run has not ended this long after it was queued; the run goes on."""
    return DeadlineAlert(
        name="late",
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=after,
        callback=AsyncCallback(LakehouseNotifier, kwargs={"late_after": int(after.total_seconds())}),
    )
