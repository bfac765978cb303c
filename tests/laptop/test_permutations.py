"""Three intervals in any order, and at the same time, end in equal tables: merge (also with history), replaceInterval, Iceberg, Delta and Parquet."""

import subprocess
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import pytest
from support import manifests, orders, readers
from support.lakehouse import Lakehouse
from support.orders import DAYS
from support.readers import Row

PERMUTATIONS = ["".join(order) for order in permutations("123")]


@pytest.fixture
def manifest(lake: Lakehouse, tmp_path: Path) -> Path:
    """The orders pipeline, its input landed."""
    orders.land(lake.folder)
    return manifests.write(tmp_path / "orders.yaml", manifests.lakehouse(), orders.definition())


def tables(lake: Lakehouse) -> dict[str, list[Row]]:
    """All tables without processed_at; the Parquet one by a listing of its files."""
    elsewhere = {"silver.shipments", "silver.delta_moves"}
    rows = {table: lake.rows(table) for table in orders.expected() if table not in elsewhere}
    rows["silver.delta_moves"] = readers.delta_rows(lake.folder / "silver" / "delta_moves")
    rows["silver.shipments"] = readers.parquet_rows(sorted((lake.folder / "silver" / "shipments").rglob("*.parquet")))
    return {table: readers.without(found, {"processed_at"}) for table, found in rows.items()}


@pytest.mark.parametrize("order", PERMUTATIONS)
def test_any_order(lake: Lakehouse, manifest: Path, order: str) -> None:
    days = [DAYS[int(digit) - 1] for digit in order]
    for count, day in enumerate(days, 1):
        lake.run(manifest, interval=day)
        assert tables(lake) == orders.expected(days[:count])


def run_together(lake: Lakehouse, manifest: Path, days: Sequence[str]) -> None:
    """One process per day, all started before any is waited for."""
    started: list[subprocess.Popen[str]] = []
    try:
        for day in days:
            started.append(lake.start(*lake.run_arguments(manifest, interval=day), "--wait"))
        for process in started:
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stdout + stderr
    finally:
        for process in started:
            process.kill()
            process.wait(timeout=10)


@pytest.mark.parametrize("order", ["123", "321"])
def test_in_parallel(lake: Lakehouse, manifest: Path, order: str) -> None:
    run_together(lake, manifest, [DAYS[int(digit) - 1] for digit in order])
    assert tables(lake) == orders.expected()


def test_the_same_interval_in_parallel_is_committed_once(lake: Lakehouse, manifest: Path) -> None:
    lake.run(manifest, interval=DAYS[0])
    run_together(lake, manifest, [DAYS[1], DAYS[1], DAYS[1]])
    assert tables(lake) == orders.expected(DAYS[:2])
    assert lake.snapshots() == {
        "silver.customers": 2,
        "silver.moves": 2,
        "silver.orders": 2,
        "gold.daily_orders": 2,
    }
    assert readers.delta_version(lake.folder / "silver" / "delta_moves") == 2
