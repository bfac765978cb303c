"""Silver against DuckDB and Polars: the same bronze objects, threads, codec, casts, quarantine and deduplication, interleaved, median."""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from contenders import (
    MODES,
    Measured,
    definition,
    generate,
    parts_of,
    peer,
    silver,
    silver_within,
    whole_lines,
)

PARTS = ("main", "modes", "plain", "memory", "scale")
FORMATS = ("iceberg", "delta", "parquet")
Contender = Callable[[], Measured]
Results = dict[str, list[Measured]]


def main() -> None:
    """Times all and prints the tables."""
    arguments = parse()
    threads = arguments.threads or len(os.sched_getaffinity(0))
    if threads != len(os.sched_getaffinity(0)):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    arguments.threads = threads
    run: dict[str, Callable[[argparse.Namespace], None]] = {
        "main": main_part,
        "modes": modes_part,
        "plain": plain_part,
        "memory": memory_part,
        "scale": scale_part,
    }
    for name in arguments.only:
        run[name](arguments)


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts of it; default: all")
    parser.add_argument("--bin", required=True, type=Path, help="folder of the binaries ingest and silver")
    parser.add_argument("--cache", required=True, type=Path, help="folder for generated events")
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: all")
    parser.add_argument("--limit", type=float, help="fail when the main ratio to DuckDB is above")
    parser.add_argument("--quick", action="store_true", help="a tenth of the events, three rounds")
    arguments = parser.parse_args()
    arguments.bin = arguments.bin.resolve()
    if arguments.quick:
        arguments.events //= 10
        arguments.rounds = 3
    return arguments


def main_part(arguments: argparse.Namespace) -> None:
    """One table, all that silver does."""
    bronze = generate(arguments.bin, arguments.cache, arguments.events)
    objects, whole = parts_of(bronze), whole_lines(bronze)
    megabytes = size_of(objects)
    title(
        "Silver",
        f"{arguments.events:,} events, {megabytes:,.0f} MB of NDJSON in {len(objects)} bronze objects, {arguments.threads} threads, zstd "
        f"level 1, {arguments.rounds} rounds interleaved; Iceberg, replaceInterval",
    )
    results = interleaved(
        {
            "lakehouse silver": lambda: silver(arguments.bin, bronze),
            "DuckDB": lambda: peer("duckdb", "dedup", objects, arguments.threads),
            "Polars": lambda: peer("polars", "dedup", whole, arguments.threads),
        },
        arguments.rounds,
    )
    print_table(results, megabytes)
    ours = results.pop("lakehouse silver")
    print()
    for name, theirs in results.items():
        print(f"{shown_ratio(ours, name, theirs)} {agreement(name, ours, theirs)}")
    if arguments.limit and ratio(ours, results["DuckDB"]) > arguments.limit:
        sys.exit(f"slower than {arguments.limit} of DuckDB's time")


def modes_part(arguments: argparse.Namespace) -> None:
    """Every format and write mode, into an empty table."""
    bronze = generate(arguments.bin, arguments.cache, arguments.events)
    objects, whole = parts_of(bronze), whole_lines(bronze)
    rounds = min(3, arguments.rounds)
    title(
        "Formats and write modes",
        f"the same events into an empty table, {rounds} rounds interleaved. The peers write one Parquet file and no table: no log, no catalog, "
        "no exactly-once commit, whatever the format. Their work for merge is the newest row per key; for all others any row per key",
    )
    contenders: dict[str, Contender] = {}
    for table_format in FORMATS:
        for mode in MODES:
            if (table_format, mode) != ("parquet", "merge"):
                contenders[f"{table_format} {mode}"] = lambda f=table_format, m=mode: silver(
                    arguments.bin, bronze, m, f
                )
    for task in ("dedup", "merge"):
        contenders[f"duckdb {task}"] = lambda t=task: peer("duckdb", t, objects, arguments.threads)
        contenders[f"polars {task}"] = lambda t=task: peer("polars", t, whole, arguments.threads)
    results = interleaved(contenders, rounds)
    print(
        "\n| format | mode | seconds (median) | CPU seconds | peak memory MB | DuckDB's time | of it | Polars' time | of it |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in contenders:
        table_format, mode = name.split()
        if table_format not in FORMATS:
            continue
        ours, task = results[name], "merge" if mode == "merge" else "dedup"
        peers = (results[f"{peer_name} {task}"] for peer_name in ("duckdb", "polars"))
        against = " | ".join(f"{median(theirs, 'seconds'):.2f} | {ratio(ours, theirs):.2f}" for theirs in peers)
        print(
            f"| {table_format} | {mode} | {median(ours, 'seconds'):.2f} | {median(ours, 'cpu'):.2f} | {peak(ours):,.0f} | {against} |"
        )


def plain_part(arguments: argparse.Namespace) -> None:
    """NDJSON to Parquet: types, and nothing else."""
    bronze = generate(arguments.bin, arguments.cache, arguments.events, faults=False)
    objects = parts_of(bronze)
    megabytes = size_of(objects)
    title(
        "NDJSON to Parquet",
        f"{arguments.events:,} events without copies and faults, {megabytes:,.0f} MB, {arguments.threads} threads, no rules, no "
        f"deduplication, {arguments.rounds} rounds interleaved; ours checks every object's digest and commits a Parquet table",
    )
    results = interleaved(
        {
            "lakehouse silver": lambda: silver(arguments.bin, bronze, "overwrite", "parquet", plain=True),
            "DuckDB": lambda: peer("duckdb", "plain", objects, arguments.threads),
            "Polars": lambda: peer("polars", "plain", objects, arguments.threads),
        },
        arguments.rounds,
    )
    print_table(results, megabytes)
    ours = results.pop("lakehouse silver")
    print(
        f"\n{megabytes / 1000 / median(ours, 'seconds'):.2f} GB/s; per second of processor time {megabytes / 1000 / median(ours, 'cpu'):.2f} GB."
    )
    for name, theirs in results.items():
        print(shown_ratio(ours, name, theirs))
        if {row["written"] for row in ours} != {row["written"] for row in theirs}:
            sys.exit(f"{name} wrote another number of rows")


def memory_part(arguments: argparse.Namespace) -> None:
    """Ten times as many bytes of bronze as the process may have of memory, with copies to be found in every mode."""
    bronze = generate(arguments.bin, arguments.cache, arguments.events)
    megabytes = size_of(parts_of(bronze))
    limit = max(int(megabytes * 1e5), 64 << 20)
    title(
        "A tenth of the memory",
        f"{megabytes:,.0f} MB of NDJSON by a process that is told that it may have {limit / 1e6:,.0f} MB; private is what of its memory a container could not drop, as it can the "
        "pages of programs and files, and more of that than the limit fails",
    )
    print("\n| format | mode | seconds | CPU seconds | private memory MiB | rows written | quarantined |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for mode in MODES:
        row = silver_within(arguments.bin, bronze, definition(mode, "iceberg"), limit)
        print(
            f"| iceberg | {mode} | {row['seconds']:.2f} | {row['cpu']:.2f} | {row['private']:,.0f} | {row['written']:,} | {row['quarantined']:,} |"
        )
        if row["private"] * 2**20 > limit:
            sys.exit(f"{mode} took {row['private']:,.0f} MiB of memory, more than its limit")


def scale_part(arguments: argparse.Namespace) -> None:
    """The operator before a real API server, against its limits."""
    # What it needs is built once, on first use: the other parts do without.
    import scale

    size = scale.Size(pipelines=100, config_maps=70) if arguments.quick else scale.Size()
    title("The operator at scale", size.text())
    missed = scale.measure(arguments.bin / "lakehouse-operator", size)
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


def interleaved(contenders: dict[str, Contender], rounds: int) -> Results:
    """Every contender in turn, round by round, so that a slower machine slows all of them."""
    results: Results = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            results[name].append(run())
    return results


def agreement(name: str, ours: list[Measured], theirs: list[Measured]) -> str:
    """Checks the counts.

    DuckDB also loses the good line behind some lines that were cut off within a text: they count as its quarantine, and are missing from
    its result unless it has a copy of them. Polars gets no malformed lines, since its reader gives up at the first one.
    """
    counts = [{(row["written"], row["quarantined"]) for row in rows} for rows in (ours, theirs)]
    if any(len(rounds) != 1 for rounds in counts):
        sys.exit(f"{name}: counts of (written, quarantined) rows vary: {counts}")
    (own,), (other,) = counts
    missing, lost = own[0] - other[0], other[1] - own[1]
    if name == "Polars":
        if missing or lost > 0:
            sys.exit(f"{name} disagrees on (written, quarantined) rows: {counts}")
        return f"It was spared {-lost} malformed lines, at the first of which its reader gives up."
    if not 0 <= missing <= lost <= own[1] / 50:
        sys.exit(f"{name} disagrees on (written, quarantined) rows: {counts}")
    if not lost:
        return "Both wrote the same numbers of rows."
    return f"It lost {lost} good lines that follow a line that is cut off; {missing} of them have no copy."


def title(name: str, text: str) -> None:
    """Begins a part of the output."""
    print(f"\n## {name}\n\n{text}.", flush=True)


def size_of(parts: list[Path]) -> float:
    """Their size in MB."""
    return sum(part.stat().st_size for part in parts) / 1e6


def median(rows: list[Measured], what: str) -> float:
    """The median of a measurement."""
    return statistics.median(row[what] for row in rows)


def peak(rows: list[Measured]) -> float:
    """The highest peak of memory."""
    return max(row["memory"] for row in rows)


def ratio(ours: list[Measured], theirs: list[Measured]) -> float:
    """Our wall time as a share of theirs."""
    return median(ours, "seconds") / median(theirs, "seconds")


def shown_ratio(ours: list[Measured], name: str, theirs: list[Measured]) -> str:
    """The ratio as a sentence."""
    cpu = median(ours, "cpu") / median(theirs, "cpu")
    return f"{ratio(ours, theirs):.2f} of {name}'s time ({1 / ratio(ours, theirs):.2f} times as fast), {cpu:.2f} of its processor time."


def print_table(results: Results, megabytes: float) -> None:
    """A row per contender."""
    print(
        "\n| | seconds (median) | fastest | slowest | CPU seconds | MB/s | peak memory MB | rows written | quarantined | Parquet MB |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, rows in results.items():
        seconds = [row["seconds"] for row in rows]
        last = rows[-1]
        print(
            f"| {name} | {median(rows, 'seconds'):.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {median(rows, 'cpu'):.2f} | "
            f"{megabytes / median(rows, 'seconds'):,.0f} | {peak(rows):,.0f} | {last['written']:,} | {last['quarantined']:,} | "
            f"{last['bytes'] / 1e6:,.0f} |"
        )


main()
