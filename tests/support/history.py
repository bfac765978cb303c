"""The recorded price history, cut into one file per day as someone would upload it, and what deploy/crypto-history.yaml must make of it."""

import csv
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path

from support.exact import average, fits, number, total
from support.readers import Row, ordered
from support.shared import shared_data

Record = dict[str, str]
NUMBERS = ("price_usd", "volume_usd_24h", "market_cap_usd", "supply")


@cache
def _lines() -> tuple[str, dict[str, list[str]]]:
    header, *lines = shared_data("coincap", "history", "daily.csv").read_text().splitlines(keepends=True)
    days: dict[str, list[str]] = {}
    for line in lines:
        days.setdefault(line[:10], []).append(line)
    return header, days


def days(first: str, last: str) -> Iterator[str]:
    """The dates from `first` to `last`, both included."""
    day, end = date.fromisoformat(first), date.fromisoformat(last)
    while day <= end:
        yield day.isoformat()
        day += timedelta(days=1)


def land(folder: Path, first: str, last: str) -> None:
    """Writes `landing/history/<date>.csv` for these days: the recorded lines, byte for byte, under the recorded header."""
    header, lines = _lines()
    place = folder / "landing" / "history"
    place.mkdir(parents=True, exist_ok=True)
    for day in days(first, last):
        (place / f"{day}.csv").write_text("".join([header, *lines[day]]))


def records(first: str, last: str) -> list[Record]:
    """The records of these days; a blank field is missing."""
    header, lines = _lines()
    found = [line for day in days(first, last) for line in lines[day]]
    rows = csv.DictReader([header, *found])
    return [{name: value for name, value in row.items() if value != ""} for row in rows]


def quarantined(first: str, last: str) -> list[Record]:
    """The records whose numbers decimal(38,16) cannot hold, or whose price is not positive."""
    return [record for record in records(first, last) if not _is_row(record)]


def _is_row(record: Record) -> bool:
    numbers = [record.get(name) for name in NUMBERS]
    return (
        all(text is None or fits(text) for text in numbers)
        and "price_usd" in record
        and Decimal(record["price_usd"]) > 0
    )


def tables(first: str, last: str) -> dict[str, list[Row]]:
    """The rows of every table after a run for each of these days; without processed_at."""
    prices: list[Row] = []
    coins: dict[str, Row] = {}
    for record in records(first, last):
        day = date.fromisoformat(record["date"])
        identity = {name: record.get(name) for name in ("coin_id", "symbol", "name")}
        coins[record["coin_id"]] = {**identity, "seen_on": day}
        if _is_row(record):
            numbers = {name: number(record.get(name)) for name in NUMBERS}
            prices.append({"coin_id": record["coin_id"], "day": day, "market_rank": None, **numbers})
    found = {
        "silver.history_coins": list(coins.values()),
        "silver.price_history": prices,
        "gold.market_history": _market(prices),
        "gold.price_trends": _trends(prices),
    }
    return {name: ordered(rows) for name, rows in found.items()}


def _market(prices: list[Row]) -> list[Row]:
    by_day: dict[date, list[Row]] = {}
    for row in prices:
        by_day.setdefault(row["day"], []).append(row)
    return [
        {
            "day": day,
            "coins": len(rows),
            "market_cap_usd": total([row["market_cap_usd"] for row in rows]),
            "volume_usd_24h": total([row["volume_usd_24h"] for row in rows]),
        }
        for day, rows in by_day.items()
    ]


def _trends(prices: list[Row]) -> list[Row]:
    by_coin: dict[str, list[Row]] = {}
    for row in prices:
        by_coin.setdefault(row["coin_id"], []).append(row)
    rows = []
    for coin, history in by_coin.items():
        for row in history:
            first = row["day"] - timedelta(days=29)
            window = [other["price_usd"] for other in history if first <= other["day"] <= row["day"]]
            rows.append(
                {
                    "day": row["day"],
                    "coin_id": coin,
                    "avg_price_30d": average(window),
                    "min_price_30d": min(window),
                    "max_price_30d": max(window),
                    "days": len(window),
                }
            )
    return rows
