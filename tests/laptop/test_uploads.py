"""deploy/uploads.yaml as it stands: uploaded files and generated readings, silver in Delta and Iceberg, gold that reads both."""

import pytest
from support import checks, manifests, readers
from support.lakehouse import Lakehouse
from support.readers import Row

DAYS = ["2024-05-01", "2024-05-02", "2024-05-03"]
SAMPLE = manifests.DEPLOY / "uploads.yaml"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lakehouse:
    """Three days, the latest first."""
    lake = Lakehouse(tmp_path_factory.mktemp("uploads") / "lake")
    checks.land(lake.folder, DAYS)
    for day in reversed(DAYS):
        lake.run(SAMPLE, interval=day)
    return lake


def delta(lake: Lakehouse, place: str) -> list[Row]:
    """The rows of a Delta table, which delta-rs and DuckDB must agree on."""
    rows = readers.delta_rows(lake.folder / place)
    assert readers.duckdb_delta_rows(lake.folder / place) == rows
    return rows


def test_silver_is_a_delta_table_and_an_iceberg_table(lake: Lakehouse) -> None:
    assert readers.without(delta(lake, "silver/field_checks"), {"processed_at"}) == checks.expected_checks(DAYS)
    assert lake.tables() == {"silver.station_readings", "gold.calibration"}
    assert readers.duckdb_rows(lake.catalog(), "silver.station_readings") == lake.rows("silver.station_readings")
    assert [row["rule"] for row in delta(lake, "silver/_quarantine/field_checks")] == 3 * ["temperature_is_possible"]


def test_gold_is_computed_from_both(lake: Lakehouse) -> None:
    facts = checks.expected_facts(delta(lake, "silver/field_checks"), lake.rows("silver.station_readings"))
    assert {row["measured"] is None for row in facts} == {True, False}
    assert delta(lake, "gold/fct_checks") == facts
    calibration = checks.expected_calibration(facts, DAYS)
    assert {row["checks"] for row in calibration} == {1, 2, 3}, "the days that ran first were computed again"
    assert lake.rows("gold.calibration") == calibration


def test_a_check_soon_after_midnight_is_held_against_yesterday(lake: Lakehouse) -> None:
    """The reading of 00:00 comes first; without it the one of 23:50 of the day before would count."""
    facts = {(row["device_id"], row["checked_at"].isoformat()[:16]): row for row in delta(lake, "gold/fct_checks")}
    assert facts["d00007", "2024-05-02T00:01"]["measured"] is not None


def test_a_day_without_uploads_is_a_day_without_checks(lake: Lakehouse) -> None:
    lake.run(SAMPLE, interval="2024-05-20")
    assert {row["checked_at"].date().isoformat() for row in delta(lake, "gold/fct_checks")} == set(DAYS)
    assert "2024-05-20" not in {row["day"].isoformat() for row in lake.rows("gold.calibration")}


def test_a_file_that_comes_late_changes_its_day_and_the_week_after_it(lake: Lakehouse) -> None:
    """Runs last: it changes the lake."""
    late = lake.folder / "late.csv"
    late.write_text(f"{checks.HEADER}\nd00009,{DAYS[0]}T12:00:00Z,17.00,edsger\n")
    assert lake.command("upload", late, "--to", f"checks/{DAYS[0]}", "--local", lake.folder).status == 0
    outcome = lake.command(*lake.run_arguments(SAMPLE, interval=DAYS[0]), "--again")
    assert outcome.status == 0, outcome.text
    facts = checks.expected_facts(delta(lake, "silver/field_checks"), lake.rows("silver.station_readings"))
    assert any(row["technician"] == "edsger" for row in facts)
    assert delta(lake, "gold/fct_checks") == facts
    assert lake.rows("gold.calibration") == checks.expected_calibration(facts, DAYS)
