"""What the real Job controller says about pods that failed is what the operator reads their class from when they are gone."""

from __future__ import annotations

from collections.abc import Callable

from kubelet import Attempt, End, failed, succeeded
from scenarios import EXTERNAL, LAKEHOUSE, RUN, pipeline, run
from stand import Stand


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
