"""Operators and job images of neighbouring releases: what works together, and what says that it does not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubelet import Attempt, End, succeeded
from scenarios import EXTERNAL, LAKEHOUSE, RUN, pipeline, run
from stand import Stand, succeeded_condition
from support.jobs import SUCCEEDED, TERMINAL, run_job
from support.paths import ROOT

JSON = dict[str, Any]
VECTORS = ROOT / "tests" / "vectors" / "contract-1"


def vector(name: str) -> JSON:
    found: JSON = json.loads((VECTORS / f"{name}.json").read_text())
    return found


def on_disk(spec: JSON, root: Path) -> JSON:
    """The spec with a folder as its store."""
    return {**copy.deepcopy(spec), "store": {"local": {"root": str(root)}}}


def test_the_images_execute_what_the_first_operator_wrote(tmp_path: Path) -> None:
    """The three stages of the sample of the first release, as its operator's ConfigMaps had them."""
    lake = tmp_path / "lake"
    environment = {"LAKEHOUSE_CATALOG_URI": f"sqlite://{tmp_path}/catalog.db"}
    written = {}
    for stage in ("ingest", "silver", "gold"):
        outcome = run_job(stage, on_disk(vector(f"shop-{stage}"), lake), tmp_path / stage, environment)
        assert outcome.status == SUCCEEDED, outcome.log
        written |= {name: rows for name, _, rows in outcome.termination["tables"]}
    # Faults and duplicates are among the events.
    assert 0 < written["silver.events"] < written["clicks"]
    assert written["gold.funnel"] > 0


def other_contract(spec: JSON) -> None:
    spec["contract"] = 2


def older_contract(spec: JSON) -> None:
    spec["contract"] = 0


def new_instruction(spec: JSON) -> None:
    spec["work"]["silver"]["tables"][0]["table"]["columns"][0]["mask"] = True


@pytest.mark.parametrize(
    ("change", "what", "side"),
    [
        (other_contract, "has contract version 2, this image executes 1 to 1", "`stages` of the chart"),
        (older_contract, "has contract version 0, this image executes 1 to 1", "`image` of the chart"),
        (new_instruction, "columns.0.mask, which this image does not know", "`stages` of the chart"),
    ],
    ids=["newer", "older", "instruction"],
)
def test_a_pod_of_another_release_fails_once_and_says_what_to_upgrade(
    stand: Callable[[str], Stand],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    change: Callable[[JSON], None],
    what: str,
    side: str,
) -> None:
    """The image's own words go through the operator to the run."""
    spec = on_disk(vector("it-silver"), tmp_path / "lake")
    change(spec)
    job = run_job("silver", spec, tmp_path / "job", {"LAKEHOUSE_CATALOG_URI": f"sqlite://{tmp_path}/catalog.db"})
    assert job.status == TERMINAL, job.log
    assert not (tmp_path / "lake").exists()

    def end(attempt: Attempt) -> End:
        if attempt.stage == "silver":
            return End(job.status, "Error", json.dumps(job.termination))
        return succeeded(attempt.stage)

    condition = ended(stand(f"version-{request.node.callspec.id}"), end, {("ingest", 1), ("silver", 1)})
    assert (condition["status"], condition["reason"]) == ("False", "IncompatibleVersion")
    assert what in condition["message"]
    assert side in condition["message"]


def test_the_report_of_a_newer_release_is_taken_while_its_contract_is_known(stand: Callable[[str], Stand]) -> None:
    """What it says beside is passed over; a reason that is new is shown, and retried as the report says."""

    def end(attempt: Attempt) -> End:
        message: JSON = json.loads(succeeded(attempt.stage).message)
        message |= {"carbon": {"grams": 3}}
        message["totals"]["rowsMasked"] = 4
        if attempt.stage == "silver" and attempt.number == 1:
            message["failure"] = {"reason": "SourceAsleep", "message": "zzz", "retryable": True, "until": "tomorrow"}
            return End(10, "Error", json.dumps(message))
        return End(0, "Completed", json.dumps(message))

    attempts = {("ingest", 1), ("silver", 1), ("silver", 2), ("gold", 1)}
    it = stand("version-report")
    condition = ended(it, end, attempts)
    assert condition["status"] == "True", condition
    notes = [event["note"] for event in it.items("events") if event["reason"] == "StageRetrying"]
    assert len(notes) == 1
    assert "silver: attempt 1 failed with SourceAsleep: zzz" in notes[0]


def test_a_report_of_another_contract_fails_its_stage_once(stand: Callable[[str], Stand]) -> None:
    def end(attempt: Attempt) -> End:
        message = json.loads(succeeded(attempt.stage).message)
        return End(0, "Completed", json.dumps({**message, "contract": 2 if attempt.stage == "silver" else 1}))

    condition = ended(stand("version-contract"), end, {("ingest", 1), ("silver", 1)})
    assert (condition["status"], condition["reason"]) == ("False", "IncompatibleVersion")
    assert "its report has contract version 2, this operator reads 1 to 1" in condition["message"]
    assert "upgrade the operator" in condition["message"]


def ended(stand: Stand, end: Callable[[Attempt], End], attempts: set[tuple[str, int]]) -> JSON:
    """The condition of a run whose pods end so; it had these attempts and no other."""
    with stand as it:
        it.end = end
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL), run())
        it.wait("silence", it.settled)
        assert {(attempt.stage, attempt.number) for attempt in it.node.ran} == attempts
        it.check_single_execution()
        assert not it.complaints()
        return succeeded_condition(it.get("lakehouseruns", RUN) or {})
