"""Stale intervals and full refresh, on recorded prices: what `lakehouse run` computes again, what it says, and what the rows are then."""

from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import pytest
from support import history, manifests, readers
from support.exact import average
from support.lakehouse import Json, Lakehouse, Outcome
from support.readers import Row

FIRST, LAST = "2020-03-01", "2020-03-10"
DAYS = list(history.days(FIRST, LAST))
LOOKBACK = 3
CHANGED = DAYS[2]
"""The day that comes again with another input."""
AFFECTED = DAYS[3 : 3 + LOOKBACK]
"""The days that look back at it."""
FORMATS = ("iceberg", "delta")


def definition(form: str = "iceberg") -> manifests.Document:
    """deploy/crypto-history.yaml with a shorter lookback, in a table format, and a model that reads the one with the lookback."""
    pipeline = manifests.sample_pipeline("crypto-history.yaml")
    spec = pipeline["spec"]
    for table in [*spec["silver"], *spec["gold"]]:
        table.setdefault("table", {})["format"] = form
        if form == "delta":
            table["table"].pop("partitionBy", None)
    (trends,) = [model for model in spec["gold"] if model["name"] == "price_trends"]
    trends["lookback"] = LOOKBACK
    spec["gold"].append(
        {
            "name": "calmest",
            "table": {"format": form},
            "write": {"replaceInterval": {"column": "day"}},
            "sql": "SELECT day, count(*) AS coins, min(max_price_30d - min_price_30d) AS span FROM gold.price_trends "
            "WHERE day >= $start AND day < $end GROUP BY day",
        }
    )
    return pipeline


def write(folder: Path, pipeline: manifests.Document) -> Path:
    """The manifest file."""
    return manifests.write(folder / "history.yaml", manifests.lakehouse(), pipeline)


def rows(lake: Lakehouse, table: str) -> list[Row]:
    """The rows, read by PyIceberg or delta-rs."""
    if table in lake.tables():
        return readers.without(lake.rows(table), {"processed_at"})
    layer, name = table.split(".")
    return readers.without(readers.delta_rows(lake.folder / layer / name), {"processed_at"})


def trends(prices: list[Row]) -> list[Row]:
    """What price_trends must hold, from the silver rows."""
    by_coin: dict[str, list[Row]] = defaultdict(list)
    for row in prices:
        by_coin[row["coin_id"]].append(row)
    found = []
    for row in prices:
        first = row["day"] - timedelta(days=LOOKBACK)
        window = [other["price_usd"] for other in by_coin[row["coin_id"]] if first <= other["day"] <= row["day"]]
        found.append(
            {
                "day": row["day"],
                "coin_id": row["coin_id"],
                "avg_price_30d": average(window),
                "min_price_30d": min(window),
                "max_price_30d": max(window),
                "days": len(window),
            }
        )
    return readers.ordered(found)


def calmest(found: list[Row]) -> list[Row]:
    """What the model over the trends must hold."""
    by_day: dict[object, list[Row]] = defaultdict(list)
    for row in found:
        by_day[row["day"]].append(row)
    return readers.ordered(
        [
            {
                "day": day,
                "coins": len(of_day),
                "span": min(row["max_price_30d"] - row["min_price_30d"] for row in of_day),
            }
            for day, of_day in by_day.items()
        ]
    )


def correct(lake: Lakehouse) -> None:
    """The day comes again: its prices are ten times as high."""
    path = lake.folder / "landing" / "history" / f"{CHANGED}.csv"
    header, *lines = path.read_text().splitlines()
    fields = [line.split(",") for line in lines]
    column = header.split(",").index("price_usd")
    for record in fields:
        if record[column]:
            record[column] = f"1{record[column]}"
    path.write_text("\n".join([header, *[",".join(record) for record in fields]]) + "\n")


def stale(outcome: Outcome) -> Json:
    """The tables of the line that says what is stale; none: there is no such line."""
    lines = [line for line in outcome.lines if line.get("event") == "stale"]
    assert len(lines) <= 1
    tables: Json = lines[0]["tables"] if lines else {}
    return tables


def is_right(lake: Lakehouse) -> None:
    """Gold is what Python computes from silver."""
    expected = trends(rows(lake, "silver.price_history"))
    assert rows(lake, "gold.price_trends") == expected
    assert rows(lake, "gold.calmest") == calmest(expected)


@pytest.fixture(params=FORMATS)
def ran(request: pytest.FixtureRequest, lake: Lakehouse, tmp_path: Path) -> Path:
    """The manifest, run for ten days into `lake`."""
    manifest = write(tmp_path, definition(request.param))
    history.land(lake.folder, FIRST, LAST)
    first = lake.run(manifest, span=(FIRST, LAST))
    assert stale(first) == {}
    is_right(lake)
    return manifest


def test_the_days_that_look_back_at_a_corrected_one_are_computed_again(lake: Lakehouse, ran: Path) -> None:
    correct(lake)
    outcome = lake.command(*lake.run_arguments(ran, interval=CHANGED), "--again")
    assert outcome.status == 0, outcome.text
    assert stale(outcome) == {"gold.price_trends": AFFECTED, "gold.calmest": AFFECTED}
    is_right(lake)
    report = lake.reports("gold")[-1]
    refreshed = {table["name"]: [start[:10] for start in table.get("refreshed", [])] for table in report["tables"]}
    # The last of them is the interval of the run that computes the others.
    assert refreshed == {"gold.market_history": [], "gold.price_trends": AFFECTED[:-1], "gold.calmest": AFFECTED[:-1]}
    assert report["staleness"]["tables"] == {}
    assert stale(lake.run(ran, interval=CHANGED)) == {}


def test_they_can_be_left_until_a_later_run(lake: Lakehouse, ran: Path) -> None:
    before = rows(lake, "gold.calmest")
    correct(lake)
    outcome = lake.command(*lake.run_arguments(ran, interval=CHANGED), "--again", "--no-refresh")
    assert outcome.status == 0, outcome.text
    assert stale(outcome)["gold.price_trends"] == AFFECTED
    now = rows(lake, "gold.calmest")
    assert {row["day"].isoformat() for row in now if row not in before} == {CHANGED}
    status = lake.command("status", "--local", lake.folder)
    assert f"gold.price_trends: {LOOKBACK} stale intervals: {', '.join(AFFECTED)}\n" in status.stdout
    # A run of another day, which was done long ago, is told and brings all up to date.
    later = lake.run(ran, interval=LAST)
    assert stale(later)["gold.price_trends"] == AFFECTED
    is_right(lake)
    assert "stale" not in lake.command("status", "--local", lake.folder).stdout


def test_days_in_any_order_end_in_the_rows_of_days_in_order(lake: Lakehouse, tmp_path: Path) -> None:
    manifest = write(tmp_path, definition())
    history.land(lake.folder, FIRST, LAST)
    for day in [DAYS[4], DAYS[1], DAYS[3], DAYS[0], DAYS[2]]:
        lake.run(manifest, interval=day)
    is_right(lake)


def test_a_full_refresh_applies_a_changed_model_to_all_days(lake: Lakehouse, ran: Path, tmp_path: Path) -> None:
    changed = definition(rows_format(ran))
    (model,) = [model for model in changed["spec"]["gold"] if model["name"] == "calmest"]
    model["sql"] = model["sql"].replace("min(max_price", "max(max_price")
    manifest = write(tmp_path, changed)
    before = rows(lake, "gold.calmest")
    assert stale(lake.run(manifest, interval=LAST)) == {}, "another definition is no other input"
    assert len([row for row in rows(lake, "gold.calmest") if row not in before]) == 1
    outcome = lake.command("run", "--local", lake.folder, "-f", manifest, "--full-refresh")
    assert outcome.status == 0, outcome.text
    widest = {}
    for row in trends(rows(lake, "silver.price_history")):
        span = row["max_price_30d"] - row["min_price_30d"]
        widest[row["day"]] = max(span, widest.get(row["day"], span))
    assert {row["day"]: row["span"] for row in rows(lake, "gold.calmest")} == widest
    again = lake.command("run", "--local", lake.folder, "-f", manifest, "--full-refresh")
    (done,) = [line for line in again.lines if line.get("event") == "run"]
    assert all(entry["table"]["alreadyCommitted"] for entry in done["tables"])


def rows_format(manifest: Path) -> str:
    """The table format that a manifest of this module has."""
    return "delta" if "format: delta" in manifest.read_text() else "iceberg"


def test_there_is_nothing_to_refresh_before_the_first_run(lake: Lakehouse, tmp_path: Path) -> None:
    outcome = lake.command("run", "--local", lake.folder, "-f", write(tmp_path, definition()), "--full-refresh")
    assert outcome.status == 20
    assert outcome.stderr == "error: pipeline crypto-history: no interval was run yet, so there is nothing to refresh\n"
    refused = lake.command(
        "run", "--local", lake.folder, "-f", tmp_path / "history.yaml", "--full-refresh", "--interval", LAST
    )
    assert refused.status != 0
    assert "cannot be used with" in refused.stderr
