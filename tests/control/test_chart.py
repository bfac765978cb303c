"""What the operator's chart makes for monitoring, and that its documents say what is so."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml
from control_plane import program
from prometheus import CHART, RULES
from support.paths import ROOT


def template(*values: str) -> list[dict[str, Any]]:
    """The chart's objects with these values."""
    done = render(*values)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def render(*values: str) -> subprocess.CompletedProcess[str]:
    """`helm template` with these values."""
    command = [program("helm"), "template", "release", CHART, "--namespace", "lake"]
    command += [argument for value in values for argument in ("--set", value)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def of(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


def test_kinds_of_others_are_made_only_when_asked_for() -> None:
    kinds = {document["kind"] for document in template()}
    assert not kinds & {"ServiceMonitor", "PrometheusRule"}
    assert "PodDisruptionBudget" in kinds
    assert not of(template("podDisruptionBudget.enabled=false"), "PodDisruptionBudget")


def test_prometheus_finds_the_operator_and_its_rules() -> None:
    documents = template(
        "metrics.serviceMonitor.enabled=true", "metrics.prometheusRule.enabled=true", "metrics.labels.team=data"
    )
    (monitor,), (service,) = of(documents, "ServiceMonitor"), of(documents, "Service")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    # Without it the namespace of a pipeline would become exported_namespace, and no query would find it.
    assert endpoint["honorLabels"] is True
    (rules,) = of(documents, "PrometheusRule")
    assert rules["spec"] == yaml.safe_load(RULES.read_text())
    assert {document["metadata"]["labels"]["team"] for document in (monitor, rules)} == {"data"}


def test_grafana_finds_the_dashboards() -> None:
    maps = [
        d for d in of(template("metrics.dashboards.enabled=true"), "ConfigMap") if "dashboard" in d["metadata"]["name"]
    ]
    files = {path.name: json.loads(path.read_text()) for path in (CHART / "files" / "dashboards").glob("*.json")}
    assert {name: json.loads(text) for it in maps for name, text in it["data"].items()} == files
    assert all(it["metadata"]["labels"]["grafana_dashboard"] == "1" for it in maps)
    assert len({dashboard["uid"] for dashboard in files.values()}) == len(files)


def test_traces_go_where_the_values_say() -> None:
    (deployment,) = of(template("tracing.endpoint=http://collector:4318", "tracing.headersSecret=otel"), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry for entry in container["env"]}
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"]["value"] == "http://collector:4318"
    assert environment["OTEL_EXPORTER_OTLP_HEADERS"]["valueFrom"]["secretKeyRef"] == {"name": "otel", "key": "headers"}
    (plain,) = of(template(), "Deployment")
    assert "OTEL" not in json.dumps(plain)


@pytest.mark.parametrize(
    "value",
    [
        "metrics.unknown=1",
        "metrics.serviceMonitor.interval=soon",
        "tracing.endpoint=collector",
        "podDisruptionBudget.x=1",
    ],
)
def test_a_value_that_is_none_is_refused(value: str) -> None:
    done = render(value)
    assert done.returncode != 0
    assert "values don't meet the specifications" in done.stderr


def test_the_readmes_have_the_values_as_they_are() -> None:
    command = [sys.executable, ROOT / "charts" / "document", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
