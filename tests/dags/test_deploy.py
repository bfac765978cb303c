"""deploy/airflow holds the sample pipelines with one difference: Airflow makes their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def pipeline(path: Path) -> dict[str, Any]:
    (found,) = (d for d in yaml.safe_load_all(path.read_text()) if d["kind"] == "LakehousePipeline")
    return dict(found)


@pytest.mark.parametrize("name", ["pulse", "crypto", "shop", "uploads"])
def test_only_the_trigger_differs(name: str) -> None:
    ours, sample = pipeline(DEPLOY / "airflow" / f"{name}.yaml"), pipeline(DEPLOY / f"{name}.yaml")
    assert ours["spec"].pop("trigger") == {"external": {}}
    assert sample["spec"].pop("trigger") != {"external": {}}
    for model in sample["spec"].get("gold", ()):
        model.pop("tests", None)  # they are no part of what a run executes, and stand with the sample
    assert ours == sample
    assert ours["spec"]["interval"] == "daily"
