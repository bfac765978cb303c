"""A catalog that is lost, or restored from an older backup, is made whole from the files of the tables."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from support import manifests, readers
from support.lakehouse import Json, Lakehouse, Outcome
from support.manifests import column
from support.readers import Row

DAYS = ("2024-03-01", "2024-03-02", "2024-03-03")
SHOP, PLACE = manifests.DEPLOY / "shop.yaml", manifests.DEPLOY / "lakehouse.yaml"
FORMS = ("delta", "parquet")


def register(lake: Lakehouse, *arguments: str | Path) -> Outcome:
    """`lakehouse register`."""
    return lake.command("register", "--local", lake.folder, "-o", "json", *arguments)


def registered(lake: Lakehouse, *arguments: str | Path) -> dict[str, Json]:
    """`lakehouse register`, which must succeed; what it did by table."""
    outcome = register(lake, *arguments)
    assert outcome.status == 0, outcome.text
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    return {line["table"]: line for line in lines}


def lose(lake: Lakehouse) -> None:
    """The catalog is gone."""
    for path in lake.folder.glob("catalog.db*"):
        path.unlink()


def metadata_of(lake: Lakehouse, table: str) -> Path:
    """The current metadata file of a table."""
    return Path(lake.catalog().load_table(table).metadata_location.removeprefix("file://"))


def beats(tmp_path: Path) -> Path:
    """A pipeline with a table in each of the formats that need no catalog to be read."""

    def table(form: str) -> Json:
        columns = [column("pulse_id", "/pulse_id", "string", required=True)]
        return {
            "name": f"beats_{form}",
            "from": "beat",
            "table": {"format": form},
            "write": {"append": {}},
            "columns": columns,
        }

    source = {"name": "beat", "pulse": {"every": "3600s"}}
    return manifests.write(
        tmp_path / "beats.yaml", manifests.pipeline("beats", [source], [table(form) for form in FORMS])
    )


def count(lake: Lakehouse, table: str) -> int:
    """Rows of a table, by our own reader."""
    outcome = lake.command("sql", f"select count(*) as n from {table}", "--format", "json", "--local", lake.folder)
    assert outcome.status == 0, outcome.text
    return outcome.lines[0]["n"]


@pytest.fixture
def contents(lake: Lakehouse) -> dict[str, list[Row]]:
    """Two days of the shop; all rows of all tables."""
    lake.run(SHOP, PLACE, span=DAYS[:2])
    return {table: lake.rows(table) for table in lake.tables()}


def test_everything_comes_back_after_the_catalog_is_lost(
    lake: Lakehouse, contents: dict[str, list[Row]], tmp_path: Path
) -> None:
    lake.run(beats(tmp_path), span=DAYS[:2])
    counts = {f"silver.beats_{form}": count(lake, f"silver.beats_{form}") for form in FORMS}
    current = {table: metadata_of(lake, table) for table in contents}
    lose(lake)
    done = registered(lake, "--all")
    assert {table: entry["registration"] for table, entry in done.items()} == dict.fromkeys(
        [*contents, *counts], "registered"
    )
    assert {table: metadata_of(lake, table) for table in contents} == current
    assert {table: lake.rows(table) for table in contents} == contents
    assert {table: count(lake, table) for table in counts} == counts
    assert {entry["registration"] for entry in registered(lake, "--all").values()} == {"unchanged"}

    # What was done is found, and what comes next is done.
    outcome = lake.command(*lake.run_arguments(SHOP, PLACE, interval=DAYS[0], stages=["silver"]))
    assert outcome.status == 0, outcome.text
    assert all(table["alreadyCommitted"] for table in lake.reports("silver")[-1]["tables"])
    lake.run(SHOP, PLACE, interval=DAYS[2])
    lake.run(beats(tmp_path), interval=DAYS[2])
    assert len(lake.rows("gold.funnel")) == len(DAYS)
    assert {table: count(lake, table) for table in counts} == {table: rows // 2 * 3 for table, rows in counts.items()}


def test_a_restored_backup_is_brought_up_to_date(
    lake: Lakehouse, contents: dict[str, list[Row]], tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    with sqlite3.connect(lake.folder / "catalog.db") as source, sqlite3.connect(backup) as target:
        source.backup(target)
    lake.run(SHOP, PLACE, interval=DAYS[2])
    after = {table: lake.rows(table) for table in lake.tables()}
    assert after != contents
    lose(lake)
    shutil.copy(backup, lake.folder / "catalog.db")
    assert {table: lake.rows(table) for table in contents} == contents, "the catalog is at the time of the backup"
    done = registered(lake, "--all")
    assert {table: entry["registration"] for table, entry in done.items()} == dict.fromkeys(after, "advanced")
    assert {table: lake.rows(table) for table in after} == after
    assert {table: readers.duckdb_rows(lake.catalog(), table) for table in after} == after


def test_two_files_of_one_number_are_not_chosen_between(lake: Lakehouse, contents: dict[str, list[Row]]) -> None:
    current = metadata_of(lake, "gold.funnel")
    number = current.name.split("-")[0]
    other = current.with_name(f"{number}-00000000-0000-4000-8000-000000000000.metadata.json")
    shutil.copy(current, other)
    lose(lake)
    outcome = register(lake, "--all")
    assert outcome.status == 20
    assert "gold.funnel" in outcome.stderr and str(current) in outcome.stderr and str(other) in outcome.stderr
    assert lake.tables() == set(contents) - {"gold.funnel"}, "the others are there"
    done = registered(lake, "--table", "gold.funnel", "--metadata", f"file://{current}")
    assert done["gold.funnel"]["registration"] == "registered"
    assert lake.rows("gold.funnel") == contents["gold.funnel"]
    # The one that was not chosen does not come after it.
    outcome = register(lake, "--table", "gold.funnel", "--metadata", f"file://{other}")
    assert outcome.status != 0
    assert "does not come after it" in outcome.text


def test_a_table_whose_files_are_missing_is_not_registered(lake: Lakehouse, contents: dict[str, list[Row]]) -> None:
    (task, *_) = lake.catalog().load_table("gold.funnel").scan().plan_files()
    Path(task.file.file_path.removeprefix("file://")).unlink()
    lose(lake)
    outcome = register(lake, "--table", "gold.funnel")
    assert outcome.status != 0
    assert f"its data file {task.file.file_path} is missing" in outcome.text
    assert lake.tables() == set()


def test_what_is_not_there_is_named(lake: Lakehouse, contents: dict[str, list[Row]]) -> None:
    outcome = register(lake, "--table", "silver.nothing")
    assert outcome.status != 0
    assert "silver.nothing: there are no files of it in " in outcome.text
    assert "write silver.NAME" in register(lake, "--table", "nothing").text
