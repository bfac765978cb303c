"""Spark reads the tables of samples: the rows that PyIceberg and delta-rs find, in Iceberg through the catalog, in Delta by folder."""

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import manifests, orders, readers, spark
from support.lakehouse import Lakehouse
from support.manifests import Document
from support.readers import Row

SAMPLES = {"sensors.yaml": ["2024-05-01", "2024-10-01"], "shop.yaml": ["2024-03-01", "2024-03-02"]}


def in_delta(sample: str) -> Document:
    """The pipeline of a sample with all tables in Delta; partition transforms, which Delta does not have, are left out."""
    pipeline = manifests.sample_pipeline(sample)
    for table in (*pipeline["spec"]["silver"], *pipeline["spec"]["gold"]):
        layout = table.setdefault("table", {})
        layout["format"] = "delta"
        layout["partitionBy"] = [field for field in layout.get("partitionBy", []) if "(" not in field]
    return pipeline


def shown(value: Any) -> Any:
    """A value as Spark's rows have it in JSON."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    return format(value, "f") if isinstance(value, Decimal) else value


def ordered(rows: list[Row]) -> list[Row]:
    return readers.ordered([{name: shown(value) for name, value in row.items()} for row in rows])


@pytest.mark.skipif(bool(spark.missing()), reason=f"Spark needs {spark.missing()}, which this machine does not have")
def test_spark_reads_every_table_of_the_samples(tmp_path: Path) -> None:
    """Samples in both formats, and the orders with the history of their customers; half of the days lie in maintained tables."""
    iceberg, delta = Lakehouse(tmp_path / "iceberg"), Lakehouse(tmp_path / "delta")
    orders.land(iceberg.folder)
    history = manifests.write(tmp_path / "orders.yaml", manifests.lakehouse(), orders.definition())
    for day in orders.DAYS:
        iceberg.run(history, interval=day)
    for sample, days in SAMPLES.items():
        document = manifests.write(tmp_path / sample, *manifests.sample("lakehouse.yaml"), in_delta(sample))
        for lake, manifest in ((iceberg, manifests.DEPLOY / sample), (delta, document)):
            for day in days:
                lake.run(manifest, interval=day)
            lake.run(manifest, interval=days[-1], stages=["maintenance"])
    asked: list[spark.Asked] = []
    expected: list[list[Row]] = []
    for name in sorted(iceberg.tables()):
        asked.append(spark.Asked("iceberg", name))
        expected.append(ordered(iceberg.rows(name)))
    for folder in sorted(log.parent for log in tmp_path.rglob("_delta_log")):
        for version in (None, "1"):
            asked.append(spark.Asked("delta", str(folder), version))
            expected.append(ordered(readers.delta_rows(folder, version=int(version) if version else None)))
    assert len(asked) > 30
    answer = spark.read(iceberg.folder / "catalog.db", asked)
    for table, found, rows in zip(asked, answer, expected, strict=True):
        assert readers.ordered(found) == rows, table
