"""Runs that are disturbed on a real cluster end like undisturbed ones, and no finished stage is executed again."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from documents import pipeline, renamed_tables, run
from kubernetes import Kubernetes, condition, finished, stage

DAY = "2024-03-01"
# Enough work that a stage of images built with the profile `dev` can be met while it runs, a few seconds each: many events, and for gold a
# model that compares many pairs of them. Images built with `release` need four times as many.
EVENTS = 100_000
PAIRS = {
    "name": "pairs",
    "write": {"replaceInterval": {"column": "day"}},
    "sql": """
        SELECT CAST($start AS date) AS day, count(*) AS pairs
        FROM silver.events a CROSS JOIN (SELECT price FROM silver.events WHERE event_id < '008') b
        WHERE a.price <= b.price AND a.ts >= $start AND a.ts < $end""",
}


def shop(name: str, events: int = EVENTS, **jobs: Any) -> dict[str, Any]:
    """The shop sample with tables of its own."""
    document = pipeline("shop.yaml", name, trigger={"external": {}})
    document["spec"]["gold"].append(PAIRS)
    document = renamed_tables(document, name.replace("-", "_"))
    for source in document["spec"]["ingest"]:
        source["clickstream"]["events"] = events
    document["spec"]["jobs"] = {"retries": 3, "backoff": "1s", **jobs}
    return document


def running_job(kubernetes: Kubernetes, name: str, stage_name: str) -> str | None:
    """Name of the stage's Job once its pod runs; ingest's work is so short that its pod counts from the beginning."""
    phases = {"Pending", "Running"} if stage_name == "ingest" else {"Running"}
    status = stage(kubernetes.get("lhr", name), stage_name)
    if status.get("state") != "Running" or not status.get("job"):
        return None
    pods = kubernetes.list("pods", f"job-name={status['job']}")
    return status["job"] if any(pod["status"].get("phase") in phases for pod in pods) else None


def totals(finished_run: dict[str, Any]) -> dict[str, int]:
    """The rows that a run counted in silver."""
    return {
        key: stage(finished_run, "silver")[key]
        for key in ("rowsRead", "rowsWritten", "rowsQuarantined", "rowsDeduplicated", "rowsDropped")
    }


@pytest.fixture(scope="module")
def undisturbed(kubernetes: Kubernetes) -> dict[str, int]:
    """Counts of the same pipeline run in peace."""
    kubernetes.apply(shop("calm"), run("calm-run", "calm", DAY))
    return totals(kubernetes.wait_succeeded("calm-run"))


@pytest.mark.parametrize("stage_name", ["ingest", "silver", "gold"])
@pytest.mark.parametrize("victim", ["pod", "job"])
def test_a_deleted_pod_or_job_is_made_up_for(
    kubernetes: Kubernetes, undisturbed: dict[str, int], snapshots: Any, stage_name: str, victim: str
) -> None:
    name = f"lost-{victim}-{stage_name}"
    kubernetes.apply(shop(name), run(f"{name}-run", name, DAY))
    job = kubernetes.wait(
        f"a running {stage_name} pod or the end",
        lambda: running_job(kubernetes, f"{name}-run", stage_name) or finished(kubernetes.get("lhr", f"{name}-run")),
        every=0.1,
    )
    assert isinstance(job, str), f"{stage_name} ended before it could be disturbed: raise EVENTS"
    if victim == "job":
        kubernetes.delete("job", job, wait=False)
    else:
        kubernetes.run("delete", "pod", "-l", f"job-name={job}", "--grace-period=0", "--force")
    done = kubernetes.wait_succeeded(f"{name}-run")
    assert totals(done) == undisturbed
    commits = snapshots(name.replace("-", "_"))
    assert set(commits.values()) == {1}, commits


def test_an_evicted_pod_is_made_up_for(kubernetes: Kubernetes, undisturbed: dict[str, int], snapshots: Any) -> None:
    """Through the eviction API, as by `kubectl drain`: a disruption, which has retries of its own."""
    kubernetes.apply(
        shop("evicted", retries=0, retryPolicy={"disruption": {"backoff": "1s"}}), run("evicted-run", "evicted", DAY)
    )
    job = kubernetes.wait(
        "a running silver pod or the end",
        lambda: running_job(kubernetes, "evicted-run", "silver") or finished(kubernetes.get("lhr", "evicted-run")),
        every=0.1,
    )
    assert isinstance(job, str), "silver ended before it could be disturbed: raise EVENTS"
    (pod,) = (pod["metadata"]["name"] for pod in kubernetes.list("pods", f"job-name={job}"))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    place = f"/api/v1/namespaces/{kubernetes.namespace}/pods/{pod}/eviction"
    kubernetes.run("create", "--raw", place, "-f", "-", stdin=json.dumps(eviction))
    done = kubernetes.wait_succeeded("evicted-run")
    silver = stage(done, "silver")
    assert (silver["attempt"], silver["retries"]) == (2, [{"class": "Disruption", "count": 1, "limit": 10}])
    assert totals(done) == undisturbed
    commits = snapshots("evicted")
    assert set(commits.values()) == {1}, commits


# A text of 144 MB, made in one piece: more than the limit, and nothing that an engine counts beforehand or could put on disk.
HUGE = {
    "name": "huge",
    "write": {"overwrite": {}},
    "sql": "SELECT length(repeat(max(event_id), 4000000)) AS characters FROM silver.events",
}


def test_a_stage_that_the_kernel_kills_says_what_to_raise(kubernetes: Kubernetes, snapshots: Any) -> None:
    def limited(memory: str) -> dict[str, Any]:
        gold = {"resources": {"limits": {"memory": memory}}}
        document = pipeline("shop.yaml", "beyond", trigger={"external": {}})
        document["spec"]["gold"] = [HUGE]
        document = renamed_tables(document, "beyond")
        for source in document["spec"]["ingest"]:
            source["clickstream"]["events"] = 1_000
        document["spec"]["jobs"] = {"retries": 3, "backoff": "1s", "gold": gold}
        return document

    kubernetes.apply(limited("96Mi"), run("beyond-run", "beyond", DAY))
    failed = kubernetes.wait_finished("beyond-run")
    outcome, gold = condition(failed, "Succeeded"), stage(failed, "gold")
    assert (outcome["status"], outcome["reason"], gold["reason"]) == ("False", "OOMKilled", "OOMKilled"), outcome
    assert "at its limit of 96Mi: raise jobs.gold.resources.limits.memory" in outcome["message"]
    # One more attempt, whatever `retries` says: the same work with the same limit ends the same.
    assert (gold["attempt"], gold["retries"]) == (2, [{"class": "OutOfMemory", "count": 1, "limit": 1}])
    pods = kubernetes.list("pods", "lakehouse.rs/run=beyond-run,lakehouse.rs/stage=gold")
    ends = [pod["status"]["containerStatuses"][0]["state"]["terminated"] for pod in pods]
    assert [(end["reason"], end["exitCode"]) for end in ends] == [("OOMKilled", 137)] * 2
    commits = snapshots("beyond")
    assert commits.get("gold.beyond_huge", 0) == 0, "the table may be there, and has nothing"

    # What it says helps.
    kubernetes.apply(limited("1Gi"), run("beyond-again", "beyond", DAY, stages=["gold"], retryOf="beyond-run"))
    assert stage(kubernetes.wait_succeeded("beyond-again"), "gold")["attempt"] == 1
    assert snapshots("beyond") == {**commits, "gold.beyond_huge": 1}


def test_the_operator_may_die_at_any_time(kubernetes: Kubernetes, undisturbed: dict[str, int]) -> None:
    kubernetes.apply(shop("restless"), run("restless-run", "restless", DAY))
    for _ in range(6):
        kubernetes.run(
            "delete", "pod", "-l", "app.kubernetes.io/name=lakehouse-operator", "--grace-period=0", "--force"
        )
        time.sleep(2)
        if finished(kubernetes.get("lhr", "restless-run")):
            break
    done = kubernetes.wait_succeeded("restless-run")
    assert totals(done) == undisturbed
    assert [s["attempt"] for s in done["status"]["stages"]] == [1, 1, 1], "no stage was executed twice"
    assert len(kubernetes.jobs_of("restless-run")) == 3


def test_a_job_cleaned_up_while_the_operator_is_down_is_not_run_again(
    kubernetes: Kubernetes, operator_deployment: str
) -> None:
    kubernetes.apply(shop("ttl", events=1_000, ttlAfterFinished="1s"), run("ttl-run", "ttl", DAY))
    kubernetes.wait(
        "the outcome of ingest", lambda: stage(kubernetes.get("lhr", "ttl-run"), "ingest").get("state") == "Succeeded"
    )
    kubernetes.run("scale", "deployment", operator_deployment, "--replicas=0")
    try:
        ingest = stage(kubernetes.get("lhr", "ttl-run"), "ingest")["job"]
        kubernetes.wait("the TTL to remove the ingest Job", lambda: not kubernetes.exists("job", ingest), 60)
    finally:
        kubernetes.run("scale", "deployment", operator_deployment, "--replicas=1")
    done = kubernetes.wait_succeeded("ttl-run")
    assert [s["attempt"] for s in done["status"]["stages"]] == [1, 1, 1]
    assert not kubernetes.exists("job", ingest), "the finished ingest was not executed again"


def test_cancelling_stops_the_jobs(kubernetes: Kubernetes) -> None:
    kubernetes.apply(shop("cancelled", events=1_000_000), run("cancelled-run", "cancelled", DAY))
    kubernetes.wait("a running ingest", lambda: running_job(kubernetes, "cancelled-run", "ingest"))
    kubernetes.run("patch", "lhr", "cancelled-run", "--type=merge", "-p", '{"spec":{"state":"Cancelled"}}')
    done = kubernetes.wait_finished("cancelled-run", 60)
    assert condition(done, "Succeeded")["reason"] == "Cancelled"
    kubernetes.wait(
        "its pods to go",
        lambda: (
            not kubernetes.jobs_of("cancelled-run")
            or not any(job["status"].get("active") for job in kubernetes.jobs_of("cancelled-run"))
        ),
        60,
    )


def test_one_active_run_per_interval(kubernetes: Kubernetes) -> None:
    kubernetes.apply(shop("busy", events=20_000))
    kubernetes.apply(run("busy-a", "busy", DAY), run("busy-b", "busy", DAY))
    both = [kubernetes.wait_succeeded(name) for name in ("busy-a", "busy-b")]
    spans = sorted((r["status"]["startedAt"], r["status"]["finishedAt"]) for r in both)
    assert spans[0][1] <= spans[1][0], f"the runs overlapped: {spans}"


def test_an_idle_operator_writes_nothing(kubernetes: Kubernetes) -> None:
    kubernetes.wait("all runs to end", lambda: all(finished(r) for r in kubernetes.list("lhr")))

    def versions() -> dict[str, str]:
        kinds = ("lakehouses", "lakehousepipelines", "lakehouseruns", "jobs", "configmaps", "controllerrevisions")
        return {
            f"{kind}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
            for kind in kinds
            for item in kubernetes.list(kind)
        }

    # Jobs whose TTL runs out are removed by Kubernetes, not by the operator: compare what is in both.
    before = versions()
    time.sleep(30)
    after = versions()
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert changed == set()
    assert after.keys() <= before.keys()
