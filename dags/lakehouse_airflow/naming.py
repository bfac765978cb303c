"""Names, labels and keys of the runs that a task asks for. Pure: `lakehouse submit` derives the very same ones.

tests/vectors/run-names.json holds examples that both sides are tested with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, cast, get_args

Grain = Literal["hourly", "daily", "monthly"]
Stage = Literal["ingest", "silver", "gold", "maintenance"]

Refresh = Literal["Stale", "Full"]
"""Which intervals gold computes beside that of the run: `spec.refresh`."""

GRAINS: tuple[Grain, ...] = get_args(Grain)
STAGES: tuple[Stage, ...] = get_args(Stage)
DEFAULT_STAGES: tuple[Stage, ...] = STAGES[:3]
"""Those of a run that names none: maintenance runs only when it is asked for."""

PIPELINE_LABEL = "lakehouse.rs/pipeline"
SUBMISSION_LABEL = "lakehouse.rs/submission"
ORDINAL_LABEL = "lakehouse.rs/ordinal"
KEY_ANNOTATION = "lakehouse.rs/submission-key"

LONGEST_NAME = 63


def _hex(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def rfc3339(time: datetime) -> str:
    """UTC with `Z` and whole seconds: intervals begin and end on them."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Interval:
    """One interval of a pipeline's data: start inclusive, end exclusive, UTC."""

    grain: Grain
    start: datetime
    end: datetime

    @classmethod
    def beginning(cls, grain: Grain, start: datetime) -> Interval:
        """The interval of `grain` that begins at `start`, UTC where it names no zone; raises ValueError when none does."""
        if grain not in GRAINS:
            raise ValueError(f"interval {grain!r} is not one of {', '.join(GRAINS)}")
        begin = start.astimezone(UTC) if start.tzinfo else start.replace(tzinfo=UTC)
        midnight = begin.replace(hour=0, minute=0, second=0, microsecond=0)
        match grain:
            case "hourly":
                whole = begin.replace(minute=0, second=0, microsecond=0)
                end = whole + timedelta(hours=1)
            case "daily":
                whole = midnight
                end = whole + timedelta(days=1)
            case "monthly":
                whole = midnight.replace(day=1)
                end = (whole + timedelta(days=32)).replace(day=1)
        if whole != begin:
            raise ValueError(
                f"{rfc3339(begin)} does not begin a {grain} interval: the one around it begins at {rfc3339(whole)}"
            )
        return cls(grain, whole, end)

    @property
    def label(self) -> str:
        """As bronze keys write it: `2024-06-22`, `2024-06-22T13`, `2024-06`."""
        return self.start.strftime({"hourly": "%Y-%m-%dT%H", "daily": "%Y-%m-%d", "monthly": "%Y-%m"}[self.grain])

    def as_spec(self) -> dict[str, str]:
        """As `spec.interval` of a LakehouseRun."""
        return {"start": rfc3339(self.start), "end": rfc3339(self.end)}


def in_order(stages: Sequence[str] | None) -> tuple[Stage, ...]:
    """The stages asked for in the order of execution; none asked for means `DEFAULT_STAGES`. Raises ValueError for an unknown or repeated one."""
    asked = list(stages or DEFAULT_STAGES)
    if unknown := [stage for stage in asked if stage not in STAGES]:
        raise ValueError(f"stage {unknown[0]!r} is not one of {', '.join(STAGES)}")
    if len(set(asked)) != len(asked):
        raise ValueError(f"stages {', '.join(asked)}: each stage may stand once")
    return tuple(stage for stage in STAGES if stage in asked)


def checked_refresh(refresh: str | None, stages: Sequence[Stage]) -> Refresh | None:
    """What `spec.refresh` may be for these stages; raises ValueError otherwise."""
    if refresh is None:
        return None
    if refresh not in get_args(Refresh):
        raise ValueError(f"refresh {refresh!r} is not one of {', '.join(get_args(Refresh))}")
    if "gold" not in stages:
        raise ValueError(f"refresh {refresh}: it is the gold stage that refreshes, and stages are {', '.join(stages)}")
    return cast("Refresh", refresh)


@dataclass(frozen=True)
class Submission:
    """What a task asks for: the same submission is the same work, whoever asks and how often."""

    pipeline: str
    interval: Interval
    stages: tuple[Stage, ...] = DEFAULT_STAGES
    scope: str = ""
    """Text that sets apart those who ask; empty for nobody in particular."""

    @property
    def scope_digest(self) -> str:
        """The scope as it stands in names: eight hexadecimal digits, or nothing without a scope."""
        return _hex(self.scope, 8) if self.scope else ""

    @property
    def label(self) -> str:
        """Value of the label that finds every run of this submission."""
        spec = self.interval.as_spec()
        lines = (self.pipeline, spec["start"], spec["end"], ",".join(self.stages), self.scope_digest)
        return _hex("\n".join(lines), 16)

    def _after_pipeline(self) -> str:
        parts = [self.interval.label.lower()]
        if self.stages != DEFAULT_STAGES:
            parts.append("-".join(self.stages))
        if self.scope_digest:
            parts.append(self.scope_digest)
        return "-".join(parts)

    def run_name(self, ordinal: int) -> str:
        """Name of the run with this ordinal; a pipeline's name that is too long is cut and ended with its digest."""
        rest = f"-{self._after_pipeline()}-{ordinal}"
        if len(self.pipeline) + len(rest) <= LONGEST_NAME:
            return self.pipeline + rest
        ending = f"-{_hex(self.pipeline, 6)}{rest}"
        return self.pipeline[: LONGEST_NAME - len(ending)].rstrip("-.") + ending

    def labels(self, ordinal: int) -> dict[str, str]:
        """Labels of the run with this ordinal."""
        return {PIPELINE_LABEL: self.pipeline, SUBMISSION_LABEL: self.label, ORDINAL_LABEL: str(ordinal)}

    def manifest_pattern(self) -> str:
        """Wildcard key, in the bronze layer, of the manifests that runs of this submission put. With a scope no other run's matches.

        Where the pipeline's name is cut in the run's name, how much of it stays depends on the ordinal: a `*` stands for it.
        """
        whole = len(self.run_name(9999)) == len(f"{self.pipeline}-{self._after_pipeline()}-9999")
        pipeline = self.pipeline if whole else "*"
        return f"{self.pipeline}/_manifests/dt={self.interval.label}/run={pipeline}-{self._after_pipeline()}-*.json"


def scope_of(dag_id: str, run_id: str) -> str:
    """Scope of a task: its DAG run, so that a sensor can wait for what this very DAG run ingested."""
    return f"{dag_id}/{run_id}"


def key_of(dag_id: str, run_id: str, clear_number: int) -> str:
    """Idempotency key of a task: retries keep it, clearing a task of the DAG run gives another."""
    return f"{scope_of(dag_id, run_id)}/{clear_number}"
