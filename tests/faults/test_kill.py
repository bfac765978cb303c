"""A job that is killed at any point, and a second attempt: the outcome is that of a run that nobody disturbed."""

import pytest
from faults import baseline, specs
from faults.baseline import Baseline
from faults.points import (
    Point,
    commit,
    creation,
    delta_commit,
    delta_file,
    iceberg_file,
    parquet_file,
    parquet_manifest,
    put,
    reading,
    reported,
    swap,
    upload,
)
from faults.stand import Spec, Stand
from support.proxy import Spot

PART = r"/dt=2024-03-02/.*/part-\d+"
MANIFEST = r"/_manifests/dt=2024-03-02/"

INGEST_POINTS = [
    reading("landing", rf"^/landing/[^/]+/{specs.LANDED_FILE}$"),
    *upload("part-of-events", f"/events{PART}", "partNumber=1"),
    *upload("beats", f"/beats{PART}"),
    *upload("orders", f"/orders{PART}"),
    *commit("manifest", put(MANIFEST), "events"),
    reported("ingest"),
]

SILVER_POINTS = [
    reading("bronze", f"/events{PART}"),
    *upload("appended", iceberg_file("silver.event_log")),
    *upload("merged", iceberg_file("silver.customers")),
    *upload("quarantined", iceberg_file("quarantine.events")),
    *upload("parquet", parquet_file("event_files")),
    *commit("merge", swap("silver.customers"), "silver.customers"),
    *commit("replaceInterval", swap("silver.events"), "silver.events"),
    *commit("append", swap("silver.event_log"), "silver.event_log"),
    *commit("quarantine", swap("quarantine.events")),
    *commit("parquet-creation", put(parquet_manifest("event_files", 0))),
    *commit("parquet", put(parquet_manifest("event_files", 1)), "silver.event_files"),
    *upload("delta-appended", delta_file("delta_event_log")),
    *commit("delta-merge", put(delta_commit("delta_customers", 2)), "silver.delta_customers"),
    *commit("delta-replaceInterval", put(delta_commit("delta_events", 2)), "silver.delta_events"),
    *commit("delta-append", put(delta_commit("delta_event_log", 2)), "silver.delta_event_log"),
    *commit("audit", swap("silver.audited")),
    *commit("publication", swap("silver.audited"), "silver.audited", after=1),
    *commit("delta-audited", put(delta_commit("delta_audited", 2)), "silver.delta_audited"),
    *commit("results", swap("quality.results")),
    reported("silver"),
]

GOLD_POINTS = [
    reading("silver", iceberg_file("silver.events")),
    *upload("replaceInterval", iceberg_file("gold.daily_customers")),
    *commit("merge", swap("gold.best_customers"), "gold.best_customers"),
    *commit("replaceInterval", swap("gold.daily_customers"), "gold.daily_customers"),
    *commit("overwrite", swap("gold.products"), "gold.products"),
    reported("gold"),
]


def killed_then_repeated(stand: Stand, base: Baseline, spec: Spec, own: tuple[str, ...], point: Point) -> None:
    stage = next(iter(spec["work"]))
    lake = stand.lake(f"{stage}_kill", base.before, own)
    stand.kill_at(lake, spec, point)
    # As time would do; what a dead holder costs is tested below.
    lake.expire_leases()
    report = stand.run(lake, specs.attempt(spec, 2))
    base.verify(lake, report)
    if point.table:
        already = {table["name"]: table["alreadyCommitted"] for table in report["tables"]}
        assert already[point.table] == point.committed


@pytest.mark.parametrize("point", INGEST_POINTS, ids=str)
def test_ingest(stand: Stand, ingest_baseline: Baseline, point: Point) -> None:
    killed_then_repeated(stand, ingest_baseline, baseline.INGEST, ("bronze",), point)


@pytest.mark.parametrize("point", SILVER_POINTS, ids=str)
def test_silver(stand: Stand, silver_baseline: Baseline, point: Point) -> None:
    killed_then_repeated(stand, silver_baseline, baseline.SILVER, ("silver",), point)


@pytest.mark.parametrize("point", GOLD_POINTS, ids=str)
def test_gold(stand: Stand, gold_baseline: Baseline, point: Point) -> None:
    killed_then_repeated(stand, gold_baseline, baseline.GOLD, ("gold",), point)


CREATIONS = [
    *commit("silver", creation("silver.events")),
    *commit("quarantine", creation("quarantine.events")),
    *commit("delta", put(delta_commit("delta_events", 0))),
]


@pytest.mark.parametrize("point", CREATIONS, ids=str)
def test_creating_tables(stand: Stand, first_silver_baseline: Baseline, point: Point) -> None:
    """The first run of all, in which the tables do not exist yet."""
    killed_then_repeated(stand, first_silver_baseline, baseline.FIRST_SILVER, ("silver",), point)


def test_the_lease_of_a_killed_merge_ends_with_its_time(stand: Stand, silver_baseline: Baseline) -> None:
    lake = stand.lake("silver_lease", silver_baseline.before, ("silver",))
    point = Point("merging", swap("silver.customers"), Spot.REQUESTED)
    stand.kill_at(lake, baseline.SILVER, point)
    # Those of tables that are audited before they are published are held from the audit on.
    assert "table:silver.customers" in lake.leases()
    report = stand.run(lake, specs.attempt(baseline.SILVER, 2))
    silver_baseline.verify(lake, report)
