"""Rows read = written + quarantined + deduplicated + dropped, per table, in every report; and each number is the true one."""

import json
from collections import Counter
from pathlib import Path

import pytest
from support import manifests
from support.lakehouse import Json, Lakehouse
from support.manifests import column, landed, sample_pipeline

DAY = "2024-05-01"
COUNTS = ("rowsWritten", "rowsQuarantined", "rowsDeduplicated", "rowsDropped")


def assert_adds_up(report: Json) -> None:
    """The equation, for every table of a report."""
    assert report["tables"], report
    for table in report["tables"]:
        assert table["rowsRead"] == sum(table[count] for count in COUNTS), table
        assert sum(table.get("quarantineReasons", {}).values()) == table["rowsQuarantined"], table


def table_of(report: Json, name: str) -> Json:
    """One table of a report."""
    (found,) = [table for table in report["tables"] if table["name"] == name]
    result: Json = found
    return result


def test_every_way_a_record_can_go(lake: Lakehouse, tmp_path: Path) -> None:
    """One record per line, with where it must end."""
    records = [
        ('{"id": "a", "n": 1, "at": "2024-05-01T01:00:00Z"}', "written"),
        ('{"id": "b", "n": 1, "at": "2024-05-01T02:00:00Z"}', "deduplicated: a later b comes"),
        ('{"id": "b", "n": 2, "at": "2024-05-01T02:00:00Z"}', "written"),
        ('{"id": "c", "n": -1, "at": "2024-05-01T03:00:00Z"}', "quarantined: a rule"),
        ('{"id": "d", "n": 100, "at": "2024-05-01T03:00:00Z"}', "dropped: a rule"),
        ('{"id": "e", "n": 50, "at": "2024-05-01T03:00:00Z"}', "written, with a warning"),
        ('{"id": "f", "n": 1, "at": "2024-05-02T00:00:00Z"}', "quarantined: outside"),
        ('{"id": "g", "n": "x", "at": "2024-05-01T03:00:00Z"}', "quarantined: a cast"),
        ("not json", "quarantined: malformed"),
        ('{"n": 1, "at": "2024-05-01T03:00:00Z"}', "quarantined: required"),
    ]
    place = lake.folder / "landing" / "in"
    place.mkdir(parents=True)
    (place / "a.ndjson").write_text("".join(f"{line}\n" for line, _ in records))
    silver = {
        "name": "things",
        "from": "things",
        "write": {"replaceInterval": {"column": "at", "outside": "quarantine"}},
        "deduplicate": {"key": ["id"], "keep": "last"},
        "columns": [
            column("id", "/id", "string", required=True),
            column("n", "/n", "int"),
            column("at", "/at", "timestamptz", required=True),
        ],
        "expectations": [
            {"name": "not_negative", "row": "n >= 0", "otherwise": "quarantine"},
            {"name": "not_huge", "row": "n < 100", "otherwise": "drop"},
            {"name": "not_large", "row": "n < 50", "otherwise": "warn"},
        ],
    }
    outside_dropped = {**silver, "name": "others", "write": {"replaceInterval": {"column": "at", "outside": "drop"}}}
    pipeline = manifests.pipeline("things", [landed("things", "in/*", "ndjson")], [silver, outside_dropped])
    lake.run(manifests.write(tmp_path / "things.yaml", manifests.lakehouse(), pipeline), interval=DAY)

    (report,) = lake.reports("silver")
    assert_adds_up(report)
    things = table_of(report, "silver.things")
    ends = Counter(end.split(":")[0].split(",")[0] for _, end in records)
    assert things["rowsRead"] == len(records)
    assert [things[count] for count in COUNTS] == [
        ends[end] for end in ("written", "quarantined", "deduplicated", "dropped")
    ]
    assert things["quarantineReasons"] == {
        "not_negative": 1,
        "outside_interval": 1,
        "cast:n": 1,
        "malformed": 1,
        "required:id": 1,
    }
    assert {rule["name"]: rule["failed"] for rule in things["expectations"]} == {
        "not_negative": 1,
        "not_huge": 1,
        "not_large": 1,
    }
    others = table_of(report, "silver.others")
    assert [others[count] for count in COUNTS] == [3, 4, 1, 2]
    assert [(row["id"], row["n"]) for row in lake.rows("silver.things")] == [("a", 1), ("b", 2), ("e", 50)]
    quarantined = {(row["position"], row["record"]) for row in lake.rows("quarantine.things")}
    expected = {(number, line) for number, (line, end) in enumerate(records) if end.startswith("quarantined")}
    assert quarantined == expected


@pytest.mark.parametrize("interval", ["2024-03-01", "2024-03-02"])
def test_the_shops_counts_are_those_of_its_objects_and_tables(lake: Lakehouse, interval: str) -> None:
    shop = sample_pipeline("shop.yaml")
    lake.run(manifests.DEPLOY / "shop.yaml", interval=interval)
    for report in lake.reports():
        assert_adds_up(report)
    lines = [line for path in lake.bronze("shop/*/dt=*/run=*/part-*") for line in path.read_text().splitlines()]
    (ingest,), (silver,) = lake.reports("ingest"), lake.reports("silver")
    assert ingest["tables"][0]["rowsWritten"] == len(lines)
    assert {table["name"] for table in silver["tables"]} == {
        f"silver.{table['name']}" for table in shop["spec"]["silver"]
    }
    for table in silver["tables"]:
        assert table["rowsRead"] == len(lines)
        name = table["name"].removeprefix("silver.")
        if f"quarantine.{name}" in lake.tables():
            assert len(lake.rows(f"quarantine.{name}")) == table["rowsQuarantined"]
        else:
            assert table["rowsQuarantined"] == 0
    events = table_of(silver, "silver.events")
    assert len(lake.rows("silver.events")) == events["rowsWritten"]
    # The generator sends some events twice and some with faults, lines cut off among them: both must have been met.
    assert events["rowsQuarantined"] > 0
    quarantined = {row["position"] for row in lake.rows("quarantine.events")}
    fitting = [json.loads(line)["event_id"] for position, line in enumerate(lines) if position not in quarantined]
    assert events["rowsWritten"] == len(set(fitting))
    assert events["rowsDeduplicated"] == len(fitting) - len(set(fitting)) > 0
