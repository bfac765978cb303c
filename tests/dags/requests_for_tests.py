"""The request that the tests make unless they say otherwise: silver of crypto for one recorded day."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from lakehouse_airflow.naming import Interval, Submission, in_order
from lakehouse_airflow.runs import Request

DAY = datetime(2024, 6, 22, tzinfo=UTC)


def request(*stages: str, key: str = "d/r/0", scope: str = "d/r", **more: Any) -> Request:
    """A request for these stages of crypto; silver when none is named."""
    submission = Submission("crypto", Interval.beginning("daily", DAY), in_order(stages or ("silver",)), scope)
    return Request(submission, key, **more)
