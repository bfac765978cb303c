"""Runs the product's stages and its peers on the same bronze objects, each as a process of its own."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
START, END = "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"
PIPELINE = "bench"

Work = dict[str, Any]
Measured = dict[str, float]

# What each write mode of a table says, beside its format.
MODES: dict[str, Work] = {
    "append": {"append": {}},
    "replaceInterval": {"replaceInterval": {"column": "ts", "outside": "quarantine"}},
    "merge": {"merge": {"key": ["event_id"], "sequenceBy": ["ts"]}},
    "overwrite": {"overwrite": {}},
}


def spec(root: Path, work: Work) -> Work:
    """The stage spec that the operator would write."""
    return {
        "contract": 1,
        "pipeline": PIPELINE,
        "owner": f"local/{PIPELINE}",
        "run": {"name": "bench", "id": "bench-00000000", "createdAt": "2024-01-02T00:05:00Z"},
        "attempt": 1,
        "interval": {"start": START, "end": END},
        "grain": "daily",
        "store": {"local": {"root": str(root)}},
        "work": work,
    }


def stage(
    binaries: Path, name: str, root: Path, work: Work, limit: int | None = None
) -> tuple[Measured, dict[str, int]]:
    """Runs the binary of a stage as a pod with a memory limit of `limit` bytes would; what it took, and the totals of its report."""
    (root / "stage.json").write_text(json.dumps(spec(root, work)))
    environment = {
        **os.environ,
        "LAKEHOUSE_STAGE_SPEC": str(root / "stage.json"),
        "RUST_LOG": "warn",
        "LAKEHOUSE_CATALOG_URI": f"sqlite://{root}/catalog.db",
        "LAKEHOUSE_TERMINATION_PATH": str(root / "termination.json"),
        # What is spilled goes where the data is, not into a /tmp that may be memory.
        "TMPDIR": str(root),
    }
    if limit is not None:
        environment["LAKEHOUSE_MEMORY_LIMIT"] = str(limit)
    measured = measure([str(binaries / name)], environment)
    termination = json.loads((root / "termination.json").read_text())
    if termination.get("failure"):
        sys.exit(f"{name}: {termination['failure']}")
    return measured, termination["totals"]


def measure(command: list[str], environment: dict[str, str] | None = None) -> Measured:
    """Runs a command: seconds of wall and CPU time, peak memory in MiB; `private` is what of it the kernel cannot take back."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    private, ended = [0], threading.Event()
    watch = threading.Thread(target=watch_private, args=(process.pid, private, ended))
    watch.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    ended.set()
    watch.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} ended with {process.returncode}")
    return {
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / 1024,
        "private": private[0] / 1024,
    }


def watch_private(pid: int, peak: list[int], ended: threading.Event) -> None:
    """Notes the most KiB of anonymous memory that a process has: what a container's limit counts and cannot be dropped, as pages of files can."""
    while not ended.wait(0.02):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
        peak[0] = max(peak[0], int(found[1]) if found else 0)


def generate(binaries: Path, cache: Path, events: int, faults: bool = True) -> Path:
    """Bronze objects of the product's own generator; made once per version of it."""
    version = hashlib.sha256((binaries / "ingest").read_bytes()).hexdigest()[:12]
    root = cache / f"events-{events}-{'faulty' if faults else 'clean'}-{version}"
    if not (root / "ready").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        source = {
            "events": events,
            "users": 50_000,
            "products": 2_000,
            "seed": 7,
            "duplicatesPerTenThousand": 200 if faults else 0,
            "faultsPerTenThousand": 50 if faults else 0,
        }
        stage(
            binaries, "ingest", root, {"ingest": {"sources": [{"name": "events", "source": {"clickstream": source}}]}}
        )
        (root / "ready").touch()
    return root / "bronze"


def parts_of(bronze: Path) -> list[Path]:
    """The objects below a bronze folder."""
    return sorted(bronze.rglob("*.ndjson"))


def whole_lines(bronze: Path) -> list[Path]:
    """The objects without their malformed lines, for a reader that gives up at the first one."""
    folder = bronze.parent / "whole-lines"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, part in enumerate(parts_of(bronze)):
            with part.open("rb") as lines, (folder / f"part-{number:05}.ndjson").open("wb") as whole:
                whole.writelines(line for line in lines if well_formed(line))
        (folder / "ready").touch()
    return parts_of(folder)


def well_formed(line: bytes) -> bool:
    """Whether a line is JSON."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def silver(
    binaries: Path, bronze: Path, mode: str = "replaceInterval", table_format: str = "iceberg", plain: bool = False
) -> Measured:
    """The product: the silver binary on these objects, into an empty table. `plain`: no rules, no deduplication."""
    return silver_within(binaries, bronze, definition(mode, table_format, plain), None)


def definition(mode: str, table_format: str, plain: bool = False) -> Work:
    """The table of bench/silver.json in a format and a write mode."""
    table: Work = json.loads((HERE / "silver.json").read_text())
    table["table"] = {"format": table_format}
    table["write"] = MODES[mode]
    if plain:
        del table["deduplicate"], table["expectations"]
    elif mode == "merge":
        # The merge itself keeps one row per key.
        del table["deduplicate"]
    return table


def silver_within(binaries: Path, bronze: Path, table: Work, limit: int | None) -> Measured:
    """As `silver`, told that it may have `limit` bytes of memory."""
    work = {
        "silver": {
            "input": {"run": "bench-00000000"},
            "tables": [{"table": table, "decode": "ndjson", "definitionDigest": "bench"}],
        }
    }

    with tempfile.TemporaryDirectory(dir=bronze.parent.parent) as folder:
        root = Path(folder)
        (root / "bronze").symlink_to(bronze)
        measured, totals = stage(binaries, "silver", root, work, limit)
        size = sum(file.stat().st_size for file in (root / "silver").rglob("*.parquet"))
    return {**measured, "written": totals["rowsWritten"], "quarantined": totals["rowsQuarantined"], "bytes": size}


def peer(name: str, task: str, parts: list[Path], threads: int) -> Measured:
    """A peer on the same objects: `task` is dedup, merge or plain."""
    with tempfile.TemporaryDirectory(dir=parts[0].parent) as folder:
        script = HERE / f"{name}_job.py"
        environment = {**os.environ, "POLARS_MAX_THREADS": str(threads)}
        command = [sys.executable, str(script), task, folder, str(threads), START, END, *map(str, parts)]
        measured = measure(command, environment)
        counts = json.loads((Path(folder) / "counts.json").read_text())
        size = sum(file.stat().st_size for file in Path(folder).glob("*.parquet"))
    return {**measured, **counts, "bytes": size}
