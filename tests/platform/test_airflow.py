"""Airflow on the cluster: crypto_daily through real pods for a recorded date, a backfill of seven days while pods are killed, a failure that
people are told of, and no credential anywhere."""

from __future__ import annotations

import email
import email.policy
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pytest
import s3fs
from airflow_api import ADDRESS, Airflow, Webhook
from canaries import MAIL, MAIL_LOGIN, WEBHOOK, planted
from documents import lakehouse, pipeline, renamed_tables
from kubernetes import KubectlError, Kubernetes, condition, finished
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from support.coincap import recordings
from support.mailbox import Mailbox, mailbox
from support.replay import ReplayServer

DAG = "crypto_daily"
DAY = "2024-06-22"
WEEK = [(date(2024, 7, 1) + timedelta(days=n)).isoformat() for n in range(7)]
COINS = 20
"""Records of the recorded answer."""
OURS = "airflow_"
"""How the tables of this test begin: those of test_crypto.py are left alone."""
SNAPSHOTS = f"silver.{OURS}price_snapshots"
SUMMARY = f"gold.{OURS}daily_summary"
ALERTS = ("lakehouse_alerts", "lakehouse_alerts_mail")
"""The connections by which people are told."""
COMPONENTS = ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")


@pytest.fixture(scope="module")
def airflow(secret: Callable[[str, str], str]) -> Airflow:
    """Airflow's API, as the user whom the chart makes."""
    found = Airflow("admin", secret("airflow", "password"))
    found.wait("the DAGs to be read", lambda: DAG in {dag["dag_id"] for dag in found.ask("GET", "/dags")["dags"]}, 120)
    health = found.ask("GET", "/monitor/health")
    assert {part: said["status"] for part, said in health.items()} == {
        "metadatabase": "healthy",
        "scheduler": "healthy",
        "triggerer": "healthy",
        "dag_processor": "healthy",
    }
    return found


@dataclass(frozen=True)
class Stand:
    """What the tests of this file share."""

    airflow: Airflow
    webhook: Webhook
    mailbox: Mailbox
    replay: ReplayServer
    yesterday: str
    """Start of the interval that the DAG's schedule runs by itself: nothing was recorded for it."""


@pytest.fixture(scope="module")
def stand(
    airflow: Airflow, kubernetes: Kubernetes, replay: ReplayServer, gateway: str, catalog: SqlCatalog
) -> Iterator[Stand]:
    """crypto_daily is unpaused; its source is the replay server, its pipeline has tables of its own, alerts come here."""
    _clean(airflow, kubernetes, catalog)
    for day in WEEK:
        replay.record(day, recordings()[DAY].body)
    archive = [{"name": "coincap", "baseUrl": replay.url, "archive": {"query": {"at": "{{ interval.start }}"}}}]
    kubernetes.apply(lakehouse("main", connections=archive))
    kubernetes.apply(renamed_tables(pipeline("airflow/crypto.yaml", "crypto"), OURS.rstrip("_")))
    with Webhook(gateway) as webhook, mailbox(gateway) as box:
        hook, mail = ALERTS
        connection = {"connection_id": hook, "conn_type": "http", "schema": "http"}
        where = {"host": gateway, "port": webhook.port, "password": WEBHOOK}
        airflow.ask("POST", "/connections", connection | where)
        connection = {"connection_id": mail, "conn_type": "smtp", "login": MAIL_LOGIN}
        where = {"host": gateway, "port": box.port, "password": MAIL}
        extra = {"to": "data@example.org", "disable_ssl": True, "disable_tls": True}
        airflow.ask("POST", "/connections", connection | where | {"extra": json.dumps(extra)})
        try:
            airflow.pause(DAG, False)
            scheduled = airflow.wait("the run that the schedule makes", lambda: airflow.runs(DAG), 60)[0]
            yield Stand(airflow, webhook, box, replay, scheduled["data_interval_start"])
        finally:
            airflow.pause(DAG, True)
            _clean(airflow, kubernetes, catalog)


def _clean(airflow: Airflow, kubernetes: Kubernetes, catalog: SqlCatalog) -> None:
    """As if this file had not run yet."""
    airflow.pause(DAG, True)
    airflow.forget(DAG)
    for each in airflow.ask("GET", "/connections")["connections"]:
        if each["connection_id"] in ALERTS:
            airflow.ask("DELETE", f"/connections/{each['connection_id']}")
    runs = [run["metadata"]["name"] for run in kubernetes.list("lhr", "lakehouse.rs/pipeline=crypto")]
    if runs:
        kubernetes.delete("lhr", *runs)
    for namespace in filter(catalog.namespace_exists, ("silver", "gold")):
        for identifier in catalog.list_tables(namespace):
            if identifier[-1].startswith(OURS):
                catalog.drop_table(identifier)


def next_day(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def rows(catalog: SqlCatalog, table: str, column: str) -> dict[str, int]:
    """Number of rows per day."""
    try:
        values = catalog.load_table(table).scan(selected_fields=(column,)).to_arrow()[column].to_pylist()
    except NoSuchTableError:
        return {}
    days = [value.date().isoformat() for value in values]
    return {day: days.count(day) for day in sorted(set(days))}


def runs_of(kubernetes: Kubernetes, day: str) -> dict[str, dict[str, Any]]:
    """The LakehouseRuns of a day, by name."""
    return {
        run["metadata"]["name"]: run
        for run in kubernetes.list("lhr", "lakehouse.rs/pipeline=crypto")
        if run["spec"]["interval"]["start"].startswith(day)
    }


def client_pods(kubernetes: Kubernetes) -> list[dict[str, Any]]:
    """Pods that KubernetesPodOperator made and that are not going."""
    pods = kubernetes.list("pods", f"kubernetes_pod_operator=True,dag_id={DAG}")
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


@dataclass(frozen=True)
class Seen:
    """What was seen of the DAG run of the recorded date."""

    run: str
    deferred_before: bool
    pods: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def recorded_day(stand: Stand, kubernetes: Kubernetes, s3: dict[str, str]) -> Seen:
    """The DAG run of the recorded date, watched until it ended: the source answers late, so that the sensor has to wait."""
    bronze = bucket(s3)
    airflow, pods, deferred = stand.airflow, {}, False
    earlier = set(bronze.glob(f"bronze/crypto/_manifests/dt={DAY}/run=*.json"))
    stand.replay.delay(DAY, 12)
    run = airflow.trigger(DAG, f"{DAY}T00:00:00Z", f"{next_day(DAY)}T00:00:00Z")

    def look() -> str | None:
        nonlocal deferred
        pods.update({pod["metadata"]["name"]: pod for pod in client_pods(kubernetes)})
        if not deferred and airflow.tasks(DAG, run)["bronze"]["state"] == "deferred":
            deferred = set(bronze.glob(f"bronze/crypto/_manifests/dt={DAY}/run=*.json")) == earlier
        state = airflow.state(DAG, run)
        return state if state in ("success", "failed") else None

    assert airflow.wait(f"the end of {run}", look, 240) == "success", airflow.overview()
    return Seen(run, deferred, pods)


def bucket(s3: dict[str, str]) -> s3fs.S3FileSystem:
    """The object store, never from a cached listing."""
    return s3fs.S3FileSystem(
        key=s3["access_key_id"],
        secret=s3["secret_access_key"],
        endpoint_url=s3["endpoint"],
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def test_the_interface_answers_and_wants_a_login(airflow: Airflow) -> None:
    with urllib.request.urlopen(f"{ADDRESS}/", timeout=10) as page:
        assert b"Airflow" in page.read()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{ADDRESS}/api/v2/dags", timeout=10)
    assert airflow.ask("GET", "/importErrors")["total_entries"] == 0


def test_a_recorded_day_runs_through_pods(recorded_day: Seen, stand: Stand, kubernetes: Kubernetes) -> None:
    assert recorded_day.deferred_before
    tasks = stand.airflow.tasks(DAG, recorded_day.run)
    assert {name: ti["state"] for name, ti in tasks.items()} == dict.fromkeys(
        ("ingest", "bronze", "silver", "gold"), "success"
    )
    assert {pod["metadata"]["labels"]["task_id"] for pod in recorded_day.pods.values()} >= {"ingest", "silver", "gold"}
    assert sorted(run["spec"]["stages"][0] for run in runs_of(kubernetes, DAY).values()) == ["gold", "ingest", "silver"]


def test_its_tables_are_in_the_store(recorded_day: Seen, catalog: SqlCatalog, s3: dict[str, str]) -> None:
    assert rows(catalog, SNAPSHOTS, "snapshot_at")[DAY] == COINS
    assert rows(catalog, SUMMARY, "day")[DAY] == COINS
    location = catalog.load_table(SNAPSHOTS).location().removeprefix("s3://")
    assert bucket(s3).glob(f"{location}/data/**/*.parquet")


def test_xcom_holds_the_outcome(recorded_day: Seen, stand: Stand) -> None:
    outcome = stand.airflow.xcom(DAG, recorded_day.run, "silver")
    assert (outcome["outcome"], outcome["pipeline"]) == ("Succeeded", "crypto")
    assert outcome["interval"]["start"] == f"{DAY}T00:00:00Z"
    assert outcome["rowsWritten"] == 2 * COINS
    written = {table["name"]: table["rowsWritten"] for table in outcome["tables"]}
    assert written == {f"silver.{OURS}coins": COINS, SNAPSHOTS: COINS}


def test_clearing_a_task_reruns_its_stage_alone(
    recorded_day: Seen, stand: Stand, kubernetes: Kubernetes, snapshots: Callable[[str], dict[str, int]]
) -> None:
    before, first = snapshots(OURS), set(runs_of(kubernetes, DAY))
    cleared = {"dry_run": False, "dag_run_id": recorded_day.run, "task_ids": ["gold"], "only_failed": False}
    stand.airflow.ask("POST", f"/dags/{DAG}/clearTaskInstances", cleared)
    stand.airflow.wait("the cleared run to begin", lambda: set(runs_of(kubernetes, DAY)) != first, 60)
    assert stand.airflow.ended(DAG, recorded_day.run, 120) == "success"
    (again,) = set(runs_of(kubernetes, DAY)) - first
    assert again.endswith("-2")
    assert runs_of(kubernetes, DAY)[again]["spec"]["stages"] == ["gold"]
    assert snapshots(OURS) == before


@pytest.fixture(scope="module")
def week(recorded_day: Seen, stand: Stand, kubernetes: Kubernetes) -> list[dict[str, Any]]:
    """The DAG runs of a backfill of seven days, during which a task's pod, the operator's and the scheduler's were killed."""
    backfill(stand.airflow)

    def of_week() -> list[dict[str, Any]]:
        return [run for run in stand.airflow.runs(DAG) if run["run_type"] == "backfill"]

    def running(stage: str) -> list[dict[str, Any]]:
        active = [run for day in WEEK for run in runs_of(kubernetes, day).values() if not finished(run)]
        return [run for run in active if run["spec"]["stages"] == [stage]]

    def pod_of(stage: str) -> str | None:
        pods = [pod for pod in client_pods(kubernetes) if pod["metadata"]["labels"]["task_id"] == stage]
        ready = [pod for pod in pods if pod["status"]["phase"] == "Running" and running(stage)]
        return ready[0]["metadata"]["name"] if ready else None

    victim = stand.airflow.wait("a task's pod whose run is under way", lambda: pod_of("ingest"), 90)
    kubernetes.run("delete", "pod", victim, "--grace-period=1", "--wait=false")
    stand.airflow.wait("a run of silver", lambda: running("silver"), 120)
    kubernetes.run("delete", "pod", "-l", "app.kubernetes.io/name=lakehouse-operator", "--grace-period=1")
    kubernetes.run("delete", "pod", "-l", "app.kubernetes.io/name=airflow-scheduler", "--grace-period=1")

    def all_ended() -> list[dict[str, Any]] | None:
        found = of_week()
        return (
            found if len(found) == len(WEEK) and all(run["state"] in ("success", "failed") for run in found) else None
        )

    ended: list[dict[str, Any]] = stand.airflow.wait("the end of the backfill", all_ended, 420)
    backfills_are_complete(stand.airflow)
    return ended


def backfill(airflow: Airflow) -> None:
    """What `airflow backfill create` asks for: seven days, at most three at a time."""
    asked = {"dag_id": DAG, "from_date": f"{WEEK[0]}T00:00:00Z", "to_date": f"{WEEK[-1]}T00:00:00Z"}
    airflow.ask("POST", "/backfills", asked | {"reprocess_behavior": "none", "max_active_runs": 3})


def backfills_are_complete(airflow: Airflow) -> None:
    """Until then Airflow refuses another one of the same DAG."""

    def complete() -> bool:
        return all(each["completed_at"] for each in airflow.ask("GET", f"/backfills?dag_id={DAG}")["backfills"])

    airflow.wait("the scheduler to say that the backfill is complete", complete, 90)


def test_a_backfill_gives_each_day_one_run_whoever_was_killed(
    week: list[dict[str, Any]], stand: Stand, kubernetes: Kubernetes, catalog: SqlCatalog
) -> None:
    assert [run["state"] for run in week] == ["success"] * 7, stand.airflow.overview()
    assert sorted(run["data_interval_start"][:10] for run in week) == WEEK
    for day in WEEK:
        outcomes = [
            (run["spec"]["stages"][0], run["metadata"]["name"][-2:], condition(run, "Succeeded").get("reason"))
            for run in runs_of(kubernetes, day).values()
        ]
        assert sorted(outcomes) == [(stage, "-1", "Completed") for stage in ("gold", "ingest", "silver")]
    expected = dict.fromkeys([DAY, *WEEK], COINS)
    assert rows(catalog, SNAPSHOTS, "snapshot_at") == expected
    assert rows(catalog, SUMMARY, "day") == expected


def test_the_same_backfill_again_does_nothing(
    week: list[dict[str, Any]],
    stand: Stand,
    kubernetes: Kubernetes,
    catalog: SqlCatalog,
    snapshots: Callable[[str], dict[str, int]],
) -> None:
    before = snapshots(OURS), {day: set(runs_of(kubernetes, day)) for day in WEEK}
    backfill(stand.airflow)
    backfills_are_complete(stand.airflow)
    assert len([run for run in stand.airflow.runs(DAG) if run["run_type"] == "backfill"]) == 7
    assert (snapshots(OURS), {day: set(runs_of(kubernetes, day)) for day in WEEK}) == before


def test_people_are_told_once_of_a_run_that_failed(week: list[dict[str, Any]], stand: Stand) -> None:
    """The DAG run of yesterday: nothing was recorded for that day, so its ingest fails."""
    scheduled = next(run for run in stand.airflow.runs(DAG) if run["run_type"] == "scheduled")
    assert stand.airflow.ended(DAG, scheduled["dag_run_id"], 240) == "failed"
    told = stand.webhook.notices
    assert len(told) == 1, [notice.text for notice in told]
    facts = told[0].facts
    assert told[0].path == f"/{WEBHOOK}"
    assert told[0].text.startswith(f"{DAG}.ingest failed: ")
    assert (facts["DAG"], facts["Task"], facts["Pipeline"]) == (DAG, "ingest", "crypto")
    assert facts["DAG run"] == scheduled["dag_run_id"]
    assert facts["Run"].startswith(f"crypto-{stand.yesterday[:10]}-ingest-")
    assert facts["Stage"] == "ingest"
    assert "404" in facts["Reason"]
    # By mail too, with the login of the connection.
    (mail,) = (email.message_from_string(text, policy=email.policy.default) for text in stand.mailbox.mails)
    assert mail["Subject"] == told[0].text[:200]
    assert f"Run: {facts['Run']}" in mail.get_content()
    assert stand.mailbox.logins == [(MAIL_LOGIN, MAIL)]


def test_no_credential_shows(
    week: list[dict[str, Any]],
    recorded_day: Seen,
    stand: Stand,
    kubernetes: Kubernetes,
    secret: Callable[[str, str], str],
    s3: dict[str, str],
) -> None:
    secrets = {
        **planted(),
        "MinIO's": secret("minio-credentials", "secret-access-key"),
        "Postgres'": secret("catalog", "password"),
        "Airflow's database": secret("airflow", "database-password"),
        "Fernet": secret("airflow", "fernet-key"),
        "JWT": secret("airflow", "jwt-secret"),
        "the user's": secret("airflow", "password"),
    }
    store = bucket(s3)
    logs = store.glob(f"airflow-logs/dag_id={DAG}/**/*.log")
    assert len(logs) >= 4 * (1 + len(WEEK))
    texts = {path: store.cat(path).decode() for path in logs}
    for component in COMPONENTS:
        texts[component] = kubernetes.run("logs", f"deployment/{component}", "-c", component.removeprefix("airflow-"))
    texts["client pods"] = json.dumps(recorded_day.pods)
    texts["deployments"] = json.dumps([kubernetes.get("deployment", component) for component in COMPONENTS])
    for name, task in stand.airflow.tasks(DAG, recorded_day.run).items():
        texts[f"rendered {name}"] = json.dumps(task["rendered_fields"])
        assert task["rendered_fields"]
        texts[f"XCom {name}"] = json.dumps(
            stand.airflow.ask("GET", f"/dags/{DAG}/dagRuns/{recorded_day.run}/taskInstances/{name}/xcomEntries")
        )
    # What Airflow says of the connections itself, and of who made them.
    texts["connections"] = json.dumps([stand.airflow.ask("GET", f"/connections/{name}") for name in ALERTS])
    texts["audit log"] = json.dumps(stand.airflow.ask("GET", "/eventLogs?event=post_connection&limit=100"))
    assert all(name in texts[where] for name in ALERTS for where in ("connections", "audit log"))
    shown = [(where, whose) for where, text in texts.items() for whose, value in secrets.items() if value in text]
    assert shown == []


def test_every_component_is_there_again(week: list[dict[str, Any]], kubernetes: Kubernetes) -> None:
    for component in COMPONENTS:
        kubernetes.run("rollout", "status", f"deployment/{component}", "--timeout=120s", timeout=150)


@pytest.mark.parametrize("account", ["airflow", "lakehouse-client"])
def test_its_accounts_may_not_read_secrets(account: str, kubernetes: Kubernetes) -> None:
    who = f"--as=system:serviceaccount:{kubernetes.namespace}:{account}"
    assert kubernetes.run("auth", "can-i", "create", "lakehouseruns.lakehouse.rs", who).strip() == "yes"
    for right in (("get", "secrets"), ("delete", "lakehouseruns.lakehouse.rs"), ("create", "jobs.batch")):
        with pytest.raises(KubectlError):
            kubernetes.run("auth", "can-i", *right, who)
