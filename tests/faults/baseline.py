"""What an undisturbed run leaves, once per stage; and the comparison of a disturbed lake with it."""

from dataclasses import dataclass
from typing import Any

from faults import specs
from faults.lake import Ingested, Lake, TableState, counts
from faults.stand import Stand, landed_orders

# What an interval does to plain Parquet files depends on no other interval.
TRANSACTIONAL_TABLES = [table for table in specs.SILVER_TABLES if table["table"]["format"] != "parquet"]

INGEST = specs.stage_spec(specs.SECOND_DAY, specs.ingest_work(specs.MANY_EVENTS))
SILVER = specs.stage_spec(specs.SECOND_DAY, specs.silver_work(specs.SECOND_DAY, specs.SILVER_TABLES))
UNAUDITED_SILVER = specs.stage_spec(specs.SECOND_DAY, specs.silver_work(specs.SECOND_DAY, specs.UNAUDITED_TABLES))
FIRST_SILVER = specs.stage_spec(specs.FIRST_DAY, specs.silver_work(specs.FIRST_DAY, TRANSACTIONAL_TABLES))
GOLD = specs.stage_spec(specs.SECOND_DAY, specs.gold_work(specs.SECOND_DAY))


@dataclass(frozen=True)
class Baseline:
    """A lake before the stage under test, and what the stage undisturbed makes of it."""

    # Lakes of tests start as copies of this one.
    before: Lake
    after: Lake
    counts: list[dict[str, Any]]
    tables: dict[str, TableState]
    ingested: Ingested

    def verify(self, lake: Lake, report: dict[str, Any]) -> None:
        """The lake is as if nothing had happened, and so are the counts of the report."""
        assert counts(report) == self.counts
        tables = lake.tables()
        assert tables.keys() == self.tables.keys()
        different = {name: state.difference(self.tables[name]) for name, state in tables.items()}
        assert not any(different.values()), {name: text for name, text in different.items() if text}
        if self.ingested:
            assert lake.ingested(specs.SECOND_DAY) == self.ingested


def ingest(stand: Stand) -> Baseline:
    """Ingest into an empty lake with one landed file."""
    before = stand.lake("ingest_before")
    before.write("landing", specs.LANDED_FILE, landed_orders())
    lake = stand.lake("ingest", before, own=("bronze",))
    report = stand.run(lake, INGEST)
    assert [table["name"] for table in report["tables"]] == ["events", "beats", "orders"]
    assert report["tables"][0]["rowsWritten"] >= specs.MANY_EVENTS
    return Baseline(before, lake, counts(report), {}, lake.ingested(specs.SECOND_DAY))


def first_silver(stand: Stand) -> Baseline:
    """Silver of the first day of all: its tables do not exist yet. Both days are ingested."""
    before = stand.lake("ingested")
    before.write("landing", specs.LANDED_FILE, landed_orders())
    for day in (specs.FIRST_DAY, specs.SECOND_DAY):
        stand.run(before, specs.stage_spec(day, specs.ingest_work(specs.FEW_EVENTS)))
    lake = stand.lake("first_silver", before, own=("silver",))
    report = stand.run(lake, FIRST_SILVER)
    return Baseline(before, lake, counts(report), lake.tables(), {})


def silver(stand: Stand, first: Baseline) -> Baseline:
    """Silver of a second day, over tables that hold the first."""
    lake = stand.lake("silver", first.after, own=("silver",))
    report = stand.run(lake, SILVER)
    assert {table["name"] for table in report["tables"]} >= {f"silver.{table['name']}" for table in specs.SILVER_TABLES}
    assert sum(table["rowsQuarantined"] for table in report["tables"]) > 0, "the sample needs rows for the quarantine"
    return Baseline(first.after, lake, counts(report), lake.tables(), {})


def unaudited_silver(stand: Stand, first: Baseline) -> Baseline:
    """The same without the tables that are audited as a whole."""
    lake = stand.lake("unaudited_silver", first.after, own=("silver",))
    report = stand.run(lake, UNAUDITED_SILVER)
    return Baseline(first.after, lake, counts(report), lake.tables(), {})


def gold(stand: Stand, silver: Baseline) -> Baseline:
    """Gold of a second day, over models that hold the first."""
    before = stand.lake("gold_before", silver.after, own=("gold",))
    stand.run(before, specs.stage_spec(specs.FIRST_DAY, specs.gold_work(specs.FIRST_DAY)))
    lake = stand.lake("gold", before, own=("gold",))
    report = stand.run(lake, GOLD)
    assert {table["name"] for table in report["tables"]} == {f"gold.{model['name']}" for model in specs.GOLD_MODELS}
    return Baseline(before, lake, counts(report), lake.tables(), {})
