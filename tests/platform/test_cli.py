"""The commands for clusters against a real one, also as a plugin of kubectl: what a run did, said and left, and a retry."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from documents import pipeline, renamed_tables
from kubernetes import Kubernetes
from support.binaries import binary

DAY = "2024-06-22"


def lakehouse(kubernetes: Kubernetes, *arguments: str, status: int = 0, **environment: str) -> str:
    """Standard output of `lakehouse ARGUMENTS`, which must end with this status."""
    place = ["--kubeconfig", kubernetes.kubeconfig, "--namespace", kubernetes.namespace]
    done = subprocess.run(
        [binary("lakehouse"), *arguments, *place],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == status, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def define(kubernetes: Kubernetes, name: str, **silver: Any) -> None:
    """The pulse sample under another name, which nothing triggers, without earlier runs."""
    document = renamed_tables(pipeline("pulse.yaml", name, trigger={"external": {}}), name.replace("-", "_"))
    document["spec"]["silver"][0].update(silver)
    kubernetes.run("delete", "lhr", "-l", f"lakehouse.rs/pipeline={name}")
    kubernetes.apply(document)


def submitted(kubernetes: Kubernetes, name: str, status: int = 0) -> str:
    """Name of a run that was submitted and waited for."""
    outcome = lakehouse(kubernetes, "submit", name, "--interval", DAY, "-o", "json", status=status)
    return str(json.loads(outcome.splitlines()[-1])["run"])


@pytest.fixture(scope="module")
def run(kubernetes: Kubernetes) -> str:
    """A run that succeeded."""
    define(kubernetes, "seen")
    return submitted(kubernetes, "seen")


def test_a_run_is_shown_with_its_stages_and_tables(kubernetes: Kubernetes, run: str) -> None:
    tree = lakehouse(kubernetes, "get", run)
    assert tree.startswith(f"run {run}  Completed")
    assert "1440 read, 1440 written" in tree
    plain = json.loads(lakehouse(kubernetes, "get", f"run/{run}", "-o", "json"))
    assert plain["status"]["stages"][-1]["state"] == "Succeeded"
    assert run in lakehouse(kubernetes, "get", "pipeline/seen")
    assert "| seen " in lakehouse(kubernetes, "get")


def test_kubectl_has_the_command_as_a_plugin(kubernetes: Kubernetes, run: str, tmp_path: Path) -> None:
    (tmp_path / "kubectl-lakehouse").symlink_to(binary("lakehouse"))
    environment = {
        **os.environ,
        "KUBECONFIG": kubernetes.kubeconfig,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    command = [kubernetes.kubectl, "lakehouse", "get", run, "-n", kubernetes.namespace]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"run {run}")


def test_events_and_logs_are_those_of_the_run(kubernetes: Kubernetes, run: str) -> None:
    events = json.loads(lakehouse(kubernetes, "events", run, "-o", "json"))["items"]
    reasons = [event["reason"] for event in events]
    assert reasons[0] == "Started"
    assert reasons[-1] == "Completed"
    lines = [json.loads(line) for line in lakehouse(kubernetes, "logs", run, "-o", "json").splitlines()]
    said = [(line["stage"], json.loads(line["line"])) for line in lines if line["line"].startswith("{")]
    uid = kubernetes.get("lhr", run)["metadata"]["uid"]
    assert {line["trace_id"] for _, line in said} == {uid.replace("-", "")}
    begun = [stage for stage, line in said if line.get("message") == "stage begins"]
    assert begun == ["ingest", "silver"]


def test_logs_outlive_their_pods(kubernetes: Kubernetes, run: str, s3: dict[str, str]) -> None:
    def lines(**environment: str) -> list[tuple[str, int, str]]:
        """What the stages said themselves."""
        command = ("logs", run, "-o", "json", "--store-endpoint", s3["endpoint"])
        said = map(json.loads, lakehouse(kubernetes, *command, **environment).splitlines())
        return [(it["stage"], it["attempt"], it["line"]) for it in said if it["line"].startswith("{")]

    before = lines()
    assert {(stage, attempt) for stage, attempt, _ in before} == {("ingest", 1), ("silver", 1)}
    kubernetes.run("delete", "pod", "-l", f"lakehouse.rs/run={run}")
    keys = {"AWS_ACCESS_KEY_ID": s3["access_key_id"], "AWS_SECRET_ACCESS_KEY": s3["secret_access_key"]}
    assert lines(**keys) == before


def test_a_failed_run_is_retried_from_the_stage_that_failed(kubernetes: Kubernetes) -> None:
    rule = {"name": "none_is_good", "batch": "count(*) < 0", "otherwise": "fail"}
    define(kubernetes, "mended", expectations=[rule])
    lakehouse(kubernetes, "submit", "mended", "--interval", DAY, status=1)
    (failed,) = kubernetes.list("lhr", "lakehouse.rs/pipeline=mended")
    name = failed["metadata"]["name"]
    assert "ExpectationFailed" in lakehouse(kubernetes, "get", name)
    document = renamed_tables(pipeline("pulse.yaml", "mended", trigger={"external": {}}), "mended")
    kubernetes.apply(document)
    said = lakehouse(kubernetes, "retry", name, "--wait")
    assert said == f"lakehouserun.lakehouse.rs/{name}-retry-1 created\n"
    retried = kubernetes.get("lhr", f"{name}-retry-1")
    assert [stage["name"] for stage in retried["status"]["stages"]] == ["silver"]
    assert retried["status"]["rowsRead"] == 1440


def test_a_run_is_suspended_resumed_and_cancelled(kubernetes: Kubernetes) -> None:
    define(kubernetes, "held")
    run = {
        "apiVersion": "lakehouse.rs/v1alpha1",
        "kind": "LakehouseRun",
        "metadata": {"name": "held-1", "labels": {"lakehouse.rs/pipeline": "held"}},
        "spec": {
            "pipeline": "held",
            "interval": {"start": f"{DAY}T00:00:00Z", "end": "2024-06-23T00:00:00Z"},
            "state": "Suspended",
        },
    }
    kubernetes.apply(run)
    assert lakehouse(kubernetes, "suspend", "run/held-1").endswith("unchanged\n")
    assert lakehouse(kubernetes, "cancel", "run/held-1").endswith("cancelled\n")
    lakehouse(kubernetes, "get", "run/held-1", "--watch", status=1)
    lakehouse(kubernetes, "resume", "run/held-1", status=2)
