"""The stages under test, as the specs that the operator would give to their jobs."""

import copy
from collections.abc import Sequence
from typing import Any

PIPELINE = "shop"
CONTRACT_VERSION = 1
FIRST_DAY = {"start": "2024-03-01T00:00:00Z", "end": "2024-03-02T00:00:00Z"}
SECOND_DAY = {"start": "2024-03-02T00:00:00Z", "end": "2024-03-03T00:00:00Z"}

# Events of one interval. Ingest makes enough for an upload in several parts (of 8 MiB); the others need only a few.
MANY_EVENTS = 80_000
FEW_EVENTS = 4_000

LANDED_FILE = "orders/2024-03-02.ndjson"


def stage_spec(day: dict[str, str], work: dict[str, Any]) -> dict[str, Any]:
    """The first attempt of the run of `day`, without its store. The same run everywhere, so lakes can be compared."""
    name = f"{PIPELINE}-{day['start'][:10]}"
    return {
        "contract": CONTRACT_VERSION,
        "pipeline": PIPELINE,
        "owner": f"faults/{PIPELINE}",
        "run": {"name": name, "id": run_id(day), "createdAt": "2024-03-04T05:06:07Z"},
        "attempt": 1,
        "interval": day,
        "grain": "daily",
        "work": work,
    }


def run_id(day: dict[str, str]) -> str:
    return f"{PIPELINE}-{day['start'][:10]}-5eed5eed"


def attempt(spec: dict[str, Any], number: int) -> dict[str, Any]:
    """The same work as another attempt."""
    again = copy.deepcopy(spec)
    again["attempt"] = number
    return again


def newer_definition(spec: dict[str, Any]) -> dict[str, Any]:
    """A run of the same silver interval whose tables have other definitions, which do not change their rows."""
    newer = copy.deepcopy(spec)
    newer["run"] |= {"name": f"{spec['run']['name']}-newer", "id": f"{spec['run']['name']}-newer-5eed5eed"}
    for table in newer["work"]["silver"]["tables"]:
        table["definitionDigest"] += "-newer"
    return newer


def ingest_work(events: int) -> dict[str, Any]:
    """Sources that need no network: generated events, a heartbeat, an uploaded file."""
    clickstream = {
        "events": events,
        "users": 200,
        "products": 40,
        "seed": 7,
        "duplicatesPerTenThousand": 200,
        "faultsPerTenThousand": 100,
    }
    return {
        "ingest": {
            "sources": [
                {"name": "events", "source": {"clickstream": clickstream}},
                {"name": "beats", "source": {"pulse": {"every": "60s"}}},
                {"name": "orders", "source": {"files": {"path": LANDED_FILE, "format": "ndjson", "allowEmpty": False}}},
            ]
        }
    }


def http_work(url: str) -> dict[str, Any]:
    """One source that answers differently each time it is asked."""
    http = {
        "url": url,
        "connection": {"name": "loopback"},
        "records": "",
        "history": "byInterval",
        "allowEmpty": False,
        "timeoutSeconds": 10,
        "retries": 2,
    }
    return {"ingest": {"sources": [{"name": "answers", "source": {"http": http}}]}}


def maintenance_work(tables: Sequence[str], *, compact: bool) -> dict[str, Any]:
    """Maintenance that keeps one snapshot of what was superseded an hour ago; files just written are nobody's orphans."""
    settings = {
        "compact": {"enabled": compact},
        "expireSnapshots": {"olderThan": "1h", "keepLast": 1},
        "removeOrphans": {"olderThan": "1h"},
    }
    names = [dict(zip(("namespace", "name"), table.split("."), strict=True)) for table in tables]
    return {"maintenance": {"tables": names, "settings": settings}}


def columns(*definitions: tuple[str, str, str, bool]) -> list[dict[str, Any]]:
    return [
        {"name": name, "from": origin, "type": kind, "required": required}
        for name, origin, kind, required in definitions
    ]


EVENT_COLUMNS = columns(
    ("event_id", "/event_id", "string", True),
    ("ts", "/ts", "timestamptz", True),
    ("user_id", "/user_id", "string", True),
    ("event_type", "/event_type", "string", False),
    ("product", "/product", "string", False),
    ("price", "/price", "decimal(18,4)", False),
)

# One table per way of writing. `events` and `customers` also have rows for their quarantine tables.
SILVER_TABLES: list[dict[str, Any]] = [
    {
        "name": "customers",
        "from": "events",
        "table": {"format": "iceberg"},
        "write": {"merge": {"key": ["user_id"], "sequenceBy": ["ts", "event_id"]}},
        "columns": columns(
            ("user_id", "/user_id", "string", True),
            ("ts", "/ts", "timestamptz", True),
            ("event_id", "/event_id", "string", True),
            ("region", "/region", "string", False),
        ),
    },
    {
        "name": "events",
        "from": "events",
        "table": {"format": "iceberg", "partitionBy": ["day(ts)"], "sortBy": ["event_id"]},
        "write": {"replaceInterval": {"column": "ts", "outside": "quarantine"}},
        "columns": EVENT_COLUMNS,
        "deduplicate": {"key": ["event_id"], "keep": "last"},
        "expectations": [
            {"name": "price_is_positive", "row": "price > 0", "otherwise": "quarantine"},
            {"name": "enough", "batch": "count(*) >= 10", "otherwise": "fail"},
        ],
    },
    {
        "name": "event_log",
        "from": "events",
        "table": {"format": "iceberg", "partitionBy": ["event_type"]},
        "write": {"append": {}},
        "columns": EVENT_COLUMNS,
    },
    {
        "name": "event_files",
        "from": "events",
        "table": {"format": "parquet", "partitionBy": ["day(ts)"]},
        "write": {"replaceInterval": {"column": "ts", "outside": "drop"}},
        "columns": EVENT_COLUMNS,
        "deduplicate": {"key": ["event_id"], "keep": "first"},
    },
]

# The same ways of writing with Delta's log; the plain Parquet table stays the last to be committed.
SILVER_TABLES[3:3] = [
    {
        **table,
        "name": f"delta_{table['name']}",
        "table": {"format": "delta", **({} if "merge" in table["write"] else {"partitionBy": ["event_type"]})},
    }
    for table in SILVER_TABLES[:3]
]

# Looked at as a whole before they are published; the Iceberg one is made after the Delta one, whose keys its rows must have.
WHOLE: list[dict[str, Any]] = [
    {"name": "once", "unique": ["event_id"], "otherwise": "fail"},
    {"name": "some", "table": "count(*) > 0", "otherwise": "fail"},
    {"name": "few", "table": "count(*) < 0", "otherwise": "warn"},
]
PARTNER = {"table": "delta_audited", "columns": {"event_id": "event_id"}}
SILVER_TABLES[-1:-1] = [
    {
        "name": name,
        "from": "events",
        "table": {"format": form},
        "write": {"replaceInterval": {"column": "ts", "outside": "drop"}},
        "columns": EVENT_COLUMNS,
        "deduplicate": {"key": ["event_id"], "keep": "last"},
        "expectations": rules,
    }
    for name, form, rules in (
        ("audited", "iceberg", [*WHOLE, {"name": "partner", "references": PARTNER, "otherwise": "fail"}]),
        ("delta_audited", "delta", WHOLE),
    )
]

# Those whose writers take no turns, so that two processes of a run can meet at any commit.
UNAUDITED_TABLES = [table for table in SILVER_TABLES if not table["name"].endswith("audited")]


def silver_work(day: dict[str, str], tables: list[dict[str, Any]]) -> dict[str, Any]:
    resolved = [
        {"table": table, "decode": "ndjson", "definitionDigest": f"definition-of-{table['name']}"} for table in tables
    ]
    return {"silver": {"input": {"run": run_id(day)}, "tables": resolved}}


GOLD_MODELS: list[dict[str, Any]] = [
    {
        "name": "best_customers",
        "table": {"format": "iceberg"},
        "write": {"merge": {"key": ["user_id"], "sequenceBy": ["day"]}},
        "sql": "SELECT user_id, day, spent FROM gold.daily_customers WHERE day >= $start AND day < $end AND spent > 0",
    },
    {
        "name": "daily_customers",
        "table": {"format": "iceberg", "partitionBy": ["day(day)"]},
        "write": {"replaceInterval": {"column": "day"}},
        "sql": "SELECT date_trunc('day', ts) AS day, user_id, count(*) AS events,"
        " sum(CASE WHEN event_type = 'purchase' THEN price END) AS spent"
        " FROM silver.events WHERE ts >= $start AND ts < $end GROUP BY 1, 2",
    },
    {
        "name": "products",
        "table": {"format": "iceberg"},
        "write": {"overwrite": {}},
        "sql": "SELECT product, count(*) AS events FROM silver.events GROUP BY 1",
    },
]


def gold_work(day: dict[str, str]) -> dict[str, Any]:
    models = [
        {"model": model, "readStart": day["start"], "definitionDigest": f"definition-of-{model['name']}"}
        for model in GOLD_MODELS
    ]
    return {"gold": {"models": models}}
