"""Silver against DuckDB: the same bronze objects, threads, codec, casts, quarantine and deduplication, interleaved, median."""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
START, END = "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"
PIPELINE = "bench"

Work = dict[str, Any]
Measured = dict[str, float]


def main() -> None:
    """Times all and prints the table."""
    arguments = parse()
    binaries = Path(arguments.bin).resolve()
    cache = Path(arguments.cache)
    bronze = generate(binaries, cache, arguments.events)
    parts = sorted(bronze.rglob("*.ndjson"))
    megabytes = sum(part.stat().st_size for part in parts) / 1e6
    threads = arguments.threads or len(os.sched_getaffinity(0))
    if threads != len(os.sched_getaffinity(0)):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    print(
        f"{arguments.events:,} events, {megabytes:,.0f} MB of NDJSON in {len(parts)} bronze objects, {threads} threads, "
        f"zstd level 1, {arguments.rounds} rounds interleaved"
    )
    contenders = {"lakehouse silver": lambda: silver(binaries, bronze), "DuckDB": lambda: duckdb(parts, threads)}
    results: dict[str, list[Measured]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name, run in contenders.items():
            results[name].append(run())
    counts = {name: {(r["written"], r["quarantined"]) for r in rows} for name, rows in results.items()}
    print_table(results, megabytes)
    note = agreement(counts)
    ours, theirs = (statistics.median(r["seconds"] for r in rows) for rows in results.values())
    print(f"\nRatio: {ours / theirs:.2f} of DuckDB's time. {note}")
    if arguments.limit and ours / theirs > arguments.limit:
        sys.exit(f"slower than {arguments.limit} of DuckDB's time")


def agreement(counts: dict[str, set[tuple[int, int]]]) -> str:
    """Checks the counts.

    DuckDB also loses the good line behind some lines that were cut off within a text: they count as its quarantine, and are missing from
    its result unless it has a copy of them.
    """
    if any(len(rounds) != 1 for rounds in counts.values()):
        sys.exit(f"a contender's counts of (written, quarantined) rows vary: {counts}")
    (ours,), (theirs,) = counts.values()
    missing, lost = ours[0] - theirs[0], theirs[1] - ours[1]
    if not 0 <= missing <= lost <= ours[1] / 50:
        sys.exit(f"the contenders disagree on (written, quarantined) rows: {counts}")
    if not lost:
        return "Both wrote the same numbers of rows."
    return f"DuckDB lost {lost} good lines that follow a line that is cut off; {missing} of them have no copy."


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of the binaries ingest and silver")
    parser.add_argument("--cache", required=True, help="folder for generated events")
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: all")
    parser.add_argument("--limit", type=float, help="fail when the ratio is above")
    parser.add_argument("--quick", action="store_true", help="a tenth of the events, three rounds")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.events //= 10
        arguments.rounds = 3
    return arguments


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


def stage(binaries: Path, name: str, root: Path, work: Work) -> tuple[Measured, dict[str, int]]:
    """Runs the binary of a stage as a pod would; its wall time and peak memory."""
    (root / "stage.json").write_text(json.dumps(spec(root, work)))
    environment = {
        **os.environ,
        "LAKEHOUSE_STAGE_SPEC": str(root / "stage.json"),
        "RUST_LOG": "warn",
        "LAKEHOUSE_CATALOG_URI": f"sqlite://{root}/catalog.db",
        "LAKEHOUSE_TERMINATION_PATH": str(root / "termination.json"),
    }
    measured = measure([str(binaries / name)], environment)
    termination = json.loads((root / "termination.json").read_text())
    if termination.get("failure"):
        sys.exit(f"{name}: {termination['failure']}")
    return measured, termination["totals"]


def measure(command: list[str], environment: dict[str, str] | None = None) -> Measured:
    """Runs a command: seconds of wall and CPU time, peak memory in MiB."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} ended with {process.returncode}")
    return {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss / 1024}


def generate(binaries: Path, cache: Path, events: int) -> Path:
    """Bronze objects of the product's own generator; made once per version of it."""
    version = hashlib.sha256((binaries / "ingest").read_bytes()).hexdigest()[:12]
    root = cache / f"events-{events}-{version}"
    if not (root / "ready").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        source = {
            "events": events,
            "users": 50_000,
            "products": 2_000,
            "seed": 7,
            "duplicatesPerTenThousand": 200,
            "faultsPerTenThousand": 50,
        }
        stage(
            binaries, "ingest", root, {"ingest": {"sources": [{"name": "events", "source": {"clickstream": source}}]}}
        )
        (root / "ready").touch()
    return root / "bronze"


def silver(binaries: Path, bronze: Path) -> Measured:
    """The product: the silver binary on these objects, into an empty table."""
    definition = json.loads((HERE / "silver.json").read_text())
    work = {
        "silver": {
            "input": {"run": "bench-00000000"},
            "tables": [{"table": definition, "decode": "ndjson", "definitionDigest": "bench"}],
        }
    }
    with tempfile.TemporaryDirectory(dir=bronze.parent.parent) as folder:
        root = Path(folder)
        (root / "bronze").symlink_to(bronze)
        measured, totals = stage(binaries, "silver", root, work)
        size = sum(file.stat().st_size for file in (root / "silver").rglob("*.parquet"))
    return {**measured, "written": totals["rowsWritten"], "quarantined": totals["rowsQuarantined"], "bytes": size}


def duckdb(parts: list[Path], threads: int) -> Measured:
    """The peer on the same objects."""
    with tempfile.TemporaryDirectory(dir=parts[0].parents[5]) as folder:
        command = [sys.executable, str(HERE / "duckdb_job.py"), folder, str(threads), START, END, *map(str, parts)]
        measured = measure(command)
        counts = json.loads((Path(folder) / "counts.json").read_text())
        size = sum(file.stat().st_size for file in Path(folder).glob("*.parquet"))
    return {**measured, **counts, "bytes": size}


def print_table(results: dict[str, list[Measured]], megabytes: float) -> None:
    """A row per contender."""
    print(
        "\n| | seconds (median) | fastest | slowest | CPU seconds | MB/s | peak memory MB | rows written | quarantined | Parquet MB |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, rows in results.items():
        seconds = [row["seconds"] for row in rows]
        median = statistics.median(seconds)
        cpu = statistics.median(row["cpu"] for row in rows)
        memory = max(row["memory"] for row in rows)
        last = rows[-1]
        print(
            f"| {name} | {median:.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {cpu:.2f} | {megabytes / median:,.0f} | {memory:,.0f} | "
            f"{last['written']:,} | {last['quarantined']:,} | {last['bytes'] / 1e6:,.0f} |"
        )


main()
