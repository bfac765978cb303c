"""The trigger in its event loop: it sees outcomes through every fault of the watch, shows logs, and obeys when killed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_api import FakeApi, stage, status_of
from lakehouse_airflow import triggers
from lakehouse_airflow.triggers import LakehouseRunTrigger, describe, readable
from requests_for_tests import request

NAME = "crypto-2024-06-22-silver-d1c0a31e-1"
DONE = status_of("True", stage("silver", rowsRead=40, rowsWritten=39), reason="Completed", rowsWritten=39)
BUSY = status_of("Unknown", stage("silver", "Running", job="silver-job"))


@pytest.fixture
def run(api: FakeApi) -> str:
    """A run that nobody has begun."""
    return api.add_run(request().manifest(1, None))


def fire(
    trigger: LakehouseRunTrigger,
    meanwhile: Callable[[], None] | None = None,
    when: Callable[[], bool] = lambda: True,
    within: float = 60,
) -> dict[str, Any]:
    """Runs a trigger to its event; `meanwhile` happens as soon as `when` says so."""

    async def act() -> None:
        while not when():
            await asyncio.sleep(0.02)
        if meanwhile:
            await asyncio.to_thread(meanwhile)

    async def wait() -> dict[str, Any]:
        async with asyncio.timeout(within):
            acting = asyncio.create_task(act())
            events = [event.payload async for event in trigger.run()]
            await acting
        (event,) = events
        return dict(event)

    return asyncio.run(wait())


def trigger(**more: Any) -> LakehouseRunTrigger:
    return LakehouseRunTrigger(run=NAME, namespace="lakehouse", **more)


def test_an_outcome_that_is_there_fires_at_once(api: FakeApi, run: str) -> None:
    api.set_status(run, DONE)
    event = fire(trigger())
    assert (event["run"], event["status"], event["outcome"]["rowsWritten"]) == (NAME, "finished", 39)
    assert api.calls["watch"] == 0


def test_an_outcome_that_comes_is_seen_by_the_watch(api: FakeApi, run: str) -> None:
    event = fire(trigger(), lambda: api.set_status(run, DONE), lambda: api.calls["watch"] == 1)
    assert event["outcome"]["outcome"] == "Succeeded"
    assert (api.calls["get"], api.calls["watch"]) == (1, 1)


def test_a_watch_that_breaks_is_taken_up_again(api: FakeApi, run: str) -> None:
    api.drop_watches = 4
    event = fire(trigger(), lambda: api.set_status(run, DONE), lambda: api.calls["watch"] == 5)
    assert event["status"] == "finished"
    assert api.calls["watch"] == 5


def test_a_forgotten_version_is_read_again(api: FakeApi, run: str) -> None:
    api.expire_watches = 2
    event = fire(trigger(), lambda: api.set_status(run, DONE), lambda: api.calls["watch"] == 3)
    assert event["status"] == "finished"
    assert (api.calls["get"], api.calls["watch"]) == (3, 3)


def test_an_api_server_that_is_away_is_waited_for(
    api: FakeApi, run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "LONGEST_PAUSE", 1.0)
    api.broken = [503, 500, 429]
    event = fire(trigger(), lambda: api.set_status(run, DONE))
    assert event["status"] == "finished"
    assert capsys.readouterr().out.count("the API server did not answer (not now)") == 3


def test_the_end_of_one_watch_is_not_the_end(api: FakeApi, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "WATCH_SECONDS", -29)
    event = fire(trigger(), lambda: api.set_status(run, DONE), lambda: api.calls["watch"] >= 2)
    assert event["status"] == "finished"


@pytest.mark.parametrize("code", [401, 403])
def test_a_refusal_ends_the_waiting(code: int, api: FakeApi, run: str) -> None:
    api.broken = [code]
    assert fire(trigger()) == {"run": NAME, "status": "refused", "message": "not now"}


def test_a_deleted_run_ends_the_waiting(api: FakeApi, run: str) -> None:
    watched = fire(trigger(), lambda: api.delete(run), lambda: api.calls["watch"] == 1)
    assert watched == {"run": NAME, "status": "deleted"}
    assert fire(trigger()) == {"run": NAME, "status": "deleted"}


def test_the_deadline_ends_the_waiting(run: str) -> None:
    begun = time.monotonic()
    assert fire(trigger(deadline=time.time() + 1)) == {"run": NAME, "status": "timeout"}
    assert 0.5 < time.monotonic() - begun < 20
    assert fire(trigger(deadline=time.time() - 1)) == {"run": NAME, "status": "timeout"}


def test_the_log_of_the_stages_pod_is_shown(api: FakeApi, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    api.pods["silver-pod"] = (
        "silver-job",
        ["reading 20 coins", '{"level": "INFO", "message": "commit", "snapshot": 7}'],
    )
    api.pods["other-pod"] = ("other-job", ["not this"])
    api.set_status(run, BUSY)
    fire(trigger(), lambda: api.set_status(run, DONE), lambda: api.calls["log"] == 1)
    shown = capsys.readouterr().out
    assert 0 < shown.index("silver: Running, attempt 1") < shown.index("[silver] reading 20 coins")
    assert "[silver] commit snapshot=7" in shown
    assert "silver: Succeeded, attempt 1, 40 rows read, 39 written" in shown
    assert "not this" not in shown
    assert api.calls["log"] == 1


def test_a_log_that_may_not_be_read_harms_nothing(
    api: FakeApi, run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pod(*_: Any) -> str:
        return "secret-pod"

    monkeypatch.setattr(LakehouseRunTrigger, "_started_pod", pod)
    api.set_status(run, BUSY)
    event = fire(trigger(), lambda: api.set_status(run, DONE), lambda: api.calls["log"] == 1)
    assert event["status"] == "finished"
    assert (
        capsys.readouterr().out.count("the log of silver (job silver-job) cannot be shown: pods/log is forbidden") == 1
    )


def test_a_log_without_a_pod_is_not_waited_for_after_the_end(
    api: FakeApi, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "LAST_LOG_SECONDS", 0.5)
    api.set_status(run, BUSY)
    running = fire(trigger(), lambda: api.set_status(run, DONE), lambda: api.calls["pods"] > 0)
    assert running["status"] == "finished"
    monkeypatch.setattr(triggers, "LAST_LOG_SECONDS", 50)
    api.set_status(run, status_of("True", stage("silver", job="silver-job"), reason="Completed"))
    begun = time.monotonic()
    assert fire(trigger())["status"] == "finished"
    assert time.monotonic() - begun < 25


def test_logs_are_left_alone_when_not_wanted(api: FakeApi, run: str) -> None:
    api.pods["silver-pod"] = ("silver-job", ["line"])
    api.set_status(run, BUSY)
    fire(trigger(logs=False), lambda: api.set_status(run, DONE))
    assert api.calls["log"] == 0


def test_another_triggerer_takes_over(api: FakeApi, run: str) -> None:
    """What Airflow does after a triggerer died: an equal trigger from what the first one was stored as."""
    from airflow.sdk._shared.module_loading import import_string
    from airflow.sdk.serde import deserialize, serialize

    path, stored = trigger(deadline=time.time() + 60, on_kill_action="cancel", logs=False).serialize()
    again = import_string(path)(**deserialize(serialize(stored)))
    assert again.serialize() == (path, stored)
    assert path == "lakehouse_airflow.triggers.LakehouseRunTrigger"
    assert fire(again, lambda: api.set_status(run, DONE))["status"] == "finished"


def test_killed_it_cancels_or_leaves(api: FakeApi, run: str) -> None:
    asyncio.run(trigger(on_kill_action="leave").on_kill())
    assert api.patches == []
    asyncio.run(trigger(on_kill_action="cancel").on_kill())
    assert api.patches == [(NAME, "application/merge-patch+json", {"spec": {"state": "Cancelled"}})]
    api.delete(run)
    asyncio.run(trigger(on_kill_action="cancel").on_kill())


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (stage("ingest", "Pending", attempt=0), "ingest: Pending"),
        (
            stage("silver", "Pending", attempt=2, reason="BadInput", message="no rows"),
            "silver: Pending, attempt 2, BadInput: no rows",
        ),
        (stage("silver", "Failed", attempt=3, reason="Timeout"), "silver: Failed, attempt 3, Timeout"),
        (
            stage("silver", rowsRead=4, rowsWritten=3, rowsQuarantined=1),
            "silver: Succeeded, attempt 1, 4 rows read, 3 written, 1 in quarantine",
        ),
    ],
)
def test_a_stage_in_one_line(entry: dict[str, Any], line: str) -> None:
    assert describe(entry) == line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '{"timestamp":"2024","level":"WARN","message":"slow","seconds":3,"target":"lakehouse"}',
            (logging.WARNING, "slow seconds=3"),
        ),
        ('{"level":"ERROR","message":"gone"}', (logging.ERROR, "gone")),
        ('{"level":"TRACE","message":"step"}', (logging.INFO, "step")),
        ("thread main panicked", (logging.INFO, "thread main panicked")),
        ("[1, 2]", (logging.INFO, "[1, 2]")),
        ('{"no": "text"}', (logging.INFO, '{"no": "text"}')),
    ],
)
def test_a_log_line_as_a_person_reads_it(line: str, expected: tuple[int, str]) -> None:
    assert readable(line) == expected
