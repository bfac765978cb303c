"""Reads a table with readers that share no code with the writer, and prints its rows as JSON.

usage: readers.py pyiceberg CATALOG_URI NAMESPACE.TABLE [PROPERTIES_JSON [SNAPSHOT]]
       readers.py duckdb METADATA_LOCATION
       readers.py duckdb-parquet FOLDER
       readers.py delta-rs LOCATION [VERSION [OPTIONS_JSON]]
       readers.py duckdb-delta FOLDER
"""

import datetime
import decimal
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

Row = tuple[Any, ...]


def show(value: Any) -> str:
    """A value as DataFusion prints it."""
    if value is None:
        return "null"
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    return str(value)


def from_pyiceberg(uri: str, name: str, properties: str, snapshot: int | None) -> list[Row]:
    from pyiceberg.catalog.sql import SqlCatalog

    options = {
        "uri": uri,
        "warehouse": "unused",
        "py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO",
        "init_catalog_tables": "false",
    }
    options.update(json.loads(properties))
    table = SqlCatalog("lakehouse", **options).load_table(name)
    rows = table.scan(snapshot_id=snapshot).to_arrow().select(["id", "at", "price", "region"]).to_pylist()
    print(table.metadata_location, file=sys.stderr)
    return [tuple(row.values()) for row in rows]


def duckdb_connection() -> Any:
    import duckdb

    connection = duckdb.connect()
    for extension in ("avro", "httpfs", "iceberg", "delta"):
        package = importlib.import_module(f"duckdb_extension_{extension}")
        found = Path(package.__path__[0]).glob(f"extensions/*/{extension}.duckdb_extension")
        connection.load_extension(str(next(found)))
    return connection


# As text: DuckDB's Python needs another package for times with a zone.
DUCKDB_COLUMNS = "id, strftime(\"at\" AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%SZ'), price, region"


def from_duckdb(location: str) -> list[Row]:
    # DuckDB takes local paths, not file URIs.
    path = location.removeprefix("file://").replace("'", "''")
    return duckdb_connection().execute(f"SELECT {DUCKDB_COLUMNS} FROM iceberg_scan('{path}')").fetchall()


def from_duckdb_parquet(folder: str) -> list[Row]:
    path = folder.replace("'", "''")
    query = f"SELECT {DUCKDB_COLUMNS} FROM read_parquet('{path}/**/*.parquet', hive_types = {{'region': VARCHAR}})"
    return duckdb_connection().execute(query).fetchall()


def from_delta_rs(location: str, version: str, options: str) -> list[Row]:
    from deltalake import DeltaTable

    at = int(version) if version else None
    table = DeltaTable(location, version=at, storage_options=json.loads(options))
    return [tuple(row.values()) for row in table.to_pyarrow_table(columns=["id", "at", "price", "region"]).to_pylist()]


def from_duckdb_delta(folder: str) -> list[Row]:
    path = folder.replace("'", "''")
    return duckdb_connection().execute(f"SELECT {DUCKDB_COLUMNS} FROM delta_scan('{path}')").fetchall()


def main(arguments: list[str]) -> None:
    reader, *rest = arguments
    if reader == "pyiceberg":
        snapshot = int(rest[3]) if len(rest) > 3 else None
        rows = from_pyiceberg(rest[0], rest[1], rest[2] if len(rest) > 2 else "{}", snapshot)
    elif reader == "duckdb":
        rows = from_duckdb(*rest)
    elif reader == "duckdb-parquet":
        rows = from_duckdb_parquet(*rest)
    elif reader == "delta-rs":
        rows = from_delta_rs(rest[0], rest[1] if len(rest) > 1 else "", rest[2] if len(rest) > 2 else "{}")
    elif reader == "duckdb-delta":
        rows = from_duckdb_delta(*rest)
    else:
        sys.exit(__doc__)
    print(json.dumps(sorted(" | ".join(show(value) for value in row) for row in rows)), flush=True)
    # Threads that read ahead for a dataset may outlive it; the interpreter's own end would abort at them.
    sys.stderr.flush()
    os._exit(0)


main(sys.argv[1:])
sys.stdout.flush()
# Arrow's threads may still let go of files that are Python objects: one that does so while the interpreter ends takes the process down.
os._exit(0)
