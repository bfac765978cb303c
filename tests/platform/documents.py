"""Manifests of the tests: Lakehouses, runs, and the samples of deploy/ with another name or trigger."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
API_VERSION = "lakehouse.rs/v1alpha1"


def sample(file: str) -> list[dict[str, Any]]:
    """The documents of a file under deploy/."""
    return [d for d in yaml.safe_load_all((ROOT / "deploy" / file).read_text()) if d]


def lakehouse(name: str, **spec: Any) -> dict[str, Any]:
    """The Lakehouse of deploy/lakehouse.yaml under another name, with fields of its spec replaced."""
    document = copy.deepcopy(next(d for d in sample("lakehouse.yaml") if d["kind"] == "Lakehouse"))
    document["metadata"] = {"name": name}
    document["spec"].update(spec)
    return document


def pipeline(file: str, name: str, **spec: Any) -> dict[str, Any]:
    """The pipeline of a sample under another name, with fields of its spec replaced."""
    document = copy.deepcopy(next(d for d in sample(file) if d["kind"] == "LakehousePipeline"))
    document["metadata"] = {"name": name}
    document["spec"].update(spec)
    return document


def run(name: str, pipeline_name: str, day: str, **spec: Any) -> dict[str, Any]:
    """A LakehouseRun for one day."""
    from datetime import date, timedelta

    after = date.fromisoformat(day) + timedelta(days=1)
    return {
        "apiVersion": API_VERSION,
        "kind": "LakehouseRun",
        "metadata": {"name": name},
        "spec": {
            "pipeline": pipeline_name,
            "interval": {"start": f"{day}T00:00:00Z", "end": f"{after.isoformat()}T00:00:00Z"},
            **spec,
        },
    }


def renamed_tables(document: dict[str, Any], prefix: str) -> dict[str, Any]:
    """A pipeline whose tables have names of their own, so that two tests do not share them."""
    text = yaml.safe_dump(document["spec"])
    for layer in ("silver", "gold"):
        for table in document["spec"].get(layer, []):
            text = text.replace(f"{layer}.{table['name']}", f"{layer}.{prefix}_{table['name']}")
    renamed = {**document, "spec": yaml.safe_load(text)}
    for layer in ("silver", "gold"):
        for table in renamed["spec"].get(layer, []):
            table["name"] = f"{prefix}_{table['name']}"
    return renamed
