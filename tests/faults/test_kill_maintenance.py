"""Maintenance that is killed at any point, and a second attempt: every row stays, and what a snapshot needs is there."""

import json
from datetime import timedelta

import pytest
from faults import specs
from faults.lake import Lake
from faults.points import Point, commit, iceberg_file, reported, swap, upload
from faults.stand import Stand, landed_orders
from support.ageing import earlier

TABLES = ["silver.event_log", "silver.events", "silver.customers", "quarantine.events", "silver.event_files"]
"""The table under test stands first."""
LOG = TABLES[0]
PARTITIONS = 4
"""It has so many, and a file in each from each of two appends."""

COMPACTION = [*upload("compacted", iceberg_file(LOG)), *commit("compaction", swap(LOG)), reported("maintenance")]
EXPIRY = commit("expiry", swap(LOG))


def lake_of_two_days(stand: Stand) -> Lake:
    """A lake with files of its own, since they are deleted, whose commits were made two days ago."""
    lake = stand.lake("maintained")
    lake.write("landing", specs.LANDED_FILE, landed_orders())
    for day in (specs.FIRST_DAY, specs.SECOND_DAY):
        stand.run(lake, specs.stage_spec(day, specs.ingest_work(specs.FEW_EVENTS)))
        stand.run(lake, specs.stage_spec(day, specs.silver_work(day, specs.SILVER_TABLES)))
    for key in lake.keys("silver"):
        if key.endswith(".metadata.json"):
            older = earlier(json.loads(lake.read("silver", key)), timedelta(days=2))
            lake.write("silver", key, json.dumps(older).encode())
    return lake


def killed_then_repeated(stand: Stand, point: Point, *, compact: bool) -> None:
    lake = lake_of_two_days(stand)
    before = {name: state.rows for name, state in lake.tables().items()}
    assert set(TABLES) <= before.keys()
    spec = specs.stage_spec(specs.SECOND_DAY, specs.maintenance_work(TABLES, compact=compact))
    stand.kill_at(lake, spec, point)
    lake.expire_leases()
    # Also fails when a file that any snapshot needs is missing.
    assert all(state.rows.equals(before[name]) for name, state in lake.tables().items())
    stand.run(lake, specs.attempt(spec, 2))
    assert all(state.rows.equals(before[name]) for name, state in lake.tables().items())
    did = {table["name"]: table["maintenance"] for table in lake.report(specs.attempt(spec, 2))["tables"]}
    assert did.keys() == set(TABLES)
    # Snapshots go by their age in the metadata, which that of the compaction does not have yet.
    assert did[LOG]["snapshotsLeft"] <= 2
    assert did[LOG]["filesAfter"] == (PARTITIONS if compact else 2 * PARTITIONS)
    assert did[LOG]["notDeleted"] == 0


@pytest.mark.parametrize("point", COMPACTION, ids=str)
def test_compaction(stand: Stand, point: Point) -> None:
    killed_then_repeated(stand, point, compact=True)


@pytest.mark.parametrize("point", EXPIRY, ids=str)
def test_expiry(stand: Stand, point: Point) -> None:
    killed_then_repeated(stand, point, compact=False)
