"""A small pipeline with every write mode whose result must not depend on order, and three days of input for it.

`customers` merges by key, `moves` and `delta_moves` keep the history of it, `orders` replaces its interval in Iceberg, `shipments` does in Parquet; `daily_orders` is computed from them.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from support import manifests
from support.manifests import Document, column
from support.readers import Row, ordered

DAYS = ("2024-05-01", "2024-05-02", "2024-05-03")

# (order, customer, city, hour, amount): b moves every day, c orders twice a day, a is seen on the first day only.
ORDERS = {
    DAYS[0]: [("o1", "a", "Bern", 9, "10.00"), ("o2", "b", "Bern", 10, "20.50"), ("o3", "c", "Genf", 8, "0.01")],
    DAYS[1]: [("o4", "b", "Chur", 7, "5.00"), ("o5", "c", "Genf", 6, "1.10"), ("o6", "c", "Lugano", 23, "2.20")],
    DAYS[2]: [("o7", "b", "Basel", 0, "99999999.99"), ("o8", "d", "Zug", 12, "3.00"), ("o9", "c", "Sion", 1, "4.00")],
}


def definition(**spec: Any) -> Document:
    """The pipeline."""
    at = column("ordered_at", "/at", "timestamptz", required=True)
    silver = [
        {
            "name": "customers",
            "from": "orders",
            "write": {"merge": {"key": ["customer_id"], "sequenceBy": ["seen_at"]}},
            "columns": [
                column("customer_id", "/customer", "string", required=True),
                column("city", "/city", "string"),
                column("seen_at", "/at", "timestamptz", required=True),
            ],
        },
        {
            "name": "orders",
            "from": "orders",
            "table": {"partitionBy": ["day(ordered_at)"]},
            "write": {"replaceInterval": {"column": "ordered_at"}},
            "deduplicate": {"key": ["order_id"]},
            "columns": [
                column("order_id", "/id", "string", required=True),
                column("customer_id", "/customer", "string", required=True),
                at,
                column("amount", "/amount", "decimal(10,2)"),
            ],
        },
        {
            "name": "shipments",
            "from": "orders",
            "table": {"format": "parquet", "partitionBy": ["day(ordered_at)"]},
            "write": {"replaceInterval": {"column": "ordered_at"}},
            "columns": [column("order_id", "/id", "string", required=True), at],
        },
        *(
            {
                "name": name,
                "from": "orders",
                "table": {"format": form},
                "write": {"merge": {"key": ["customer_id"], "sequenceBy": ["seen_at"], "history": True}},
                "columns": [
                    column("customer_id", "/customer", "string", required=True),
                    column("city", "/city", "string"),
                    column("seen_at", "/at", "timestamptz", required=True),
                ],
            }
            for name, form in (("moves", "iceberg"), ("delta_moves", "delta"))
        ),
    ]
    gold = [
        {
            "name": "daily_orders",
            "write": {"replaceInterval": {"column": "day"}},
            "sql": "SELECT date_trunc('day', ordered_at) AS day, count(*) AS orders, sum(amount) AS amount FROM silver.orders "
            "WHERE ordered_at >= $start AND ordered_at < $end GROUP BY 1",
        }
    ]
    source = manifests.landed("orders", "orders/{{ interval.date }}/*.ndjson", "ndjson")
    return manifests.pipeline("orders", [source], silver, **{"gold": gold, **spec})


def land(folder: Path) -> None:
    """Puts the days' files where a laptop's `files` sources read; every order comes twice, as at-least-once delivery does."""
    for day, orders in ORDERS.items():
        place = folder / "landing" / "orders" / day
        place.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps(
                {"id": order, "customer": customer, "city": city, "at": f"{day}T{hour:02}:00:00Z", "amount": amount}
            )
            for order, customer, city, hour, amount in orders
        ]
        for part in ("a", "b"):
            (place / f"{part}.ndjson").write_text("".join(f"{line}\n" for line in lines))


def _at(day: str, hour: int) -> datetime:
    return datetime.fromisoformat(f"{day}T{hour:02}:00:00").replace(tzinfo=UTC)


def expected(days: Sequence[str] = DAYS) -> dict[str, list[Row]]:
    """What the tables hold once these days were run, in whatever order; without processed_at."""
    latest: dict[str, Row] = {}
    seen: dict[str, list[Row]] = {}
    orders, daily = [], []
    for day in sorted(days):
        for order, customer, city, hour, amount in ORDERS[day]:
            at = _at(day, hour)
            orders.append({"order_id": order, "customer_id": customer, "ordered_at": at, "amount": Decimal(amount)})
            seen.setdefault(customer, []).append({"customer_id": customer, "city": city, "seen_at": at})
            if customer not in latest or at > latest[customer]["seen_at"]:
                latest[customer] = {"customer_id": customer, "city": city, "seen_at": at}
        amounts = [Decimal(order[-1]) for order in ORDERS[day]]
        daily.append({"day": _at(day, 0), "orders": len(amounts), "amount": sum(amounts)})
    shipments = [{"order_id": row["order_id"], "ordered_at": row["ordered_at"]} for row in orders for _ in range(2)]
    moves = []
    for versions in seen.values():
        versions.sort(key=lambda version: version["seen_at"])
        for version, after in zip(versions, [*versions[1:], None], strict=True):
            end = after["seen_at"] if after else None
            validity = {"valid_from": version["seen_at"], "valid_to": end, "is_current": end is None}
            moves.append(version | validity)
    history = {"silver.moves": moves, "silver.delta_moves": moves}
    tables = history | {"silver.customers": list(latest.values()), "silver.orders": orders, "gold.daily_orders": daily}
    return {name: ordered(rows) for name, rows in {**tables, "silver.shipments": shipments}.items()}
