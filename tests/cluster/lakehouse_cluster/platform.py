"""The charts, installed by Helm into the cluster, and Helm's own tests of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from . import docker
from .gobuild import tool
from .kind import kind_cluster, kubectl
from .settings import CHARTS, NAMESPACE, RELEASES, kubeconfig
from .shell import ClusterError, run, say

_NAMESPACE_LABELS = (
    "pod-security.kubernetes.io/enforce=restricted",
    "pod-security.kubernetes.io/warn=restricted",
)


def install(releases: tuple[str, ...]) -> None:
    """Install or upgrade the charts, and wait until everything in them is ready."""
    _namespace()
    for release in releases or RELEASES:
        chart = _chart(release)
        command: list[str | Path] = [
            "upgrade",
            "--install",
            release,
            chart,
            "-n",
            NAMESPACE,
            "--wait",
            "--timeout",
            "5m",
        ]
        for_kind = chart / "values-kind.yaml"
        if for_kind.is_file() and kind_cluster():
            command += ["-f", for_kind, *_FOR_KIND.get(release, list)()]
        say(f"installing {release} in namespace {NAMESPACE}")
        try:
            _helm(*command, timeout=420, doing=f"installing {release}")
        except ClusterError as failed:
            raise ClusterError(f"{failed}\n{_not_ready()}") from failed


def test(releases: tuple[str, ...]) -> None:
    """Run `helm test`; a failure carries what the test pods said."""
    for release in releases or RELEASES:
        _chart(release)
        try:
            _helm("test", release, "-n", NAMESPACE, "--timeout", "2m", timeout=180, doing=f"helm test {release}")
        except ClusterError as failed:
            selector = f"lakehouse.rs/helm-test={release}"
            logs = kubectl("-n", NAMESPACE, "logs", "-l", selector, "--prefix", doing="reading the test pods' logs")
            raise ClusterError(f"helm test {release} failed:\n{logs.strip() or failed}") from failed
        say(f"helm test {release} passed")


def _this_machine_is_a_source() -> list[str]:
    """The setting by which Jobs reach what listens on this machine: sources of tests, and those under development."""
    sources = [{"cidr": f"{docker.gateway()}/32", "ports": ["1024-65535"]}]
    return ["--set-json", f"networkPolicy.extraSources={json.dumps(sources)}"]


_FOR_KIND: dict[str, Callable[[], list[str]]] = {"lakehouse-operator": _this_machine_is_a_source}
"""Settings of a release that are known only when the kind cluster is there."""


def _chart(release: str) -> Path:
    chart = CHARTS / release
    if not (chart / "Chart.yaml").is_file():
        raise ClusterError(f"there is no chart {release} in {CHARTS.name}/")
    return chart


def _helm(*arguments: str | Path, timeout: float, doing: str) -> None:
    run([tool("helm"), "--kubeconfig", kubeconfig(), *arguments], timeout=timeout, doing=doing)


def _namespace() -> None:
    manifest = kubectl("create", "namespace", NAMESPACE, "--dry-run=client", "-o", "yaml", doing="the namespace")
    kubectl("apply", "-f", "-", doing=f"making namespace {NAMESPACE}", stdin=manifest.encode())
    kubectl("label", "--overwrite", "namespace", NAMESPACE, *_NAMESPACE_LABELS, doing=f"labelling {NAMESPACE}")


def _not_ready() -> str:
    """What a user looks at next: each pod that is not well, its last words, and the latest warnings."""
    lines: list[str] = []
    pods = json.loads(kubectl("-n", NAMESPACE, "get", "pods", "-o", "json", doing="listing pods"))["items"]
    for pod in pods:
        name, status = pod["metadata"]["name"], pod["status"]
        containers = status.get("containerStatuses", [])
        if status["phase"] == "Succeeded" or (containers and all(each["ready"] for each in containers)):
            continue
        lines.append(f"pod {name} is {status['phase']}")
        if any(each["state"].get("waiting") is None for each in containers):
            lines += [f"  {line}" for line in _last_words(name)]
    warnings = kubectl(
        "-n",
        NAMESPACE,
        "get",
        "events",
        "--field-selector=type=Warning",
        "--sort-by=.lastTimestamp",
        doing="listing events",
    )
    return "\n".join([*lines, *warnings.splitlines()[-5:]])


def _last_words(pod: str) -> list[str]:
    try:
        return kubectl("-n", NAMESPACE, "logs", pod, "--tail=3", doing=f"reading the log of {pod}").splitlines()
    except ClusterError:
        # gone since it was listed, or not started: its state above is all there is to say
        return []
