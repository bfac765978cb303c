"""Schedules, backfills and history limits with a real API server: operators that die, come twice, and find what others did."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from api import ApiError
from kubelet import Attempt, End, failed, succeeded
from scenarios import API, EXTERNAL, LAKEHOUSE, pipeline
from stand import Stand, succeeded_condition

JSON = dict[str, Any]


def rfc3339(time_: datetime) -> str:
    return time_.strftime("%Y-%m-%dT%H:%M:%SZ")


def scheduled(stand: Stand) -> JSON:
    """Status of the pipeline."""
    found = stand.get("lakehousepipelines", "it") or {}
    status: JSON = found.get("status") or {}
    return status


def condition(status: JSON, kind: str) -> JSON:
    found: JSON = next((c for c in status.get("conditions") or [] if c["type"] == kind), {})
    return found


def put_status(stand: Stand, kind: str, name: str, change: Callable[[JSON], None]) -> None:
    """Changes a status as it is, which nobody else writes meanwhile."""
    found = stand.get(kind, name)
    assert found is not None
    change(found["status"])
    stand.api.request("PUT", f"{stand.path(kind, name)}/status", found)


def days(stand: Stand) -> list[str]:
    """The days that runs were made for, in order."""
    return sorted(run["spec"]["interval"]["start"][:10] for run in stand.runs())


def test_a_run_is_made_when_its_minute_comes_though_the_operator_dies_at_it(stand: Callable[[str], Stand]) -> None:
    with stand("minute") as it:
        it.start()
        it.apply(LAKEHOUSE, pipeline({"schedule": {"cron": "* * * * *"}}, interval="hourly"))
        it.wait("the next time", lambda: scheduled(it).get("nextScheduledTime"))
        due = datetime.fromisoformat(scheduled(it)["nextScheduledTime"])
        assert not it.runs(), "what was before the schedule is none of its business"
        left = (due - datetime.now(UTC)).total_seconds()
        assert 0 < left <= 60, left
        it.wait("silence before the time", lambda: it.traffic.since_last_write() > 0.7)
        writes = len(it.traffic.writes())
        time.sleep(max((due - datetime.now(UTC)).total_seconds() - 0.1, 0))
        assert len(it.traffic.writes()) == writes, "nothing is written while nothing is due"
        it.crash()
        run = it.wait("the run", it.runs)[0]
        made = datetime.fromisoformat(run["metadata"]["creationTimestamp"])
        assert 0 <= (made - due).total_seconds() < 60
        it.wait("the status", lambda: scheduled(it).get("lastScheduledTime"))
        hour = due.replace(minute=0, second=0)
        interval = {"start": rfc3339(hour - timedelta(hours=1)), "end": rfc3339(hour)}
        assert run["spec"]["interval"] == interval
        assert run["metadata"]["annotations"]["lakehouse.rs/scheduled-time"] == rfc3339(due)
        assert re.fullmatch(rf"it-{(hour - timedelta(hours=1)):%Y-%m-%dt%H}-[0-9a-f]{{6}}", run["metadata"]["name"])
        it.wait("the run to end", it.settled)
        status = scheduled(it)
        assert status["lastScheduledTime"] == rfc3339(due)
        # A time for the same hour makes no run: the next one that does is that of the next hour.
        assert status["nextScheduledTime"] == rfc3339(hour + timedelta(hours=1))
        assert condition(status, "Scheduled")["reason"] == "OnTime"
        assert status["completedIntervals"] == [interval]
        assert len(it.runs()) == 1 and not it.complaints()


def test_two_operators_make_up_for_what_was_missed_once(stand: Callable[[str], Stand]) -> None:
    with stand("missed") as it:
        operator = it.start()
        it.apply(LAKEHOUSE, pipeline({"schedule": {"cron": "0 0 * * *", "catchUp": {"max": 3}}}))
        it.wait("the next time", lambda: scheduled(it).get("nextScheduledTime"))
        it.kill(operator)
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)

        def long_ago(status: JSON) -> None:
            status["schedule"]["since"] = rfc3339(midnight - timedelta(days=30))
            status["lastScheduledTime"] = rfc3339(midnight - timedelta(days=10))

        put_status(it, "lakehousepipelines", "it", long_ago)
        it.start()
        it.start()
        expected = [f"{midnight - timedelta(days=back):%Y-%m-%d}" for back in (4, 3, 2, 1)]
        it.wait("the runs", lambda: days(it) == expected)
        it.wait("the runs to end", it.settled, 120)
        assert days(it) == expected
        it.check_single_execution()
        told = condition(scheduled(it), "Scheduled")
        assert (told["status"], told["reason"]) == ("False", "TimesMissed")
        assert told["message"].startswith("6 times from "), told
        assert scheduled(it)["lastScheduledTime"] == rfc3339(midnight)
        # The event is written after the status that says the same.
        it.wait("the event", lambda: any(event["reason"] == "TimesMissed" for event in it.items("events")))


def test_a_schedule_that_never_comes_is_refused_and_an_edited_one_begins_anew(stand: Callable[[str], Stand]) -> None:
    with stand("edited") as it:
        it.start()
        it.apply(LAKEHOUSE, pipeline({"schedule": {"cron": "0 0 30 2 *"}}))
        it.wait("the refusal", lambda: condition(scheduled(it), "Ready").get("status") == "False")
        assert "never comes" in condition(scheduled(it), "Ready")["message"]
        path = it.path("lakehousepipelines", "it")
        it.api.merge(path, {"spec": {"trigger": {"schedule": {"cron": "0 0 29 2 *", "suspend": True}}}})
        it.wait("the schedule", lambda: condition(scheduled(it), "Scheduled").get("reason") == "Suspended")
        assert "nextScheduledTime" not in scheduled(it)
        it.api.merge(path, {"spec": {"trigger": {"schedule": {"suspend": False}}}})
        it.wait("the next time", lambda: "-02-29T00:00:00Z" in scheduled(it).get("nextScheduledTime", ""))
        it.api.merge(path, {"spec": {"trigger": {"schedule": None, "external": {}}}})
        it.wait("the schedule to be forgotten", lambda: "schedule" not in scheduled(it))
        assert not condition(scheduled(it), "Scheduled") and not it.runs()


def backfill(name: str, **spec: Any) -> JSON:
    """One of the first five days of January 2024."""
    span = {"start": "2024-01-01T00:00:00Z", "end": "2024-01-06T00:00:00Z"}
    spec = {"pipeline": "it", "range": span, **spec}
    return {"apiVersion": API, "kind": "LakehouseBackfill", "metadata": {"name": name}, "spec": spec}


def progress(stand: Stand, name: str) -> JSON:
    """Status of a backfill."""
    found = stand.get("lakehousebackfills", name) or {}
    status: JSON = found.get("status") or {}
    return status


def reason(stand: Stand, name: str) -> str:
    return str(succeeded_condition({"status": progress(stand, name)}).get("reason", ""))


def test_a_backfill_survives_crashes_pauses_and_a_changed_definition(stand: Callable[[str], Stand]) -> None:
    with stand("backfill") as it:
        opened = {"silver": False}

        def end(attempt: Attempt) -> End | None:
            return succeeded(attempt.stage) if attempt.stage != "silver" or opened["silver"] else None

        it.end = end
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL), backfill("days", maxParallel=2))
        it.wait("two runs at work", lambda: progress(it, "days").get("active") == 2)
        assert days(it) == ["2024-01-01", "2024-01-02"]
        definition = progress(it, "days")["definition"]
        path = it.path("lakehousebackfills", "days")
        it.api.merge(path, {"spec": {"state": "Suspended"}})
        it.wait("the pause", lambda: reason(it, "days") == "Suspended")
        # What is at work ends, and nothing follows, whoever is the operator.
        opened["silver"] = True
        it.crash()
        it.wait("both runs to end", it.settled)
        assert days(it) == ["2024-01-01", "2024-01-02"]
        it.api.merge(it.path("lakehousepipelines", "it"), {"spec": {"parameters": {"edited": "yes"}}})
        it.api.merge(path, {"spec": {"state": "Active", "maxParallel": 3}})
        it.crash()
        it.wait("gold to begin", lambda: any("-gold-" in run["metadata"]["name"] for run in it.runs()))
        it.crash()
        it.wait("the end", lambda: reason(it, "days") == "Completed", 120)
        status = progress(it, "days")
        counts = [status[count] for count in ("planned", "skipped", "active", "succeeded", "failed", "remaining")]
        assert counts == [5, 0, 0, 5, 0, 0]
        assert "estimatedCompletion" not in status and status["finishedAt"]
        assert {run["status"]["definition"] for run in it.runs()} == {definition}, "the definition that it began with"
        it.check_single_execution()
        gold = [run for run in it.runs() if run["spec"]["stages"] == ["gold"]]
        starts = [run["status"]["startedAt"] for run in sorted(gold, key=lambda run: run["spec"]["interval"]["start"])]
        assert len(gold) == 5 and starts == sorted(starts), "gold goes forward"
        assert scheduled(it)["completedIntervals"] == [backfill("days")["spec"]["range"]]
        # What has run is left alone; a dry run says so without making anything.
        it.apply(backfill("again"), backfill("dry", rerun="All", dryRun=True, order="Backward"))
        it.wait("the second", lambda: reason(it, "again") == "NothingToRun")
        it.wait("the dry run", lambda: reason(it, "dry") == "DryRun")
        assert progress(it, "again")["skipped"] == 5
        assert [day[:10] for day in progress(it, "dry")["intervals"]] == [f"2024-01-0{day}" for day in (5, 4, 3, 2, 1)]
        assert len(it.runs()) == 10
        # Everything but state and maxParallel is immutable.
        with pytest.raises(ApiError, match="range is immutable"):
            it.api.merge(path, {"spec": {"range": {"end": "2024-01-07T00:00:00Z"}}})
        # Its runs go with it.
        it.api.delete(path)
        it.wait("the runs to go", lambda: not it.runs())
        assert not it.complaints()


def test_a_cancelled_backfill_stops_its_runs_and_failures_stop_one(stand: Callable[[str], Stand]) -> None:
    with stand("cancelled") as it:
        it.end = lambda attempt: None
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL, gold=[]), backfill("stopped"))
        it.wait("two runs at work", lambda: progress(it, "stopped").get("active") == 2)
        it.api.merge(it.path("lakehousebackfills", "stopped"), {"spec": {"state": "Cancelled"}})
        it.wait("the end", lambda: reason(it, "stopped") == "Cancelled")
        assert [succeeded_condition(run)["reason"] for run in it.runs()] == ["Cancelled", "Cancelled"]
        with pytest.raises(ApiError, match="stays Cancelled"):
            it.api.merge(it.path("lakehousebackfills", "stopped"), {"spec": {"state": "Active"}})
        it.end = lambda attempt: failed("SourceRefused", False)
        it.apply(backfill("failing", maxParallel=1, maxFailed=1, rerun="Failed"))
        it.wait("the end", lambda: reason(it, "failing") == "TooManyFailures")
        status = progress(it, "failing")
        assert (status["failed"], status["remaining"], len(status["failedRuns"])) == (2, 3, 2)


def test_runs_beyond_the_limits_go_and_what_they_completed_stays_known(stand: Callable[[str], Stand]) -> None:
    with stand("history") as it:
        it.start()
        limits = {"succeeded": 2, "failed": 0}
        it.apply(LAKEHOUSE, pipeline(EXTERNAL, gold=[], historyLimits=limits), backfill("days", maxParallel=4))
        it.wait("the end", lambda: reason(it, "days") == "Completed", 120)
        it.wait("the old runs to go", lambda: len(it.runs()) == 2)
        it.wait("silence", it.settled)
        assert len(it.runs()) == 2
        assert scheduled(it)["completedIntervals"] == [backfill("days")["spec"]["range"]]
        it.apply(backfill("again"))
        it.wait("the second", lambda: reason(it, "again") == "NothingToRun")
