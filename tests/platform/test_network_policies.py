"""NetworkPolicies as the cluster's network enforces them: what Jobs reach, what they do not, and that it is the policies that decide it.

Pods with the labels of real Jobs try connections. A pod without labels shows that each of them works, and so do all pods once the
policies are taken away.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from documents import lakehouse, pipeline, renamed_tables, run
from kubernetes import NAMESPACE, Kubernetes, condition
from support.replay import ReplayServer

DAY = "2024-06-22"
RUN = "policies-run"
SCRAPERS = "monitoring"
"""The namespace that the chart's values name in `networkPolicy.scrapers`."""
POLICIES = "networkpolicies.networking.k8s.io"
OURS = "app.kubernetes.io/instance=lakehouse-operator"
PORT = 9000
"""What the pods of this test listen on: a port that Jobs may reach, where their store is."""
LISTEN = """
    my $s = IO::Socket::INET->new(LocalPort => $ARGV[0], Listen => 64, ReuseAddr => 1) or die "no listener: $!";
    while (1) { my $c = $s->accept; close $c if $c }
"""
CONNECT = """
    try() { timeout 4 bash -c "exec 3<>/dev/tcp/$2/$3" 2>/dev/null && echo "$1"; }
    while read -r name host port; do try "$name" "$host" "$port" & done
    wait
"""


def waiting(pod: str, image: str, labels: dict[str, str]) -> dict[str, Any]:
    """A pod with a shell, from an image that the node has, which listens on PORT until it is deleted."""
    container = {
        "name": "shell",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["perl", "-MIO::Socket::INET", "-e", LISTEN, str(PORT)],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"policies-{pod}", "labels": labels},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 999, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        },
    }


@dataclass(frozen=True)
class Stand:
    """The pods that try connections, and what they try to reach."""

    places: dict[str, Kubernetes]
    """Pod to its namespace."""
    addresses: dict[str, str]
    """Pod to its address."""
    targets: dict[str, tuple[str, int]]
    """What is tried to host and port; a Job's pod comes on top."""

    def reached(self, pod: str) -> set[str]:
        """What a pod can open a TCP connection to."""
        # A pod always reaches itself: the other one is tried.
        job = self.addresses["silver" if pod == "ingest" else "ingest"]
        tried = {**self.targets, "job": (job, PORT)}
        lines = "".join(f"{name} {host} {port}\n" for name, (host, port) in tried.items())
        command = ["exec", "-i", f"policies-{pod}", "--", "bash", "-c", CONNECT]
        return set(self.places[pod].run(*command, stdin=lines).split())

    def everything(self) -> set[str]:
        """The names of all that is tried."""
        return {*self.targets, "job"}

    def comes_to_reach(self, pod: str, wanted: set[str]) -> None:
        """A plugin takes a moment to see a pod or a policy: until then others may be reached, and after it these are."""
        end = time.monotonic() + 45
        while (found := self.reached(pod)) != wanted and time.monotonic() < end:
            time.sleep(0.5)
        assert found == wanted, f"{pod} reaches what it should not, or not what it should"


@pytest.fixture(scope="module")
def finished(kubernetes: Kubernetes, replay: ReplayServer) -> dict[str, Any]:
    """A finished run of three stages whose source is the replay server."""
    archive = [{"name": "coincap", "baseUrl": replay.url, "archive": {"query": {"at": "{{ interval.start }}"}}}]
    kubernetes.apply(lakehouse("main", connections=archive))
    kubernetes.apply(renamed_tables(pipeline("crypto.yaml", "policies", trigger={"external": {}}), "policies"))
    kubernetes.delete("lhr", RUN)
    kubernetes.apply(run(RUN, "policies", DAY))
    return kubernetes.wait_succeeded(RUN)


@pytest.fixture(scope="module")
def stand(
    kubernetes: Kubernetes,
    finished: dict[str, Any],
    replay: ReplayServer,
    gateway: str,
    operator_deployment: str,
) -> Iterator[Stand]:
    """The pods run; Jobs' ones have the standard labels of that run's Jobs."""
    labels = {
        job["metadata"]["labels"]["lakehouse.rs/stage"]: {
            key: value
            for key, value in job["spec"]["template"]["metadata"]["labels"].items()
            if key.startswith("app.kubernetes.io/")
        }
        for job in kubernetes.jobs_of(RUN)
    }
    monitoring = dataclasses.replace(kubernetes, namespace=SCRAPERS)
    places = {"ingest": kubernetes, "silver": kubernetes, "stranger": kubernetes, "scraper": monitoring}
    image = kubernetes.get("statefulset", "postgres")["spec"]["template"]["spec"]["containers"][0]["image"]
    made = not kubernetes.exists("namespace", SCRAPERS)
    if made:
        kubernetes.run("create", "namespace", SCRAPERS)
    try:
        for pod, place in places.items():
            place.apply(waiting(pod, image, labels.get(pod, {})))
        addresses = {}
        for pod, place in places.items():
            place.wait(f"pod {pod} to be ready", lambda place=place, pod=pod: ready(place, f"policies-{pod}"), 60)
            addresses[pod] = place.get("pod", f"policies-{pod}")["status"]["podIP"]
        targets = {
            "store": (f"minio.{NAMESPACE}.svc", 9000),
            "catalog": (f"postgres.{NAMESPACE}.svc", 5432),
            "source": (gateway, replay.port),
            # A service of a namespace of which only names may be asked.
            "metrics-of-dns": ("kube-dns.kube-system.svc", 9153),
            # The port of the store, in another namespace.
            "neighbour": (addresses["scraper"], PORT),
            "airflow": (f"airflow.{NAMESPACE}.svc", 8080),
            "operator": (f"{operator_deployment}.{NAMESPACE}.svc", 8080),
            **on_the_node(kubernetes),
        }
        yield Stand(places, addresses, targets)
    finally:
        for pod, place in places.items():
            place.delete("pod", f"policies-{pod}")
        if made:
            kubernetes.delete("namespace", SCRAPERS, wait=False)


def on_the_node(kubernetes: Kubernetes) -> dict[str, tuple[str, int]]:
    """What is behind the node's own address, which no value of the chart names: the API server and the kubelet.

    Kubernetes leaves it to the plugin whether policies stand between a pod and its own node. kube-router's do, kindnet's do not.
    """
    if not dataclasses.replace(kubernetes, namespace="kube-system").exists("daemonset", "kube-router"):
        return {}
    (node, *_) = kubernetes.list("nodes")
    address = next(it["address"] for it in node["status"]["addresses"] if it["type"] == "InternalIP")
    return {
        "api-server": ("kubernetes.default.svc", 443),
        "api-server-of-node": (address, 6443),
        "kubelet": (address, 10250),
    }


def ready(kubernetes: Kubernetes, pod: str) -> bool:
    return condition(kubernetes.get("pod", pod), "Ready").get("status") == "True"


def test_the_platform_runs_with_the_policies_of_the_chart(kubernetes: Kubernetes) -> None:
    """They hold for every test of this folder, whose Jobs reach what they need under them."""
    names = {it["metadata"]["name"] for it in kubernetes.list(POLICIES, OURS)}
    assert names == {"lakehouse-operator", *(f"lakehouse-operator-{what}" for what in ("closed", "jobs", "sources"))}


def test_a_run_reaches_names_store_catalog_and_source(finished: dict[str, Any], replay: ReplayServer) -> None:
    assert [it["state"] for it in finished["status"]["stages"]] == ["Succeeded"] * 3
    assert [it for it in replay.requests if any(value.startswith(DAY) for value in it.query.get("at", []))]


ALLOWED: dict[str, Callable[[set[str]], set[str]]] = {
    "ingest": lambda _: {"store", "catalog", "source"},
    "silver": lambda _: {"store", "catalog"},
    # What it does not reach, the policies of others keep from it.
    "stranger": lambda everything: everything - {"operator", "job"},
    "scraper": lambda everything: everything - {"job"},
}


@pytest.mark.parametrize("pod", ALLOWED)
def test_a_pod_reaches_what_policies_allow(stand: Stand, pod: str) -> None:
    stand.comes_to_reach(pod, ALLOWED[pod](stand.everything()))


def test_without_the_policies_every_pod_reaches_everything(stand: Stand, kubernetes: Kubernetes) -> None:
    """The connections that fail do so because of the policies alone, and again when they are back."""
    policies = kubernetes.list(POLICIES, OURS)
    for policy in policies:
        policy["metadata"] = {key: policy["metadata"][key] for key in ("name", "labels", "annotations")}
    kubernetes.run("delete", POLICIES, "-l", OURS)
    try:
        for pod in ALLOWED:
            stand.comes_to_reach(pod, stand.everything())
    finally:
        # `helm` knows them by name and annotation, and keeps them as its own.
        kubernetes.run("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": policies}))
    for pod, allowed in ALLOWED.items():
        stand.comes_to_reach(pod, allowed(stand.everything()))
