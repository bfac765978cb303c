"""Maintenance of Delta tables by the command: rows stay, also where it is killed and where delta-rs optimizes and vacuums in between."""

import json
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable
from support import manifests, readers
from support.ageing import age
from support.lakehouse import Json, Lakehouse
from support.manifests import Document, column
from support.readers import Row

DAYS = ["2024-03-01", "2024-03-02", "2024-03-03"]
TABLES = ["appended", "replaced", "merged"]
WEEK = timedelta(days=8)


def pipeline(columns: list[Document]) -> Document:
    """One Delta table per way of writing, and a maintenance that keeps one version of a day."""
    writes = {
        "appended": {"append": {}},
        "replaced": {"replaceInterval": {"column": "at"}},
        "merged": {"merge": {"key": ["id"], "sequenceBy": ["at"]}},
    }
    partitions = {"appended": ["kind"], "replaced": ["kind"], "merged": []}
    silver = [
        {
            "name": name,
            "from": "events",
            "table": {"format": "delta", "partitionBy": partitions[name], "sortBy": ["id"]},
            "write": write,
            "columns": columns,
        }
        for name, write in writes.items()
    ]
    source = manifests.landed("events", "events/{{ interval.date }}.ndjson", "ndjson")
    settings = {"expireSnapshots": {"olderThan": "1d", "keepLast": 1}, "removeOrphans": {"olderThan": "2d"}}
    return manifests.pipeline("events", [source], silver, maintenance=settings)


def land(lake: Lakehouse, day: str, count: int) -> None:
    """Events of a day; keys come again every day."""
    place = lake.folder / "landing" / "events"
    place.mkdir(parents=True, exist_ok=True)
    events = [
        {"id": number, "at": f"{day}T{number % 24:02}:00:00Z", "kind": "ab"[number % 2]} for number in range(count)
    ]
    (place / f"{day}.ndjson").write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.fixture
def manifest(tmp_path: Path, lake: Lakehouse) -> Path:
    """The pipeline, with three days in the lake."""
    columns = [
        column("id", "/id", "long", required=True),
        column("at", "/at", "timestamptz", required=True),
        column("kind", "/kind", "string"),
    ]
    path = manifests.write(tmp_path / "events.yaml", manifests.lakehouse(), pipeline(columns))
    for day in DAYS:
        land(lake, day, 40)
        lake.run(path, interval=day)
    return path


def folder(lake: Lakehouse, table: str) -> Path:
    return lake.folder / "silver" / table


def live(lake: Lakehouse, table: str) -> set[str]:
    """Names of the files of the newest version."""
    return {Path(path).name for path in DeltaTable(folder(lake, table)).file_uris()}


def there(lake: Lakehouse, table: str) -> set[str]:
    """Names of the data files in the folder."""
    return {path.name for path in folder(lake, table).glob("*.parquet")}


def contents(lake: Lakehouse) -> dict[str, list[Row]]:
    """All rows as delta-rs reads them, which must be those that DuckDB reads."""
    rows = {table: readers.delta_rows(folder(lake, table)) for table in TABLES}
    for table, expected in rows.items():
        assert readers.duckdb_delta_rows(folder(lake, table)) == expected, table
    return rows


def maintain(lake: Lakehouse, manifest: Path) -> dict[str, Json]:
    """Runs the stage; what it did, by table."""
    lake.run(manifest, interval=DAYS[-1], stages=["maintenance"])
    report = lake.reports("maintenance")[-1]
    assert "failure" not in report
    return {table["name"].removeprefix("silver."): table["maintenance"] for table in report["tables"]}


def test_rows_stay_and_what_is_not_needed_goes(lake: Lakehouse, manifest: Path) -> None:
    before = contents(lake)
    dead = folder(lake, "appended") / "part-dead.parquet"
    dead.write_bytes(b"x" * 100)
    young = maintain(lake, manifest)
    assert {table: young[table]["snapshotsExpired"] for table in TABLES} == dict.fromkeys(TABLES, 0)
    assert (young["appended"]["filesBefore"], young["appended"]["filesAfter"]) == (6, 2)
    assert dead.exists()
    assert contents(lake) == before
    age(lake.folder, WEEK)
    did = maintain(lake, manifest)
    assert did["appended"]["orphansDeleted"] == 1
    assert not dead.exists()
    for table in TABLES:
        assert did[table]["snapshotsLeft"] == 1
        assert there(lake, table) == live(lake, table), table
        assert did[table]["filesAfter"] == len(live(lake, table))
    assert contents(lake) == before
    again = maintain(lake, manifest)
    deeds = (
        "filesCompacted",
        "groupsSkipped",
        "snapshotsExpired",
        "expiredFilesDeleted",
        "orphansDeleted",
        "notDeleted",
    )
    assert {counts[deed] for counts in again.values() for deed in deeds} == {0}


def test_newer_input_replaces_an_append_after_everybody_s_maintenance(lake: Lakehouse, manifest: Path) -> None:
    maintain(lake, manifest)
    for table in TABLES:
        DeltaTable(folder(lake, table)).optimize.compact()
        DeltaTable(folder(lake, table)).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    land(lake, DAYS[1], 10)
    arguments = lake.run_arguments(manifest, interval=DAYS[1])
    outcome = lake.command(*arguments, "--again")
    assert outcome.status == 0, outcome.text
    rows = contents(lake)
    for table in ("appended", "replaced"):
        counts = {day: sum(str(row["at"]).startswith(day) for row in rows[table]) for day in DAYS}
        assert counts == {DAYS[0]: 40, DAYS[1]: 10, DAYS[2]: 40}, table
        assert {row["kind"] for row in rows[table]} == {"a", "b"}, "partition values are not in the files of delta-rs"
    assert len(rows["merged"]) == 40
    shown = lake.sql("select kind, count(*) as n from silver.appended group by kind order by kind").stdout
    assert shown.count("45") == 2, shown


def log(lake: Lakehouse) -> list[str]:
    return sorted(path.name for path in (folder(lake, "appended") / "_delta_log").glob("*.json"))


MOMENTS: dict[str, Callable[[Lakehouse], bool]] = {
    "file-written": lambda lake: any(folder(lake, "appended").glob("compacted-*")),
    "compacted": lambda lake: f"{4:020}.json" in log(lake),
    "checkpoint": lambda lake: any((folder(lake, "appended") / "_delta_log").glob("*.checkpoint.parquet")),
    "log-cleaned": lambda lake: f"{0:020}.json" not in log(lake),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_repeated(lake: Lakehouse, manifest: Path, moment: str) -> None:
    before = contents(lake)
    age(lake.folder, WEEK)
    process = lake.start(*lake.run_arguments(manifest, interval=DAYS[-1], stages=["maintenance"]))
    try:
        deadline = time.monotonic() + 60
        while not MOMENTS[moment](lake):
            assert time.monotonic() < deadline, moment
            assert process.poll() is None or MOMENTS[moment](lake), "it ended without this moment"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate(timeout=10)
    assert contents(lake) == before
    # What the dead process held is another's only once its time is over; age the rest meanwhile.
    age(lake.folder, WEEK)
    assert maintain(lake, manifest)["appended"]["filesAfter"] == 2
    # Where it died before its commit, the version from before the compaction is young: the repetition has just superseded it.
    age(lake.folder, WEEK)
    assert maintain(lake, manifest)["appended"]["snapshotsLeft"] == 1
    assert contents(lake) == before
    assert there(lake, "appended") == live(lake, "appended")
