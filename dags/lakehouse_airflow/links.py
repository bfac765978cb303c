"""Buttons on a task's page that open what its run left in the object store, in MinIO's console."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


def console_page(console: str, uri: str) -> str:
    """Page of MinIO's console that shows an object such as `s3://silver/_lakehouse/…/silver-1.json`; empty without one."""
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not console:
        return ""
    return f"{console.rstrip('/')}/browser/{parts.netloc}/{quote(parts.path.lstrip('/'), safe='')}"


class ReportLink(BaseOperatorLink):
    """The report of the stage: counts per table, quality results, what was committed."""

    name = "Run report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The page, once the run has ended; Airflow keeps it as XCom when the task does."""
        return str(getattr(operator, "report_page", ""))
