"""What was done is not done again: reruns, and runs of some of the stages."""

import json
from pathlib import Path

import pytest
from support import manifests, orders, readers
from support.coincap import recordings
from support.lakehouse import Lakehouse
from support.manifests import column, fetched
from support.orders import DAYS
from support.replay import ReplayServer

DATE = "2024-06-22"
COINS = {
    "name": "coins",
    "from": "assets",
    "write": {"replaceInterval": {"column": "at"}},
    "columns": [
        column("coin_id", "/id", "string", required=True),
        column("at", "$intervalStart", "timestamptz", required=True),
        column("price", "/priceUsd", "decimal(38,16)"),
    ],
}


def crypto(path: Path, replay: ReplayServer, silver: manifests.Document) -> Path:
    """A pipeline on the replay server with one silver table."""
    connection = manifests.archive("api", replay.url)
    pipeline = manifests.pipeline("coins", [fetched("assets", "/v3/assets")], [silver])
    return manifests.write(path, manifests.lakehouse([connection]), pipeline)


def test_a_rerun_writes_no_table_again(lake: Lakehouse, tmp_path: Path) -> None:
    orders.land(lake.folder)
    manifest = manifests.write(tmp_path / "orders.yaml", manifests.lakehouse(), orders.definition())
    lake.run(manifest, span=(DAYS[0], DAYS[2]))
    snapshots = lake.snapshots()
    tables = ("silver.customers", "silver.moves", "silver.orders", "gold.daily_orders")
    assert snapshots == dict.fromkeys(tables, 3)
    rows = {table: lake.rows(table) for table in snapshots}
    files = {name: time for name, time in lake.files().items() if "/_lakehouse/" not in name}
    lake.run(manifest, span=(DAYS[0], DAYS[2]))
    assert lake.snapshots() == snapshots
    assert {table: lake.rows(table) for table in snapshots} == rows
    assert {name: time for name, time in lake.files().items() if name in files} == files


def test_a_finished_ingest_is_not_fetched_again(lake: Lakehouse, replay: ReplayServer, tmp_path: Path) -> None:
    manifest = crypto(tmp_path / "coins.yaml", replay, COINS)
    lake.run(manifest, interval=DATE)
    assert replay.times() == [f"{DATE}T00:00:00Z"]
    lake.run(manifest, interval=DATE)
    assert replay.times() == [f"{DATE}T00:00:00Z"]
    assert lake.snapshots() == {"silver.coins": 1}


def test_a_failed_stage_is_repeated_and_the_ones_before_are_not(
    lake: Lakehouse, replay: ReplayServer, tmp_path: Path
) -> None:
    strict = {"name": "many", "batch": "count(*) > 1000", "otherwise": "fail"}
    failing = crypto(tmp_path / "failing.yaml", replay, {**COINS, "expectations": [strict]})
    lake.fail(failing, interval=DATE)
    assert "silver.coins" not in lake.tables() or lake.rows("silver.coins") == []
    lake.run(crypto(tmp_path / "mended.yaml", replay, COINS), interval=DATE, stages=["silver"])
    assert replay.times() == [f"{DATE}T00:00:00Z"]
    assert len(lake.rows("silver.coins")) == 20


def test_silver_alone_replays_bronze(lake: Lakehouse, replay: ReplayServer, tmp_path: Path) -> None:
    lake.run(crypto(tmp_path / "coins.yaml", replay, COINS), interval=DATE)
    bronze = {path: path.read_bytes() for path in lake.bronze()}
    symbols = {**COINS, "columns": [*COINS["columns"], column("symbol", "/symbol", "string")]}
    lake.run(crypto(tmp_path / "wider.yaml", replay, symbols), interval=DATE, stages=["silver"])
    assert replay.times() == [f"{DATE}T00:00:00Z"]
    assert {path: path.read_bytes() for path in lake.bronze()} == bronze
    rows = readers.without(lake.rows("silver.coins"), {"processed_at", "price", "at"})
    recorded = json.loads(recordings()[DATE].body)["data"]
    assert rows == readers.ordered([{"coin_id": coin["id"], "symbol": coin["symbol"]} for coin in recorded])


def test_silver_without_bronze_says_what_to_do(lake: Lakehouse, replay: ReplayServer, tmp_path: Path) -> None:
    outcome = lake.fail(crypto(tmp_path / "coins.yaml", replay, COINS), interval=DATE, stages=["silver"])
    assert "NoInput" in outcome.text
    assert replay.requests == []


@pytest.mark.parametrize("stage", ["ingest", "silver", "gold"])
def test_stages_one_by_one_equal_one_run(lake: Lakehouse, tmp_path: Path, stage: str) -> None:
    orders.land(lake.folder)
    manifest = manifests.write(tmp_path / "orders.yaml", manifests.lakehouse(), orders.definition())
    for name in ("ingest", "silver", "gold"):
        lake.run(manifest, interval=DAYS[0], stages=[name])
    rows = {table: readers.without(lake.rows(table), {"processed_at"}) for table in lake.snapshots()}
    elsewhere = {"silver.shipments", "silver.delta_moves"}
    expected = {name: rows for name, rows in orders.expected(DAYS[:1]).items() if name not in elsewhere}
    assert rows == expected
    lake.run(manifest, interval=DAYS[0], stages=[stage])
    assert set(lake.snapshots().values()) == {1}
