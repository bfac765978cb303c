"""Tables as Airflow assets: `lakehouse://<namespace>/<layer>/<table>`, with rows and snapshot of each write in its event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow.sdk import Asset

from lakehouse_airflow.defaults import NAMESPACE
from lakehouse_airflow.runs import Outcome


def table(name: str, namespace: str = NAMESPACE) -> Asset:
    """The asset of a table such as `silver.price_snapshots`."""
    layer, dot, rest = name.partition(".")
    if not (layer and dot and rest):
        raise ValueError(f"table {name!r}: write layer and name, such as silver.price_snapshots")
    return Asset(name=f"{namespace}/{name}", uri=f"lakehouse://{namespace}/{layer}/{rest}", group="lakehouse")


def tables(names: Iterable[str], namespace: str = NAMESPACE) -> list[Asset]:
    """The assets of several tables."""
    return [table(name, namespace) for name in names]


def record(context: Mapping[str, Any], result: Outcome | None) -> None:
    """Puts rows and snapshot of what a run wrote into the events of the task's outlets."""
    if not result:
        return
    interval = result["interval"]
    written = {entry["name"]: entry for entry in result["tables"]}
    for outlet in context["task"].outlets:
        entry = written.get(outlet.name.rpartition("/")[2]) if isinstance(outlet, Asset) else None
        if entry is None:
            continue
        context["outlet_events"][outlet].extra.update(
            {
                "run": result["run"],
                "interval_start": interval["start"],
                "interval_end": interval["end"],
                "rows_written": entry.get("rowsWritten", 0),
                "snapshot": entry.get("snapshot"),
            }
        )
