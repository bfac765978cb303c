"""Compaction of Delta tables that is killed at any point, and a second attempt: every row stays, and every version has its files."""

import pytest
from faults import specs
from faults.lake import Lake
from faults.points import Point, commit, delta_commit, put, reported, upload
from faults.stand import Stand, landed_orders

TABLES = ["silver.delta_event_log", "silver.delta_events", "silver.delta_customers"]
"""The table under test stands first."""
LOG = TABLES[0].removeprefix("silver.")
PARTITIONS = 4
"""It has so many, and a file in each from each of two appends."""
OPTIMIZED = 3
"""The version of the compaction: 0 made the table, 1 and 2 appended."""

POINTS = [
    *upload("compacted", rf"^/silver/[^/]+/{LOG}/compacted-.*\.parquet$"),
    *commit("compaction", put(delta_commit(LOG, OPTIMIZED))),
    reported("maintenance"),
]


def lake_of_two_days(stand: Stand) -> Lake:
    lake = stand.lake("delta_maintained")
    lake.write("landing", specs.LANDED_FILE, landed_orders())
    for day in (specs.FIRST_DAY, specs.SECOND_DAY):
        stand.run(lake, specs.stage_spec(day, specs.ingest_work(specs.FEW_EVENTS)))
        stand.run(lake, specs.stage_spec(day, specs.silver_work(day, specs.SILVER_TABLES)))
    return lake


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_compaction(stand: Stand, point: Point) -> None:
    lake = lake_of_two_days(stand)
    before = lake.tables()
    assert set(TABLES) <= before.keys()
    spec = specs.stage_spec(specs.SECOND_DAY, specs.maintenance_work(TABLES, compact=True))
    stand.kill_at(lake, spec, point)
    lake.expire_leases()
    # Also fails when a file that any version needs is missing.
    assert all(lake.tables()[name].rows.equals(before[name].rows) for name in TABLES)
    stand.run(lake, specs.attempt(spec, 2))
    after = lake.tables()
    assert all(after[name].rows.equals(before[name].rows) for name in TABLES)
    assert all(after[name].commits == before[name].commits for name in TABLES), (
        "tokens of runs are those that there were"
    )
    did = {table["name"]: table["maintenance"] for table in lake.report(specs.attempt(spec, 2))["tables"]}
    assert did[TABLES[0]]["filesAfter"] == PARTITIONS
    assert did[TABLES[0]]["notDeleted"] == 0
    # The versions are young: all of them stay, and so does what the dead attempt left.
    assert did[TABLES[0]]["snapshotsLeft"] == OPTIMIZED + 1
    # A run of the same day with another definition replaces exactly what the first one appended.
    newer = specs.newer_definition(
        specs.stage_spec(specs.SECOND_DAY, specs.silver_work(specs.SECOND_DAY, specs.SILVER_TABLES))
    )
    stand.run(lake, newer)
    assert lake.tables()[TABLES[0]].rows.equals(before[TABLES[0]].rows)
