"""Every recorded CoinCap answer through deploy/crypto.yaml for its own date: exactly what the raw JSON says, for two readers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import crypto_reference, manifests, readers
from support.coincap import recordings
from support.crypto_reference import TABLES
from support.lakehouse import Lakehouse
from support.readers import Row
from support.replay import ReplayServer

# When a row was made, not what it is.
WHEN = {"processed_at", "captured_at"}
# The same answers as if they had come on days in a row, so that averages have more than one day in them.
IN_A_ROW = ("2024-02-26", "2024-02-27", "2024-02-28", "2024-02-29", "2024-03-02", "2024-03-06")


@dataclass(frozen=True)
class Ran:
    """A lake after all runs, with what was answered and asked."""

    lake: Lakehouse
    answers: Mapping[str, bytes]
    expected: Mapping[str, list[Row]]
    asked: list[str]
    began: datetime


def run_all(folder: Path, answers: Mapping[str, bytes]) -> Ran:
    """One run per date, in order."""
    began, lake = datetime.now(UTC), Lakehouse(folder / "lake")
    with ReplayServer(answers=dict(answers)) as replay:
        lakehouse = manifests.lakehouse([manifests.archive("coincap", replay.url)])
        manifest = manifests.write(folder / "crypto.yaml", lakehouse, *manifests.sample("crypto.yaml"))
        for date in answers:
            lake.run(manifest, interval=date)
        return Ran(lake, answers, crypto_reference.tables(answers), replay.times(), began)


@pytest.fixture(scope="module")
def own_dates(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Each recording on its own date."""
    answers = {date: recording.body for date, recording in recordings().items()}
    return run_all(tmp_path_factory.mktemp("own-dates"), answers)


@pytest.fixture(scope="module")
def in_a_row(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """The recordings on neighbouring dates, with days missing between."""
    bodies = [recording.body for recording in recordings().values()]
    yield run_all(tmp_path_factory.mktemp("in-a-row"), dict(zip(IN_A_ROW, bodies, strict=True)))


@pytest.fixture(params=["own_dates", "in_a_row"])
def ran(request: pytest.FixtureRequest) -> Ran:
    """Both."""
    found: Ran = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("table", TABLES)
def test_pyiceberg_reads_what_the_raw_answers_say(ran: Ran, table: str) -> None:
    assert readers.without(ran.lake.rows(table), WHEN) == ran.expected[table]


@pytest.mark.parametrize("table", TABLES)
def test_duckdb_reads_what_the_raw_answers_say(ran: Ran, table: str) -> None:
    assert readers.without(readers.duckdb_rows(ran.lake.catalog(), table), WHEN) == ran.expected[table]


def test_bronze_is_the_answer_byte_for_byte(ran: Ran) -> None:
    stored = {path.parent.parent.name: path.read_bytes() for path in ran.lake.bronze("crypto/assets/dt=*/run=*/part-*")}
    assert stored == {f"dt={date}": body for date, body in ran.answers.items()}
    assert ran.asked == [f"{date}T00:00:00Z" for date in ran.answers]


def test_no_record_was_left_aside(ran: Ran) -> None:
    for report in ran.lake.reports("silver"):
        for table in report["tables"]:
            assert table["rowsRead"] == table["rowsWritten"] + table["rowsDeduplicated"]
            assert table["rowsQuarantined"] == table["rowsDropped"] == 0
    assert len(ran.lake.reports("silver")) == len(ran.answers)


def test_rows_say_when_they_were_fetched_and_processed(ran: Ran) -> None:
    now = datetime.now(UTC)
    for row in ran.lake.rows("silver.price_snapshots"):
        assert ran.began <= row["processed_at"] <= row["captured_at"] <= now


def test_the_reference_has_windows_of_several_days(in_a_row: Ran) -> None:
    """Guards the test: averages over one day would prove nothing."""
    assert {row["days"] for row in in_a_row.expected["gold.rolling_averages"]} >= {1, 2, 3, 4, 5}
    changes = [row["places_gained"] for row in in_a_row.expected["gold.day_over_day"]]
    assert None in changes and len({change for change in changes if change is not None}) > 2


def test_the_types_are_the_stated_ones(own_dates: Ran) -> None:
    catalog = own_dates.lake.catalog()
    types = {
        table: {field.name: str(field.field_type) for field in catalog.load_table(table).schema().fields}
        for table in TABLES
    }
    assert types["silver.price_snapshots"]["price_usd"] == "decimal(38, 16)"
    assert types["silver.price_snapshots"]["snapshot_at"] == "timestamptz"
    assert types["gold.rolling_averages"]["avg_price_7d"] == "decimal(38, 20)"
    assert types["gold.daily_summary"]["avg_price"] == "decimal(38, 20)"
    assert types["gold.rankings"]["market_cap_rank"] == "long"
