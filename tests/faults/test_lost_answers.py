"""A commit that happens while its answer is lost: the job finds out by itself, and commits once."""

from collections.abc import Callable

import pytest
from faults import baseline, pg, s3
from faults.baseline import Baseline
from faults.points import delta_commit, iceberg_file, parquet_manifest, put, swap
from faults.stand import Spec, Stand
from support.proxy import Answer, Fault, Reset, Spot

LOST = {
    "500": s3.failure(500, "InternalError"),
    "503": s3.failure(503, "SlowDown"),
    "reset": Reset(),
}
LOST_BY_CATALOG = {"reset": Reset(), "terminated": pg.failure()}


def succeeds(
    stand: Stand,
    base: Baseline,
    spec: Spec,
    own: tuple[str, ...],
    matches: Callable[[object], bool],
    lost: Answer | Reset,
) -> None:
    stage = next(iter(spec["work"]))
    lake = stand.lake(f"{stage}_lost", base.before, own)
    world = stand.world()
    fault = world.expect(Fault(matches, Spot.APPLIED, lost))
    job = stand.start(lake, spec, world)
    job.end()
    assert fault.fired.wait(10), f"ended without the commit\n{job.log()}"
    assert not world.errors, world.errors
    base.verify(lake, lake.report(spec))


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_ingest_manifest(stand: Stand, ingest_baseline: Baseline, lost: Answer | Reset) -> None:
    succeeds(stand, ingest_baseline, baseline.INGEST, ("bronze",), put(r"/_manifests/dt="), lost)


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_parquet_manifest(stand: Stand, silver_baseline: Baseline, lost: Answer | Reset) -> None:
    succeeds(stand, silver_baseline, baseline.SILVER, ("silver",), put(parquet_manifest("event_files", 1)), lost)


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
@pytest.mark.parametrize("table", ["delta_customers", "delta_events", "delta_event_log"])
def test_delta_commit(stand: Stand, silver_baseline: Baseline, table: str, lost: Answer | Reset) -> None:
    succeeds(stand, silver_baseline, baseline.SILVER, ("silver",), put(delta_commit(table, 2)), lost)


@pytest.mark.parametrize("lost", LOST_BY_CATALOG.values(), ids=LOST_BY_CATALOG)
@pytest.mark.parametrize("table", ["silver.customers", "silver.events", "silver.event_log", "quarantine.events"])
def test_silver_commit(stand: Stand, silver_baseline: Baseline, table: str, lost: Answer | Reset) -> None:
    succeeds(stand, silver_baseline, baseline.SILVER, ("silver",), swap(table), lost)


@pytest.mark.parametrize("lost", LOST_BY_CATALOG.values(), ids=LOST_BY_CATALOG)
@pytest.mark.parametrize("table", ["gold.daily_customers", "gold.products"])
def test_gold_commit(stand: Stand, gold_baseline: Baseline, table: str, lost: Answer | Reset) -> None:
    succeeds(stand, gold_baseline, baseline.GOLD, ("gold",), swap(table), lost)


def test_upload(stand: Stand, silver_baseline: Baseline) -> None:
    """An upload is simply made again."""
    matches = put(iceberg_file("silver.events"))
    succeeds(stand, silver_baseline, baseline.SILVER, ("silver",), matches, LOST["503"])
