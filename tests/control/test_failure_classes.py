"""What the real Job controller says about pods that failed is what the operator reads their class from when they are gone."""

from __future__ import annotations

import re
from collections.abc import Callable

from kubelet import Attempt, End, failed, succeeded
from scenarios import EXTERNAL, LAKEHOUSE, RUN, Gate, pipeline, run
from stand import Stand, succeeded_condition


def test_jobs_remember_the_rule_that_their_pod_met(stand: Callable[[str], Stand]) -> None:
    def end(attempt: Attempt) -> End:
        if attempt.stage == "ingest" and attempt.number == 1:
            return End(1, "Error", "")
        if attempt.stage == "silver" and attempt.number == 1:
            return failed("StoreUnavailable", True)
        return failed("SqlFailed", False) if attempt.stage == "gold" else succeeded(attempt.stage)

    with stand("classes") as it:
        it.end = end
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL), run())
        it.wait("silence", it.settled)
        said = {}
        for job in it.items("jobs"):
            labels = job["metadata"]["labels"]
            conditions = (job.get("status") or {}).get("conditions", [])
            found = [c for c in conditions if c["type"] == "Failed" and c["status"] == "True"]
            for condition in found:
                attempt = f"{labels['lakehouse.rs/stage']}-{labels['lakehouse.rs/attempt']}"
                said[attempt] = (condition["reason"], condition["message"])
        assert said.keys() == {"ingest-1", "silver-1", "gold-1"}
        assert said["ingest-1"][0] == "BackoffLimitExceeded", said
        for attempt, code, rule in (("silver-1", 10, 2), ("gold-1", 20, 0)):
            reason, message = said[attempt]
            assert reason == "PodFailurePolicy"
            assert message.endswith(f"failed with exit code {code} matching FailJob rule at index {rule}"), message
        found_run = it.get("lakehouseruns", RUN)
        assert found_run is not None
        retries = {stage["name"]: stage.get("retries") for stage in found_run["status"]["stages"]}
        assert retries == {
            "ingest": [{"class": "Unexpected", "count": 1, "limit": 2}],
            "silver": [{"class": "Retryable", "count": 1, "limit": 2}],
            "gold": None,
        }


def test_a_run_retries_from_the_stage_that_failed(stand: Callable[[str], Stand]) -> None:
    with stand("retry-of") as it:
        it.end = lambda attempt: failed("SqlFailed", False) if attempt.stage == "silver" else succeeded(attempt.stage)
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL), run())
        it.wait("the failure", it.settled)
        original = it.get("lakehouseruns", RUN)
        assert original is not None
        it.end = lambda attempt: succeeded(attempt.stage)
        it.apply(
            run("again", stages=["silver", "gold"], retryOf=RUN), run("nothing", stages=["silver"], retryOf="nobody")
        )
        it.wait("the second run", it.settled)
        again = it.get("lakehouseruns", "again")
        assert again is not None
        assert again["status"]["inputsFrom"] == f"{RUN}-{original['metadata']['uid'].replace('-', '')[:8]}"
        assert [stage["name"] for stage in again["status"]["stages"]] == ["silver", "gold"]
        specs = it.get("configmaps", again["status"]["stages"][0]["job"].replace("silver-1", "stages"))
        assert specs is not None
        assert again["status"]["inputsFrom"] in specs["data"]["silver.json"]
        nothing = it.get("lakehouseruns", "nothing")
        assert nothing is not None
        condition = nothing["status"]["conditions"][0]
        assert (condition["status"], condition["reason"]) == ("False", "InvalidRun")
        assert "there is no LakehouseRun `nobody`" in condition["message"]


def test_an_evicted_pod_is_made_up_for_beside_the_retries(stand: Callable[[str], Stand]) -> None:
    """By the eviction API, as `kubectl drain` does: the API server marks the pod, the Job controller passes it on, the job is interrupted."""
    gate = Gate("silver")
    with stand("evicted") as it:
        it.end, it.node.stopped = gate, lambda attempt: failed("Interrupted", True)
        it.start()
        jobs = {"retries": 0, "retryPolicy": {"disruption": {"backoff": "1s"}}}
        it.apply(LAKEHOUSE, pipeline(EXTERNAL, jobs=jobs), run())

        def running() -> list[str]:
            pods = [pod for pod in it.items("pods") if pod["metadata"]["labels"]["lakehouse.rs/stage"] == "silver"]
            return [pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") == "Running"]

        (victim,) = it.wait("silver's pod to run", running)
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": victim}}
        it.api.create(f"{it.path('pods', victim)}/eviction", eviction)
        it.wait("another pod", lambda: running() not in ([], [victim]))
        gate.opened = True
        it.wait("silence", it.settled)
        it.check_single_execution()
        (first,) = [job for job in it.items("jobs") if job["metadata"]["name"] == victim.rsplit("-", 1)[0]]
        (said,) = [c["message"] for c in first["status"]["conditions"] if c["type"] == "Failed"]
        assert "has condition DisruptionTarget matching FailJob rule" in said
        found = it.get("lakehouseruns", RUN) or {}
        assert succeeded_condition(found)["status"] == "True"
        silver = next(stage for stage in found["status"]["stages"] if stage["name"] == "silver")
        assert (silver["attempt"], silver["retries"]) == (2, [{"class": "Disruption", "count": 1, "limit": 10}])
        # The pod may be gone before it is looked at: then the Job knows the class.
        (note,) = [event["note"] for event in it.items("events") if event["reason"] == "StageRetrying"]
        assert re.search("silver: attempt 1 failed with (EvictionByEvictionAPI|PodLost): ", note), note


def test_a_stage_beyond_its_memory_is_tried_once_more_and_says_what_to_raise(stand: Callable[[str], Stand]) -> None:
    """Also with a limit below what a container asks for by default, which the API server has to take."""
    with stand("beyond") as it:
        it.end = lambda attempt: End(137, "OOMKilled", "") if attempt.stage == "silver" else succeeded(attempt.stage)
        it.start()
        jobs = {"retries": 5, "backoff": "1s", "silver": {"resources": {"limits": {"memory": "24Mi", "cpu": "50m"}}}}
        it.apply(LAKEHOUSE, pipeline(EXTERNAL, jobs=jobs), run())
        it.wait("silence", it.settled)
        silver = [job for job in it.items("jobs") if job["metadata"]["labels"]["lakehouse.rs/stage"] == "silver"]
        resources = [job["spec"]["template"]["spec"]["containers"][0]["resources"] for job in silver]
        small = {"memory": "24Mi", "cpu": "50m"}
        assert resources == [{"limits": small, "requests": small}] * 2
        found = it.get("lakehouseruns", RUN) or {}
        condition = succeeded_condition(found)
        assert (condition["status"], condition["reason"]) == ("False", "OOMKilled")
        assert "at its limit of 24Mi: raise jobs.silver.resources.limits.memory" in condition["message"]
        stages = {stage["name"]: stage for stage in found["status"]["stages"]}
        assert stages["silver"]["retries"] == [{"class": "OutOfMemory", "count": 1, "limit": 1}]
        assert not any(attempt.stage == "gold" for attempt in it.node.ran)
