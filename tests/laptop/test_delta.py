"""Samples of deploy/ with every table in Delta: the rows of the Iceberg tables, read back by delta-rs and DuckDB."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import manifests, readers
from support.lakehouse import Lakehouse
from support.manifests import Document

OF_THE_RUN = {"processed_at", "object"}
"""Columns that name the run, and differ between two runs of the same."""
DAYS = {"shop.yaml": ["2024-03-01", "2024-03-02"], "sensors.yaml": ["2024-05-01", "2024-05-02"]}


def tables(pipeline: Document) -> Iterator[tuple[str, Document]]:
    """Every table of a pipeline by its name."""
    for layer in ("silver", "gold"):
        for table in pipeline["spec"][layer]:
            yield f"{layer}.{table['name']}", table


def in_delta(sample: str) -> Document:
    """The pipeline of a sample with Delta tables. Partition transforms, which Delta does not have, are left out."""
    pipeline = manifests.sample_pipeline(sample)
    for _, table in tables(pipeline):
        layout = table.setdefault("table", {})
        layout["format"] = "delta"
        if "partitionBy" in layout:
            layout["partitionBy"] = [field for field in layout["partitionBy"] if "(" not in field]
    return pipeline


class Pair:
    """A sample in Iceberg and in Delta, run for the same days; the later one first."""

    def __init__(self, sample: str, folder: Path) -> None:
        self.days, self.pipeline = DAYS[sample], in_delta(sample)
        self.delta_manifest = manifests.write(folder / "delta.yaml", *manifests.sample("lakehouse.yaml"), self.pipeline)
        self.iceberg, self.delta = Lakehouse(folder / "iceberg"), Lakehouse(folder / "delta")
        for day in reversed(self.days):
            self.iceberg.run(manifests.DEPLOY / sample, interval=day)
            self.delta.run(self.delta_manifest, interval=day)

    def location(self, table: str) -> Path:
        layer, _, name = table.partition(".")
        return self.delta.folder / (f"silver/_quarantine/{name}" if layer == "quarantine" else f"{layer}/{name}")

    def names(self) -> list[str]:
        """The tables that the runs made, those of the quarantine included."""
        return sorted(self.iceberg.tables())


@pytest.fixture(scope="module", params=DAYS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    sample: str = request.param
    return Pair(sample, tmp_path_factory.mktemp(sample.removesuffix(".yaml")))


def test_other_readers_find_the_rows_of_the_iceberg_tables(pair: Pair) -> None:
    names = pair.names()
    assert {name for name, _ in tables(pair.pipeline)} < set(names), "and quarantine tables"
    assert pair.delta.tables() == set(), "nothing in the Iceberg catalog"
    for name in names:
        expected = readers.without(pair.iceberg.rows(name), OF_THE_RUN)
        assert expected, name
        location = pair.location(name)
        for reader in (readers.delta_rows, readers.duckdb_delta_rows):
            assert readers.without(reader(location), OF_THE_RUN) == expected, f"{name} by {reader.__name__}"


def test_the_same_days_again_add_no_version(pair: Pair) -> None:
    before = {name: readers.delta_version(pair.location(name)) for name in pair.names()}
    for day in pair.days:
        pair.delta.run(pair.delta_manifest, interval=day)
    assert {name: readers.delta_version(pair.location(name)) for name in pair.names()} == before
    assert all(version >= 1 for version in before.values())


def test_versions_of_the_past_are_read(pair: Pair) -> None:
    """Version 1 is the later day alone, for tables that replace an interval."""
    replaced = [name for name, table in tables(pair.pipeline) if "replaceInterval" in table["write"]]
    for name in replaced:
        location = pair.location(name)
        now, then = readers.delta_rows(location), readers.delta_rows(location, version=1)
        assert 0 < len(then) < len(now)
        assert [row for row in now if row in then] == then


def test_sql_of_the_command_reads_them(pair: Pair) -> None:
    for name in pair.names():
        shown = pair.delta.sql(f"select count(*) as n from {name}").stdout
        assert str(len(pair.iceberg.rows(name))) in shown


def test_a_transform_is_refused_with_the_field(tmp_path: Path) -> None:
    pipeline = in_delta("shop.yaml")
    pipeline["spec"]["silver"][0]["table"]["partitionBy"] = ["day(ts)"]
    bad = manifests.write(tmp_path / "bad.yaml", *manifests.sample("lakehouse.yaml"), pipeline)
    refused = Lakehouse(tmp_path / "lake").validate(bad)
    assert refused.status != 0
    assert "spec.silver[0].table" in refused.text
    assert "delta tables are partitioned by columns as they are, not by transforms" in refused.text
