"""Who is told what, over HTTP and SMTP on loopback; and that nobody's absence harms a task."""

from __future__ import annotations

import asyncio
import json
import socketserver
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Connection
from conftest import CANARY, Webhook
from fake_api import stage, status_of
from lakehouse_airflow.notifier import LakehouseNotifier, address_of
from lakehouse_airflow.runs import outcome
from requests_for_tests import request
from support.serving import ServerInThread

FAILED = outcome(
    request().manifest(2, None)
    | {
        "status": status_of(
            "False",
            stage("silver", "Failed", reason="ExpectationFailed", message="9 coins", report="s3://silver/r.json"),
            reason="StageFailed",
        )
    }
)


def context(result: Any = None, error: BaseException | None = None, **task: Any) -> dict[str, Any]:
    """The context of a failed task, as far as the notifier reads it."""
    ti = SimpleNamespace(
        dag_id="crypto_daily",
        task_id="silver",
        run_id="scheduled__2024-06-22",
        map_index=-1,
        log_url="http://airflow/log",
        xcom_pull=lambda task_ids, map_indexes: result,
    )
    return {"ti": ti, "task": SimpleNamespace(**task), "run_id": ti.run_id, "exception": error}


def facts(told: Webhook) -> dict[str, str]:
    (body,) = told.bodies
    (attachment,) = body["attachments"]
    assert attachment["color"] == "danger"
    return {field["title"]: field["value"] for field in attachment["fields"]}


def test_a_failed_run_is_told_with_everything_that_helps(alerts: Webhook) -> None:
    LakehouseNotifier()(context(FAILED))
    assert alerts.bodies[0]["text"] == "crypto_daily.silver failed: ExpectationFailed: 9 coins"
    assert facts(alerts) == {
        "DAG": "crypto_daily",
        "Task": "silver",
        "DAG run": "scheduled__2024-06-22",
        "Pipeline": "crypto",
        "Interval": "2024-06-22T00:00:00Z",
        "Run": "crypto-2024-06-22-silver-d1c0a31e-2",
        "Stage": "silver",
        "Reason": "ExpectationFailed: 9 coins",
        "Report": "s3://silver/r.json",
        "Log": "http://airflow/log",
    }
    assert alerts.paths == [f"/services/T1/{CANARY}"]


def test_a_task_without_a_run_is_told_by_its_error(alerts: Webhook) -> None:
    error = RuntimeError(
        "Pod x returned a failure.\nwaiting\nerror: no LakehousePipeline crypto in namespace lakehouse\n"
    )
    LakehouseNotifier()(context(error=error, labels={"lakehouse.rs/pipeline": "crypto"}))
    told = facts(alerts)
    assert told["Pipeline"] == "crypto"
    assert told["Reason"] == "RuntimeError: no LakehousePipeline crypto in namespace lakehouse"
    assert "Run" not in told


def test_a_task_whose_process_was_killed_is_told_too(alerts: Webhook) -> None:
    LakehouseNotifier()(context())
    assert facts(alerts)["Reason"] == "the task's process ended without saying why: it was killed, or could not begin"


def test_the_operators_pipeline_is_named_too(alerts: Webhook) -> None:
    LakehouseNotifier()(context(error=RuntimeError("gone"), pipeline="shop"))
    assert facts(alerts)["Pipeline"] == "shop"


def test_nobody_to_tell_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_LAKEHOUSE_ALERTS", raising=False)
    LakehouseNotifier()(context(FAILED))


@pytest.mark.parametrize("status", [404, 500])
def test_a_webhook_that_refuses_harms_nothing_and_its_secret_is_not_said(
    status: int, alerts: Webhook, capsys: pytest.CaptureFixture[str]
) -> None:
    alerts.status = status
    LakehouseNotifier()(context(FAILED))
    said = capsys.readouterr().out
    assert f"connection lakehouse_alerts took no notice: HTTPError {status}" in said
    assert CANARY not in said
    assert len(alerts.bodies) == 1


def test_a_webhook_that_is_away_harms_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LAKEHOUSE_ALERTS", json.dumps({"conn_type": "http", "host": "http://127.0.0.1:1"}))
    LakehouseNotifier()(context(FAILED))
    assert "connection lakehouse_alerts took no notice: URLError" in capsys.readouterr().out


def test_a_context_without_anything_harms_nothing(alerts: Webhook, capsys: pytest.CaptureFixture[str]) -> None:
    LakehouseNotifier()({})
    assert "a notice could not be written" in capsys.readouterr().out
    assert alerts.bodies == []


@pytest.mark.parametrize(
    ("connection", "address"),
    [
        ({"host": "https://hooks.slack.com/services", "password": "T/B/x"}, "https://hooks.slack.com/services/T/B/x"),
        ({"host": "receiver", "port": 9999}, "http://receiver:9999"),
        ({"host": "receiver", "schema": "https"}, "https://receiver"),
        ({"host": "http://receiver:9999/hook"}, "http://receiver:9999/hook"),
    ],
)
def test_addresses(connection: dict[str, Any], address: str) -> None:
    assert address_of(Connection(conn_id="x", conn_type="http", **connection)) == address


def test_a_late_dag_run_is_told_from_the_triggerer(alerts: Webhook) -> None:
    """As Airflow does it: the callback's path and arguments, awaited in an event loop."""
    from airflow.triggers.callback import CallbackTrigger
    from lakehouse_airflow.defaults import late_after
    from pendulum import duration

    callback = late_after(duration(hours=3)).callback
    run = {
        "dag_id": "crypto_daily",
        "dag_run_id": "scheduled__1",
        "state": "running",
        "data_interval_start": "2024-06-22T00:00:00Z",
    }

    async def late() -> list[Any]:
        waiting = CallbackTrigger(callback.path, callback.kwargs | {"context": {"dag_run": run, "deadline": {}}})
        return [event.payload async for event in waiting.run()]

    events = asyncio.run(late())
    assert [event["state"] for event in events] == ["running", "success"]
    assert alerts.bodies[0]["text"] == "crypto_daily/scheduled__1 has not ended after 3:00:00"
    assert facts(alerts)["Interval"] == "2024-06-22T00:00:00Z"


class Mailbox(socketserver.StreamRequestHandler):
    """The least of SMTP that takes a mail."""

    mails: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        body: list[str] | None = None
        for raw in self.rfile:
            line = raw.decode().rstrip("\r\n")
            if body is not None:
                if line == ".":
                    self.mails.append("\n".join(body))
                    body = None
                    self.wfile.write(b"250 taken\r\n")
                else:
                    body.append(line)
            elif line.upper() == "DATA":
                body = []
                self.wfile.write(b"354 go on\r\n")
            elif line.upper() == "QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 fine\r\n")


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a mail server on loopback was given."""
    Mailbox.mails = []
    with ServerInThread(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox)) as server:
        extra = {
            "to": "data@example.org",
            "from_email": "airflow@example.org",
            "disable_ssl": True,
            "disable_tls": True,
        }
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": server.port, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_LAKEHOUSE_ALERTS_MAIL", json.dumps(connection))
        yield Mailbox.mails


def test_a_failed_run_is_told_by_mail(mails: list[str]) -> None:
    LakehouseNotifier()(context(FAILED))
    (mail,) = mails
    assert "Subject: crypto_daily.silver failed: ExpectationFailed: 9 coins" in mail
    assert "To: data@example.org" in mail
    assert "Run: crypto-2024-06-22-silver-d1c0a31e-2" in mail
