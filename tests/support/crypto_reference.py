"""What the tables of deploy/crypto.yaml must hold, computed from the raw answers without the product.

Definitions: one snapshot per coin and day; a coin is as it was seen last; averages are over the day and the six days before it; a day is held
against the day before, where the coin was seen on it.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from support.exact import average, largest, number
from support.readers import Row, ordered

TABLES = (
    "silver.coins",
    "silver.price_snapshots",
    "gold.daily_summary",
    "gold.rolling_averages",
    "gold.rankings",
    "gold.dim_coin",
    "gold.day_over_day",
)
"""The tables of deploy/crypto.yaml."""

NUMBERS = {
    "price_usd": "priceUsd",
    "market_cap_usd": "marketCapUsd",
    "volume_usd_24h": "volumeUsd24Hr",
    "supply": "supply",
    "change_percent_24h": "changePercent24Hr",
    "vwap_24h": "vwap24Hr",
}


def tables(answers: Mapping[str, bytes]) -> dict[str, list[Row]]:
    """The rows of every table after a run for each date; without processed_at and captured_at."""
    snapshots = _snapshots(answers)
    summary = _daily_summary(snapshots)
    rankings = _rankings(summary)
    found = {
        "silver.coins": _coins(answers),
        "silver.price_snapshots": snapshots,
        "gold.daily_summary": summary,
        "gold.rolling_averages": _rolling_averages(snapshots),
        "gold.rankings": rankings,
        "gold.dim_coin": _dim_coin(answers),
        "gold.day_over_day": _day_over_day(rankings),
    }
    return {name: ordered(rows) for name, rows in found.items()}


def _midnight(date: str) -> datetime:
    return datetime.fromisoformat(date).replace(tzinfo=UTC)


def _records(body: bytes) -> list[dict[str, Any]]:
    # A number of the raw text, should one not be a string, keeps its digits too.
    records: list[dict[str, Any]] = json.loads(body, parse_float=str)["data"]
    return records


def _coins(answers: Mapping[str, bytes]) -> list[Row]:
    coins: dict[str, Row] = {}
    for date in sorted(answers):
        for record in _records(answers[date]):
            coins[record["id"]] = {
                "coin_id": record["id"],
                "symbol": record["symbol"],
                "name": record["name"],
                "max_supply": number(record.get("maxSupply")),
                "snapshot_at": _midnight(date),
            }
    return list(coins.values())


def _snapshots(answers: Mapping[str, bytes]) -> list[Row]:
    rows = []
    for date, body in answers.items():
        quoted_at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=json.loads(body)["timestamp"])
        for record in _records(body):
            row: Row = {"coin_id": record["id"], "snapshot_at": _midnight(date), "quoted_at": quoted_at}
            rows.append({**row, **{name: number(record.get(origin)) for name, origin in NUMBERS.items()}})
    return rows


def _daily_summary(snapshots: list[Row]) -> list[Row]:
    rows = []
    for day, coin in {(row["snapshot_at"], row["coin_id"]) for row in snapshots}:
        found = [row for row in snapshots if (row["snapshot_at"], row["coin_id"]) == (day, coin)]
        prices = [row["price_usd"] for row in found]
        rows.append(
            {
                "day": day,
                "coin_id": coin,
                "snapshots": len(found),
                "avg_price": average(prices),
                "min_price": min(prices),
                "max_price": max(prices),
                "market_cap_usd": largest([row["market_cap_usd"] for row in found]),
                "volume_usd_24h": largest([row["volume_usd_24h"] for row in found]),
            }
        )
    return rows


def _rolling_averages(snapshots: list[Row]) -> list[Row]:
    rows = []
    for day, coin in {(row["snapshot_at"], row["coin_id"]) for row in snapshots}:
        first = day - timedelta(days=6)
        window = [row for row in snapshots if row["coin_id"] == coin and first <= row["snapshot_at"] <= day]
        rows.append(
            {
                "day": day,
                "coin_id": coin,
                "avg_price_7d": average([row["price_usd"] for row in window]),
                "avg_volume_7d": average([row["volume_usd_24h"] for row in window]),
                "days": len(window),
            }
        )
    return rows


def _rankings(summary: list[Row]) -> list[Row]:
    rows = []
    for row in summary:
        rivals = [other["market_cap_usd"] for other in summary if other["day"] == row["day"]]
        cap = row["market_cap_usd"]
        ahead = [other for other in rivals if other is not None and (cap is None or other > cap)]
        kept = {name: row[name] for name in ("day", "coin_id", "market_cap_usd", "avg_price")}
        rows.append({**kept, "market_cap_rank": len(ahead) + 1})
    return rows


def _dim_coin(answers: Mapping[str, bytes]) -> list[Row]:
    kept = ("coin_id", "symbol", "name", "max_supply")
    return [{**{name: row[name] for name in kept}, "last_seen_at": row["snapshot_at"]} for row in _coins(answers)]


def _day_over_day(rankings: list[Row]) -> list[Row]:
    of = {(row["coin_id"], row["day"]): row for row in rankings}
    rows = []
    for row in rankings:
        before = of.get((row["coin_id"], row["day"] - timedelta(days=1)))
        kept = {name: row[name] for name in ("day", "coin_id", "avg_price", "market_cap_rank")}
        changes: Row = {"price_change": None, "price_change_percent": None, "places_gained": None}
        if before:
            changes = {
                "price_change": row["avg_price"] - before["avg_price"],
                "price_change_percent": round(100 * (float(row["avg_price"]) / float(before["avg_price"]) - 1), 6),
                "places_gained": before["market_cap_rank"] - row["market_cap_rank"],
            }
        rows.append({**kept, **changes})
    return rows
