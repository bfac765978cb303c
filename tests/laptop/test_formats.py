"""Every sample of deploy/ with all its tables in Iceberg, and with all in Delta: other people's readers find equal rows."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import checks, manifests, pages, readers
from support.coincap import recordings
from support.lakehouse import Lakehouse
from support.manifests import Document
from support.pages import PageServer
from support.replay import ReplayServer

OF_THE_RUN = {"processed_at", "captured_at", "object"}
"""Columns that name the run, and differ between two runs of the same."""
DAYS = {
    "crypto.yaml": ["2024-03-01", "2024-03-02"],
    "shop.yaml": ["2024-03-01", "2024-03-02"],
    "sensors.yaml": ["2024-05-01", "2024-05-02"],
    "pulse.yaml": ["2024-05-01", "2024-05-02"],
    "scrape.yaml": ["2024-05-01", "2024-05-02"],
    "uploads.yaml": ["2024-05-01", "2024-05-02"],
}
WITH_QUARANTINE = {"shop.yaml", "sensors.yaml", "uploads.yaml"}


def in_format(sample: str, form: str) -> Document:
    """The pipeline of a sample with tables of one format."""
    pipeline = manifests.in_format(manifests.sample_pipeline(sample), form)
    for source in pipeline["spec"]["ingest"]:
        if "scrape" in source:
            # The server of the test may be asked for any day, and as fast as we like.
            source["scrape"] |= {"history": "byInterval", "requestInterval": "0s"}
    return pipeline


def sources(sample: str, days: Sequence[str], folders: Sequence[Path], servers: ExitStack) -> list[Document]:
    """The connections of a sample, each answered on this machine for any day, and its files where it looks for them."""
    match sample:
        case "crypto.yaml":
            bodies = [recording.body for recording in recordings().values()]
            replay = servers.enter_context(ReplayServer(answers=dict(zip(days, bodies[-2:], strict=True))))
            return [manifests.archive("coincap", replay.url)]
        case "scrape.yaml":
            paths = {"/index.html": "books_listing_scrapy.html", "/": "quotes_listing_scrapy.html"}
            last = {
                path: pages.recorded(name).replace(b'class="next"', b'class="last"') for path, name in paths.items()
            }
            url = servers.enter_context(PageServer(last)).url
            return [{"name": name, "baseUrl": url} for name in ("books", "quotes")]
        case "uploads.yaml":
            for folder in folders:
                checks.land(folder, days)
    return []


class Pair:
    """A sample in Iceberg and in Delta, run for the same days; the later one first."""

    def __init__(self, sample: str, folder: Path, servers: ExitStack) -> None:
        self.sample, self.days, self.pipeline = sample, DAYS[sample], in_format(sample, "delta")
        self.iceberg, self.delta = Lakehouse(folder / "iceberg"), Lakehouse(folder / "delta")
        place = manifests.lakehouse(
            sources(sample, self.days, [self.iceberg.folder, self.delta.folder], servers),
        )
        iceberg_manifest = manifests.write(folder / "iceberg.yaml", place, in_format(sample, "iceberg"))
        self.delta_manifest = manifests.write(folder / "delta.yaml", place, self.pipeline)
        for day in reversed(self.days):
            self.iceberg.run(iceberg_manifest, interval=day)
            self.delta.run(self.delta_manifest, interval=day)

    def location(self, table: str) -> Path:
        layer, _, name = table.partition(".")
        return self.delta.folder / (f"silver/_quarantine/{name}" if layer == "quarantine" else f"{layer}/{name}")

    def names(self) -> list[str]:
        """The tables that the runs made, those of the quarantine included."""
        return sorted(self.iceberg.tables())


@pytest.fixture(scope="module", params=DAYS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    sample: str = request.param
    with ExitStack() as servers:
        yield Pair(sample, tmp_path_factory.mktemp(sample.removesuffix(".yaml")), servers)


def test_other_readers_find_equal_rows_in_both_formats(pair: Pair) -> None:
    names = pair.names()
    made = {name for name, _ in manifests.tables(pair.pipeline)}
    assert made <= set(names)
    assert (made < set(names)) == (pair.sample in WITH_QUARANTINE)
    assert pair.delta.tables() == set(), "nothing in the Iceberg catalog"
    for name in names:
        expected = readers.without(pair.iceberg.rows(name), OF_THE_RUN)
        assert expected, name
        duckdb = readers.without(readers.duckdb_rows(pair.iceberg.catalog(), name), OF_THE_RUN)
        assert duckdb == expected, f"{name} in Iceberg by DuckDB"
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
    """Version 1 is the later day alone, for tables that replace an interval; what looks back at the earlier day is computed again."""
    replaced = [
        name
        for name, table in manifests.tables(pair.pipeline)
        if "replaceInterval" in table["write"] and "lookback" not in table
    ]
    assert replaced
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
    pipeline = in_format("shop.yaml", "delta")
    pipeline["spec"]["silver"][0]["table"]["partitionBy"] = ["day(ts)"]
    bad = manifests.write(tmp_path / "bad.yaml", *manifests.sample("lakehouse.yaml"), pipeline)
    refused = Lakehouse(tmp_path / "lake").validate(bad)
    assert refused.status != 0
    assert "spec.silver[0].table" in refused.text
    assert "delta tables are partitioned by columns as they are, not by transforms" in refused.text
