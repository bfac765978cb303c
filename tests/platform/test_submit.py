"""`lakehouse submit` against the cluster: made, followed and done; killed and adopted; cancelled; failed."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from documents import pipeline, renamed_tables
from kubernetes import Kubernetes, condition
from support.binaries import binary

DAY = "2024-06-22"
# One heartbeat a minute.
PULSES = 1_440
SUBMISSION = "lakehouse.rs/submission"


def start(kubernetes: Kubernetes, name: str, *arguments: str) -> subprocess.Popen[str]:
    """`lakehouse submit NAME` for the day, from this machine."""
    place = ["--kubeconfig", kubernetes.kubeconfig, "--namespace", kubernetes.namespace, "--interval", DAY]
    return subprocess.Popen(
        [binary("lakehouse"), "submit", name, *place, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], status: int) -> tuple[str, str]:
    """Standard output and standard error of the process, which must end with this status."""
    try:
        stdout, stderr = process.communicate(timeout=300)
    except BaseException:
        process.kill()
        raise
    assert process.returncode == status, f"exit {process.returncode}\n{stdout}\n{stderr}"
    return stdout, stderr


def events(stderr: str, kind: str) -> list[dict[str, Any]]:
    """The progress lines of one kind."""
    lines = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == kind]


def runs_of(kubernetes: Kubernetes, name: str) -> list[dict[str, Any]]:
    """The runs of a pipeline that `submit` made."""
    return kubernetes.list("lhr", f"lakehouse.rs/pipeline={name},{SUBMISSION}")


def define(kubernetes: Kubernetes, document: dict[str, Any]) -> None:
    """Applies a pipeline without runs: a cluster that is tested again has some."""
    name = document["metadata"]["name"]
    kubernetes.run("delete", "lhr", "-l", f"lakehouse.rs/pipeline={name}")
    kubernetes.apply(document)


def pulse(kubernetes: Kubernetes, name: str, **silver: Any) -> None:
    """The pulse sample with tables of its own, which nothing triggers."""
    document = renamed_tables(pipeline("pulse.yaml", name, trigger={"external": {}}), name.replace("-", "_"))
    document["spec"]["silver"][0].update(silver)
    define(kubernetes, document)


def shop(kubernetes: Kubernetes, name: str, events: int) -> None:
    """The shop sample with enough work that it can be met while it runs."""
    document = renamed_tables(pipeline("shop.yaml", name, trigger={"external": {}}), name.replace("-", "_"))
    for source in document["spec"]["ingest"]:
        source["clickstream"]["events"] = events
    define(kubernetes, document)


@pytest.fixture(scope="module")
def submitted(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that was submitted and waited for: what was said and what it left."""
    pulse(kubernetes, "submit-pulse")
    file: Path = tmp_path_factory.mktemp("submit") / "outcome.json"
    process = start(kubernetes, "submit-pulse", "--key", "one", "--outcome-file", str(file))
    stdout, stderr = finish(process, 0)
    return {"outcome": json.loads(stdout), "file": json.loads(file.read_text()), "stderr": stderr}


def test_the_outcome_has_the_rows_of_the_day(kubernetes: Kubernetes, submitted: dict[str, Any]) -> None:
    outcome = submitted["outcome"]
    assert submitted["file"] == outcome
    assert (outcome["run"], outcome["outcome"]) == (f"submit-pulse-{DAY}-1", "Succeeded")
    assert (outcome["rowsRead"], outcome["rowsWritten"], outcome["rowsQuarantined"]) == (PULSES, PULSES, 0)
    # What ingest fetched is listed by the name of its source.
    written = {table["name"]: table["rowsWritten"] for table in outcome["tables"]}
    assert written == {"heartbeat": PULSES, "silver.submit_pulse_pulses": PULSES}
    assert outcome["stages"] == kubernetes.get("lhr", outcome["run"])["status"]["stages"]


def test_the_logs_of_both_stages_were_shown(submitted: dict[str, Any]) -> None:
    logs = events(submitted["stderr"], "log")
    assert {line["stage"] for line in logs} == {"ingest", "silver"}
    assert all(line["line"] for line in logs)
    assert events(submitted["stderr"], "note") == []
    states = [(line["stage"], line["state"]) for line in events(submitted["stderr"], "stage")]
    assert states.index(("ingest", "Succeeded")) < states.index(("silver", "Succeeded"))


def test_the_same_key_executes_nothing_and_another_one_does(kubernetes: Kubernetes, submitted: dict[str, Any]) -> None:
    stdout, stderr = finish(start(kubernetes, "submit-pulse", "--key", "one"), 0)
    assert json.loads(stdout) == submitted["outcome"]
    assert events(stderr, "submitted")[0]["how"] == "finished"
    stdout, _ = finish(start(kubernetes, "submit-pulse", "--key", "two"), 0)
    assert json.loads(stdout)["run"] == f"submit-pulse-{DAY}-2"
    assert len(runs_of(kubernetes, "submit-pulse")) == 2


def test_a_killed_client_is_started_again_and_adopts(kubernetes: Kubernetes) -> None:
    shop(kubernetes, "submit-shop", 400_000)
    first = start(kubernetes, "submit-shop")
    kubernetes.wait("the run", lambda: runs_of(kubernetes, "submit-shop"), 60)
    first.kill()
    finish(first, -signal.SIGKILL)
    _, stderr = finish(start(kubernetes, "submit-shop"), 0)
    assert events(stderr, "submitted")[0]["how"] == "adopted"
    done = runs_of(kubernetes, "submit-shop")
    assert len(done) == 1
    assert [stage["state"] for stage in done[0]["status"]["stages"]] == ["Succeeded"] * 3


def test_sigterm_cancels_when_told_so(kubernetes: Kubernetes) -> None:
    shop(kubernetes, "submit-cancel", 3_000_000)
    process = start(kubernetes, "submit-cancel", "--on-terminate", "cancel")
    run = kubernetes.wait("the run", lambda: runs_of(kubernetes, "submit-cancel"), 60)[0]["metadata"]["name"]
    process.send_signal(signal.SIGTERM)
    _, stderr = finish(process, 128 + signal.SIGTERM)
    assert stderr.splitlines()[-1] == f"error: stopped by SIGTERM: run {run} is cancelled"
    assert condition(kubernetes.wait_finished(run, 90), "Succeeded")["reason"] == "Cancelled"


def test_a_failed_run_is_one_line(kubernetes: Kubernetes) -> None:
    expectation = {"name": "impossible", "batch": "count(*) > 1000000", "otherwise": "fail"}
    pulse(kubernetes, "submit-failing", expectations=[expectation])
    stdout, stderr = finish(start(kubernetes, "submit-failing"), 1)
    outcome = json.loads(stdout)
    assert (outcome["outcome"], outcome["reason"]) == ("Failed", "ExpectationFailed")
    line = stderr.splitlines()[-1]
    assert line.startswith(f"error: run submit-failing-{DAY}-1: stage silver failed: ExpectationFailed: "), line
    assert "(report s3://silver/" in line


def test_what_the_api_server_refuses_is_one_line(kubernetes: Kubernetes) -> None:
    _, stderr = finish(start(kubernetes, "no-such-pipeline"), 2)
    expected = f"LakehousePipeline no-such-pipeline: there is none of this name in namespace {kubernetes.namespace}"
    assert stderr == f"error: {expected}\n"
