"""What a request leads to, given the runs that exist; and what a finished run is told as."""

from __future__ import annotations

from typing import Any

import pytest
from fake_api import stage, status_of
from lakehouse_airflow.runs import Adopt, Conflict, Create, Run, decide, failure_line, outcome, report_of
from requests_for_tests import request

DONE = status_of("True", stage("silver"), reason="Completed")
BAD = status_of("False", stage("silver", "Failed", reason="BadInput"), reason="StageFailed")
STOPPED = status_of("False", stage("silver", "Skipped"), reason="Cancelled")
BUSY = status_of("Unknown", stage("silver", "Running"))


def run(ordinal: int, status: dict[str, Any] | None, key: str = "d/r/0", **more: Any) -> Run:
    made = request(key=key, **more).manifest(ordinal, None)
    return made | ({"status": status} if status else {})


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], Create(1)),
        ([(1, None)], "adopt"),
        ([(1, BUSY)], "adopt"),
        ([(1, DONE)], "adopt"),
        ([(1, DONE, "d/r/other")], Create(2)),
        ([(1, BAD)], Create(2, "crypto-2024-06-22-silver-d1c0a31e-1")),
        ([(1, STOPPED)], Create(2)),
        ([(2, BUSY), (1, BAD)], "adopt"),
        ([(9, BAD), (10, BAD)], Create(11, "crypto-2024-06-22-silver-d1c0a31e-10")),
        ([(2, BUSY, "d/r/other"), (1, DONE)], "adopt"),
    ],
    ids=[
        "none",
        "just made",
        "running",
        "done under this key",
        "done under another key",
        "failed",
        "cancelled",
        "its retry runs",
        "ordinals are numbers",
        "running under another key",
    ],
)
def test_make_or_adopt(runs: list[tuple[Any, ...]], expected: Create | str) -> None:
    existing = [run(*one) for one in runs]
    decision = decide(existing, request())
    if expected == "adopt":
        last = max(existing, key=lambda one: int(one["metadata"]["labels"]["lakehouse.rs/ordinal"]))
        assert decision == Adopt(last)
    else:
        assert decision == expected


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"parameters": {"limit": "5"}}, "spec.parameters is {'limit': '5'}, asked for is {}"),
        ({"inputs_from": "another"}, "spec.inputsFrom is another, asked for is None"),
        ({"refresh": "Stale"}, "spec.refresh is Stale, asked for is None"),
    ],
)
def test_an_unfinished_run_that_does_other_work_is_in_the_way(more: dict[str, Any], words: str) -> None:
    decision = decide([run(1, BUSY, **more)], request())
    assert decision == Conflict(f"run crypto-2024-06-22-silver-d1c0a31e-1 is not finished and does other work: {words}")
    assert isinstance(decide([run(1, BAD, **more)], request()), Create)


def test_a_run_that_is_being_stopped_is_not_waited_for() -> None:
    cancelled, deleted = run(3, BUSY), run(3, BUSY)
    cancelled["spec"]["state"] = "Cancelled"
    deleted["metadata"]["deletionTimestamp"] = "2024-06-23T00:00:00Z"
    assert decide([cancelled], request()) == decide([deleted], request()) == Create(4)


def test_what_has_succeeded_counts_while_it_is_being_deleted() -> None:
    done = run(3, DONE)
    done["metadata"]["deletionTimestamp"] = "2024-06-24T00:00:00Z"
    assert decide([done], request()) == Adopt(done)


def test_all_stages_are_no_difference() -> None:
    named = request("ingest", "silver", "gold").manifest(1, None)
    named["spec"]["stages"] = ["gold", "ingest", "silver"]
    assert isinstance(decide([named], request("ingest", "silver", "gold")), Adopt)


def test_the_manifest_says_what_is_asked_for() -> None:
    asked = request("ingest", parameters={"limit": "5"})
    assert asked.manifest(2, "the-one-before") == {
        "apiVersion": "lakehouse.rs/v1alpha1",
        "kind": "LakehouseRun",
        "metadata": {
            "name": "crypto-2024-06-22-ingest-d1c0a31e-2",
            "labels": {
                "lakehouse.rs/pipeline": "crypto",
                "lakehouse.rs/submission": asked.submission.label,
                "lakehouse.rs/ordinal": "2",
            },
            "annotations": {"lakehouse.rs/submission-key": "d/r/0"},
        },
        "spec": {
            "pipeline": "crypto",
            "interval": {"start": "2024-06-22T00:00:00Z", "end": "2024-06-23T00:00:00Z"},
            "stages": ["ingest"],
            "parameters": {"limit": "5"},
            "retryOf": "the-one-before",
            "state": "Active",
        },
    }
    assert "stages" not in request("ingest", "silver", "gold").spec()


def test_the_outcome_of_a_run() -> None:
    coins = {"name": "silver.coins", "snapshot": "7", "rowsWritten": 20}
    ended = stage("silver", rowsRead=40, tables=[coins], report="s3://silver/r.json")
    status = status_of("True", ended, reason="Completed", message="all", rowsRead=40, rowsWritten=39, rowsQuarantined=1)
    assert outcome(run(1, status)) == {
        "run": "crypto-2024-06-22-silver-d1c0a31e-1",
        "pipeline": "crypto",
        "interval": {"start": "2024-06-22T00:00:00Z", "end": "2024-06-23T00:00:00Z"},
        "outcome": "Succeeded",
        "reason": "Completed",
        "message": "all",
        "rowsRead": 40,
        "rowsWritten": 39,
        "rowsQuarantined": 1,
        "stages": [ended],
        "tables": [coins],
    }
    assert outcome(run(1, BAD))["outcome"] == "Failed"
    assert outcome(run(1, STOPPED))["outcome"] == "Cancelled"


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (
            status_of(
                "False",
                stage("ingest", report="s3://bronze/i.json"),
                stage("silver", "Failed", reason="ExpectationFailed", message="9 rows", report="s3://silver/s.json"),
                reason="StageFailed",
                message="silver",
            ),
            "stage silver failed: ExpectationFailed: 9 rows (report s3://silver/s.json)",
        ),
        (
            status_of("False", stage("silver", "Failed"), reason="StageFailed", message="lost"),
            "stage silver failed: StageFailed: lost",
        ),
        (status_of("False", reason="PipelineNotFound", message="no pipeline x"), "PipelineNotFound: no pipeline x"),
    ],
)
def test_the_line_of_a_failure(status: dict[str, Any], line: str) -> None:
    assert failure_line(outcome(run(1, status))) == f"run crypto-2024-06-22-silver-d1c0a31e-1: {line}"


def test_the_report_a_reader_wants() -> None:
    both = [stage("ingest", report="s3://bronze/i.json"), stage("silver", report="s3://silver/s.json")]
    assert report_of({"stages": both}) == "s3://silver/s.json"
    both[0]["state"] = "Failed"
    assert report_of({"stages": both}) == "s3://bronze/i.json"
    assert report_of({"stages": [stage("silver")]}) == ""
