"""The Parquet files of tables as readers with other code see them: texts in every encoding, statistics, Bloom filters."""

import json
from collections.abc import Collection, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from support import manifests, readers
from support.lakehouse import Json, Lakehouse
from support.manifests import column
from support.readers import Row

DAYS = ["2024-03-01", "2024-03-02"]
ROWS = 45_000
"""More than two pages of each column."""

BLOOM = "write.parquet.bloom-filter-enabled.column."


def key(number: int) -> str:
    """A text that no other number has, in no order."""
    return blake2b(str(number).encode(), digest_size=16).hexdigest()


def events(day: str) -> Iterator[Json]:
    """Rows whose columns of text differ in how often values come again, how long they are and how many there are."""
    first = DAYS.index(day) * ROWS
    for number in range(first, first + ROWS):
        yield {
            "id": number,
            "key": key(number),
            "kind": ["click", "view", "", "Kauf für später €"][number % 4],
            "user": f"user {number * 7919 % 1_201}",
            "seldom": f"seldom {number % 3}" if number % 997 == 5 else None,
            "late": f"late {number * 7919 % 30_011}" if number % ROWS > 30_000 else None,
            "sorted": f"{number // 50:08}",
            "never": None,
            "note": f"{'long ' * 300}{number}" if number % 500 == 0 else "short",
        }


def manifest(lake: Lakehouse, **layout: Any) -> Path:
    """The pipeline, with two days landed."""
    texts = ["key", "kind", "user", "seldom", "late", "sorted", "never", "note"]
    columns = [column("id", "/id", "long", required=True), *(column(name, f"/{name}", "string") for name in texts)]
    table = {"name": "events", "from": "events", "table": layout, "write": {"append": {}}, "columns": columns}
    source = manifests.landed("events", "events/{{ interval.date }}.ndjson", "ndjson")
    pipeline = manifests.pipeline("events", [source], [table], maintenance={})
    folder = lake.folder / "landing" / "events"
    folder.mkdir(parents=True, exist_ok=True)
    for day in DAYS:
        (folder / f"{day}.ndjson").write_text("".join(json.dumps(event) + "\n" for event in events(day)))
    return manifests.write(lake.folder / "events.yaml", manifests.lakehouse(), pipeline)


def live(lake: Lakehouse) -> list[Path]:
    """The files of the table's newest snapshot."""
    tasks = lake.catalog().load_table("silver.events").scan().plan_files()
    return [Path(task.file.file_path.removeprefix("file://")) for task in tasks]


def own(rows: Collection[Row]) -> list[Row]:
    """Rows in order, without what silver adds to them."""
    return readers.without(rows, ["processed_at"])


def encodings(path: Path, name: str) -> set[str]:
    """The encodings of a column, in all row groups of a file."""
    file = pq.ParquetFile(path)
    place = file.schema_arrow.get_field_index(name)
    groups = range(file.metadata.num_row_groups)
    return {encoding for group in groups for encoding in file.metadata.row_group(group).column(place).encodings}


def excluded(path: Path, name: str, value: str) -> list[bool]:
    """Per row group with a filter on the column, whether the filter says that the value is not there; by DuckDB."""
    with readers.connect_duckdb() as connection:
        query = "select bloom_filter_excludes from parquet_bloom_probe(?, ?, ?)"
        return [answer for (answer,) in connection.execute(query, [str(path), name, value]).fetchall()]


def filtered(path: Path) -> set[str]:
    """Columns with a Bloom filter in every row group; by DuckDB."""
    with readers.connect_duckdb() as connection:
        query = "select path_in_schema from parquet_metadata(?) group by all having bool_and(bloom_filter_offset is not null)"
        return {name for (name,) in connection.execute(query, [str(path)]).fetchall()}


def test_readers_see_the_texts_that_were_written_and_filters_that_were_asked_for(lake: Lakehouse) -> None:
    definition = manifest(lake)
    lake.run(definition, interval=DAYS[0])
    first = live(lake)
    expected = readers.ordered(list(events(DAYS[0])))
    assert own(readers.pyiceberg_rows(lake.catalog(), "silver.events")) == expected
    assert own(readers.duckdb_rows(lake.catalog(), "silver.events")) == expected
    assert own(readers.parquet_rows(first)) == expected
    for path in first:
        assert "RLE_DICTIONARY" in encodings(path, "kind") & encodings(path, "user") & encodings(path, "sorted")
        assert "RLE_DICTIONARY" not in encodings(path, "key"), "a dictionary of keys would only cost"
        assert filtered(path) == set(), "nobody asked for one"
    # Readers that skip what statistics and page index tell them to skip find the same rows.
    wanted = [event for event in events(DAYS[0]) if event["user"] == "user 7" and event["sorted"] < "00000300"]
    found = pq.read_table(first, filters=[("user", "=", "user 7"), ("sorted", "<", "00000300")]).to_pylist()
    assert own(found) == readers.ordered(wanted)
    assert wanted, "otherwise the comparison says nothing"

    # The definition asks for a filter, another program for one more in the table's properties; files from now on have both, compacted ones too.
    with lake.catalog().load_table("silver.events").transaction() as transaction:
        transaction.set_properties({BLOOM + "user": "true", BLOOM + "gone": "true"})
    definition = manifest(lake, bloomFilters=["key"])
    lake.run(definition, interval=DAYS[1])
    added = [path for path in live(lake) if path not in first]
    lake.run(definition, interval=DAYS[1], stages=["maintenance"])
    compacted = live(lake)
    assert added and compacted and not set(compacted) & set(added), "the files of both days were put together"
    for path in added + compacted:
        assert filtered(path) == {"key", "user"}
        assert excluded(path, "key", "no such key") != [], path
        assert not any(excluded(path, "user", "user 7"))
    second = [excluded(path, "key", key(number)) for number in range(ROWS, ROWS + 10) for path in compacted]
    assert all(False in answers for answers in second), "a key that is there is never excluded"
    missing = [excluded(path, "key", f"no such key {number}") for number in range(20) for path in compacted]
    assert sum(all(answers) for answers in missing) >= len(missing) * 0.8, (
        "of keys that are not there most are excluded"
    )
    everything = readers.ordered([*events(DAYS[0]), *events(DAYS[1])])
    assert own(readers.pyiceberg_rows(lake.catalog(), "silver.events")) == everything

    # A definition that names it no longer takes its own filter away, and leaves the other program's.
    lake.run(manifest(lake), interval=DAYS[1], stages=["silver"])
    properties = lake.catalog().load_table("silver.events").properties
    assert {name for name in properties if name.startswith(BLOOM)} == {BLOOM + "user", BLOOM + "gone"}
