"""Months of recorded prices, one uploaded file per day, through deploy/crypto-history.yaml; a whole year with LAKEHOUSE_SOAK."""

import os

import pytest
from support import history, manifests, readers
from support.lakehouse import Lakehouse

FIRST = "2020-01-01"
# Over a leap day in any case.
LAST = "2020-12-31" if os.environ.get("LAKEHOUSE_SOAK", "") not in ("", "0") else "2020-04-30"
MANIFEST = manifests.DEPLOY / "crypto-history.yaml"
# Generous: a machine that compiles at the same time took 270 s.
LONGEST_SECONDS = 900.0


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> Lakehouse:
    """The lake after a daily run for each of them by one command."""
    lake = Lakehouse(tmp_path_factory.mktemp("history") / "lake")
    history.land(lake.folder, FIRST, LAST)
    lake.run(MANIFEST, span=(FIRST, LAST), timeout=LONGEST_SECONDS)
    return lake


@pytest.mark.parametrize(
    "table", ["silver.history_coins", "silver.price_history", "gold.market_history", "gold.price_trends"]
)
def test_every_day_is_exact(months: Lakehouse, table: str) -> None:
    expected = history.tables(FIRST, LAST)[table]
    assert readers.without(months.rows(table), {"processed_at"}) == expected
    assert readers.without(readers.duckdb_rows(months.catalog(), table), {"processed_at"}) == expected


def test_what_does_not_fit_is_in_quarantine(months: Lakehouse) -> None:
    expected = history.quarantined(FIRST, LAST)
    kept = months.rows("quarantine.price_history") if "quarantine.price_history" in months.tables() else []
    assert len(kept) == len(expected)
    reports = months.reports("silver")
    assert len(reports) == len(list(history.days(FIRST, LAST)))
    read = sum(
        table["rowsRead"] for report in reports for table in report["tables"] if table["name"] == "silver.price_history"
    )
    assert read == len(history.records(FIRST, LAST))


def test_a_day_that_comes_again_corrected_replaces_its_rows(months: Lakehouse) -> None:
    """Runs last: it changes the lake."""
    day, path = "2020-03-01", months.folder / "landing" / "history" / "2020-03-01.csv"
    before = {row["coin_id"]: row for row in months.rows("silver.price_history") if row["day"].isoformat() == day}
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *lines[:-1]]))
    outcome = months.command(*months.run_arguments(MANIFEST, interval=day), "--again")
    assert outcome.status == 0, outcome.text
    rows = {row["coin_id"]: row for row in months.rows("silver.price_history") if row["day"].isoformat() == day}
    gone = lines[-1].split(",")[1]
    when = {"processed_at"}
    assert readers.without(list(rows.values()), when) == readers.without(
        [row for coin, row in before.items() if coin != gone], when
    )
    (market,) = [row for row in months.rows("gold.market_history") if row["day"].isoformat() == day]
    assert market["coins"] == len(before) - 1
