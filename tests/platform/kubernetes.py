"""kubectl against the test cluster: apply, wait, read; every wait is bounded and says what it saw last."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "tests" / "cluster" / "cluster"
NAMESPACE = "lakehouse"


class KubectlError(AssertionError):
    """kubectl ended with another status than 0; the text is what it said."""


@dataclass(frozen=True)
class Kubernetes:
    """One namespace of one cluster."""

    kubectl: str
    kubeconfig: str
    namespace: str = NAMESPACE

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Standard output of `kubectl ARGUMENTS`; raises KubectlError with standard error."""
        done = subprocess.run(
            [self.kubectl, "--kubeconfig", self.kubeconfig, "-n", self.namespace, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *documents: dict[str, Any]) -> str:
        """Applies documents as one manifest."""
        manifest = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        return self.run("apply", "-f", "-", stdin=json.dumps(manifest))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object."""
        found: dict[str, Any] = json.loads(self.run("get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str, selector: str | None = None) -> list[dict[str, Any]]:
        """All objects of a kind, optionally by label."""
        arguments = ["get", kind, "-o", "json"] + (["-l", selector] if selector else [])
        items: list[dict[str, Any]] = json.loads(self.run(*arguments))["items"]
        return items

    def exists(self, kind: str, name: str) -> bool:
        """Whether an object is there."""
        return self.run("get", kind, name, "--ignore-not-found", "-o", "name").strip() != ""

    def delete(self, kind: str, *names: str, wait: bool = True) -> None:
        """Deletes objects; absent ones are fine."""
        self.run("delete", kind, *names, "--ignore-not-found", f"--wait={str(wait).lower()}")

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = 120, every: float = 0.5) -> Any:
        """The first true value of `condition`, asked every so many seconds."""
        return wait_until(what, condition, seconds, every, lambda: self.run("get", "lhp,lhr,jobs,pods"))

    def wait_succeeded(self, run: str, seconds: int = 180) -> dict[str, Any]:
        """What a user types: kubectl wait --for=condition=Succeeded. Returns the run."""
        try:
            self.run("wait", "--for=condition=Succeeded", f"lhr/{run}", f"--timeout={seconds}s", timeout=seconds + 30)
        except KubectlError as error:
            raise KubectlError(f"{error}\n{self.run('describe', 'lhr', run)}") from error
        return self.get("lhr", run)

    def wait_finished(self, run: str, seconds: float = 180) -> dict[str, Any]:
        """The run once it has an outcome, whichever."""
        return self.wait(
            f"an outcome of {run}", lambda: finished(self.get("lhr", run)) and self.get("lhr", run), seconds
        )

    def jobs_of(self, run: str) -> list[dict[str, Any]]:
        """The Jobs that the run owns, by creation time."""
        uid = self.get("lhr", run)["metadata"]["uid"]
        owned = [
            job
            for job in self.list("jobs")
            if any(owner["uid"] == uid for owner in job["metadata"].get("ownerReferences", []))
        ]
        return sorted(owned, key=lambda job: (job["metadata"]["creationTimestamp"], job["metadata"]["name"]))


def condition(resource: dict[str, Any], kind: str) -> dict[str, Any]:
    """One condition of an object's status, or an empty one."""
    conditions: Iterable[dict[str, Any]] = resource.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def finished(run: dict[str, Any]) -> bool:
    """Whether a LakehouseRun has an outcome."""
    return condition(run, "Succeeded").get("status") in ("True", "False")


def stage(run: dict[str, Any], name: str) -> dict[str, Any]:
    """Status of one stage of a run."""
    return next((s for s in run.get("status", {}).get("stages", []) if s["name"] == name), {})


def connect() -> Kubernetes:
    """The cluster that `tests/cluster/cluster` made or was given."""
    kubeconfig = subprocess.run([CLUSTER, "kubeconfig"], capture_output=True, text=True, check=True).stdout.strip()
    tools = subprocess.run([CLUSTER, "tools", "kubectl"], capture_output=True, text=True, check=True).stdout.split()
    kubectl = next((word for word in tools if word.endswith("/kubectl") and os.access(word, os.X_OK)), "kubectl")
    return Kubernetes(kubectl=kubectl, kubeconfig=kubeconfig)
