"""The rules of a table, exported to Great Expectations: both programs have the same verdicts about the same rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import manifests
from support.lakehouse import Json, Lakehouse
from support.manifests import Document, column, landed

DAY = "2024-05-01"
RULES: list[Json] = [
    {"name": "positive", "row": "price > 0"},
    {"name": "cheap", "row": "price < 100.5 AND amount BETWEEN 0 AND 10"},
    {"name": "known", "row": "kind IN ('view', 'purchase')"},
    {"name": "no_test", "row": "kind NOT IN ('test') AND name IS NOT NULL"},
    {"name": "one_kind", "row": "1 <= amount AND kind = 'view'"},
    {"name": "rows", "batch": "count(*) > 3 AND count(*) <= 6"},
    {"name": "extremes", "batch": "max(price) <= 100 AND min(price) >= -1.5"},
    {"name": "whole", "table": "sum(amount) < 20 AND avg(price) > 9"},
    {"name": "one_id", "unique": ["id"]},
    {"name": "one_pair", "unique": ["kind", "name"]},
    {"name": "mean", "distribution": {"column": "price", "mean": {"min": 10, "max": 50}}},
    {"name": "spread", "distribution": {"column": "price", "standardDeviation": {"max": 40}}},
    {"name": "nulls", "distribution": {"column": "name", "nullRatio": {"max": 0.2}}},
    {"name": "distinct", "distribution": {"column": "kind", "distinctRatio": {"min": 0.3, "max": 0.5}}},
    {"name": "median", "distribution": {"column": "price", "quantiles": [{"at": 0.5, "min": 15, "max": 25}]}},
    {"name": "ends", "distribution": {"column": "amount", "quantiles": [{"at": 0.9, "max": 9}, {"at": 0.1, "min": 1}]}},
]
NOT_IN_GX: list[Json] = [
    {"name": "either", "row": "price > 0 OR amount > 0"},
    {"name": "fresh", "freshness": {"column": "at", "maxAge": "1d"}},
    {"name": "again", "distribution": {"column": "price", "quantiles": [{"at": 0.1, "min": 1}]}},
]


def row(number: int | None, price: float | None, amount: int, kind: str, name: str | None) -> Json:
    """A record."""
    return {"id": number, "price": price, "amount": amount, "kind": kind, "name": name}


CASES = {
    "mostly-good": [
        row(1, 10.0, 1, "view", "a"),
        row(2, 20.0, 2, "view", "b"),
        row(3, 30.0, 3, "purchase", "a"),
        row(4, 20.5, 1, "view", "d"),
        row(None, 50.0, 10, "view", "e"),
        row(None, 12.0, 2, "purchase", "f"),
    ],
    "mostly-bad": [
        row(1, -2.0, 11, "test", "a"),
        row(1, 1000.0, 20, "test", "a"),
        row(3, None, -3, "other", None),
    ],
    "alike": [row(n, 20.0, n, "view", f"n{n}") for n in range(1, 5)],
    "on-the-bounds": [
        row(1, 100.0, 0, "view", "a"),
        row(2, -1.5, 10, "view", "a"),
        row(3, 15.0, 1, "view", None),
        row(4, 15.0, 5, "purchase", None),
    ],
}


def pipeline(rules: Sequence[Json]) -> Document:
    """A table whose rules only warn, so that all rows are in it."""
    silver = {
        "name": "things",
        "from": "things",
        "write": {"overwrite": {}},
        "columns": [
            column("id", "/id", "long"),
            column("price", "/price", "double"),
            column("amount", "/amount", "long"),
            column("kind", "/kind", "string"),
            column("name", "/name", "string"),
            column("at", "$intervalStart", "timestamptz"),
        ],
        "expectations": [{**rule, "otherwise": "warn"} for rule in rules],
    }
    return manifests.pipeline("things", [landed("things", "in/*", "ndjson")], [silver])


def verdicts_of_gx(suite: Json, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Whether all expectations of each rule are met."""
    monkeypatch.setenv("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("things")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": rows})
    outcome: Any = batch.validate(gx.ExpectationSuite(**suite))
    verdicts: dict[str, bool] = {}
    for result in outcome.results:
        assert not result.exception_info.get("raised_exception"), result.exception_info
        rule = result.expectation_config.meta["lakehouse"]["rule"]
        verdicts[rule] = verdicts.get(rule, True) and bool(result.success)
    return verdicts


@pytest.mark.parametrize("case", CASES)
def test_both_have_the_same_verdicts(
    lake: Lakehouse, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rule that GX can say, over rows that are in order, rows that are not, and rows on the bounds."""
    manifest = manifests.write(tmp_path / "things.yaml", manifests.lakehouse(), pipeline([*RULES, *NOT_IN_GX]))
    place = lake.folder / "landing" / "in"
    place.mkdir(parents=True)
    (place / "a.ndjson").write_text("".join(f"{json.dumps(record)}\n" for record in CASES[case]))
    lake.run(manifest, interval=DAY)
    ours = {str(result["rule"]): result["verdict"] == "passed" for result in lake.rows("quality.results")}

    told = lake.command("export", "great-expectations", "-f", manifest, "--output", tmp_path / "suites")
    assert told.status == 0, told.text
    path = tmp_path / "suites" / "silver.things.json"
    first, *without = told.stdout.splitlines()
    assert first == f"{path}: {len(RULES)} of {len(RULES) + len(NOT_IN_GX)} rules"
    assert [line.split(":")[0].strip() for line in without] == [f"without {rule['name']}" for rule in NOT_IN_GX]

    rows = lake.catalog().load_table("silver.things").scan().to_arrow().to_pandas()
    theirs = verdicts_of_gx(json.loads(path.read_text()), rows, monkeypatch)
    assert theirs == {name: ours[name] for name in theirs}
    assert theirs.keys() == {rule["name"] for rule in RULES}


def test_the_cases_show_each_rule_kept_and_broken(lake: Lakehouse, tmp_path: Path) -> None:
    """A comparison in which a rule always holds, or never, would say little."""
    manifest = manifests.write(tmp_path / "things.yaml", manifests.lakehouse(), pipeline(RULES))
    seen: dict[str, set[str]] = {}
    place = lake.folder / "landing" / "in"
    place.mkdir(parents=True)
    for number, records in enumerate(CASES.values(), start=1):
        (place / "a.ndjson").write_text("".join(f"{json.dumps(record)}\n" for record in records))
        lake.run(manifest, interval=f"2024-05-0{number}")
    for result in lake.rows("quality.results"):
        seen.setdefault(str(result["rule"]), set()).add(str(result["verdict"]))
    assert seen == {rule["name"]: {"passed", "warned"} for rule in RULES}
