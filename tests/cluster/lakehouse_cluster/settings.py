"""Names, versions and places: everything the other modules agree on."""

from __future__ import annotations

import os
import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[3]
HERE = REPO / "tests" / "cluster"
NODE_FILES = HERE / "node"
GO_MODULES = HERE / "go"
IMAGE_FILES = REPO / "deploy" / "images"
KIND_CONFIG = REPO / "kind-config.yaml"
CHARTS = REPO / "charts"
DAGS = REPO / "dags"

CLUSTER = "lakehouse"
"""Name of the kind cluster; must equal `name` in kind-config.yaml."""

NODE = f"{CLUSTER}-control-plane"
NAMESPACE = "lakehouse"
RELEASES = ("lakehouse-platform", "lakehouse-operator")
"""Charts in the order they are installed; each release has its chart's name."""

DEBIAN_SUITE = "bookworm"

# v0.316.0 of the module is release 3.16.0.
_PROMETHEUS = "v0.316.0"

GO_TOOLS = {
    "kind": "sigs.k8s.io/kind@v0.33.0",
    "minio": "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c",
    "prometheus": f"github.com/prometheus/prometheus/cmd/prometheus@{_PROMETHEUS}",
    "promtool": f"github.com/prometheus/prometheus/cmd/promtool@{_PROMETHEUS}",
}
"""Programs that `go install` builds as they are, each pinned to one version."""

GO_TAGS = {name: "netgo,remove_all_sd" for name in ("prometheus", "promtool")}
"""Build tags: without the clients of all clouds that Prometheus could discover targets by."""

CLIENTS = {"kubectl": "k8s.io/kubernetes/cmd/kubectl", "helm": "helm.sh/helm/v3/cmd/helm"}
"""Programs of go/kubernetes that every user of a cluster needs, and their packages."""

NODE_PARTS = {
    **{
        name: f"k8s.io/kubernetes/cmd/{name}"
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubeadm")
    },
    "coredns": "./coredns",
    "etcd": "./etcd",
}
"""Programs of go/kubernetes that a node without an image registry is made of, and their packages."""

PROVISIONER = {"local-path-provisioner": "github.com/rancher/local-path-provisioner"}
"""The volume provisioner of that node. Built apart: it names a package by an old spelling, which Go refuses beside the new one."""


def kubernetes_version() -> str:
    """The version pinned in go/kubernetes/go.mod, such as v1.34.4."""
    text = (GO_MODULES / "kubernetes" / "go.mod").read_text()
    found = re.search(r"^require k8s\.io/kubernetes (v\S+)$", text, re.MULTILINE)
    if not found:
        raise ValueError("tests/cluster/go/kubernetes/go.mod does not require k8s.io/kubernetes")
    return found.group(1)


def cache_dir() -> Path:
    """Where everything built once is kept: outside the tree, shared by all its clones."""
    given = os.environ.get("LAKEHOUSE_CACHE")
    if given:
        return Path(given).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lakehouse"


def given_kubeconfig() -> Path | None:
    """The user's own cluster, from LAKEHOUSE_TEST_KUBECONFIG; none means the kind cluster."""
    given = os.environ.get("LAKEHOUSE_TEST_KUBECONFIG")
    return Path(given).expanduser().resolve() if given else None


def kubeconfig() -> Path:
    """The kubeconfig every command uses."""
    return given_kubeconfig() or cache_dir() / f"{CLUSTER}.kubeconfig"
