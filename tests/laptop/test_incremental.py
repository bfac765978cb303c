"""A source that is asked only for what is new: each day goes on where the one before it ended, and a merge ends with every order once."""

import json
import os
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support import manifests, readers
from support.jobs import TERMINAL
from support.lakehouse import Lakehouse
from support.manifests import column, fetched
from support.serving import ServerInThread

INITIAL = "2024-01-01T00:00:00Z"
PAGE = 3
COLUMNS = [
    column("order_id", "/id", "long", required=True),
    column("state", "/state", "string"),
    column("updated_at", "/updated_at", "timestamptz", required=True),
]


class Shop:
    """Orders as they are at the end of the day that is asked for, by the time of their last change, a few a page."""

    def __init__(self) -> None:
        self.changes: list[tuple[datetime, int, str]] = []
        self.asked: list[str] = []
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
                if query["offset"] == "0":
                    shop.asked.append(query.get("updated_since", ""))
                body = json.dumps({"data": shop.page(query)}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ServerInThread(ThreadingHTTPServer(("127.0.0.1", 0), Handler))

    def page(self, query: dict[str, str]) -> list[dict[str, Any]]:
        day, since = (datetime.fromisoformat(query[name]) for name in ("at", "updated_since"))
        end = day.replace(hour=23, minute=59, second=59)
        newest = {order: (at, state) for at, order, state in sorted(self.changes) if at <= end}
        orders = sorted((at, order, state) for order, (at, state) in newest.items() if at >= since)
        offset = int(query["offset"])
        return [{"id": o, "state": s, "updated_at": at.isoformat()} for at, o, s in orders[offset : offset + PAGE]]


def at(day: int, hour: int) -> datetime:
    return datetime(2024, 5, day, hour, tzinfo=UTC)


def manifest(folder: Path, shop: Shop, *, maintenance: dict[str, Any] | None = None, **incremental: str) -> Path:
    source = fetched(
        "orders",
        "/orders?offset=0",
        paging={"offset": {"parameter": "offset", "pageSize": PAGE}},
        incremental={"cursor": "/updated_at", "parameter": "updated_since", "initial": INITIAL, **incremental},
    )
    table = {
        "name": "orders",
        "from": "orders",
        "write": {"merge": {"key": ["order_id"], "sequenceBy": ["updated_at"]}},
        "columns": COLUMNS,
    }
    settings = {"maintenance": maintenance} if maintenance is not None else {}
    pipeline = manifests.pipeline("orders", [source], [table], **settings)
    connection = manifests.archive("api", f"http://127.0.0.1:{shop.server.port}")
    return manifests.write(folder / "orders.yaml", manifests.lakehouse([connection]), pipeline)


def test_each_day_loads_what_changed_since_the_day_before(lake: Lakehouse, tmp_path: Path) -> None:
    shop = Shop()
    shop.changes = [(at(1, hour), hour, "new") for hour in range(1, 9)]
    shop.changes += [(at(2, 10), 3, "paid"), (at(2, 11), 20, "new"), (at(4, 9), 3, "sent")]
    with shop.server:
        file = manifest(tmp_path, shop)
        for day in (1, 2, 3, 4):
            lake.run(file, interval=f"2024-05-{day:02}")
        again = lake.command(*lake.run_arguments(file, interval="2024-05-02"), "--again")
        assert again.status == 0, again.text
    last = {1: at(1, 8), 2: at(2, 11), 3: at(2, 11)}
    assert [datetime.fromisoformat(text) for text in shop.asked] == [
        datetime.fromisoformat(INITIAL),
        last[1],
        last[2],
        last[3],
        last[1],
    ]
    # The one that has the greatest value comes again every time: the shop answers what is not older.
    assert [report["tables"][0]["rowsRead"] for report in lake.reports("ingest")] == [8, 3, 1, 2, 3]
    newest = {order: (when, state) for when, order, state in sorted(shop.changes)}
    expected = [{"order_id": o, "state": state, "updated_at": when} for o, (when, state) in newest.items()]
    assert readers.without(lake.rows("silver.orders"), {"processed_at"}) == readers.ordered(expected)


def test_a_pause_longer_than_the_retention_of_bronze_loses_nothing(lake: Lakehouse, tmp_path: Path) -> None:
    shop = Shop()
    shop.changes = [(at(1, 8), 1, "new"), (at(2, 9), 2, "new"), (at(4, 9), 1, "sent")]
    with shop.server:
        file = manifest(tmp_path, shop, maintenance={"bronzeRetention": "30d"})
        for day in (1, 2):
            lake.run(file, interval=f"2024-05-{day:02}")
        kept = [path for path in (lake.folder / "bronze" / "orders").rglob("*") if path.is_file()]
        for path in kept:
            os.utime(path, (0, 0))
        lake.run(file, interval="2024-05-02", stages=["maintenance"])
        assert not any(path.exists() for path in kept), "manifests and objects are gone"
        # A retirement that did not come to its end and is done again keeps what the first one kept.
        (left,) = (path for path in kept if path.name.startswith("part-") and "dt=2024-05-02" in str(path))
        left.write_text("{}")
        os.utime(left, (0, 0))
        lake.command(*lake.run_arguments(file, interval="2024-05-02", stages=["maintenance"]), "--again")
        assert not left.exists()
        lake.run(file, interval="2024-05-04")
    assert [datetime.fromisoformat(text) for text in shop.asked][-1] == at(2, 9), (
        "where the newest retired interval ended"
    )
    assert {row["order_id"]: row["state"] for row in lake.rows("silver.orders")} == {1: "sent", 2: "new"}


def test_a_first_value_of_another_type_is_refused(lake: Lakehouse, tmp_path: Path) -> None:
    shop = Shop()
    with shop.server:
        outcome = lake.fail(manifest(tmp_path, shop, initial="yesterday"), interval="2024-05-01")
    assert outcome.status == TERMINAL
    assert "spec.ingest[orders].http.incremental.initial: `yesterday` is no time with an offset" in outcome.text
    assert lake.manifests() == []
