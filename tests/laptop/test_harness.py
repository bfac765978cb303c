"""The harness itself: readers lose no digit, services answer, recordings come back byte for byte."""

import json
import urllib.error
import urllib.request
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from support import readers
from support.coincap import recordings
from support.minio import Minio
from support.postgres import Postgres
from support.replay import Answer, ReplayServer

ROWS = [
    {"at": datetime(2024, 1, 1, tzinfo=UTC), "id": "a", "price": Decimal("1234567890123456789012.1234567890123456")},
    {"at": None, "id": "b", "price": None},
]


def write_table(catalog: SqlCatalog) -> None:
    """A table with rows that a careless reader would change."""
    schema = pa.schema(
        [("id", pa.string()), ("at", pa.timestamp("us", tz="UTC")), ("price", pa.decimal128(38, 16))],
    )
    catalog.create_namespace_if_not_exists("harness")
    catalog.create_table("harness.t", schema).append(pa.Table.from_pylist(list(reversed(ROWS)), schema))


def test_both_readers_read_a_local_table_exactly(tmp_path: Path) -> None:
    properties = {"uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": f"file://{tmp_path}"}
    write_table(SqlCatalog(readers.CATALOG, **properties))
    catalog = readers.sqlite_catalog(tmp_path)
    assert readers.pyiceberg_rows(catalog, "harness.t") == ROWS
    assert readers.duckdb_rows(catalog, "harness.t") == ROWS
    assert readers.parquet_rows(list(tmp_path.rglob("*.parquet"))) == ROWS


def test_pyiceberg_reads_through_postgres_and_minio(minio: Minio, postgres: Postgres) -> None:
    properties = {**minio.properties(), "warehouse": "s3://silver/harness"}
    catalog = readers.postgres_catalog(postgres.pyiceberg_uri, properties)
    catalog.create_tables()
    write_table(catalog)
    assert readers.pyiceberg_rows(catalog, "harness.t") == ROWS
    assert minio.files().glob("silver/harness/**/*.parquet")
    catalog.drop_table("harness.t")


def fetch(url: str) -> tuple[int, bytes]:
    """Status and body of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_recording_comes_back_byte_for_byte(replay: ReplayServer) -> None:
    for date, recording in recordings().items():
        assert fetch(f"{replay.url}/v3/assets?limit=20&at={date}T00:00:00Z") == (200, recording.body)
        quoted = datetime.fromtimestamp(json.loads(recording.body)["timestamp"] / 1000, UTC)
        assert quoted.date().isoformat() == date
    assert replay.times() == [f"{date}T00:00:00Z" for date in recordings()]
    assert fetch(f"{replay.url}/v3/assets?at=1999-01-01T00:00:00Z")[0] == 404


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (Answer(503, b"down"), 503, b"down"),
        (Answer(200, b"nonsense"), 200, b"nonsense"),
        (Answer(429, headers={"Retry-After": "1"}), 429, None),
    ],
)
def test_a_scripted_answer_is_given_once(replay: ReplayServer, answer: Answer, status: int, body: bytes | None) -> None:
    recorded = recordings()["2024-06-22"].body
    replay.answer(answer)
    url = f"{replay.url}/v3/assets?at=2024-06-22T00:00:00Z"
    assert fetch(url) == (status, recorded if body is None else body)
    assert fetch(url) == (200, recorded)


def test_a_body_can_be_cut(replay: ReplayServer) -> None:
    replay.answer(Answer(cut_after=10))
    with pytest.raises(Exception, match="IncompleteRead"):
        fetch(f"{replay.url}/v3/assets?at=2024-06-22T00:00:00Z")
