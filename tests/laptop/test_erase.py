"""Erasing a key: nothing of it is left in any file, everything else stays, and what is made from bronze afterwards is the same."""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from deltalake import DeltaTable
from support import manifests, readers
from support.lakehouse import Json, Lakehouse, Outcome
from support.manifests import column
from support.readers import Row

SHOP, PLACE = manifests.DEPLOY / "shop.yaml", manifests.DEPLOY / "lakehouse.yaml"
DAYS = ("2024-03-01", "2024-03-02", "2024-03-03")
WHEN = {"processed_at"}
PLACE_OF_RECORD = {"object", "position"}
"""Of a quarantined record: an object that was cut has another name, and its records other numbers."""


def erase(lake: Lakehouse, manifest: Path, *keys: str, dry_run: bool = False, status: int = 0) -> Json:
    """`lakehouse erase`; its report."""
    outcome = erasing(lake, manifest, *keys, dry_run=dry_run)
    assert outcome.status == status, outcome.text
    return json.loads(outcome.stdout)


def erasing(lake: Lakehouse, manifest: Path, *keys: str, dry_run: bool = False) -> Outcome:
    """How `lakehouse erase` ended."""
    return lake.command(*arguments(lake, manifest, *keys, dry_run=dry_run))


def arguments(lake: Lakehouse, manifest: Path, *keys: str, dry_run: bool = False) -> list[str | Path]:
    """The arguments of `lakehouse erase`."""
    options: list[str | Path] = ["erase", "-f", manifest, "--local", lake.folder, "-o", "json"]
    for key in keys:
        options += ["--key", key]
    return [*options, "--dry-run"] if dry_run else options


def by_table(report: Json) -> dict[str, Json]:
    """What became of each table."""
    return {table["name"]: table for table in report["tables"]}


def contents(lake: Lakehouse) -> dict[str, list[Row]]:
    """All rows of all Iceberg tables, less the time of the run."""
    return {table: readers.without(lake.rows(table), WHEN) for table in sorted(lake.tables())}


def holding(lake: Lakehouse, value: str) -> list[str]:
    """Every file of the layers in which the value stands: in a text column of a Parquet file, or anywhere in another file."""
    found = []
    with readers.connect_duckdb() as connection:
        for path in (path for layer in ("bronze", "silver", "gold") for path in (lake.folder / layer).rglob("*")):
            if not path.is_file():
                continue
            if path.suffix != ".parquet":
                held = value.encode() in path.read_bytes()
            else:
                table = connection.execute(
                    "select * from read_parquet(?, hive_partitioning = false)", [str(path)]
                ).to_arrow_table()
                held = any(value in str(cell) for row in table.to_pylist() for cell in row.values())
            if held:
                found.append(str(path.relative_to(lake.folder)))
    return found


def older(folder: Path, seconds: int = 7200) -> None:
    """Moves the times of all files into the past: what nothing refers to and is young may be about to be committed."""
    for path in folder.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))


@pytest.fixture
def user(lake: Lakehouse) -> str:
    """Two days of the shop, compacted, and a third; a user with events, purchases and a quarantined record."""
    lake.run(SHOP, PLACE, span=DAYS[:2])
    lake.run(SHOP, PLACE, interval=DAYS[0], stages=["maintenance"])
    lake.run(SHOP, PLACE, interval=DAYS[2])
    quarantined: set[str] = set()
    for row in lake.rows("quarantine.events"):
        try:
            quarantined.add(json.loads(row["record"])["user_id"])
        except (ValueError, KeyError, TypeError):
            continue
    buyers = {row["user_id"] for row in lake.rows("gold.fct_purchases")}
    return min(quarantined & buyers)


def less(tables: dict[str, list[Row]], user: str) -> dict[str, list[Row]]:
    """The rows without those of the user."""

    def stays(row: Row) -> bool:
        return row.get("user_id") != user and f'"user_id":"{user}"' not in str(row.get("record"))

    return {table: [row for row in rows if stays(row)] for table, rows in tables.items()}


def test_a_user_is_gone_from_every_file_and_all_others_stay(lake: Lakehouse, user: str) -> None:
    before, files = contents(lake), lake.files()
    assert holding(lake, user)

    would = erase(lake, SHOP, f"user_id={user}", dry_run=True)
    assert lake.files() == files, "a dry run writes nothing"
    report = erase(lake, SHOP, f"user_id={user}")
    assert holding(lake, user) == []
    after = less(before, user)
    assert contents(lake) == after
    for table, rows in after.items():
        assert readers.without(readers.duckdb_rows(lake.catalog(), table), WHEN) == rows, table
        removed = len(before[table]) - len(rows)
        assert by_table(report)[table]["rows"] == by_table(would)[table]["rows"] == removed
        concerned = any("user_id" in row or "record" in row for row in before[table])
        assert by_table(report)[table]["action"] == ("noColumn" if not concerned else "erased" if removed else "clean")
    assert by_table(report)["silver.users"]["rows"] == 1
    assert by_table(report)["quarantine.events"]["rows"] >= 1
    assert report["bronze"]["records"] == would["bronze"]["records"] > 0
    assert len(report["bronze"]["manifests"]) == len(DAYS)
    assert report["left"] == []

    # The audit says what was done, and not whom it was done for.
    (audit,) = (lake.folder / "bronze/_lakehouse/erasures/shop").glob("*.json")
    assert json.loads(audit.read_text()) == report
    assert user not in audit.read_text()

    again = erase(lake, SHOP, f"user_id={user}")
    assert (again["bronze"]["records"], sum(table["rows"] for table in again["tables"])) == (0, 0)


def test_what_is_made_from_bronze_afterwards_is_the_same(lake: Lakehouse, user: str) -> None:
    erase(lake, SHOP, f"user_id={user}")
    before = contents(lake)
    for manifest in lake.manifests("shop"):
        for source in manifest["sources"]:
            for entry in source["objects"]:
                assert len((lake.folder / "bronze" / entry["key"]).read_text().splitlines()) == entry["records"]
    run = lake.run_arguments(SHOP, PLACE, span=(DAYS[0], DAYS[-1]), stages=["silver", "gold"])
    outcome = lake.command(*run, "--again")
    assert outcome.status == 0, outcome.text
    after = contents(lake)
    # Summaries of many users were computed with the user, and are now computed without.
    computed = {"gold.daily_sales", "gold.funnel", "gold.product_ranking", "gold.sales_over_time"}
    assert {
        table: readers.without(rows, PLACE_OF_RECORD) for table, rows in after.items() if table not in computed
    } == {table: readers.without(rows, PLACE_OF_RECORD) for table, rows in before.items() if table not in computed}
    assert sum(row["sessions"] for row in after["gold.funnel"]) < sum(row["sessions"] for row in before["gold.funnel"])
    assert holding(lake, user) == []


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.8])
def test_an_erasing_that_was_killed_goes_on(lake: Lakehouse, user: str, delay: float) -> None:
    before = contents(lake)
    with lake.start(*arguments(lake, SHOP, f"user_id={user}")) as process:
        time.sleep(delay)
        process.kill()
    older(lake.folder)
    erase(lake, SHOP, f"user_id={user}")
    assert holding(lake, user) == []
    assert contents(lake) == less(before, user)


def append(tmp_path: Path, form: str) -> Path:
    """A pipeline whose table appends uploaded lines; `who` is a number there and a text in the field."""
    silver = {
        "name": f"visits_{form}",
        "from": "visits",
        "table": {"format": form},
        "write": {"append": {}},
        "columns": [column("who", "/visitor/id", "long", required=True), column("at", "/at", "string")],
    }
    source = manifests.landed("visits", "{{ interval.date }}.ndjson", "ndjson")
    return manifests.write(
        tmp_path / f"{form}.yaml", manifests.pipeline(f"visits-{form}", [source], [silver], maintenance={})
    )


def upload(lake: Lakehouse, day: str, visits: Iterable[tuple[object, str]]) -> None:
    """The visits of a day, as a file in the landing layer."""
    lines = [json.dumps({"visitor": {"id": who}, "at": at}) + "\n" for who, at in visits]
    (lake.folder / "landing").mkdir(parents=True, exist_ok=True)
    (lake.folder / "landing" / f"{day}.ndjson").write_text("".join(lines))


def rows(lake: Lakehouse, form: str) -> list[tuple[int, str]]:
    """What is in the table, by our own reader."""
    query = f"select who, at from silver.visits_{form} order by 1, 2"
    outcome = lake.command("sql", query, "--format", "json", "--local", lake.folder)
    assert outcome.status == 0, outcome.text
    return [(row["who"], row["at"]) for row in outcome.lines]


@pytest.mark.parametrize(
    ("form", "compacted"),
    [("iceberg", False), ("iceberg", True), ("delta", False), ("delta", True), ("parquet", False)],
)
def test_an_append_can_be_replaced_after_some_of_its_rows_were_erased(
    lake: Lakehouse, tmp_path: Path, form: str, compacted: bool
) -> None:
    manifest = append(tmp_path, form)
    upload(lake, "2024-03-01", [(77001, "a"), ("077001", "b"), (8, "c"), ("none", "77001")])
    upload(lake, "2024-03-02", [(77001, "d"), (9, "e")])
    lake.run(manifest, span=("2024-03-01", "2024-03-02"))
    if compacted:
        # Rows of both appends are in one file.
        lake.run(manifest, interval="2024-03-01", stages=["maintenance"])
        if form == "iceberg":
            assert len(list(lake.catalog().load_table("silver.visits_iceberg").scan().plan_files())) == 1
        else:
            assert len(DeltaTable(lake.folder / "silver" / "visits_delta").file_uris()) == 1
    outcome = erasing(lake, manifest, "who=77001")
    assert outcome.status == 0, outcome.text
    report = json.loads(outcome.stdout)
    assert by_table(report)[f"silver.visits_{form}"]["rows"] == 3
    # The line with no number in it is quarantined, and its field is not the key's.
    assert by_table(report)[f"quarantine.visits_{form}"]["rows"] == 0
    assert rows(lake, form) == [(8, "c"), (9, "e")]
    assert report["left"] == []
    if form == "delta":
        folder = lake.folder / "silver" / "visits_delta"
        assert [row["who"] for row in readers.delta_rows(folder)] == [8, 9]
        # Bounds of columns in the log are values too.
        assert not any(b"77001" in path.read_bytes() for path in folder.rglob("*.json"))
    # A newer input for the interval takes the place of exactly what is left of the older one.
    upload(lake, "2024-03-01", [(8, "f")])
    lake.run(manifest, interval="2024-03-01", stages=["ingest"])
    outcome = lake.command(*lake.run_arguments(manifest, interval="2024-03-01"), "--again")
    assert outcome.status == 0, outcome.text
    assert rows(lake, form) == [(8, "f"), (9, "e")]


def test_what_is_asked_for_must_be_clear(lake: Lakehouse, user: str) -> None:
    outcome = erasing(lake, SHOP, "user_id=")
    assert outcome.status == 20
    assert "must not be empty" in outcome.text
    outcome = erasing(lake, SHOP, "user_id")
    assert outcome.status == 2
    assert "is not NAME=VALUE" in outcome.text


def test_a_table_of_another_pipeline_is_not_touched(lake: Lakehouse, user: str, tmp_path: Path) -> None:
    document = manifests.sample_pipeline("shop.yaml")
    document["metadata"]["name"] = "other"
    path = manifests.write(tmp_path / "other.yaml", document)
    files = lake.files()
    outcome = erasing(lake, path, f"user_id={user}")
    assert outcome.status != 0
    assert "TableOwnedByOther" in outcome.text
    assert lake.files() == files
