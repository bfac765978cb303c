"""Tells people that a task has failed or a DAG run is late: to a webhook that takes Slack's payload, and by mail.

Where to is said by two Airflow connections; one that does not exist is not told. Nothing here ever fails a task.
"""

from __future__ import annotations

import asyncio
import json
import smtplib
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.connection import get_async_connection
from airflow.sdk import BaseHook, BaseNotifier
from airflow.sdk.exceptions import AirflowNotFoundException

from lakehouse_airflow.naming import PIPELINE_LABEL
from lakehouse_airflow.runs import Outcome, failed_stage, report_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

WEBHOOK = "lakehouse_alerts"
"""Connection: host is the address, such as https://hooks.slack.com/services; password, if any, is the rest of its path."""
MAIL = "lakehouse_alerts_mail"
"""Connection of type smtp: host, port, login, password; extras `to`, `from_email`, `disable_ssl`, `disable_tls`, `ca`."""
PATIENCE = 10
"""Seconds that a webhook or mail server has for each of its answers."""


@dataclass(frozen=True)
class Notice:
    """What people are told: one headline, and facts by name."""

    headline: str
    facts: Mapping[str, str]

    def payload(self) -> dict[str, Any]:
        """As Slack's incoming webhooks take it."""
        fields = [{"title": name, "value": value, "short": len(value) < 40} for name, value in self.facts.items()]
        return {
            "text": self.headline,
            "attachments": [{"color": "danger", "fallback": self.headline, "fields": fields}],
        }

    def text(self) -> str:
        """As the body of a mail."""
        return "\n".join([self.headline, "", *(f"{name}: {value}" for name, value in self.facts.items())])


def _reason(error: object) -> str:
    """The line of an error that says most: its first, or of a pod's failure the last that its container said."""
    if error is None:
        # Airflow tells in the DAG processor then, which has no error to show.
        return "the task's process ended without saying why: it was killed, or could not begin"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    of_a_pod = lines[0].endswith("returned a failure.")
    words = lines[-1].removeprefix("error: ") if of_a_pod else lines[0]
    return f"{type(error).__name__}: {words}" if isinstance(error, BaseException) else words


def failure_notice(context: Mapping[str, Any], result: Outcome | None) -> Notice:
    """Notice of a failed task; `result` is what its run came to, where it came that far."""
    ti, task = context["ti"], context.get("task")
    labels = getattr(task, "labels", None) or {}
    facts = {
        "DAG": ti.dag_id,
        "Task": ti.task_id,
        "DAG run": str(context.get("run_id") or getattr(ti, "run_id", "")),
        "Pipeline": str(getattr(task, "pipeline", None) or labels.get(PIPELINE_LABEL, "")),
    }
    if result:
        failed = failed_stage(result)
        reason = failed.get("reason") or result.get("reason", "")
        message = failed.get("message") or result.get("message", "")
        facts |= {
            "Pipeline": result["pipeline"],
            "Interval": result["interval"]["start"],
            "Run": result["run"],
            "Stage": failed.get("name", ""),
            "Reason": f"{reason}: {message}" if message else reason,
            "Report": report_of(result),
        }
    else:
        facts["Reason"] = _reason(context.get("exception"))
    facts["Log"] = str(getattr(ti, "log_url", ""))
    return Notice(f"{ti.dag_id}.{ti.task_id} failed: {facts['Reason']}", {k: v for k, v in facts.items() if v})


def late_notice(context: Mapping[str, Any], after: int) -> Notice:
    """Notice of a DAG run that has not ended in time."""
    run = context.get("dag_run") or {}
    name = f"{run.get('dag_id', '')}/{run.get('dag_run_id', '')}"
    facts = {"DAG run": name, "State": str(run.get("state", "")), "Interval": str(run.get("data_interval_start") or "")}
    return Notice(f"{name} has not ended after {timedelta(seconds=after)}", {k: v for k, v in facts.items() if v})


def address_of(connection: Connection) -> str:
    """The webhook that a connection stands for."""
    host = connection.host or ""
    if "://" not in host:
        host = f"{connection.schema or 'http'}://{host}"
    if connection.port:
        host = f"{host}:{connection.port}"
    return f"{host.rstrip('/')}/{connection.password}" if connection.password else host


def post(connection: Connection, notice: Notice) -> None:
    """Sends a notice to a webhook, once."""
    request = urllib.request.Request(
        address_of(connection),
        data=json.dumps(notice.payload()).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        answer.read()


def mail(connection: Connection, notice: Notice) -> None:
    """Sends a notice by mail, once."""
    extra = json.loads(connection.extra or "{}")
    message = EmailMessage()
    message["Subject"] = notice.headline.replace("\n", " ")[:200]
    message["From"] = extra.get("from_email") or connection.login or "airflow@localhost"
    message["To"] = extra["to"]
    message.set_content(notice.text())
    encrypted = not extra.get("disable_ssl")
    host, port = connection.host or "localhost", connection.port or 0
    # Without a context smtplib would give the password to any server with any certificate.
    trust = ssl.create_default_context(cadata=extra.get("ca"))
    with (
        smtplib.SMTP_SSL(host, port, timeout=PATIENCE, context=trust)
        if encrypted
        else smtplib.SMTP(host, port, timeout=PATIENCE)
    ) as server:
        if not encrypted and not extra.get("disable_tls"):
            server.starttls(context=trust)
        if connection.login and connection.password:
            server.login(connection.login, connection.password)
        server.send_message(message)


CHANNELS = ((WEBHOOK, post), (MAIL, mail))


class LakehouseNotifier(BaseNotifier):
    """Callback for a task that has failed for good (`on_failure_callback`), and for a DAG run that is late (`DeadlineAlert`)."""

    def __init__(self, late_after: int = 0, context: Any = None) -> None:
        super().__init__(context=context)
        self.late_after = late_after

    def notify(self, context: Any) -> None:
        """Tells of a failed task, in the process that ran it."""
        try:
            notice = failure_notice(context, self._outcome(context))
        except Exception as error:
            self.log.warning("a notice could not be written: %s", error)
            return
        for name, send in CHANNELS:
            try:
                connection = BaseHook.get_connection(name)
            except AirflowNotFoundException:
                continue
            except Exception as error:
                self.log.warning("connection %s could not be read: %s", name, type(error).__name__)
                continue
            self._send(name, send, connection, notice)

    async def async_notify(self, context: Any) -> None:
        """Tells of a late DAG run, in the triggerer."""
        notice = late_notice(context, self.late_after)
        for name, send in CHANNELS:
            try:
                connection = await get_async_connection(name)
            except AirflowNotFoundException:
                continue
            except Exception as error:
                self.log.warning("connection %s could not be read: %s", name, type(error).__name__)
                continue
            await asyncio.to_thread(self._send, name, send, connection, notice)

    def _send(self, name: str, send: Any, connection: Connection, notice: Notice) -> None:
        try:
            send(connection, notice)
        except Exception as error:
            # Some errors carry the address, and with it the secret in it: only the kind and a status are said.
            status = getattr(error, "code", "") or getattr(error, "smtp_code", "")
            self.log.warning("connection %s took no notice: %s %s", name, type(error).__name__, status)
        else:
            self.log.info("told connection %s: %s", name, notice.headline)

    def _outcome(self, context: Mapping[str, Any]) -> Outcome | None:
        """What the task's run came to: tasks of this package leave it in XCom, also when they fail."""
        ti = context["ti"]
        try:
            found = ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index)
        except Exception as error:
            self.log.warning("the outcome of %s could not be read: %s", ti.task_id, type(error).__name__)
            return None
        return found if isinstance(found, dict) and "run" in found else None
