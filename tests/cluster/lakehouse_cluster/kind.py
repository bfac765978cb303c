"""The kind cluster: created, adopted, described, deleted."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

from . import docker
from .cache import lock
from .gobuild import tool
from .node import node_image
from .settings import (
    CLIENTS,
    CLUSTER,
    KIND_CONFIG,
    NAMESPACE,
    NODE,
    NODE_FILES,
    cache_dir,
    given_kubeconfig,
    kubeconfig,
)
from .shell import ClusterError, Command, run, say, succeeds, wait_until

_REGISTRY_NODE_IMAGE = "kindest/node:v1.34.0"
"""Used where it can be pulled; the registry-free image has the version of go/kubernetes/go.mod."""


def create(*, fresh: bool = False) -> None:
    """Have a healthy cluster: the user's own, the one that runs already, or a new one.

    `fresh` is for tests, which want one that nothing has run on: the cluster of earlier tests is replaced, another one is
    somebody's and refused.
    """
    if given_kubeconfig():
        kubectl("get", "--raw=/readyz", doing=f"asking the cluster of {given_kubeconfig()}")
        say(f"using the cluster of {given_kubeconfig()}")
        return
    docker.ensure_daemon()
    with lock("cluster"):
        if docker.inspect(NODE) and _unfinished().exists():
            say(f"removing what an interrupted creation left of cluster {CLUSTER}")
            _remove()
        if fresh and docker.inspect(NODE):
            if not _made_for_tests().exists():
                raise ClusterError(
                    f"cluster {CLUSTER} exists and was not made by the tests, which would not leave its data alone: "
                    "`make down` deletes it"
                )
            say(f"replacing the cluster {CLUSTER} of earlier tests")
            _remove()
        if docker.inspect(NODE):
            _adopt()
        else:
            _create()
            if fresh:
                _made_for_tests().touch()
    say(f"cluster {CLUSTER} is ready: export KUBECONFIG={kubeconfig()}")


def prepare() -> None:
    """Build what a cluster and its node are made of, so that it is there when `create` asks for it."""
    for name in CLIENTS:
        tool(name)
    if given_kubeconfig():
        return
    tool("kind")
    if not _can_run_registry_image():
        node_image()


def delete() -> None:
    """Delete the kind cluster with everything in it. A cluster given by the user is left alone."""
    if given_kubeconfig():
        raise ClusterError("LAKEHOUSE_TEST_KUBECONFIG names a cluster of yours: it is not deleted")
    if not succeeds(["docker", "info"]):
        say("no docker daemon answers, so no cluster runs")
        return
    with lock("cluster"):
        _remove()
    say(f"cluster {CLUSTER} is gone")


def status() -> None:
    """Print what runs: the node, the releases, the pods of the platform's namespace."""
    if not given_kubeconfig():
        state = docker.inspect(NODE) if succeeds(["docker", "info"]) else None
        if not state:
            raise ClusterError(f"there is no cluster {CLUSTER}: make one with `tests/cluster/cluster create`")
        print(f"cluster {CLUSTER}: container {NODE} is {state['State']['Status']}; kubeconfig {kubeconfig()}")
    print(kubectl("get", "nodes", doing="listing nodes"))
    print(run([tool("helm"), "--kubeconfig", kubeconfig(), "list", "-A"], timeout=60, doing="listing releases"))
    print(kubectl("-n", NAMESPACE, "get", "pods,pvc", doing="listing pods"))


def kubectl(*arguments: str | Path, doing: str, timeout: float = 60, stdin: bytes | None = None) -> str:
    """Run kubectl against the cluster and return what it printed."""
    return run([tool("kubectl"), "--kubeconfig", kubeconfig(), *arguments], timeout=timeout, doing=doing, stdin=stdin)


def kind_cluster() -> str | None:
    """Name of the kind cluster in use; none where the user gave a cluster of another kind."""
    if not given_kubeconfig():
        return CLUSTER
    context = kubectl("config", "current-context", doing="reading the kubeconfig").strip()
    return context.removeprefix("kind-") if context.startswith("kind-") else None


def _unfinished() -> Path:
    """Exists while a cluster is being created, and after a creation that was cut short."""
    return cache_dir() / f"{CLUSTER}.unfinished"


def _made_for_tests() -> Path:
    """Exists while the cluster is one that tests made for themselves."""
    return cache_dir() / f"{CLUSTER}.for-tests"


def _remove() -> None:
    command: Command = [tool("kind"), "delete", "cluster", "--name", CLUSTER, "--kubeconfig", kubeconfig()]
    run(command, timeout=180, doing=f"deleting cluster {CLUSTER}")
    kubeconfig().unlink(missing_ok=True)
    _made_for_tests().unlink(missing_ok=True)


def _adopt() -> None:
    state = docker.inspect(NODE)
    if state and not state["State"]["Running"]:
        say(f"starting the stopped node {NODE}")
        run(["docker", "start", NODE], timeout=60, doing=f"starting {NODE}")
    try:
        wait_until(_answers, timeout=120, what=f"an answer from the API server of cluster {CLUSTER}")
        wait_until(_restarted, timeout=120, what="the start of the cluster's own pods")
        _wait_ready()
    except ClusterError as unhealthy:
        raise ClusterError(
            f"the cluster {CLUSTER} exists but is not healthy ({unhealthy}): "
            "delete it with `tests/cluster/cluster delete` and run this again"
        ) from unhealthy
    say(f"cluster {CLUSTER} runs already")


def _answers() -> bool:
    _write_kubeconfig()
    return succeeds([tool("kubectl"), "--kubeconfig", kubeconfig(), "get", "--raw=/readyz"], timeout=10)


def _restarted() -> bool:
    """Whether what the API server says is younger than the node's start, cluster DNS included.

    Until the kubelet and the controllers have caught up, conditions and endpoints are old news.
    """
    state = docker.inspect(NODE)
    started = state["State"]["StartedAt"][: len("2026-01-01T00:00:00")] if state else ""
    pods = _listed("pods")
    containers = [status for pod in pods for status in pod["status"].get("containerStatuses", [])]
    fresh = bool(containers) and all(
        container["ready"] and container["state"].get("running", {}).get("startedAt", "") >= started
        for container in containers
    )
    dns = {pod["status"].get("podIP") for pod in pods if pod["metadata"]["labels"].get("k8s-app") == "kube-dns"}
    slices = _listed("endpointslices", "-l", "kubernetes.io/service-name=kube-dns")
    served = {ip for each in slices for endpoint in each["endpoints"] or () for ip in endpoint["addresses"]}
    return fresh and served == dns


def _listed(resource: str, *selector: str) -> list[dict]:
    text = kubectl("get", resource, "-n", "kube-system", *selector, "-o", "json", doing=f"listing {resource}")
    return json.loads(text)["items"]


def _create() -> None:
    image, patch = _choose_node_image()
    start = time.monotonic()
    say(f"creating kind cluster {CLUSTER} from {KIND_CONFIG.name} with node image {image}")
    _unfinished().touch()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=cache_dir()) as config:
        config.write(KIND_CONFIG.read_text() + patch)
        config.flush()
        with tempfile.NamedTemporaryFile(dir=cache_dir()) as scratch:
            run(
                [
                    tool("kind"),
                    "create",
                    "cluster",
                    "--name",
                    CLUSTER,
                    "--image",
                    image,
                    "--config",
                    config.name,
                    "--kubeconfig",
                    scratch.name,
                    "--wait",
                    "180s",
                ],
                timeout=420,
                doing=f"creating cluster {CLUSTER}",
            )
    _write_kubeconfig()
    _wait_ready()
    _unfinished().unlink()
    say(f"created cluster {CLUSTER} in {time.monotonic() - start:.0f} s")


def _choose_node_image() -> tuple[str, str]:
    """The node image, and what must be added to kind-config.yaml for it."""
    if _can_run_registry_image():
        if docker.image_field(_REGISTRY_NODE_IMAGE, "{{.Id}}"):
            return _REGISTRY_NODE_IMAGE, ""
        say(f"pulling {_REGISTRY_NODE_IMAGE}")
        if succeeds(["docker", "pull", "-q", _REGISTRY_NODE_IMAGE], timeout=600):
            return _REGISTRY_NODE_IMAGE, ""
        say("no image registry answers: building the node image from Go modules and Debian packages")
    return node_image(), (NODE_FILES / "kubelet-patch.yaml").read_text()


def _can_run_registry_image() -> bool:
    """kind's own image wants cgroup v2 and the whole set of capabilities."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists() and not docker.missing_sys_resource()


def _wait_ready() -> None:
    kubectl(
        "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s", doing="waiting for the node", timeout=150
    )
    kubectl(
        "wait",
        "--for=condition=Available",
        "deployments",
        "--all",
        "-n",
        "kube-system",
        "--timeout=120s",
        doing="waiting for cluster DNS",
        timeout=150,
    )
    # among them the one that enforces NetworkPolicies: the cluster is never in use without
    kubectl(
        "wait",
        "--for=jsonpath={.status.numberAvailable}=1",
        "daemonsets",
        "--all",
        "-n",
        "kube-system",
        "--timeout=120s",
        doing="waiting for the node's own pods",
        timeout=150,
    )
    kubectl(
        "wait",
        "--for=condition=Available",
        "deployments",
        "--all",
        "-n",
        "local-path-storage",
        "--timeout=120s",
        doing="waiting for the volume provisioner",
        timeout=150,
    )


def _write_kubeconfig() -> None:
    """Write our own kubeconfig, so that the user's is neither read nor changed."""
    text = run([tool("kind"), "get", "kubeconfig", "--name", CLUSTER], timeout=60, doing="reading the kubeconfig")
    target = kubeconfig()
    handle, name = tempfile.mkstemp(dir=target.parent)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    command: Command = [
        tool("kubectl"),
        "--kubeconfig",
        name,
        "config",
        "set-context",
        "--current",
        f"--namespace={NAMESPACE}",
    ]
    run(command, timeout=30, doing="writing the kubeconfig")
    os.replace(name, target)
