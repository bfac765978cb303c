"""What the operator's chart makes for monitoring, and that its documents say what is so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ADMIN_TOKEN, ControlPlane, program
from prometheus import CHART, RULES
from scenarios import EXTERNAL, LAKEHOUSE, pipeline, run
from stand import Stand
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
        "networkPolicy.allow=all",
        "networkPolicy.sourcePorts={0}",
        "networkPolicy.extraSources[0].ports={8080}",
        "networkPolicy.extraSources[0].cidr=10.1.2.3/32,networkPolicy.extraSources[0].ports={8080:}",
        "networkPolicy.services.networks={everywhere}",
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


DIGEST = f"sha256:{'0a' * 32}"
CLOSED = ("networkPolicy.enabled=true", "watchNamespaces={lake,team}")


def test_the_operator_has_no_right_that_it_could_do_without() -> None:
    """No wildcard, no look at all Secrets, nothing cluster-wide."""
    documents = template("watchNamespaces={lake,team}", *(f"metrics.{it}.enabled=true" for it in ("dashboards",)))
    assert not of(documents, "ClusterRole")
    assert not of(documents, "ClusterRoleBinding")
    roles = of(documents, "Role")
    assert {role["metadata"]["namespace"] for role in roles} == {"lake", "team"}
    for role in roles:
        for rule in role["rules"]:
            assert "*" not in json.dumps(rule), rule
            assert not {"bind", "escalate", "impersonate", "deletecollection"} & set(rule["verbs"]), rule
            # What would be a way to run anything, or to become anybody.
            assert not {"pods/exec", "pods/attach", "serviceaccounts", "serviceaccounts/token", "roles", "nodes"} & set(
                rule["resources"]
            )
            if "secrets" in rule["resources"]:
                assert (rule["verbs"], rule["resources"]) == (["get"], ["secrets"])
                assert rule["resourceNames"] == ["minio-credentials", "catalog"]
    (operator,) = of(documents, "Deployment")
    account = operator["spec"]["template"]["spec"]["serviceAccountName"]
    subjects = [subject for binding in of(documents, "RoleBinding") for subject in binding["subjects"]]
    assert {(subject["kind"], subject["name"]) for subject in subjects} == {("ServiceAccount", account)}
    # The Jobs' account is bound to nothing, and hands out no token.
    others = [account for account in of(documents, "ServiceAccount") if account["metadata"]["name"] == "lakehouse-jobs"]
    assert [one["automountServiceAccountToken"] for one in others] == [False, False]


def test_images_by_digest_win_over_tags() -> None:
    stages = [
        f"stages.{stage}.digest={DIGEST}" for stage in ("ingest", "ingestChromium", "silver", "gold", "maintenance")
    ]
    values = (f"image.digest={DIGEST}", "image.tag=other", "imageRegistry=registry.example.com/team", *stages)
    (operator,) = of(template(*values), "Deployment")
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example.com/team/lakehouse/operator@{DIGEST}"
    images = [argument for argument in container["args"] if "-image=" in argument]
    assert len(images) == 5
    assert all(argument.endswith(f"@{DIGEST}") for argument in images)
    assert render("image.digest=latest").returncode != 0


def test_network_policies_are_made_when_asked_for() -> None:
    assert not of(template(), "NetworkPolicy")
    policies = {
        (it["metadata"]["namespace"], it["metadata"]["name"]): it["spec"]
        for it in of(template(*CLOSED), "NetworkPolicy")
    }
    namespaces = ("lake", "team")
    names = {(n, f"release-{what}") for n in namespaces for what in ("closed", "jobs", "sources")} | {
        ("lake", "release")
    }
    assert policies.keys() == names
    for namespace in namespaces:
        closed, jobs, sources = (policies[namespace, f"release-{what}"] for what in ("closed", "jobs", "sources"))
        # Nobody reaches a Job, and no rule leaves out whom or what it is about.
        assert (closed["policyTypes"], closed["ingress"]) == (["Ingress"], [])
        assert closed["podSelector"] == jobs["podSelector"]
        assert [it["policyTypes"] for it in (jobs, sources)] == [["Egress"]] * 2
        assert all(rule.get("to") and rule.get("ports") for rule in jobs["egress"] + sources["egress"])
        assert sources["podSelector"]["matchLabels"].items() >= jobs["podSelector"]["matchLabels"].items()
        assert sources["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "ingest"
        blocks = {peer["ipBlock"]["cidr"]: peer["ipBlock"].get("except", []) for peer in sources["egress"][0]["to"]}
        assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(blocks["0.0.0.0/0"])
    operator = policies["lake", "release"]
    assert {
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for peer in operator["ingress"][0]["from"]
        if "namespaceSelector" in peer
    } == {"monitoring"}
    (nothing,) = [
        it["spec"]
        for it in of(template("networkPolicy.enabled=true", "networkPolicy.sources=null"), "NetworkPolicy")
        if it["metadata"]["name"].endswith("-sources")
    ]
    assert nothing["egress"] == []


def test_sources_of_the_inner_network_have_ports_of_their_own() -> None:
    first, second = "networkPolicy.extraSources[0]", "networkPolicy.extraSources[1]"
    values = [f"{first}.cidr=10.1.2.3/32", f"{first}.ports[0]=8443", f"{first}.ports[1]=9000-9099"]
    (sources,) = [
        it["spec"]
        for it in of(
            template(
                "networkPolicy.enabled=true", *values, f"{second}.cidr=10.4.0.0/16", f"{second}.except={{10.4.1.0/24}}"
            ),
            "NetworkPolicy",
        )
        if it["metadata"]["name"].endswith("-sources")
    ]
    public, *inner = sources["egress"]
    web = [{"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": 443}]
    assert public["ports"] == web
    assert inner == [
        {
            "to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}],
            "ports": [{"protocol": "TCP", "port": 8443}, {"protocol": "TCP", "port": 9000, "endPort": 9099}],
        },
        {"to": [{"ipBlock": {"cidr": "10.4.0.0/16", "except": ["10.4.1.0/24"]}}], "ports": web},
    ]


def test_policies_choose_the_pods_they_are_about(stand: Callable[[str], Stand]) -> None:
    """The labels of a Job that the operator makes are those that the policies select."""
    policies = {it["metadata"]["name"]: it["spec"] for it in of(template(*CLOSED), "NetworkPolicy")}
    with stand("selected") as it:
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL), run())
        it.wait("silence", it.settled)
        jobs = it.items("jobs")
    every = {"ingest", "silver", "gold"}
    for name, stages in (("release-closed", every), ("release-jobs", every), ("release-sources", {"ingest"})):
        wanted = policies[name]["podSelector"]["matchLabels"].items()
        labels = [job["spec"]["template"]["metadata"]["labels"] for job in jobs]
        assert {it["lakehouse.rs/stage"] for it in labels if wanted <= it.items()} == stages


def test_a_real_api_server_takes_every_object(plane: ControlPlane, tmp_path: Path) -> None:
    documents = template(*CLOSED, "metrics.dashboards.enabled=true", "crds.install=false")
    for namespace in ("lake", "team"):
        plane.api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    for document in documents:
        document["metadata"].setdefault("namespace", "lake")
    manifest = tmp_path / "chart.yaml"
    manifest.write_text(yaml.safe_dump_all([it for it in documents if it["metadata"].get("annotations") is None]))
    config = plane.kubeconfig(tmp_path / "kubeconfig", f"https://127.0.0.1:{plane.port}", ADMIN_TOKEN)
    command = [program("kubectl"), "--kubeconfig", config, "apply", "--dry-run=server", "-f", manifest]
    done = subprocess.run([*command, "--validate=strict"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("networkpolicy.networking.k8s.io/") == 7
    assert not [line for line in done.stderr.splitlines() if line.startswith("Warning")], done.stderr
