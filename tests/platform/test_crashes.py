"""The operator's process is killed at writes of a run on a real cluster; `tests/control` does so at every write of seven lives."""

from __future__ import annotations

import re
import subprocess
from typing import Any

from documents import pipeline, renamed_tables, run
from kubernetes import Kubernetes, finished
from operator_log import SELECTOR

DAY = "2024-03-01"
NODE = "lakehouse-control-plane"
# Kubernetes waits longer and longer before it starts a container anew: 0, 10 and 20 s.
KILLS = 3
# The operator is the one program with this flag; the brackets keep the search from finding itself.
FIND = r'for d in /proc/[0-9]*; do tr "\0" " " < $d/cmdline 2>/dev/null | grep -q -- " --lease-nam[e]=" && echo ${d#/proc/}; done; true'


def kill() -> None:
    """SIGKILL to the operator's process, from its node."""
    found = subprocess.run(
        ["docker", "exec", NODE, "sh", "-c", FIND], capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()
    assert found, "no operator runs on the node"
    for pid in found:
        subprocess.run(["docker", "exec", NODE, "kill", "-9", pid], capture_output=True, timeout=60, check=False)


def restarts(kubernetes: Kubernetes) -> int:
    """How often the containers of the operator were started anew."""
    statuses = [s for pod in kubernetes.list("pods", SELECTOR) for s in pod["status"].get("containerStatuses", [])]
    return sum(status["restartCount"] for status in statuses)


def small(name: str) -> dict[str, Any]:
    """The shop sample with few events and tables of its own."""
    document = renamed_tables(pipeline("shop.yaml", name, trigger={"external": {}}), name.replace("-", "_"))
    for source in document["spec"]["ingest"]:
        source["clickstream"]["events"] = 1_000
    return document


def outcome(kubernetes: Kubernetes, found: dict[str, Any]) -> Any:
    """What is there in the end, without times and identities."""
    uid = found["metadata"]["uid"].replace("-", "")[:8]

    def tidy(value: Any) -> Any:
        if isinstance(value, dict):
            # Digests are of reports with times, and snapshots are numbered at random.
            skipped = ("reportDigest", "snapshot", "bytesWritten", "definition")
            return {key: tidy(inner) for key, inner in value.items() if key not in skipped}
        if isinstance(value, list):
            return [tidy(inner) for inner in value]
        if isinstance(value, str):
            text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>", value)
            return re.sub(r"(calm|killed)[-_]life", "<name>", text.replace(uid, "<uid>"))
        return value

    jobs = kubernetes.jobs_of(found["metadata"]["name"])
    return tidy({"status": found["status"], "jobs": sorted(job["metadata"]["name"] for job in jobs)})


def test_killed_at_writes_it_leaves_what_an_undisturbed_one_does(kubernetes: Kubernetes) -> None:
    kubernetes.apply(small("calm-life"), run("calm-life-run", "calm-life", DAY))
    calm = outcome(kubernetes, kubernetes.wait_succeeded("calm-life-run"))

    before, seen = restarts(kubernetes), set()
    kubernetes.apply(small("killed-life"), run("killed-life-run", "killed-life", DAY))
    for number in range(KILLS):

        def written() -> bool:
            found = kubernetes.get("lhr", "killed-life-run")
            version = found["metadata"]["resourceVersion"]
            is_new = "status" in found and version not in seen and not finished(found)
            seen.add(version)
            return is_new or finished(found)

        kubernetes.wait(f"write {number} of the run", written, 90, every=0.05)
        kill()
        kubernetes.wait("the operator to be started anew", lambda n=number: restarts(kubernetes) > before + n, 90, 0.2)
    killed = outcome(kubernetes, kubernetes.wait_succeeded("killed-life-run"))
    assert killed == calm
