"""deploy/shop.yaml: facts, dimensions, rankings and comparisons over time, against the same computed in Python from silver.events."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import date, timedelta
from decimal import Decimal

import pytest
from support import manifests, readers
from support.lakehouse import Lakehouse
from support.readers import Row

DAYS = ["2024-02-28", "2024-02-29", "2024-03-07"]
"""Two neighbours, and a week after one of them."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lakehouse:
    """The sample, run for three days, the latest first."""
    lake = Lakehouse(tmp_path_factory.mktemp("shop") / "lake")
    for day in reversed(DAYS):
        lake.run(manifests.DEPLOY / "shop.yaml", interval=day)
    return lake


@pytest.fixture(scope="module")
def events(lake: Lakehouse) -> list[Row]:
    """The events, each with its day."""
    return [{**event, "day": event["ts"].date()} for event in lake.rows("silver.events")]


def grouped(rows: Iterable[Row], *by: str) -> dict[tuple[object, ...], list[Row]]:
    """The rows by some of their columns."""
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in by)].append(row)
    return groups


def revenue(rows: Iterable[Row]) -> Decimal:
    """The sum of prices of purchases."""
    return sum((row["price"] for row in rows if row["event_type"] == "purchase"), Decimal("0.00"))


def test_every_key_of_a_fact_is_in_its_dimension(lake: Lakehouse) -> None:
    keys = {
        column: {row[column] for row in lake.rows(f"gold.{dimension}")}
        for dimension, column in (("dim_product", "product"), ("dim_user", "user_id"), ("dim_date", "day"))
    }
    for fact in ("fct_purchases", "fct_sessions"):
        rows = lake.rows(f"gold.{fact}")
        assert rows
        for column in keys.keys() & rows[0].keys():
            assert {row[column] for row in rows} <= keys[column], f"{fact}.{column}"


def test_dates_are_those_of_the_calendar(lake: Lakehouse) -> None:
    expected = []
    for day in map(date.fromisoformat, DAYS):
        expected.append(
            {
                "day": day,
                "year": day.year,
                "month": day.month,
                "weekday": day.isoweekday() % 7,
                "quarter": (day.month + 2) // 3,
                "day_of_year": day.timetuple().tm_yday,
                "iso_week": day.isocalendar().week,
                "week_start": day - timedelta(days=day.weekday()),
                "month_start": day.replace(day=1),
                "is_weekend": day.isoweekday() > 5,
            }
        )
    assert lake.rows("gold.dim_date") == readers.ordered(expected)


def test_sessions_are_facts(lake: Lakehouse, events: list[Row]) -> None:
    expected = [
        {
            "session_id": session,
            "user_id": user,
            "day": day,
            "started_at": min(row["ts"] for row in rows),
            "ended_at": max(row["ts"] for row in rows),
            "views": sum(row["event_type"] == "view" for row in rows),
            "carts": sum(row["event_type"] == "add_to_cart" for row in rows),
            "purchases": sum(row["event_type"] == "purchase" for row in rows),
            "revenue": revenue(rows),
        }
        for (session, user, day), rows in grouped(events, "session_id", "user_id", "day").items()
    ]
    assert lake.rows("gold.fct_sessions") == readers.ordered(expected)
    assert sum(row["revenue"] for row in expected) == sum(row["price"] for row in lake.rows("gold.fct_purchases"))


def test_products_are_ranked_by_their_revenue_of_the_day(lake: Lakehouse, events: list[Row]) -> None:
    bought = [event for event in events if event["event_type"] == "purchase"]
    totals = {key: (len(rows), revenue(rows)) for key, rows in grouped(bought, "day", "product").items()}
    expected = [
        {
            "day": day,
            "product": product,
            "purchases": count,
            "revenue": total,
            "revenue_rank": 1 + sum(other > total for (when, _), (_, other) in totals.items() if when == day),
        }
        for (day, product), (count, total) in totals.items()
    ]
    assert lake.rows("gold.product_ranking") == readers.ordered(expected)


def test_days_are_held_against_the_day_and_the_week_before(lake: Lakehouse, events: list[Row]) -> None:
    bought = grouped((event for event in events if event["event_type"] == "purchase"), "day")
    totals = {day: revenue(rows) for (day,), rows in bought.items()}

    def change(day: date, days: int) -> Decimal | None:
        before = totals.get(day - timedelta(days=days))
        return None if before is None else totals[day] - before

    expected = [
        {
            "day": day,
            "purchases": len(rows),
            "revenue": totals[day],
            "change_to_day_before": change(day, 1),
            "change_to_week_before": change(day, 7),
        }
        for (day,), rows in bought.items()
        if isinstance(day, date)
    ]
    found = {row["day"].isoformat(): row for row in expected}
    assert found[DAYS[1]]["change_to_day_before"] and found[DAYS[2]]["change_to_week_before"], "the days show both"
    assert lake.rows("gold.sales_over_time") == readers.ordered(expected)
