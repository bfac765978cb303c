"""The `lakehouse` command on a local folder, and what it leaves there."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyiceberg.catalog.sql import SqlCatalog

from support import readers
from support.binaries import binary
from support.readers import Row

Json = dict[str, Any]
STAGES = ("ingest", "silver", "gold", "maintenance")
LAYERS = {"ingest": "bronze", "silver": "silver", "gold": "gold", "maintenance": "silver"}


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """All that a person reads."""
        return self.stdout + self.stderr

    @property
    def lines(self) -> list[Json]:
        """The JSON lines among the output."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]


@dataclass(frozen=True)
class Lakehouse:
    """A local folder of the laptop runner."""

    folder: Path

    def command(self, *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 300) -> Outcome:
        """Runs `lakehouse` with these arguments and waits."""
        with self.start(*arguments, env=env) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return Outcome(process.returncode, stdout, stderr)

    def command_line(self, *arguments: str | Path) -> list[str | Path]:
        """The program and its arguments."""
        return [binary("lakehouse"), *arguments]

    def start(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts `lakehouse` with these arguments."""
        environment = {**os.environ, **(env or {})}
        return subprocess.Popen(
            self.command_line(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run_arguments(
        self,
        *manifests: Path,
        interval: str | None = None,
        span: tuple[str, str] | None = None,
        stages: Sequence[str] = (),
    ) -> list[str | Path]:
        """The arguments of `lakehouse run` for one interval or, with `span`, from one to another."""
        arguments: list[str | Path] = ["run", "--local", self.folder]
        for manifest in manifests:
            arguments += ["-f", manifest]
        if interval is not None:
            arguments += ["--interval", interval]
        if span is not None:
            arguments += ["--from", span[0], "--to", span[1]]
        for stage in stages:
            arguments += ["--stage", stage]
        return arguments

    def run(
        self,
        *manifests: Path,
        interval: str | None = None,
        span: tuple[str, str] | None = None,
        stages: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> Outcome:
        """`lakehouse run`, which must succeed."""
        arguments = self.run_arguments(*manifests, interval=interval, span=span, stages=stages)
        outcome = self.command(*arguments, env=env, timeout=timeout)
        assert outcome.status == 0, f"exit {outcome.status}\n{outcome.text}"
        return outcome

    def fail(
        self,
        *manifests: Path,
        interval: str | None = None,
        stages: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Outcome:
        """`lakehouse run`, which must not succeed."""
        outcome = self.command(*self.run_arguments(*manifests, interval=interval, stages=stages), env=env)
        assert outcome.status != 0, outcome.text
        assert "panicked" not in outcome.text, outcome.text
        return outcome

    def validate(self, *manifests: Path) -> Outcome:
        """`lakehouse validate`."""
        return self.command("validate", *[argument for manifest in manifests for argument in ("-f", manifest)])

    def sql(self, query: str) -> Outcome:
        """`lakehouse sql`, which must succeed."""
        outcome = self.command("sql", query, "--local", self.folder)
        assert outcome.status == 0, f"exit {outcome.status}\n{outcome.text}"
        return outcome

    def catalog(self) -> SqlCatalog:
        """PyIceberg on this folder's catalog."""
        return readers.sqlite_catalog(self.folder)

    def rows(self, table: str) -> list[Row]:
        """All rows of an Iceberg table, read by PyIceberg."""
        return readers.pyiceberg_rows(self.catalog(), table)

    def tables(self) -> set[str]:
        """Names of all Iceberg tables of pipelines; `quality.results` is about runs, so two lakes with equal data differ in it."""
        catalog = self.catalog()
        names = {".".join(table) for space in catalog.list_namespaces() for table in catalog.list_tables(space)}
        return {name for name in names if not name.startswith("quality.")}

    def snapshots(self) -> dict[str, int]:
        """Number of snapshots of every Iceberg table."""
        catalog = self.catalog()
        return {table: len(catalog.load_table(table).metadata.snapshots) for table in self.tables()}

    def reports(self, stage: str | None = None) -> list[Json]:
        """The report objects of all stages, in the order in which they ended."""
        wanted = [name for name in STAGES if stage in (None, name)]
        paths = [
            path
            for name in wanted
            for path in (self.folder / LAYERS[name] / "_lakehouse" / "runs").rglob(f"{name}-*.json")
            if not path.stem.endswith("-inputs")
        ]
        reports: list[Json] = [json.loads(path.read_text()) for path in paths]
        return sorted(reports, key=lambda report: (report["finishedAt"], STAGES.index(report["stage"])))

    def bronze(self, pattern: str = "*/*/dt=*/run=*/part-*") -> list[Path]:
        """The bronze objects."""
        return sorted((self.folder / "bronze").glob(pattern))

    def manifests(self, pipeline: str = "*") -> list[Json]:
        """The bronze manifests."""
        paths = sorted((self.folder / "bronze").glob(f"{pipeline}/_manifests/dt=*/run=*.json"))
        return [json.loads(path.read_text()) for path in paths]

    def files(self) -> dict[str, int]:
        """Every file of the layers and its modification time in nanoseconds."""
        layers = [self.folder / layer for layer in ("bronze", "silver", "gold")]
        found = [path for layer in layers for path in layer.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.stat().st_mtime_ns for path in found}
