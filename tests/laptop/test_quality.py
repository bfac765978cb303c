"""Rules about whole tables: what breaks one is not published, what was refused can be looked at, and every result is kept."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pyiceberg.table import Table
from support import manifests
from support.lakehouse import Json, Lakehouse
from support.manifests import Document, column, landed

FIRST, SECOND = "2024-05-01", "2024-05-02"
HOSTILE = '<script>alert("x")</script>'


def land(lake: Lakehouse, day: str, *records: Json) -> None:
    """The file of a day."""
    place = lake.folder / "landing" / "in"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{day}.ndjson").write_text("".join(f"{json.dumps(record)}\n" for record in records))


def order(number: object, day: str, **more: object) -> Json:
    """An order of a day."""
    return {"id": number, "at": f"{day}T12:00:00Z", "amount": 1, **more}


def orders(name: str = "orders", **more: object) -> Document:
    """A pipeline of one table, whose rules are about all of it."""
    silver = {
        "name": name,
        "from": "orders",
        "write": {"replaceInterval": {"column": "at"}},
        "columns": [
            column("id", "/id", "long", required=True),
            column("at", "/at", "timestamptz", required=True),
            column("amount", "/amount", "decimal(10,2)"),
        ],
        "expectations": [
            {"name": "positive", "row": "amount > 0", "otherwise": "quarantine"},
            {"name": "once", "unique": ["id"], "otherwise": "fail"},
            {"name": "fresh", "freshness": {"column": "at", "maxAge": "12h"}, "otherwise": "fail"},
            {"name": "few", "table": "count(*) <= 3", "otherwise": "warn"},
            {
                "name": "amounts",
                "distribution": {"column": "amount", "mean": {"max": 2}, "nullRatio": {"max": 0.5}},
                "otherwise": "warn",
            },
        ],
        **more,
    }
    return manifests.pipeline(name, [landed("orders", "in/{{ interval.date }}.ndjson", "ndjson")], [silver])


def results(lake: Lakehouse) -> dict[tuple[str, str], str]:
    """Verdicts by day and rule, of runs of different days."""
    rows = lake.rows("quality.results")
    found = {(str(row["interval_start"])[:10], str(row["rule"])): str(row["verdict"]) for row in rows}
    assert len(found) == len(rows), rows
    return found


def test_what_breaks_a_rule_of_the_table_is_kept_on_a_branch(lake: Lakehouse, tmp_path: Path) -> None:
    """The second day repeats a key of the first. Readers see the first day; PyIceberg and `sql` see what was refused."""
    manifest = manifests.write(tmp_path / "orders.yaml", manifests.lakehouse(), orders())
    land(lake, FIRST, order(1, FIRST), order(2, FIRST), order(3, FIRST, amount=-1, note=HOSTILE))
    lake.run(manifest, interval=FIRST)
    land(lake, SECOND, order(2, SECOND), order(4, SECOND))
    outcome = lake.fail(manifest, interval=SECOND)
    assert outcome.status == 20
    assert (
        "ExpectationFailed: silver.orders expectation once: id would not be unique: 1 stand in 2 rows, such as id=2"
        in outcome.text
    )
    assert "silver.orders at branch audit-2024-05-02T00:00:00Z" in outcome.text

    assert {row["id"] for row in lake.rows("silver.orders")} == {1, 2}
    table: Table = lake.catalog().load_table("silver.orders")
    branch = table.metadata.refs["audit-2024-05-02T00:00:00Z"]
    assert branch.snapshot_ref_type == "branch"
    refused = table.scan(snapshot_id=branch.snapshot_id).to_arrow()
    assert sorted(refused["id"].to_pylist()) == [1, 2, 2, 4]
    query = "select id, count(*) as n from silver.orders group by id having count(*) > 1"
    at = lake.command(
        "sql", query, "--format", "csv", "--at", "silver.orders=audit-2024-05-02T00:00:00Z", "--local", lake.folder
    )
    assert at.stdout.split() == ["id,n", "2,2"], at.text
    unread = lake.command("sql", "select 1", "--at", "silver.orders=1", "--local", lake.folder)
    assert (unread.status, unread.stderr) == (20, "error: --at silver.orders: the query does not read this table\n")

    assert results(lake) == {
        (FIRST, "positive"): "quarantined",
        (FIRST, "once"): "passed",
        (FIRST, "fresh"): "passed",
        (FIRST, "few"): "passed",
        (FIRST, "amounts"): "passed",
        (SECOND, "positive"): "passed",
        (SECOND, "once"): "failed",
        (SECOND, "fresh"): "passed",
        (SECOND, "few"): "warned",
        (SECOND, "amounts"): "passed",
    }

    land(lake, SECOND, order(5, SECOND), order(4, SECOND))
    lake.run(manifest, interval=SECOND)
    assert {row["id"] for row in lake.rows("silver.orders")} == {1, 2, 4, 5}
    table = lake.catalog().load_table("silver.orders")
    assert set(table.metadata.refs) == {"main"}
    # Published is the very snapshot that was looked at, and history has nothing else.
    assert len(table.history()) == 2
    report = lake.reports("silver")[-1]["tables"][0]
    assert report["snapshot"] == str(table.metadata.current_snapshot_id)
    assert [(rule["name"], rule["passed"]) for rule in report["expectations"]] == [
        ("positive", True),
        ("once", True),
        ("fresh", True),
        ("few", False),
        ("amounts", True),
    ]


class Tags(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_data_docs_show_rules_history_and_records_and_are_safe(lake: Lakehouse, tmp_path: Path) -> None:
    """A page that a record of the source cannot break out of."""
    manifest = manifests.write(tmp_path / "orders.yaml", manifests.lakehouse(), orders())
    land(lake, FIRST, order(1, FIRST), order(2, FIRST, amount=-1, note=HOSTILE))
    land(lake, SECOND, order(3, SECOND))
    lake.run(manifest, span=(FIRST, SECOND))
    page = tmp_path / "quality.html"
    told = lake.command("docs", "--output", page, "--local", lake.folder)
    assert (told.status, told.stdout) == (0, f"{page}: 1 tables, 5 rules, 0 not passed in the last run\n"), told.text
    html = page.read_text()
    tags = Tags()
    tags.feed(html)
    assert not tags.tags & {"script", "img", "link", "iframe", "object", "svg", "a"}
    assert not {name for name in tags.attributes if name.startswith("on") or name in ("src", "href")}
    assert HOSTILE not in html
    assert HOSTILE.replace('"', '\\"') in tags.text, "the record is shown as it came"
    for text in (
        "silver.orders",
        "local/orders",
        "amount > 0",
        "1 in quarantine by",
        "50 % of 2",
        "100 % of 2",
        "count(*) = 2",
    ):
        assert text in tags.text, text
    other = lake.command("docs", "--output", page, "--pipeline", "other", "--local", lake.folder)
    assert (other.status, other.stderr) == (20, "error: --pipeline other: quality.results has nothing of it\n")


@pytest.mark.parametrize("form", ["iceberg", "delta", "parquet"])
def test_pipelines_share_the_results_and_the_order_of_days_does_not_matter(
    lake: Lakehouse, tmp_path: Path, form: str
) -> None:
    """Two pipelines, three days each, the last day first; a day that is run again is another run."""
    documents = [orders(name, table={"format": form}) for name in ("orders", "others")]
    manifest = manifests.write(tmp_path / "both.yaml", manifests.lakehouse(), *documents)
    days = ["2024-05-03", FIRST, SECOND]
    for number, day in enumerate(days):
        land(lake, day, order(number, day))
        lake.run(manifest, interval=day)
    rows = lake.rows("quality.results")
    kept = {(row["pipeline"], str(row["interval_start"])[:10], row["rule"], row["verdict"]) for row in rows}
    rules = ["positive", "once", "fresh", "few", "amounts"]
    assert len(rows) == len(kept)
    assert kept == {
        (f"local/{name}", day, rule, "passed") for name in ("orders", "others") for day in days for rule in rules
    }
    lake.run(manifest, interval=FIRST)
    assert len(lake.rows("quality.results")) == len(rows), "nothing was executed"


def test_rules_that_cannot_be_are_refused_with_their_field(lake: Lakehouse, tmp_path: Path) -> None:
    """Validation says where and what; a run of such a manifest writes nothing."""
    pipeline = orders()
    rules = [
        ({"unique": ["idd"]}, "expectations[r].unique: column `idd` does not exist; columns: id, at, amount"),
        (
            {"references": {"table": "people", "columns": {"id": "id"}}},
            "expectations[r].references.table: the pipeline has no silver table `people`; it has: orders",
        ),
        ({"references": {"table": "orders", "columns": {"id": "id"}}}, "orders → orders"),
        ({"table": "amount > 1"}, "`amount > 1` must be made of aggregates, such as count(*) >= 10"),
        (
            {"distribution": {"column": "at", "mean": {"max": 1}}},
            "expectations[r].distribution.mean: column at is of type timestamptz",
        ),
        ({"freshness": {"column": "at", "maxAge": "soon"}}, "maxAge"),
    ]
    for number, (rule, expected) in enumerate(rules):
        pipeline["spec"]["silver"][0]["expectations"] = [{"name": "r", "otherwise": "warn", **rule}]
        manifest = manifests.write(tmp_path / f"{number}.yaml", manifests.lakehouse(), pipeline)
        outcome = lake.validate(manifest)
        assert outcome.status == 20, (rule, outcome.text)
        assert expected in outcome.text, outcome.text
        lake.fail(manifest, interval=FIRST)
    assert not lake.files()
