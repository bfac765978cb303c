"""Maintenance of the shop's tables: rows stay, small files, old snapshots and what dead attempts left go."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from support import manifests, readers
from support.ageing import age
from support.lakehouse import Json, Lakehouse, Outcome
from support.readers import Row

FIRST, LAST = "2024-03-01", "2024-03-06"
WEEK = timedelta(days=8)


def shop(folder: Path, maintenance: Json) -> Path:
    """deploy/shop.yaml with these settings."""
    document = yaml.safe_load((manifests.DEPLOY / "shop.yaml").read_text())
    document["spec"]["maintenance"] = maintenance
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def manifest(tmp_path: Path, lake: Lakehouse) -> Path:
    """The shop, keeping one snapshot of a day; six days are in the lake already."""
    path = shop(tmp_path, {"expireSnapshots": {"olderThan": "1d", "keepLast": 1}, "removeOrphans": {"olderThan": "2d"}})
    lake.run(path, manifests.DEPLOY / "lakehouse.yaml", span=(FIRST, LAST))
    return path


def maintain(lake: Lakehouse, manifest: Path) -> dict[str, Json]:
    """Runs the stage; what it did, by table."""
    outcome = lake.run(manifest, manifests.DEPLOY / "lakehouse.yaml", interval=LAST, stages=["maintenance"])
    (line,) = [line for line in outcome.lines if line.get("event") == "run"]
    assert {entry["stage"] for entry in line["tables"]} <= {"maintenance"}
    report = lake.reports("maintenance")[-1]
    assert [entry["table"] for entry in line["tables"]] == report["tables"]
    assert "failure" not in report
    return {table["name"]: table["maintenance"] for table in report["tables"]}


def contents(lake: Lakehouse) -> dict[str, list[Row]]:
    """All rows of all tables."""
    return {table: lake.rows(table) for table in sorted(lake.tables())}


def live(lake: Lakehouse, table: str) -> set[str]:
    """Data files of the current snapshot, as PyIceberg sees them."""
    tasks = lake.catalog().load_table(table).scan().plan_files()
    return {task.file.file_path.removeprefix("file://") for task in tasks}


def on_disk(lake: Lakehouse, table: str) -> set[str]:
    """Data files in the table's folder."""
    location = Path(lake.catalog().load_table(table).location().removeprefix("file://"))
    return {str(path) for path in location.rglob("*.parquet")}


def metadata_files(lake: Lakehouse, table: str) -> int:
    """Objects in the table's metadata folder."""
    location = Path(lake.catalog().load_table(table).location().removeprefix("file://"))
    return len(list((location / "metadata").iterdir()))


def test_rows_stay_and_what_is_not_needed_goes(lake: Lakehouse, manifest: Path) -> None:
    queries = ["select count(*) from silver.events", "select * from gold.daily_sales order by 1, 2, 3"]
    before, answers = contents(lake), [lake.sql(query).stdout for query in queries]
    # An attempt that died: its file is no table's.
    dead = Path(lake.catalog().load_table("gold.funnel").location().removeprefix("file://")) / "data" / "dead.parquet"
    dead.write_bytes(b"x" * 100)
    fresh = maintain(lake, manifest)
    assert all(did["snapshotsExpired"] == 0 and did["orphansDeleted"] == 0 for did in fresh.values()), "all is young"
    assert fresh["gold.funnel"]["filesBefore"] == 6
    assert fresh["gold.funnel"]["filesAfter"] == 1
    assert dead.exists()
    assert contents(lake) == before

    age(lake.folder, WEEK)
    many = {table: metadata_files(lake, table) for table in lake.tables() | {"quality.results"}}
    did = maintain(lake, manifest)
    assert set(did) - {"quality.results"} == lake.tables()
    assert "quarantine.events" in did
    assert did["gold.funnel"]["orphansDeleted"] == 1
    assert did["gold.funnel"]["orphanBytes"] == 100
    assert not dead.exists()
    for table, counts in did.items():
        assert counts["snapshotsLeft"] == 1, table
        assert live(lake, table) == on_disk(lake, table), table
        assert counts["filesAfter"] == len(live(lake, table))
        assert metadata_files(lake, table) < many[table], table
    assert contents(lake) == before
    for table, rows in before.items():
        assert readers.duckdb_rows(lake.catalog(), table) == rows, table
    assert [lake.sql(query).stdout for query in queries] == answers

    done = (
        "filesCompacted",
        "groupsSkipped",
        "snapshotsExpired",
        "expiredFilesDeleted",
        "orphansDeleted",
        "notDeleted",
    )
    again = maintain(lake, manifest)
    assert {name: counts[name] for counts in again.values() for name in done} == dict.fromkeys(done, 0)


def test_an_interval_runs_again_after_maintenance(lake: Lakehouse, manifest: Path) -> None:
    age(lake.folder, WEEK)
    maintain(lake, manifest)
    before = contents(lake)
    arguments = lake.run_arguments(manifest, manifests.DEPLOY / "lakehouse.yaml", interval="2024-03-03")
    outcome: Outcome = lake.command(*arguments, "--again")
    assert outcome.status == 0, outcome.text
    when = {"processed_at"}
    after = contents(lake)
    assert {table: readers.without(rows, when) for table, rows in after.items()} == {
        table: readers.without(rows, when) for table, rows in before.items()
    }
    # The silver stage found its commits although their snapshots are gone.
    assert all(table["alreadyCommitted"] for table in lake.reports("silver")[-1]["tables"])
    lake.run(manifest, manifests.DEPLOY / "lakehouse.yaml", interval="2024-03-07")
    assert len(lake.rows("gold.funnel")) == len(before["gold.funnel"]) + 1


def test_a_gold_run_finds_commits_whose_snapshots_expired(lake: Lakehouse, tmp_path: Path) -> None:
    """Silver first, for all days, and gold then: every gold run reads the same snapshots, so that a repeated one finds its commits."""
    settings = {"compact": {"enabled": False}, "expireSnapshots": {"olderThan": "1d", "keepLast": 1}}
    path, place = shop(tmp_path, settings), manifests.DEPLOY / "lakehouse.yaml"
    lake.run(path, place, span=(FIRST, "2024-03-03"), stages=["ingest", "silver"])
    lake.run(path, place, span=(FIRST, "2024-03-03"), stages=["gold"])
    age(lake.folder, WEEK)
    before = contents(lake)
    assert maintain(lake, path)["gold.fct_purchases"]["snapshotsLeft"] == 1
    outcome = lake.command(*lake.run_arguments(path, place, interval=FIRST, stages=["gold"]), "--again")
    assert outcome.status == 0, outcome.text
    found = {table["name"]: table["alreadyCommitted"] for table in lake.reports("gold")[-1]["tables"]}
    assert found["gold.fct_purchases"] and found["gold.daily_sales"], found
    when = {"processed_at"}
    assert {table: readers.without(rows, when) for table, rows in contents(lake).items()} == {
        table: readers.without(rows, when) for table, rows in before.items()
    }


def test_a_pipeline_without_the_section_has_no_such_stage(lake: Lakehouse, tmp_path: Path) -> None:
    document = yaml.safe_load((manifests.DEPLOY / "shop.yaml").read_text())
    del document["spec"]["maintenance"]
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump(document))
    outcome = lake.fail(path, manifests.DEPLOY / "lakehouse.yaml", interval=LAST, stages=["maintenance"])
    assert "the pipeline has no maintenance stage" in outcome.text


def test_before_the_first_run_there_is_nothing_to_do(lake: Lakehouse, tmp_path: Path) -> None:
    assert maintain(lake, shop(tmp_path, {})) == {}
