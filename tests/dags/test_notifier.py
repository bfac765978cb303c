"""Who is told what, over HTTP and SMTP on loopback; and that nobody's absence harms a task."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Connection
from conftest import CANARY, Webhook
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_api import stage, status_of
from lakehouse_airflow.notifier import LakehouseNotifier, address_of
from lakehouse_airflow.runs import outcome
from requests_for_tests import request
from support.mailbox import mailbox

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


@dataclass(frozen=True)
class Certificate:
    """A key and its certificate, which nobody has signed, for 127.0.0.1."""

    file: Path
    public: str

    def context(self) -> ssl.SSLContext:
        """What a server with it speaks."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file)
        return context


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Made for these tests."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path_factory.mktemp("tls") / "mail.pem"
    public = signed.public_bytes(pem)
    file.write_bytes(secret + public)
    return Certificate(file, public.decode())


def mail_connection(monkeypatch: pytest.MonkeyPatch, port: int, **extra: Any) -> None:
    """The connection `lakehouse_alerts_mail` leads to a port of loopback, with a login."""
    to = {"to": "data@example.org", "from_email": "airflow@example.org"}
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "login": "airflow", "password": CANARY}
    monkeypatch.setenv("AIRFLOW_CONN_LAKEHOUSE_ALERTS_MAIL", json.dumps(connection | {"extra": to | extra}))


PLAIN = {"disable_ssl": True, "disable_tls": True}


def shown(text: str) -> list[str]:
    """The forms of the mail server's password that a text shows."""
    login = base64.b64encode(f"\0airflow\0{CANARY}".encode()).decode()
    return [form for form in (CANARY, base64.b64encode(CANARY.encode()).decode(), login) if form in text]


def test_a_failed_run_is_told_by_mail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with mailbox() as box:
        mail_connection(monkeypatch, box.port, **PLAIN)
        LakehouseNotifier()(context(FAILED))
    (mail,) = box.mails
    assert "Subject: crypto_daily.silver failed: ExpectationFailed: 9 coins" in mail
    assert "To: data@example.org" in mail
    assert "Run: crypto-2024-06-22-silver-d1c0a31e-2" in mail
    assert box.logins == [("airflow", CANARY)]
    said = capsys.readouterr().out
    assert "told connection lakehouse_alerts_mail" in said
    assert shown(said + mail) == []


def test_a_mail_server_that_refuses_harms_nothing_and_its_password_is_not_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the server's answer repeats what it was given."""
    with mailbox() as box:
        box.refusal = f"535 5.7.8 {CANARY} is not the password"
        mail_connection(monkeypatch, box.port, **PLAIN)
        LakehouseNotifier()(context(FAILED))
        asyncio.run(LakehouseNotifier(late_after=3600).async_notify({"dag_run": {}, "deadline": {}}))
    assert len(box.logins) >= 2
    assert {password for _, password in box.logins} == {CANARY}
    assert box.mails == []
    said = capsys.readouterr().out
    assert said.count("connection lakehouse_alerts_mail took no notice: SMTPAuthenticationError 535") == 2
    assert shown(said) == []


@pytest.mark.parametrize("starttls", [False, True], ids=["tls", "starttls"])
def test_a_mail_server_gets_the_password_only_where_its_certificate_is_trusted(
    starttls: bool,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with mailbox(tls=certificate.context(), starttls=starttls) as box:
        mail_connection(monkeypatch, box.port, disable_ssl=starttls)
        LakehouseNotifier()(context(FAILED))
        assert "took no notice: SSLCertVerificationError" in capsys.readouterr().out
        assert (box.logins, box.mails) == ([], [])

        mail_connection(monkeypatch, box.port, disable_ssl=starttls, ca=certificate.public)
        LakehouseNotifier()(context(FAILED))
        assert (box.logins, len(box.mails), box.encrypted) == ([("airflow", CANARY)], 1, True)
    assert shown(capsys.readouterr().out) == []
