"""deploy/pulse.yaml: timestamped JSON through an enforced schema to zstd Parquet in silver, read back by DuckDB."""

import json
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from support import manifests, readers
from support.lakehouse import Lakehouse
from support.manifests import sample_pipeline

INTERVALS = {"hourly": "2024-03-01T05", "daily": "2024-03-01", "monthly": "2024-03"}
LENGTHS = {"hourly": timedelta(hours=1), "daily": timedelta(days=1), "monthly": timedelta(days=31)}
DUCKDB_TYPES = {
    "string": "VARCHAR",
    "boolean": "BOOLEAN",
    "int": "INTEGER",
    "long": "BIGINT",
    "double": "DOUBLE",
    "timestamptz": "TIMESTAMP WITH TIME ZONE",
}


@pytest.fixture(scope="module")
def pulse(tmp_path_factory: pytest.TempPathFactory) -> Lakehouse:
    """The sample, run for one interval."""
    lake = Lakehouse(tmp_path_factory.mktemp("pulse") / "lake")
    lake.run(manifests.DEPLOY / "pulse.yaml", interval=INTERVALS[sample_pipeline("pulse.yaml")["spec"]["interval"]])
    return lake


def files(pulse: Lakehouse) -> list[Path]:
    """The data files of the silver table."""
    (table,) = sample_pipeline("pulse.yaml")["spec"]["silver"]
    found = sorted((pulse.folder / "silver" / table["name"]).rglob("*.parquet"))
    assert found
    return found


def test_every_column_chunk_is_zstd(pulse: Lakehouse) -> None:
    with readers.connect_duckdb() as duckdb:
        for file in files(pulse):
            query = "select distinct compression from parquet_metadata(?)"
            assert duckdb.execute(query, [str(file)]).fetchall() == [("ZSTD",)]


def test_the_schema_is_the_declared_one(pulse: Lakehouse) -> None:
    (table,) = sample_pipeline("pulse.yaml")["spec"]["silver"]
    declared = [(column["name"], DUCKDB_TYPES[column["type"]]) for column in table["columns"]]
    required = {column["name"] for column in table["columns"] if column.get("required")} | {"processed_at"}
    with readers.connect_duckdb() as duckdb:
        for file in files(pulse):
            described = duckdb.execute(
                "describe select * from read_parquet(?, hive_partitioning = false)", [str(file)]
            ).fetchall()
            assert [row[:2] for row in described] == [*declared, ("processed_at", "TIMESTAMP WITH TIME ZONE")]
            query = "select name from parquet_schema(?) where repetition_type = 'REQUIRED' and num_children is null"
            assert {name for (name,) in duckdb.execute(query, [str(file)]).fetchall()} >= required


def test_the_rows_are_the_ticks_of_the_interval(pulse: Lakehouse) -> None:
    spec = sample_pipeline("pulse.yaml")["spec"]
    (bronze,) = pulse.bronze()
    records = [json.loads(line) for line in bronze.read_text().splitlines()]
    origins = {column["name"]: column["from"].removeprefix("/") for column in spec["silver"][0]["columns"]}
    times = {column["name"] for column in spec["silver"][0]["columns"] if column["type"] == "timestamptz"}
    expected = [
        {
            name: datetime.fromisoformat(record[origin]) if name in times else record[origin]
            for name, origin in origins.items()
        }
        for record in records
    ]
    rows = readers.without(readers.parquet_rows(files(pulse)), {"processed_at"})
    assert rows == readers.ordered(expected)
    moments = sorted(datetime.fromisoformat(record["ts"]) for record in records)
    steps = {after - before for before, after in pairwise(moments)}
    every = spec["ingest"][0]["pulse"].get("every", "60s")
    assert steps == {timedelta(seconds=int(every[:-1]) * {"s": 1, "m": 60, "h": 3600}[every[-1]])}
    assert len(moments) == LENGTHS[spec["interval"]] / steps.pop()
    assert moments[0].isoformat().startswith(INTERVALS[spec["interval"]])


def test_the_scheduled_heartbeat_runs_its_hours(lake: Lakehouse) -> None:
    for hour in ("2024-03-01T06", "2024-03-01T05"):
        lake.run(manifests.DEPLOY / "heartbeat.yaml", interval=hour)
    moments = sorted(row["ts"] for row in lake.rows("silver.heartbeats"))
    assert len(moments) == 120
    assert moments[-1] - moments[0] == timedelta(hours=2) - timedelta(minutes=1)
