"""Airflow's REST API as the tests ask it, and a webhook that keeps what it was told."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.serving import ServerInThread
from support.waiting import wait_until

ADDRESS = "http://127.0.0.1:8080"
"""Host port of kind-config.yaml."""
ENDED = ("success", "failed")


class AirflowError(AssertionError):
    """An answer that is no success; the text is what Airflow said."""


@dataclass
class Airflow:
    """A user who is logged in."""

    username: str
    password: str = field(repr=False)
    _token: str = field(default="", repr=False)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a request, as parsed JSON."""
        if not self._token:
            login = {"username": self.username, "password": self.password}
            self._token = self._send("POST", "/auth/token", login)["access_token"]
        return self._send(method, f"/api/v2{path}", body)

    def _send(self, method: str, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            ADDRESS + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AirflowError(f"{method} {path}: {error.code} {error.read().decode()}") from error
        return json.loads(text) if text else None

    def wait(self, what: str, condition: Callable[[], Any], seconds: float) -> Any:
        """The first true value of `condition`, asked once a second."""
        return wait_until(what, condition, seconds, 1, self.overview)

    def overview(self) -> str:
        """Every DAG run and task instance that has not succeeded: what a person looks at."""
        tasks = self.ask("GET", "/dags/~/dagRuns/~/taskInstances?limit=500")["task_instances"]
        return "\n".join(
            f"{ti['dag_id']} {ti['dag_run_id']} {ti['task_id']}: {ti['state']}, try {ti['try_number']}"
            for ti in tasks
            if ti["state"] != "success"
        )

    def pause(self, dag: str, paused: bool) -> None:
        """Pauses or unpauses a DAG."""
        self.ask("PATCH", f"/dags/{dag}", {"is_paused": paused})

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """The DAG runs of a DAG."""
        found: list[dict[str, Any]] = self.ask("GET", f"/dags/{dag}/dagRuns?limit=500")["dag_runs"]
        return found

    def trigger(self, dag: str, start: str, end: str, conf: dict[str, Any] | None = None) -> str:
        """Makes a DAG run for a data interval; its id."""
        interval = {"data_interval_start": start, "data_interval_end": end}
        made = self.ask("POST", f"/dags/{dag}/dagRuns", {"logical_date": start, "conf": conf or {}, **interval})
        name: str = made["dag_run_id"]
        return name

    def state(self, dag: str, run: str) -> str:
        """State of a DAG run."""
        state: str = self.ask("GET", f"/dags/{dag}/dagRuns/{_quoted(run)}")["state"]
        return state

    def ended(self, dag: str, run: str, seconds: float) -> str:
        """State of a DAG run once it has ended."""

        def look() -> str | None:
            state = self.state(dag, run)
            return state if state in ENDED else None

        state: str = self.wait(f"the end of {dag} {run}", look, seconds)
        return state

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """The task instances of a DAG run by task."""
        found = self.ask("GET", f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances")["task_instances"]
        return {ti["task_id"]: ti for ti in found}

    def xcom(self, dag: str, run: str, task: str, key: str = "return_value") -> Any:
        """One XCom of a task."""
        path = f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances/{task}/xcomEntries/{key}?deserialize=true"
        return self.ask("GET", path)["value"]

    def forget(self, dag: str) -> None:
        """Deletes the DAG runs of a DAG, so that a test can make them again."""
        for run in self.runs(dag):
            path = f"/dags/{dag}/dagRuns/{_quoted(run['dag_run_id'])}"
            if run["state"] not in ENDED:
                self.ask("PATCH", path, {"state": "failed"})
            self.ask("DELETE", path)


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


@dataclass(frozen=True)
class Notice:
    """What the webhook was told."""

    path: str
    text: str
    facts: dict[str, str]


class Webhook(ServerInThread):
    """A receiver of Slack-shaped payloads."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.notices: list[Notice] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fields = [field for part in payload["attachments"] for field in part["fields"]]
                facts = {field["title"]: field["value"] for field in fields}
                webhook.notices.append(Notice(self.path, payload["text"], facts))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """What arrived is in `notices`; nothing is printed."""

        super().__init__(ThreadingHTTPServer((host, 0), Handler))
