"""Reads tables with Spark, in one local session, and prints the rows of each as JSON.

Standard input: {"catalog": SQLite file of the Iceberg catalog, "tables": [{"format", "table", "version"}]}. An Iceberg table is a name in the
catalog, which Spark opens as its own JDBC catalog; a Delta table is a folder. Times are given as text in UTC, decimals as text.
Run it with TZ=UTC: Spark makes Python times in the zone of the process.
"""

import json
import os
import sys
from datetime import UTC, date, datetime
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import DataType, DecimalType


def session(catalog: str) -> SparkSession:
    """A session on this machine, with both formats; small, since tables of tests are."""
    settings = {
        "spark.jars": os.environ["LAKEHOUSE_SPARK_JARS"],
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        # The name is part of the catalog's rows.
        "spark.sql.catalog.lakehouse": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.lakehouse.type": "jdbc",
        "spark.sql.catalog.lakehouse.uri": f"jdbc:sqlite:{catalog}",
        "spark.sql.catalog.lakehouse.warehouse": str(Path(catalog).parent),
    }
    builder = SparkSession.builder.master("local[2]").appName("reader")
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def frame(spark: SparkSession, table: dict[str, Any]) -> DataFrame:
    """A table, or a version of it."""
    version = table.get("version")
    if table["format"] == "delta":
        reader = spark.read.format("delta")
        return (reader.option("versionAsOf", version) if version else reader).load(table["table"])
    reader = spark.read.option("snapshot-id", version) if version else spark.read
    return reader.table(f"lakehouse.{table['table']}")


def plain(value: Any, kind: DataType) -> Any:
    """A value as JSON has it. A decimal has the digits of its column: Spark's Python may give it more zeros."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat() if value.tzinfo else value.replace(tzinfo=UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal) and isinstance(kind, DecimalType):
        exact = value.quantize(Decimal(1).scaleb(-kind.scale), context=Context(prec=2 * kind.precision))
        assert exact == value, f"{value} is no {kind}"
        return format(exact, "f")
    return value


def main() -> None:
    """Answers one order."""
    order = json.load(sys.stdin)
    spark = session(order["catalog"])
    spark.sparkContext.setLogLevel("ERROR")
    answer = []
    for table in order["tables"]:
        found = frame(spark, table)
        kinds = {field.name: field.dataType for field in found.schema.fields}
        rows = found.collect()
        answer.append([{name: plain(value, kinds[name]) for name, value in row.asDict().items()} for row in rows])
    spark.stop()
    print(json.dumps(answer))


main()
