"""The first release's chart, with pipelines, finished runs and a run at work, is upgraded to the present one."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from api import collection
from control_plane import ADMIN_TOKEN, OPERATOR_TOKEN, RELEASE, RELEASE_NAMESPACE, ControlPlane, program
from kubelet import Kubelet, Node, succeeded
from prometheus import CHART
from stand import succeeded_condition
from support import operator_logs, processes
from support.binaries import binary
from support.ports import free_port
from support.release import version
from support.waiting import wait_until

JSON = dict[str, Any]
FIRST = Path(__file__).parent / "upgrade" / "lakehouse-operator-0.1.0.tgz"
CRDS = CHART / "files" / "crds"
OBJECTS = Path(__file__).parent / "upgrade" / "objects.json"
TEAM, AT_WORK = "team", "it-2024-01-01"
# Every value that the first chart had, as somebody may have set it.
VALUES = {
    "watchNamespaces": [TEAM],
    "imageRegistry": "registry.example.com/team",
    "image": {"repository": "lakehouse/operator", "tag": "first"},
    "stages": {stage: {"repository": f"lakehouse/{stage}", "tag": "first"} for stage in ("ingest", "silver", "gold")},
    "imagePullPolicy": "Always",
    "imagePullSecrets": ["registry"],
    "readableSecrets": ["none"],
    "jobServiceAccount": "lakehouse-jobs",
    "crds": {"install": True},
    "concurrency": 4,
    "logFilter": "info",
    "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "256Mi"}},
}


@dataclass
class Cluster:
    """A control plane on which the first release is installed."""

    plane: ControlPlane
    node: Node
    folder: Path

    def helm(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs helm for the release's namespace."""
        config = self.folder / "kubeconfig"
        command = [program("helm"), *arguments, "--namespace", RELEASE_NAMESPACE, "--kubeconfig", config]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)

    def done(self, *arguments: str | Path) -> None:
        """The same, which has to succeed."""
        ran = self.helm(*arguments)
        assert ran.returncode == 0, ran.stderr

    def get(self, kind: str, name: str) -> JSON:
        found = self.plane.api.get(f"{collection(TEAM, kind)}/{name}")
        assert found is not None, f"{kind} {name} is gone"
        return found

    def deployment(self) -> JSON | None:
        return self.plane.api.get(f"/apis/apps/v1/namespaces/{RELEASE_NAMESPACE}/deployments/{RELEASE}")

    def restore(self) -> None:
        """Makes the recorded objects: those of other UIDs, and what refers to them accordingly."""
        api, text = self.plane.api, OBJECTS.read_text()
        for kind in ("lakehouses", "lakehousepipelines", "controllerrevisions", "lakehouseruns", "configmaps", "jobs"):
            for index in range(len(json.loads(text)[kind])):
                item = json.loads(text)[kind][index]
                uid = item["metadata"].pop("uid")
                made = api.create(collection(TEAM, kind), {key: item[key] for key in item if key != "status"})
                new = made["metadata"]["uid"]
                # Names of Jobs and ConfigMaps have the beginning of their run's.
                text = text.replace(uid, new).replace(uid.replace("-", "")[:8], new.replace("-", "")[:8])
                if status := json.loads(text)[kind][index].get("status"):
                    path = f"{collection(TEAM, kind)}/{made['metadata']['name']}/status"
                    api.request("PUT", path, {**made, "status": status})

    def start(self) -> subprocess.Popen[bytes]:
        """The operator of this release, with the flags and the rights that its chart gives it."""
        deployed = self.deployment()
        assert deployed is not None
        (container,) = deployed["spec"]["template"]["spec"]["containers"]
        server = f"https://127.0.0.1:{self.plane.port}"
        config = self.plane.kubeconfig(self.folder / "operator", server, OPERATOR_TOKEN)
        command = [binary("lakehouse-operator"), *container["args"], f"--listen=127.0.0.1:{free_port()}"]
        environment = {**os.environ, "KUBECONFIG": str(config), "POD_NAME": "upgraded"}
        return processes.start(command, self.folder / "operator.log", environment)

    def release(self) -> tuple[str, str]:
        """Chart and version, as the Deployment's labels say."""
        deployed = self.deployment()
        assert deployed is not None
        labels = deployed["metadata"]["labels"]
        return labels["helm.sh/chart"], labels["app.kubernetes.io/version"]

    def log(self) -> str:
        return (self.folder / "operator.log").read_text(errors="replace")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A control plane of its own: CRDs belong to no namespace, and those of the others are this release's."""
    with ControlPlane(definitions=None) as plane, Kubelet(plane.api) as kubelet:
        node = Node(lambda attempt: None)
        kubelet.nodes[TEAM] = node
        plane.kubeconfig(tmp_path / "kubeconfig", f"https://127.0.0.1:{plane.port}", ADMIN_TOKEN)
        for namespace in (RELEASE_NAMESPACE, TEAM):
            plane.api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        (tmp_path / "values.json").write_text(json.dumps(VALUES))
        it = Cluster(plane, node, tmp_path)
        it.done("install", RELEASE, FIRST, "--values", tmp_path / "values.json")
        served = "/apis/lakehouse.rs/v1alpha1/namespaces/team/"
        for kind in ("lakehouses", "lakehousepipelines", "lakehouseruns"):
            wait_until(kind, lambda kind=kind: plane.api.answers(served + kind), 60)
        it.restore()
        yield it
        assert not kubelet.errors


def test_an_upgrade_loses_no_run_and_uninstalling_neither(cluster: Cluster) -> None:
    def outcome(run: str) -> str:
        return str(succeeded_condition(cluster.get("lakehouseruns", run)).get("status"))

    api, node = cluster.plane.api, cluster.node
    silver = next(it for it in cluster.get("lakehouseruns", AT_WORK)["status"]["stages"] if it["name"] == "silver")
    at_work = cluster.get("jobs", silver["job"])
    wait_until("the silver Job of the first release to run", lambda: node.ran, 60)
    finished = {
        run["metadata"]["name"]: (run["metadata"]["uid"], run["spec"], run["status"])
        for run in api.items(collection(TEAM, "lakehouseruns"))
        if run["metadata"]["name"] != AT_WORK
    }
    assert len(finished) == 3
    # Two releases, or this is no upgrade.
    assert cluster.release() == ("lakehouse-operator-0.1.0", "0.1.0")
    assert version() != "0.1.0"

    # Values that were reused as they were lack those that came since: that is said, and nothing is changed.
    refused = cluster.helm("upgrade", RELEASE, CHART, "--reuse-values")
    assert refused.returncode != 0
    assert "upgrade with --reset-then-reuse-values instead of --reuse-values" in refused.stderr, refused.stderr
    assert "nil pointer" not in refused.stderr
    assert cluster.release() == ("lakehouse-operator-0.1.0", "0.1.0")

    # What the new operator shall find can be set before it comes (CHANGELOG.md).
    crds = [word for name in ("lakehousepipelines", "lakehouses") for word in ("-f", CRDS / f"{name}.yaml")]
    command = [program("kubectl"), "--kubeconfig", cluster.folder / "kubeconfig", "apply", "--server-side"]
    early = subprocess.run(
        [*command, "--force-conflicts", *crds], capture_output=True, text=True, timeout=120, check=False
    )
    assert early.returncode == 0, early.stderr
    (pipeline, *_) = (it["metadata"]["name"] for it in api.items(collection(TEAM, "lakehousepipelines")))
    kept = {"succeeded": 500, "failed": 500}

    def limited() -> bool:
        """The API server takes a moment to know the field."""
        path = f"{collection(TEAM, 'lakehousepipelines')}/{pipeline}"
        return bool(api.merge(path, {"spec": {"historyLimits": kept}})["spec"].get("historyLimits") == kept)

    wait_until("the new field to be known", limited, 60)

    cluster.done("upgrade", RELEASE, CHART, "--reset-then-reuse-values")
    assert cluster.get("lakehousepipelines", pipeline)["spec"]["historyLimits"] == kept
    deployed = cluster.deployment()
    assert deployed is not None
    (container,) = deployed["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/team/lakehouse/operator:first"
    assert "--gold-image=registry.example.com/team/lakehouse/gold:first" in container["args"]
    assert "--leader-elect" in container["args"]
    assert cluster.release() == (f"lakehouse-operator-{version()}", version())
    # What is new comes in its own release, beside tags of one's own.
    assert f"--maintenance-image=registry.example.com/team/lakehouse/maintenance:{version()}" in container["args"]
    wait_until("the new kind", lambda: api.answers(collection(TEAM, "lakehousebackfills")), 60)

    operator = cluster.start()
    try:
        wait_until("it to lead", lambda: '"leads"' in cluster.log(), 60, state=cluster.log)
        # The Job that the old operator made goes on, and ends under the new one.
        assert cluster.get("jobs", silver["job"])["metadata"]["uid"] == at_work["metadata"]["uid"]
        node.end = lambda attempt: succeeded(attempt.stage)
        wait_until("the run's end", lambda: outcome(AT_WORK) != "Unknown", 60, state=cluster.log)
        assert outcome(AT_WORK) == "True"
        ran = {(attempt.stage, attempt.number): len(jobs) for attempt, jobs in node.ran.items()}
        assert ran == {("silver", 1): 1, ("gold", 1): 1}, ran
        gold = next(it for it in cluster.get("lakehouseruns", AT_WORK)["status"]["stages"] if it["name"] == "gold")
        image = cluster.get("jobs", gold["job"])["spec"]["template"]["spec"]["containers"][0]["image"]
        assert image == "registry.example.com/team/lakehouse/gold:first"
        # What had ended is as it was, and definitions of the first release are valid still.
        for name, before in finished.items():
            run = cluster.get("lakehouseruns", name)
            assert (run["metadata"]["uid"], run["spec"], run["status"]) == before
        for pipeline in api.items(collection(TEAM, "lakehousepipelines")):
            (ready,) = [c for c in pipeline["status"]["conditions"] if c["type"] == "Ready"]
            assert (ready["status"], ready["reason"]) == ("True", "Valid"), (
                f"{pipeline['metadata']['name']}: {ready['message']}"
            )
    finally:
        processes.stop(operator)
    assert not operator_logs.loud(cluster.log())

    # Kinds and objects stay when the release goes.
    names = {it["metadata"]["name"] for it in api.items(collection(TEAM, "lakehouseruns"))}
    cluster.done("uninstall", RELEASE)
    assert cluster.deployment() is None
    assert names == {it["metadata"]["name"] for it in api.items(collection(TEAM, "lakehouseruns"))}
    for kind in ("lakehouses", "lakehousepipelines", "lakehouseruns", "lakehousebackfills"):
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind}.lakehouse.rs"
        definition = api.get(path)
        assert definition is not None, f"{kind} went with the release"
        assert "deletionTimestamp" not in definition["metadata"]
