"""Definitions that cannot be: refused before anything is written, with the field and what is wrong with it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import manifests, orders
from support.jobs import TERMINAL
from support.lakehouse import Lakehouse
from support.manifests import Document
from support.orders import DAYS

LONG = "n" * 200


@dataclass(frozen=True)
class Case:
    """A change to a good definition, and what a person reads."""

    change: Callable[[Document], object]
    messages: tuple[str, ...]


CASES = {
    "unknown field": Case(
        lambda d: d["spec"]["silver"][0].update(colums=[]),
        ("spec.silver[0].colums", "unknown field `colums`; known fields: ", "columns"),
    ),
    "unknown field at the top": Case(
        lambda d: d["spec"].update(schedule="daily"), ("spec.schedule", "unknown field `schedule`")
    ),
    "unknown column in SQL": Case(
        lambda d: d["spec"]["gold"][0].update(sql="SELECT ordered_at AS day, amont FROM silver.orders"),
        ("gold.daily_orders", "column `amont` does not exist; did you mean `amount`?"),
    ),
    "no SELECT": Case(
        lambda d: d["spec"]["gold"][0].update(sql="DROP TABLE silver.orders"),
        ("gold.daily_orders: DROP is not allowed",),
    ),
    "a file in SQL": Case(
        lambda d: d["spec"]["gold"][0].update(sql="SELECT * FROM '/etc/passwd'"),
        ("gold.daily_orders: table /etc/passwd does not exist",),
    ),
    "unknown column in a rule": Case(
        lambda d: d["spec"]["silver"][1].update(
            expectations=[{"name": "paid", "row": "amont > 0", "otherwise": "quarantine"}]
        ),
        ("silver.orders expectation paid", "column `amont` does not exist"),
    ),
    "name of 200 characters": Case(
        lambda d: d["metadata"].update(name=LONG), ("metadata.name must have at most 52 characters",)
    ),
    "table name of 200 characters": Case(
        lambda d: d["spec"]["silver"][0].update(name=LONG),
        ("spec.silver[0].name", "Too long: 200 characters, at most 63"),
    ),
    "column name of 200 characters": Case(
        lambda d: d["spec"]["silver"][0]["columns"][1].update(name=LONG),
        ("spec.silver[0].columns[1].name", "Too long: 200 characters, at most 128"),
    ),
    "no such type": Case(
        lambda d: d["spec"]["silver"][0]["columns"][1].update(type="text"),
        ("spec.silver[0].columns[1].type", '"text"', "should match"),
    ),
    "no such source": Case(
        lambda d: d["spec"]["silver"][0].update({"from": "order"}), ("`from` must name a source of ingest",)
    ),
    "merge into Parquet": Case(
        lambda d: d["spec"]["silver"][0].update(table={"format": "parquet"}),
        ("write.merge needs format iceberg or delta: parquet tables have no commit log",),
    ),
    "two write modes": Case(
        lambda d: d["spec"]["silver"][0]["write"].update(append={}), ("write needs exactly one of append",)
    ),
    "same name twice": Case(
        lambda d: d["spec"]["silver"][1].update(name="customers"), ("spec.silver[1]", "Duplicate value", '"customers"')
    ),
}


def changed(name: str) -> Document:
    """The orders pipeline with the change of a case."""
    document = copy.deepcopy(orders.definition())
    CASES[name].change(document)
    return document


@pytest.mark.parametrize("name", CASES)
def test_validate_and_run_refuse_with_the_same_words(lake: Lakehouse, tmp_path: Path, name: str) -> None:
    orders.land(lake.folder)
    good = manifests.write(tmp_path / "good.yaml", manifests.lakehouse(), orders.definition())
    lake.run(good, interval=DAYS[0])
    before, rows = lake.files(), lake.rows("silver.orders")
    bad = manifests.write(tmp_path / "bad.yaml", manifests.lakehouse(), changed(name))
    validated = lake.validate(bad)
    assert validated.status != 0
    ran = lake.fail(bad, interval=DAYS[1])
    for message in CASES[name].messages:
        assert message in validated.text
        assert message in ran.text
    assert lake.files() == before
    assert lake.rows("silver.orders") == rows


def test_a_table_that_does_not_exist_fails_the_model_alone(lake: Lakehouse, tmp_path: Path) -> None:
    """Another pipeline may own the table, so only the stage itself can know."""
    orders.land(lake.folder)
    lake.run(manifests.write(tmp_path / "good.yaml", manifests.lakehouse(), orders.definition()), interval=DAYS[0])
    rows = lake.rows("gold.daily_orders")
    document = orders.definition()
    document["spec"]["gold"][0]["sql"] = "SELECT ordered_at AS day FROM silver.order"
    bad = manifests.write(tmp_path / "bad.yaml", manifests.lakehouse(), document)
    assert "not checked, it reads silver.order, which no given file defines" in lake.validate(bad).text
    outcome = lake.fail(bad, interval=DAYS[1])
    assert outcome.status == TERMINAL
    assert "InvalidSql: gold.daily_orders: table silver.order does not exist" in outcome.text
    assert "silver.orders" in outcome.text
    assert lake.rows("gold.daily_orders") == rows
    assert len(lake.rows("silver.orders")) == 6


def test_the_good_definition_is_valid(lake: Lakehouse, tmp_path: Path) -> None:
    good = manifests.write(tmp_path / "good.yaml", manifests.lakehouse(), orders.definition())
    outcome = lake.validate(good)
    assert outcome.status == 0, outcome.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: [", "not valid YAML"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n", "kind `Pod` of `v1` is not known"),
        ("", "LakehousePipeline"),
    ],
    ids=["no YAML", "another kind", "nothing"],
)
def test_a_file_that_is_no_manifest_is_refused(lake: Lakehouse, tmp_path: Path, text: str, message: str) -> None:
    manifest = tmp_path / "bad.yaml"
    manifest.write_text(text)
    assert message in lake.fail(manifest, interval=DAYS[0]).text


def test_a_file_that_is_not_there_is_named(lake: Lakehouse, tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert str(missing) in lake.fail(missing, interval=DAYS[0]).text


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        ("yesterday", "`yesterday` is not an interval"),
        ("2024-02-30", "`2024-02-30` is not an interval"),
        ("2024-05-01T05", "is not one daily interval"),
    ],
)
def test_an_interval_that_is_none_is_refused(lake: Lakehouse, tmp_path: Path, interval: str, message: str) -> None:
    good = manifests.write(tmp_path / "good.yaml", manifests.lakehouse(), orders.definition())
    assert message in lake.fail(good, interval=interval).text


def test_a_table_of_another_pipeline_is_not_touched(lake: Lakehouse, tmp_path: Path) -> None:
    orders.land(lake.folder)
    lake.run(manifests.write(tmp_path / "a.yaml", manifests.lakehouse(), orders.definition()), interval=DAYS[0])
    rows, snapshots = lake.rows("silver.customers"), lake.snapshots()
    other = orders.definition()
    other["metadata"]["name"] = "intruder"
    outcome = lake.fail(manifests.write(tmp_path / "b.yaml", manifests.lakehouse(), other), interval=DAYS[1])
    assert "TableOwnedByOther" in outcome.text
    assert "local/orders" in outcome.text
    assert (lake.rows("silver.customers"), lake.snapshots()) == (rows, snapshots)
