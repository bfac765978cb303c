"""Spark as a reader: its environment and its jars, kept outside the tree, and one session for all tables that a test asks about."""

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from support.paths import ROOT

READER = ROOT / "tests" / "spark" / "reader.py"
JARS = ROOT / "tests" / "spark" / "jars.txt"


@dataclass(frozen=True)
class Asked:
    """A table that Spark is asked for, and of which version; none is the newest."""

    format: str
    # `namespace.name` in the catalog (Iceberg), or the table's folder (Delta).
    table: str
    version: str | None = None


def missing() -> str:
    """What this machine lacks for Spark; empty when nothing."""
    return " and ".join(program for program in ("java", "mvn") if shutil.which(program) is None)


def _tests_run() -> ModuleType:
    loader = SourceFileLoader("tests_run", str(ROOT / "tests" / "run"))
    spec = importlib.util.spec_from_loader("tests_run", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@cache
def jars() -> list[Path]:
    """The jars of jars.txt, fetched once."""
    lines = [line.strip() for line in JARS.read_text().splitlines()]
    coordinates = [line for line in lines if line and not line.startswith("#")]
    base: Path = _tests_run().cache()
    folder = base / f"spark-jars-{hashlib.sha256(' '.join(coordinates).encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            for coordinate in coordinates:
                goals = ["dependency:copy", f"-Dartifact={coordinate}", f"-DoutputDirectory={folder}"]
                subprocess.run(["mvn", "--quiet", "--batch-mode", *goals], cwd=folder, check=True, timeout=600)
            (folder / "complete").touch()
    return sorted(folder.glob("*.jar"))


@cache
def python() -> Path:
    """The Python that has Spark."""
    command = [ROOT / "tests" / "run", "--env", "spark", "--programs"]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()) / "python"


def environment() -> dict[str, str]:
    """What the reader is told in its environment."""
    return {**os.environ, "TZ": "UTC", "LAKEHOUSE_SPARK_JARS": ",".join(map(str, jars()))}


def read(catalog: Path, asked: Sequence[Asked]) -> list[list[dict[str, object]]]:
    """The rows of each table, as JSON: times and decimals are text."""
    order = json.dumps({"catalog": str(catalog), "tables": [asdict(table) for table in asked]})
    done = subprocess.run(
        [python(), READER], input=order, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rows: list[list[dict[str, object]]] = json.loads(done.stdout)
    return rows
