"""Definitions that change under tables with rows: planned, applied at once, and read right by others; and fields nobody declared."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import manifests, readers
from support.jobs import TERMINAL
from support.lakehouse import Json, Lakehouse, Outcome
from support.manifests import Document, column, landed
from support.minio import Minio
from support.postgres import Postgres
from support.readers import Row

TABLE = "silver.sales"
DAYS = [f"2024-05-0{number}" for number in range(1, 7)]
ID = column("id", "/id", "long", required=True)
AT = column("at", "$intervalStart", "timestamptz", required=True)
REGION = column("region", "/region", "string")
WRITE: dict[str, Document] = {
    "replaceInterval": {"replaceInterval": {"column": "at"}},
    "merge": {"merge": {"key": ["id"], "sequenceBy": ["count"]}},
}


def definition(columns: Sequence[Document], write: str = "replaceInterval", **more: Any) -> Document:
    """Daily uploads as `silver.sales`, and their sum by day."""
    table = {"name": "sales", "from": "uploads", "write": WRITE[write], "columns": list(columns), **more}
    return manifests.pipeline("shop", [landed("uploads", "in/{{ interval.date }}*", "ndjson")], [table])


def save(lake: Lakehouse, document: Document) -> Path:
    """The definition in the file that all commands of a test read."""
    return manifests.write(lake.folder.parent / "shop.yaml", manifests.lakehouse(), document)


def upload(lake: Lakehouse, day: str, *records: Json, name: str = "") -> None:
    """Records of a day where the pipeline finds them."""
    folder = lake.folder / "landing" / "in"
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / f"{day}{name}.ndjson").write_text(lines)


def plan(lake: Lakehouse, manifest: Path, *options: str) -> Outcome:
    """`lakehouse plan`, which must write nothing."""
    before = lake.files()
    outcome = lake.command("plan", "-f", manifest, "--local", lake.folder, *options)
    assert lake.files() == before, "a plan writes nothing"
    return outcome


def planned(lake: Lakehouse, manifest: Path) -> list[str]:
    """The changes that a plan shows; it must be one that can be applied."""
    outcome = plan(lake, manifest)
    assert outcome.status == 0, outcome.text
    return [line.strip() for line in outcome.stdout.splitlines() if line.startswith("    ")]


def refusals(lake: Lakehouse, manifest: Path) -> list[str]:
    """The reasons that a plan and a run give; both end as a refused definition does, and nothing changes."""
    outcome = plan(lake, manifest)
    assert outcome.status == TERMINAL, outcome.text
    reasons = [line.strip()[2:] for line in outcome.stdout.splitlines() if line.startswith("    ! ")]
    assert reasons
    before = (lake.snapshots(), [schema.model_dump() for schema in lake.catalog().load_table(TABLE).metadata.schemas])
    failed = lake.fail(manifest, interval=DAYS[5])
    assert failed.status == TERMINAL, failed.text
    assert "SchemaMismatch" in failed.text
    for reason in reasons:
        assert reason in failed.text
    assert before == (
        lake.snapshots(),
        [schema.model_dump() for schema in lake.catalog().load_table(TABLE).metadata.schemas],
    )
    return reasons


def content(rows: Sequence[Row]) -> list[Row]:
    """The rows without the time at which they were processed."""
    return readers.without(rows, ["processed_at"])


def check(lake: Lakehouse, expected: Sequence[Row]) -> None:
    """PyIceberg, DuckDB and `lakehouse sql` see these rows, and these columns in this order."""
    wanted = readers.ordered(expected)
    assert content(lake.rows(TABLE)) == wanted
    assert content(readers.duckdb_rows(lake.catalog(), TABLE)) == wanted
    names = [*expected[0], "processed_at"]
    assert [field.name for field in lake.catalog().load_table(TABLE).schema().fields] == names
    shown = lake.command("sql", f"select * from {TABLE} order by id", "--format", "json", "--local", lake.folder)
    assert shown.status == 0, shown.text
    own = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [row["id"] for row in own] == sorted(row["id"] for row in expected)
    for name in expected[0]:
        filled = sum(row.get(name) is not None for row in own)
        assert filled == sum(row[name] is not None for row in expected), name


def at(day: str) -> datetime:
    """Start of a day."""
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


@pytest.mark.parametrize("write", ["replaceInterval", "merge"])
def test_a_table_through_all_changes(lake: Lakehouse, write: str) -> None:
    price, count = column("price", "/price", "decimal(9,2)"), column("count", "/count", "int")
    note = column("note", "/note", "string")

    def record(number: int, **more: Any) -> Json:
        return {"id": number, "region": f"r{number}", "price": f"{number}.25", "count": number, "note": "n", **more}

    # 1: the table is made.
    manifest = save(lake, definition([ID, AT, REGION, price, count], write))
    outcome = plan(lake, manifest)
    assert outcome.status == 0
    assert not lake.folder.exists(), "a plan makes no folder"
    assert f"{TABLE} (iceberg): create with 6 columns" in outcome.stdout
    upload(lake, DAYS[0], record(1), record(2))
    lake.run(manifest, interval=DAYS[0])
    first = lake.catalog().load_table(TABLE)
    assert planned(lake, manifest) == []
    assert f"{TABLE} (iceberg): no change" in plan(lake, manifest).stdout

    # 2: a column comes, in the middle.
    manifest = save(lake, definition([ID, AT, REGION, note, price, count], write))
    assert planned(lake, manifest) == ["+ add column note string"]
    upload(lake, DAYS[1], record(3))
    lake.run(manifest, interval=DAYS[1])

    # 3: a column has another name.
    amount = column("amount", "/price", "decimal(9,2)", renamedFrom="price")
    manifest = save(lake, definition([ID, AT, REGION, note, amount, count], write))
    assert planned(lake, manifest) == ["~ rename column price to amount"]
    upload(lake, DAYS[2], record(4))
    lake.run(manifest, interval=DAYS[2])
    assert planned(lake, manifest) == [], "a rename is done once"

    # 4: types become wider.
    amount = {**amount, "type": "decimal(20,2)"}
    count = {**count, "type": "long"}
    manifest = save(lake, definition([ID, AT, REGION, note, amount, count], write))
    assert planned(lake, manifest) == [
        "~ widen column amount from decimal(9,2) to decimal(20,2)",
        "~ widen column count from int to long",
    ]
    upload(lake, DAYS[3], record(5, price="123456789012345678.25", count=2**40))
    lake.run(manifest, interval=DAYS[3])

    # 5: another order, and a column goes.
    manifest = save(lake, definition([count, ID, AT, amount, REGION], write, table={"droppedColumns": ["note"]}))
    assert planned(lake, manifest) == [
        "- drop column note",
        "~ move column count to the front",
        "~ move column region behind amount",
    ]
    upload(lake, DAYS[4], record(6))
    lake.run(manifest, interval=DAYS[4])

    # An old day again, with the definition of now: its old file is rewritten.
    upload(lake, DAYS[0], record(1, count=11), record(2))
    lake.run(manifest, interval=DAYS[0])
    days = [0, 0, 1, 2, 3, 4]
    rows = [
        {
            "count": {1: 11, 5: 2**40}.get(number, number),
            "id": number,
            "at": at(DAYS[day]),
            "amount": Decimal("123456789012345678.25") if number == 5 else Decimal(f"{number}.25"),
            "region": f"r{number}",
        }
        for number, day in zip(range(1, 7), days, strict=True)
    ]
    check(lake, rows)

    # The table is the one of the first day, and shows that day as it was.
    now = lake.catalog().load_table(TABLE)
    assert now.metadata.table_uuid == first.metadata.table_uuid
    assert now.metadata.location == first.metadata.location
    then = now.scan(snapshot_id=first.metadata.current_snapshot_id).to_arrow()
    assert then.schema.names == ["id", "at", "region", "price", "count", "processed_at"]
    assert [(row["id"], row["price"], row["count"]) for row in readers.arrow_rows(then)] == [
        (1, Decimal("1.25"), 1),
        (2, Decimal("2.25"), 2),
    ]


def test_what_cannot_be_is_refused_with_every_reason(lake: Lakehouse) -> None:
    columns = [ID, AT, REGION, column("count", "/count", "int")]
    layout = {"partitionBy": ["region"]}
    upload(lake, DAYS[0], {"id": 1, "region": "eu", "count": 1})
    upload(lake, DAYS[5], {"id": 2, "region": "eu", "count": 1})
    lake.run(save(lake, definition(columns, table=layout)), interval=DAYS[0])

    def reasons(changed: Sequence[Document], table: Document) -> list[str]:
        return [reason.split(":")[0] for reason in refusals(lake, save(lake, definition(changed, table=table)))]

    text = column("count", "/count", "string")
    extra = column("extra", "/extra", "string", required=True)
    assert reasons([ID, AT, text, extra], {"partitionBy": ["day(at)"]}) == [
        "column count is int, the definition says string",
        "new column extra is required, but the rows of the table lack it",
        "column region of the table is not in the definition",
        "it has the partitions [region], the definition says [day(at)]",
    ]
    assert reasons([ID, AT, REGION], layout) == ["column count of the table is not in the definition"]
    assert reasons([ID, AT, column("place", "/region", "string"), columns[3]], {"droppedColumns": ["region"]})[0] == (
        "column region cannot be dropped"
    )
    assert reasons([ID, AT, {**REGION, "required": True}, columns[3]], layout) == [
        "column region is optional in the table and required in the definition"
    ]
    assert reasons(columns, {**layout, "format": "parquet"}) == [
        "it has the format iceberg, the definition says parquet"
    ]
    # The table is still the defined one.
    assert planned(lake, save(lake, definition(columns, table=layout))) == []


def test_a_contradiction_is_a_fault_of_the_manifest(lake: Lakehouse) -> None:
    for changed, message in [
        (definition([ID, AT, REGION], table={"droppedColumns": ["region"]}), "column region is in droppedColumns"),
        (definition([ID, AT, {**REGION, "renamedFrom": "id"}]), "column region is renamed from id, which is a column"),
        (
            definition([ID, AT, REGION], unknownFields={"capture": {"column": "region"}}),
            "unknownFields.capture.column must not be one of columns",
        ),
        (definition([ID, AT, REGION], unknownFields={}), "unknownFields needs exactly one of"),
    ]:
        manifest = save(lake, changed)
        for outcome in (lake.validate(manifest), plan(lake, manifest)):
            assert outcome.status == TERMINAL
            assert message in outcome.text


def test_gold_follows_its_query_and_what_it_declares(lake: Lakehouse) -> None:
    columns = [ID, AT, REGION, column("count", "/count", "int")]

    def with_model(select: str, **more: Any) -> Path:
        model = {
            "name": "by_day",
            "write": {"replaceInterval": {"column": "day"}},
            "sql": f"SELECT {select} FROM {TABLE} WHERE at >= $start AND at < $end GROUP BY 1",
            **more,
        }
        document = definition(columns)
        return save(lake, manifests.with_spec(document, gold=[model]))

    for day in DAYS[:2]:
        upload(lake, day, {"id": 1, "region": "eu", "count": 3}, {"id": 2, "region": "us", "count": 4})
    lake.run(with_model("at AS day, max(count) AS top, count(*) AS sold"), interval=DAYS[0])

    manifest = with_model("at AS day, count(*) AS sales, max(cast(count AS bigint)) AS top")
    outcome = plan(lake, manifest)
    assert outcome.status == TERMINAL
    assert "! column sold of the table is not in the definition" in outcome.stdout
    failed = lake.fail(manifest, interval=DAYS[1])
    assert failed.status == TERMINAL
    assert "column sold of the table is not in the definition" in failed.text

    manifest = with_model(
        "at AS day, count(*) AS sales, max(cast(count AS bigint)) AS top", renamedColumns={"sales": "sold"}
    )
    assert planned(lake, manifest) == [
        "~ rename column sold to sales",
        "~ widen column top from int to long",
        "~ move column top behind sales",
    ]
    lake.run(manifest, interval=DAYS[1])
    assert lake.rows("gold.by_day") == [
        {"day": at(DAYS[0]), "sales": 2, "top": 4},
        {"day": at(DAYS[1]), "sales": 2, "top": 4},
    ]
    manifest = with_model("at AS day, count(*) AS sales", table={"droppedColumns": ["top"]})
    assert planned(lake, manifest) == ["- drop column top"]
    lake.run(manifest, interval=DAYS[1])
    assert lake.rows("gold.by_day") == [{"day": at(day), "sales": 2} for day in DAYS[:2]]


def test_a_plan_for_machines(lake: Lakehouse) -> None:
    manifest = save(lake, definition([ID, AT]))
    created = plan(lake, manifest, "-o", "json").lines
    assert created == [
        {
            "pipeline": "shop",
            "table": TABLE,
            "format": "iceberg",
            "action": "create",
            "columns": 3,
            "changes": [],
            "refused": [],
        }
    ]
    upload(lake, DAYS[0], {"id": 1}, {"id": "x"})
    lake.run(manifest, interval=DAYS[0])
    changed = plan(lake, save(lake, definition([ID, AT, REGION])), "-o", "json").lines
    assert [(line["table"], line["action"]) for line in changed] == [(TABLE, "change"), ("quarantine.sales", "none")]
    assert changed[0]["changes"] == [{"change": "addColumn", "column": "region", "type": "string"}]
    other = definition([ID, AT])
    other["metadata"]["name"] = "other"
    outcome = plan(lake, save(lake, other))
    assert outcome.status == TERMINAL
    assert outcome.stdout.count("it belongs to pipeline local/shop, not to local/other") == 2


def test_a_plan_of_the_tables_of_a_cluster(lake: Lakehouse, minio: Minio, postgres: Postgres) -> None:
    """A table that belongs to the pipeline of a namespace; its metadata was written by PyIceberg."""
    minio.make_buckets()
    manifest = manifests.write(lake.folder.parent / "shop.yaml", manifests.lakehouse(), definition([ID, AT, REGION]))

    def cluster(*options: str) -> Outcome:
        place = ("--catalog-uri", postgres.uri, "--store-endpoint", minio.endpoint)
        return lake.command("plan", "-f", manifest, *place, *options, env=minio.environment())

    assert f"{TABLE} (iceberg): create with 4 columns" in cluster().stdout
    catalog = readers.postgres_catalog(postgres.pyiceberg_uri, minio.properties())
    catalog.create_namespace_if_not_exists("silver")
    zoned = pa.timestamp("us", tz="UTC")
    fields = [("id", pa.int64(), False), ("at", zoned, False), ("processed_at", zoned, False)]
    schema = pa.schema([pa.field(*field) for field in fields])
    properties = {"lakehouse.owner": "team/shop", "format-version": "2"}
    table = catalog.create_table(TABLE, schema, location="s3://silver/planned", properties=properties)
    try:
        refused = cluster()
        assert refused.status == TERMINAL
        assert "! it belongs to pipeline team/shop, not to default/shop" in refused.stdout
        outcome = cluster("--namespace", "team")
        assert outcome.status == 0, outcome.text
        assert "+ add column region string" in outcome.stdout
        assert catalog.load_table(TABLE).metadata_location == table.metadata_location
    finally:
        catalog.drop_table(TABLE)


PARQUET = pa.table({"id": [1, 2], "b": pa.array([1.5, None]), "c": [None, None]})
FORMS = {
    "ndjson": (b'{"id":1,"b":{"x":[1, 2]},"c":null,"b":"last"}\n{"id":2}\n', ['{"c":null,"b":"last"}', None]),
    "json": (b'[{"id":1,"\\u00e9":"\\n"},{"id":2}]', ['{"\\u00e9":"\\n"}', None]),
    "csv": (b'id,b,"c ""d"""\n1,"say ""x""",\n2,,\n', ['{"b":"say \\"x\\""}', None]),
    "parquet": (b"", ['{"b":1.5}', None]),
}


@pytest.mark.parametrize("form", FORMS)
def test_unknown_fields(lake: Lakehouse, form: str) -> None:
    text, captured = FORMS[form]
    folder = lake.folder / "landing" / "in"
    folder.mkdir(parents=True)
    path = folder / f"{DAYS[0]}.{form}"
    path.write_bytes(text)
    if form == "parquet":
        pq.write_table(PARQUET, path)

    def manifest(**more: Any) -> Path:
        document = definition([ID, AT], **more)
        document["spec"]["ingest"] = [landed("uploads", "in/{{ interval.date }}*", form)]
        return save(lake, document)

    failed = lake.fail(manifest(unknownFields={"fail": {}}), interval=DAYS[0])
    assert failed.status == TERMINAL
    name = {"json": "\\u00e9"}.get(form, "b")
    assert f"record 0: no column takes the field `{name}`, and unknownFields says fail" in failed.text.replace(
        "\\\\", "\\"
    )
    assert "part-00000" in failed.text
    assert lake.snapshots().get(TABLE, 0) == 0

    lake.run(manifest(), interval=DAYS[0])
    assert [row["id"] for row in lake.rows(TABLE)] == [1, 2]
    lake.run(manifest(unknownFields={"ignore": {}}), interval=DAYS[0])
    keeping = manifest(unknownFields={"capture": {"column": "extra"}})
    assert planned(lake, keeping) == ["+ add column extra string"]
    lake.run(keeping, interval=DAYS[0])
    assert [row["extra"] for row in lake.rows(TABLE)] == captured


def test_what_a_pointer_goes_through_is_known(lake: Lakehouse) -> None:
    upload(lake, DAYS[0], {"id": 1, "address": {"city": "x", "zip": "1"}}, {"id": 2, "address": {}, "more": 1})
    columns = [ID, AT, column("city", "/address/city", "string")]
    failed = lake.fail(save(lake, definition(columns, unknownFields={"fail": {}})), interval=DAYS[0])
    assert "record 1: no column takes the field `more`" in failed.text
    lake.run(save(lake, definition(columns, unknownFields={"capture": {"column": "extra"}})), interval=DAYS[0])
    assert [(row["city"], row["extra"]) for row in lake.rows(TABLE)] == [("x", None), (None, '{"more":1}')]
