"""A year of recorded prices, one uploaded file per day, through deploy/crypto-history.yaml."""

import pytest
from support import history, manifests, readers
from support.lakehouse import Lakehouse

FIRST, LAST = "2020-01-01", "2020-12-31"
MANIFEST = manifests.DEPLOY / "crypto-history.yaml"
# Generous: a machine that compiles at the same time took 270 s.
LONGEST_SECONDS = 900.0


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Lakehouse:
    """The lake after 366 daily runs by one command."""
    lake = Lakehouse(tmp_path_factory.mktemp("history") / "lake")
    history.land(lake.folder, FIRST, LAST)
    lake.run(MANIFEST, span=(FIRST, LAST), timeout=LONGEST_SECONDS)
    return lake


@pytest.mark.parametrize(
    "table", ["silver.history_coins", "silver.price_history", "gold.market_history", "gold.price_trends"]
)
def test_a_year_is_exact(year: Lakehouse, table: str) -> None:
    expected = history.tables(FIRST, LAST)[table]
    assert readers.without(year.rows(table), {"processed_at"}) == expected
    assert readers.without(readers.duckdb_rows(year.catalog(), table), {"processed_at"}) == expected


def test_what_does_not_fit_is_in_quarantine(year: Lakehouse) -> None:
    expected = history.quarantined(FIRST, LAST)
    kept = year.rows("quarantine.price_history") if "quarantine.price_history" in year.tables() else []
    assert len(kept) == len(expected)
    reports = year.reports("silver")
    assert len(reports) == 366
    read = sum(
        table["rowsRead"] for report in reports for table in report["tables"] if table["name"] == "silver.price_history"
    )
    assert read == len(history.records(FIRST, LAST))


def test_a_day_that_comes_again_corrected_replaces_its_rows(year: Lakehouse) -> None:
    """Runs last: it changes the lake."""
    day, path = "2020-07-01", year.folder / "landing" / "history" / "2020-07-01.csv"
    before = {row["coin_id"]: row for row in year.rows("silver.price_history") if row["day"].isoformat() == day}
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *lines[:-1]]))
    outcome = year.command(*year.run_arguments(MANIFEST, interval=day), "--again")
    assert outcome.status == 0, outcome.text
    rows = {row["coin_id"]: row for row in year.rows("silver.price_history") if row["day"].isoformat() == day}
    gone = lines[-1].split(",")[1]
    when = {"processed_at"}
    assert readers.without(list(rows.values()), when) == readers.without(
        [row for coin, row in before.items() if coin != gone], when
    )
    (market,) = [row for row in year.rows("gold.market_history") if row["day"].isoformat() == day]
    assert market["coins"] == len(before) - 1
