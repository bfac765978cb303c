"""Rules on what models compute, and rules that compare an interval with those before it, through the command."""

import json
from pathlib import Path

import pytest
import yaml
from support import manifests
from support.jobs import TERMINAL
from support.lakehouse import Lakehouse
from support.manifests import column

DAYS = [f"2024-05-{day:02}" for day in range(1, 5)]
AS_USUAL = {
    "name": "as_usual",
    "distribution": {"column": "amount", "mean": {"changeAtMost": 0.5}, "against": 2},
    "otherwise": "fail",
}
TOTALS = """
SELECT CAST(at AS date) AS day, count(*) AS orders, sum(amount) AS total
FROM silver.orders WHERE at >= $start AND at < $end GROUP BY 1
"""


def land(lake: Lakehouse, day: str, *amounts: str) -> None:
    """Uploads the orders of a day."""
    path = lake.folder / "landing" / "orders" / f"{day}.ndjson"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": index, "at": f"{day}T0{index}:00:00Z", "amount": amount} for index, amount in enumerate(amounts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    source = manifests.landed("orders", "orders/{{ interval.date }}.ndjson", "ndjson")
    silver = {
        "name": "orders",
        "from": "orders",
        "write": {"replaceInterval": {"column": "at"}},
        "columns": [
            column("id", "/id", "long", required=True),
            column("at", "/at", "timestamptz", required=True),
            column("amount", "/amount", "decimal(10,2)", required=True),
        ],
        "expectations": [AS_USUAL],
    }
    totals = {
        "name": "totals",
        "write": {"replaceInterval": {"column": "day"}},
        "sql": TOTALS,
        "expectations": [
            {"name": "one_a_day", "unique": ["day"], "otherwise": "fail"},
            {"name": "sold", "row": "total > 15", "otherwise": "warn"},
            {"name": "not_too_many", "table": "max(orders) <= 2", "otherwise": "fail"},
        ],
    }
    pipeline = manifests.pipeline("orders", [source], [silver], gold=[totals])
    return manifests.write(tmp_path / "orders.yaml", manifests.lakehouse(), pipeline)


def test_an_interval_is_compared_with_those_before_it(lake: Lakehouse, manifest: Path) -> None:
    for day in (DAYS[0], DAYS[1], DAYS[3]):
        land(lake, day, "10.00")
        lake.run(manifest, interval=day)
    land(lake, DAYS[2], "16.00")
    outcome = lake.fail(manifest, interval=DAYS[2])
    assert outcome.status == TERMINAL
    assert "mean = 16; before: mean = 10 over 2 intervals" in outcome.text
    land(lake, DAYS[2], "14.00", "16.00")
    again = lake.command(*lake.run_arguments(manifest, interval=DAYS[2]), "--again")
    assert again.status == 0, again.text
    rows = lake.rows("quality.results")
    observed = [row["observed"] for row in rows if row["rule"] == "as_usual" and row["interval_start"].day == 3]
    assert sorted(observed) == [f"mean = {mean}; before: mean = 10 over 2 intervals" for mean in (15, 16)]


def test_what_a_model_computed_is_looked_at_before_anybody_sees_it(
    lake: Lakehouse, manifest: Path, tmp_path: Path
) -> None:
    land(lake, DAYS[0], "10.00", "12.00")
    land(lake, DAYS[1], "5.00", "5.00", "5.00")
    lake.run(manifest, interval=DAYS[0])
    outcome = lake.fail(manifest, interval=DAYS[1])
    assert outcome.status == TERMINAL
    assert "gold.totals expectation not_too_many: `max(orders) <= 2` does not hold" in outcome.text
    assert "kept to be looked at: gold.totals at branch audit-2024-05-02T00:00:00Z" in outcome.text
    assert [str(row["day"]) for row in lake.rows("gold.totals")] == [DAYS[0]]
    at = ("sql", "--at", "gold.totals=audit-2024-05-02T00:00:00Z", "select max(orders) as n from gold.totals")
    looked = lake.command(*at, "--local", lake.folder)
    assert looked.status == 0, looked.text
    assert "3" in looked.stdout
    verdicts = {
        (row["interval_start"].day, row["rule"]): row["verdict"]
        for row in lake.rows("quality.results")
        if row["table_name"] == "gold.totals"
    }
    assert verdicts == {
        (1, "one_a_day"): "passed",
        (1, "sold"): "passed",
        (1, "not_too_many"): "passed",
        (2, "one_a_day"): "passed",
        (2, "sold"): "warned",
        (2, "not_too_many"): "failed",
    }
    page = tmp_path / "docs.html"
    assert lake.command("docs", "--local", lake.folder, "--output", page).status == 0
    assert "gold.totals" in page.read_text()
    assert "not_too_many" in page.read_text()
    told = lake.command("export", "great-expectations", "-f", manifest, "--output", tmp_path / "suites")
    assert told.status == 0, told.text
    suite = json.loads((tmp_path / "suites" / "gold.totals.json").read_text())
    assert {expectation["type"] for expectation in suite["expectations"]} == {
        "expect_column_values_to_be_unique",
        "expect_column_values_to_not_be_null",
        "expect_column_values_to_be_between",
        "expect_column_max_to_be_between",
    }
    assert "without as_usual: GX looks at one set of rows, not at earlier intervals" in told.text


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            {"row": "totl > 0"},
            "gold.totals expectation sold: column `totl` does not exist; columns: day, orders, total",
        ),
        (
            {"references": {"table": "orders", "columns": {"day": "at"}}},
            "a model refers to silver.orders or gold.orders",
        ),
        ({"row": "total > 0", "otherwise": "drop"}, "expectations[].otherwise of a model can be warn or fail"),
    ],
)
def test_validate_says_what_is_wrong(lake: Lakehouse, manifest: Path, change: manifests.Document, fault: str) -> None:
    place, pipeline = yaml.safe_load_all(manifest.read_text())
    pipeline["spec"]["gold"][0]["expectations"][1] = {"name": "sold", "otherwise": "warn", **change}
    outcome = lake.validate(manifests.write(manifest, place, pipeline))
    assert outcome.status != 0
    assert fault in outcome.text
