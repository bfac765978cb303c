"""Outside readers of the tables: PyIceberg, delta-rs and DuckDB. All give a sorted list of rows with exact Decimals."""

from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from pyiceberg.catalog.sql import SqlCatalog

Row = dict[str, Any]

CATALOG = "lakehouse"
"""Name of the catalog in the tables that all readers share."""


def sqlite_catalog(folder: Path) -> SqlCatalog:
    """The catalog of a laptop's folder."""
    return SqlCatalog(CATALOG, uri=f"sqlite:///{folder.resolve()}/catalog.db")


def postgres_catalog(uri: str, properties: Mapping[str, str]) -> SqlCatalog:
    """A catalog in Postgres; `uri` as SQLAlchemy takes it, `properties` those of the store."""
    return SqlCatalog(CATALOG, uri=uri, **properties)


def pyiceberg_rows(catalog: SqlCatalog, table: str) -> list[Row]:
    """All rows of `namespace.name`, read by PyIceberg."""
    return arrow_rows(catalog.load_table(table).scan().to_arrow())


def duckdb_rows(catalog: SqlCatalog, table: str) -> list[Row]:
    """All rows of an Iceberg table on local files, read by DuckDB from its metadata file."""
    metadata = catalog.load_table(table).metadata_location.removeprefix("file://")
    with connect_duckdb("avro", "iceberg") as connection:
        return arrow_rows(connection.execute("select * from iceberg_scan(?)", [metadata]).to_arrow_table())


def parquet_rows(paths: Collection[Path]) -> list[Row]:
    """All rows of Parquet files, read by DuckDB."""
    with connect_duckdb() as connection:
        query = "select * from read_parquet(?, hive_partitioning = false)"
        return arrow_rows(connection.execute(query, [[str(path) for path in paths]]).to_arrow_table())


def delta_rows(location: Path, version: int | None = None) -> list[Row]:
    """All rows of a Delta table on local files, read by delta-rs."""
    return arrow_rows(DeltaTable(location, version=version).to_pyarrow_table())


def delta_version(location: Path) -> int:
    """Number of the newest version of a Delta table on local files."""
    return DeltaTable(location).version()


def duckdb_delta_rows(location: Path) -> list[Row]:
    """All rows of a Delta table on local files, read by DuckDB."""
    with connect_duckdb("delta") as connection:
        return arrow_rows(connection.execute("select * from delta_scan(?)", [str(location)]).to_arrow_table())


def connect_duckdb(*extensions: str) -> duckdb.DuckDBPyConnection:
    """DuckDB in UTC with extensions from PyPI; nothing is fetched while tests run."""
    connection = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
    connection.execute("set TimeZone = 'UTC'")
    for name in extensions:
        package = files(f"duckdb_extension_{name}")
        path = next(Path(str(package)).rglob(f"{name}.duckdb_extension"))
        connection.load_extension(str(path))
    return connection


def arrow_rows(table: pa.Table) -> list[Row]:
    """The rows of an arrow table, sorted."""
    return ordered([{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()])


def without(rows: Collection[Row], columns: Collection[str]) -> list[Row]:
    """The rows less some columns, sorted."""
    return ordered([{name: value for name, value in row.items() if name not in columns} for row in rows])


def ordered(rows: Collection[Row]) -> list[Row]:
    """The rows sorted by all their columns, in the order of the columns' names; null comes last."""
    return sorted(rows, key=lambda row: [(row[name] is None, row[name] or 0) for name in sorted(row)])


def _plain(value: Any) -> Any:
    """Times in UTC, whichever class of zone the reader uses."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    assert value is None or isinstance(value, str | int | float | bool | date | Decimal), value
    return value
