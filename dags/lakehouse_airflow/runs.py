"""What a LakehouseRun says, and what a request for one leads to. Pure: reads and writes plain objects, knows no cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lakehouse_airflow.naming import DEFAULT_STAGES, KEY_ANNOTATION, ORDINAL_LABEL, STAGES, Refresh, Submission

GROUP = "lakehouse.rs"
VERSION = "v1alpha1"
RUNS = "lakehouseruns"
PIPELINES = "lakehousepipelines"

Run = dict[str, Any]
"""A LakehouseRun as the API server gives it."""
Outcome = dict[str, Any]
"""What a run came to: the value of XCom `return_value`, and of `lakehouse submit --outcome-file`."""


def name_of(run: Run) -> str:
    """The run's name."""
    return str(run["metadata"]["name"])


def ordinal_of(run: Run) -> int:
    """Which of its submission's runs this is, from 1; 0 for a run without the label."""
    text = run["metadata"].get("labels", {}).get(ORDINAL_LABEL, "")
    return int(text) if text.isdecimal() else 0


def condition(run: Run) -> Mapping[str, Any]:
    """The condition `Succeeded`; empty before there is one."""
    conditions = run.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c.get("type") == "Succeeded"), {})


def finished(run: Run) -> bool:
    """Whether the run has an outcome."""
    return condition(run).get("status") in ("True", "False")


def stages_of(run: Run) -> list[dict[str, Any]]:
    """The entries of `status.stages`."""
    return list(run.get("status", {}).get("stages", []))


def outcome(run: Run) -> Outcome:
    """What a finished run came to."""
    end = condition(run)
    status = run.get("status", {})
    reason = end.get("reason", "")
    unsuccessful = "Cancelled" if reason == "Cancelled" else "Failed"
    return {
        "run": name_of(run),
        "pipeline": run["spec"]["pipeline"],
        "interval": dict(run["spec"]["interval"]),
        "outcome": "Succeeded" if end.get("status") == "True" else unsuccessful,
        "reason": reason,
        "message": end.get("message", ""),
        "rowsRead": status.get("rowsRead", 0),
        "rowsWritten": status.get("rowsWritten", 0),
        "rowsQuarantined": status.get("rowsQuarantined", 0),
        "stages": stages_of(run),
        "tables": [table for stage in stages_of(run) for table in stage.get("tables", [])],
    }


def failed_stage(result: Outcome) -> dict[str, Any]:
    """The stage that a run ended in without success; empty where none did, as in a run that was refused."""
    return next((stage for stage in result.get("stages", []) if stage.get("state") == "Failed"), {})


def report_of(result: Outcome) -> str:
    """URI of the report a reader wants: of the stage that failed, else of the last one that has a report."""
    if (failed := failed_stage(result)) and failed.get("report"):
        return str(failed["report"])
    return next((str(stage["report"]) for stage in reversed(result.get("stages", [])) if stage.get("report")), "")


def failure_line(result: Outcome) -> str:
    """The line that says why a run did not succeed."""
    failed = failed_stage(result)
    where = f"stage {failed['name']} failed: " if failed else ""
    reason = failed.get("reason") or result["reason"]
    message = failed.get("message") or result["message"]
    report = f" (report {failed['report']})" if failed.get("report") else ""
    return f"run {result['run']}: {where}{reason}: {message}{report}"


@dataclass(frozen=True)
class Request:
    """A submission with what it is to be run with."""

    submission: Submission
    key: str
    """Idempotency key: a run that succeeded under the same key is not executed again."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    inputs_from: str | None = None
    refresh: Refresh | None = None

    def spec(self) -> dict[str, Any]:
        """`spec` of the run, without what only a retry has."""
        spec: dict[str, Any] = {
            "pipeline": self.submission.pipeline,
            "interval": self.submission.interval.as_spec(),
            "state": "Active",
        }
        if self.submission.stages != DEFAULT_STAGES:
            spec["stages"] = list(self.submission.stages)
        if self.parameters:
            spec["parameters"] = dict(self.parameters)
        if self.inputs_from:
            spec["inputsFrom"] = self.inputs_from
        if self.refresh:
            spec["refresh"] = self.refresh
        return spec

    def manifest(self, ordinal: int, retry_of: str | None) -> Run:
        """The run to create."""
        spec = self.spec()
        if retry_of:
            spec["retryOf"] = retry_of
        return {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "LakehouseRun",
            "metadata": {
                "name": self.submission.run_name(ordinal),
                "labels": self.submission.labels(ordinal),
                "annotations": {KEY_ANNOTATION: self.key},
            },
            "spec": spec,
        }


@dataclass(frozen=True)
class Create:
    """Make the run with this ordinal."""

    ordinal: int
    retry_of: str | None = None


@dataclass(frozen=True)
class Adopt:
    """Wait for this run, which is not finished, or take its outcome when it is."""

    run: Run


@dataclass(frozen=True)
class Conflict:
    """An unfinished run of the submission does other work than what is asked for."""

    line: str


def _difference(run: Run, request: Request) -> str | None:
    """The first field in which an unfinished run differs from what is asked for, as a person reads it."""
    asked, there = request.spec(), run["spec"]
    for name, absent in (
        ("stages", list(DEFAULT_STAGES)),
        ("parameters", {}),
        ("inputsFrom", None),
        ("refresh", None),
    ):
        wanted, found = asked.get(name) or absent, there.get(name) or absent
        if name == "stages":
            found = [stage for stage in STAGES if stage in found]
        if wanted != found:
            return f"spec.{name} is {found}, asked for is {wanted}"
    return None


def _going(run: Run) -> bool:
    """Whether somebody cancelled or deleted a run, so that it will not succeed where it has not."""
    return run["spec"].get("state") == "Cancelled" or "deletionTimestamp" in run["metadata"]


def decide(runs: Sequence[Run], request: Request) -> Create | Adopt | Conflict:
    """What to do, given every run of the submission."""
    if not runs:
        return Create(1)
    last = max(runs, key=ordinal_of)
    if not finished(last):
        if _going(last):
            return Create(ordinal_of(last) + 1)
        if difference := _difference(last, request):
            return Conflict(f"run {name_of(last)} is not finished and does other work: {difference}")
        return Adopt(last)
    succeeded = condition(last).get("status") == "True"
    if succeeded and last["metadata"].get("annotations", {}).get(KEY_ANNOTATION) == request.key:
        return Adopt(last)
    failed = outcome(last)["outcome"] == "Failed"
    return Create(ordinal_of(last) + 1, name_of(last) if failed else None)
