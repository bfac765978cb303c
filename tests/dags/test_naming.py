"""Names, labels and keys: the examples that `lakehouse submit` is tested with too, and input that must be refused."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from lakehouse_airflow.naming import Interval, Submission, checked_refresh, in_order, key_of, rfc3339, scope_of

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "run-names.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())["cases"]


def submission(case: dict[str, Any]) -> Submission:
    interval = Interval.beginning(case["grain"], datetime.fromisoformat(case["start"]))
    return Submission(case["pipeline"], interval, in_order(case["stages"]), case["scope"])


@pytest.mark.parametrize("case", CASES, ids=[case["what"] for case in CASES])
def test_examples(case: dict[str, Any]) -> None:
    asked = submission(case)
    assert {
        "end": rfc3339(asked.interval.end),
        "scopeDigest": asked.scope_digest,
        "submission": asked.label,
        "name": asked.run_name(case["ordinal"]),
        "manifestPattern": asked.manifest_pattern(),
    } == case["expected"]


@pytest.mark.parametrize("case", CASES, ids=[case["what"] for case in CASES])
@pytest.mark.parametrize("ordinal", [1, 9, 10, 9999])
def test_names_are_kubernetes_names_and_their_manifests_match(case: dict[str, Any], ordinal: int) -> None:
    asked = submission(case)
    name = asked.run_name(ordinal)
    assert len(name) <= 63
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    key = f"{asked.pipeline}/_manifests/dt={asked.interval.label}/run={name}-0f0e0d0c.json"
    assert fnmatch(key, asked.manifest_pattern())
    other = Submission(asked.pipeline, asked.interval, asked.stages, asked.scope + "another DAG run")
    assert not fnmatch(key, other.manifest_pattern())


def test_only_gold_refreshes() -> None:
    assert checked_refresh(None, ("ingest",)) is None
    assert checked_refresh("Full", ("silver", "gold")) == "Full"
    with pytest.raises(ValueError, match=r"^refresh 'stale' is not one of Stale, Full$"):
        checked_refresh("stale", ("gold",))
    with pytest.raises(
        ValueError, match=r"^refresh Stale: it is the gold stage that refreshes, and stages are ingest, silver$"
    ):
        checked_refresh("Stale", ("ingest", "silver"))


def test_key_changes_with_clearing_and_scope_does_not() -> None:
    assert scope_of("crypto_daily", "manual__1") == "crypto_daily/manual__1"
    assert key_of("crypto_daily", "manual__1", 0) == "crypto_daily/manual__1/0"
    assert key_of("crypto_daily", "manual__1", 2) == "crypto_daily/manual__1/2"


@pytest.mark.parametrize(
    ("grain", "start", "line"),
    [
        (
            "daily",
            "2024-06-22T01:00:00Z",
            "2024-06-22T01:00:00Z does not begin a daily interval: the one around it begins at 2024-06-22T00:00:00Z",
        ),
        (
            "monthly",
            "2024-06-22T00:00:00Z",
            "2024-06-22T00:00:00Z does not begin a monthly interval: the one around it begins at 2024-06-01T00:00:00Z",
        ),
        ("weekly", "2024-06-22T00:00:00Z", "interval 'weekly' is not one of hourly, daily, monthly"),
    ],
)
def test_a_start_off_the_grain_is_refused(grain: Any, start: str, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        Interval.beginning(grain, datetime.fromisoformat(start))


def test_another_time_zone_is_the_same_interval() -> None:
    there = Interval.beginning("daily", datetime.fromisoformat("2024-06-22T02:00:00+02:00"))
    assert there == Interval.beginning("daily", datetime.fromisoformat("2024-06-22T00:00:00Z"))


def test_a_time_without_a_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert Interval.beginning("daily", datetime(2024, 6, 22)).as_spec()["start"] == "2024-06-22T00:00:00Z"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("stages", "line"),
    [
        (["bronze"], "stage 'bronze' is not one of ingest, silver, gold, maintenance"),
        (["gold", "gold"], "stages gold, gold: each stage may stand once"),
    ],
)
def test_unknown_and_repeated_stages_are_refused(stages: list[str], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        in_order(stages)
