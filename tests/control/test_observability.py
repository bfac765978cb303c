"""What an operator tells: metrics to a real Prometheus, traces to a collector, progress and events to whoever looks at its runs."""

from __future__ import annotations

import json
import math
import re
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import program
from kubelet import Attempt, End, failed, succeeded
from otlp import Collector, Span
from prometheus import CHART, RULES, Prometheus
from scenarios import EXTERNAL, LAKEHOUSE, Gate, pipeline, run, stage_state
from stand import Call, Stand, sort_of, succeeded_condition
from support.http_proxy import HttpRequest
from support.proxy import Answer, Fault, Spot
from support.waiting import wait_until

DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
GOOD, RETRIED, BAD = "it-good", "it-retried", "it-bad"
# One answer of the API server is an error, so that it is counted.
pytestmark = [
    # One worker: all tests look at one life.
    pytest.mark.xdist_group("observability"),
    pytest.mark.operator_says("^cannot write the status of it-(good|retried): made up by the test$"),
]


def listens(stand: Stand, number: int = -1) -> str:
    """Host and port of an operator of the stand, as its log says."""
    log = stand._logs[number]

    def told() -> str | None:
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        return next((str(line["listen"]) for line in lines if "listen" in line), None)

    address = wait_until("the operator to listen", told, 30)
    assert address
    return str(address)


def metrics(address: str) -> str:
    """The exposition."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        return str(answer.read().decode())


def server_error() -> Answer:
    """An API server in trouble."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "InternalError", "code": 500}
    body = json.dumps({**status, "message": "made up by the test", "metadata": {}}).encode()
    head = (
        f"HTTP/1.1 500 X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return Answer(head.encode() + body)


def of_day(day: int, name: str) -> dict[str, Any]:
    """A run for a day of January 2024."""
    document = run(name)
    document["spec"]["interval"] = {
        "start": f"2024-01-{day:02}T00:00:00Z",
        "end": f"2024-01-{day + 1:02}T00:00:00Z",
    }
    return document


class Life:
    """An operator with three runs behind it: one succeeded, one after a retry, one failed; and one request that was not answered."""

    def __init__(self, stand: Stand, prometheus: Prometheus, collector: Collector, address: str) -> None:
        self.stand, self.prometheus, self.collector, self.address = stand, prometheus, collector, address


def ends(attempt: Attempt) -> End:
    """How the attempts of the three runs end."""
    if attempt.run == RETRIED and attempt.stage == "silver" and attempt.number == 1:
        return failed("StoreUnavailable", True)
    if attempt.run == BAD and attempt.stage == "gold":
        return failed("SqlFailed", False)
    return succeeded(attempt.stage)


@pytest.fixture(scope="module")
def life(stand: Callable[[str], Stand], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Lived through once for all tests of this file."""
    with pytest.MonkeyPatch.context() as environment, Collector() as collector, stand("observed") as it:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        environment.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=lake")
        it.end = ends
        it.start()
        address = listens(it)
        with Prometheus(address, tmp_path_factory.mktemp("prometheus")) as prometheus:
            # What begins with its first event has no increase: everything is scraped before anything happens.
            wait_until("a first scrape", lambda: prometheus.query("lakehouse_build_info"), 30)
            wait_until("namespaces", lambda: prometheus.query("lakehouse_runs"), 30)
            it.expect(Call("PUT", "lakehouseruns/status", 2), Spot.REQUESTED, server_error())
            it.apply(LAKEHOUSE, pipeline(EXTERNAL), of_day(1, GOOD), of_day(2, RETRIED))
            it.wait("two outcomes", it.settled, 90)
            it.apply(of_day(3, BAD))
            it.wait("the third", it.settled, 90)
            ended = 'sum(lakehouse_runs_finished_total{outcome!="cancelled"})'
            wait_until("a scrape of the end", lambda: prometheus.query(ended)[0][1] == 3, 30)
            # Rates need two values, and rules an evaluation.
            wait_until("rates", lambda: prometheus.query("rate(lakehouse_reconcile_errors_total[5m])"), 60)
            yield Life(it, prometheus, collector, address)
        assert not it.complaints(), "\n".join(it.complaints())


def test_what_happened_is_counted(life: Life) -> None:
    ask = life.prometheus.query

    def value(expression: str) -> float:
        (only,) = ask(expression)
        return only[1]

    assert value('lakehouse_runs_finished_total{outcome="succeeded"}') == 2
    assert value('lakehouse_runs_finished_total{outcome="failed"}') == 1
    assert value('lakehouse_stage_retries_total{stage="silver",class="Retryable"}') == 1
    assert value("sum(lakehouse_stage_retries_total)") == 1
    assert value('lakehouse_stage_duration_seconds_count{stage="gold",outcome="failed"}') == 1
    assert value('lakehouse_stage_duration_seconds_count{stage="ingest",outcome="succeeded"}') == 3
    # Twenty rows read by each stage of each run (kubelet.TOTALS), 19 of them written.
    assert value('lakehouse_rows_total{layer="bronze",kind="read"}') == 60
    assert value('lakehouse_rows_total{layer="silver",kind="written"}') == 57
    assert value('lakehouse_rows_total{layer="silver",kind="quarantined"}') == 3
    assert value('sum(lakehouse_reconcile_errors_total{reason="ServerError"})') == 1
    assert value('lakehouse_api_requests_total{code="500"}') == 1
    assert life.prometheus.target()["health"] == "up"


def test_what_is_comes_from_the_objects(life: Life) -> None:
    states = {labels["state"]: value for labels, value in life.prometheus.query("lakehouse_runs")}
    assert states["Succeeded"] == 2
    assert states["Failed"] == 1
    assert sum(states.values()) == 3
    ((labels, failing),) = life.prometheus.query("lakehouse_pipeline_last_run_succeeded")
    assert (labels["namespace"], labels["pipeline"], failing) == ("observed", "it", 0)
    ((_, freshness),) = life.prometheus.query("lakehouse_pipeline_freshness_seconds")
    # The day before was the last that succeeded.
    end = datetime.fromisoformat("2024-01-03T00:00:00+00:00")
    assert abs(freshness - (datetime.now(UTC) - end).total_seconds()) < 30


def test_no_series_is_made_per_run(life: Life) -> None:
    text = metrics(life.address)
    for name in (GOOD, RETRIED, BAD):
        assert name not in text
    series = Counter(re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#"))
    assert sum(series.values()) < 700, series.most_common(5)


def test_a_restarted_operator_tells_the_same_of_what_is(life: Life) -> None:
    def told() -> list[str]:
        lines = metrics(listens(life.stand)).splitlines()
        return sorted(
            line
            for line in lines
            if re.match(r"lakehouse_(runs|pipeline_(ready|last_run_succeeded|active_runs|stale_intervals))\{", line)
        )

    before = told()
    assert before
    writes = len(life.stand.traffic.writes())
    life.stand.start()
    wait_until("the same", lambda: told() == before, 30, 0.2)
    assert len(life.stand.traffic.writes()) == writes


def answers(prometheus: Prometheus, expression: str) -> bool:
    """Whether an expression gives at least one number."""
    return any(not math.isnan(value) for _, value in prometheus.query(expression))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_of_a_dashboard_has_data(life: Life, path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    empty = []
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$namespace", ".*")
            if not answers(life.prometheus, expression):
                empty.append(f"{panel['title']}: {expression}")
    assert not empty, "\n".join(empty)
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["definition"] == "label_values(lakehouse_runs, namespace)"


def measured(expression: str) -> str:
    """What an alert compares with its threshold: the comparison gives 0 or 1 instead of nothing or something."""
    if expression.startswith("absent("):
        return expression.removeprefix("absent(").removesuffix(")")
    changed, count = re.subn(r" (==|>|<) (?=[^()]*$)", r" \1 bool ", expression)
    assert count == 1, expression
    return changed


def alerts() -> list[dict[str, Any]]:
    """The alert rules of the chart."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_measures_something(life: Life, alert: dict[str, Any]) -> None:
    assert answers(life.prometheus, measured(alert["expr"])), alert["expr"]


def test_prometheus_evaluates_every_rule(life: Life) -> None:
    def evaluated() -> bool:
        return all(rule["health"] == "ok" for rule in life.prometheus.rules())

    wait_until("every rule to be evaluated", evaluated, 30, state=lambda: str(life.prometheus.rules()))

    def states() -> dict[str, str]:
        return {rule["name"]: rule["state"] for rule in life.prometheus.rules()}

    assert set(states()) == {alert["alert"] for alert in alerts()}
    # What happened here; it has to last before somebody is called. A scrape that comes late on a busy machine takes it away for a moment.
    happened = {"LakehousePipelineFailing", "LakehousePipelineStale", "LakehouseNotReady"}
    wait_until(
        "the alerts about what happened",
        lambda: all(states()[name] != "inactive" for name in happened),
        30,
        0.2,
        lambda: str(states()),
    )
    wait_until("the others to be silent", lambda: states()["LakehousePipelineNotReady"] == "inactive", 30, 0.2)


def test_alert_rules_fire_when_they_should() -> None:
    """promtool's unit tests, which name every alert."""
    for command in (["check", "rules", RULES], ["test", "rules", Path(__file__).with_name("alerts_test.yaml")]):
        done = subprocess.run([program("promtool"), *command], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = yaml.safe_load(Path(__file__).with_name("alerts_test.yaml").read_text())
    fired = {case["alertname"] for test in tested["tests"] for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {alert["alert"] for alert in alerts()}


def trace_of(life: Life, name: str) -> list[Span]:
    """The spans of a run; its trace is its UID."""
    found = life.stand.get("lakehouseruns", name)
    assert found
    trace = found["metadata"]["uid"].replace("-", "")
    return [span for span in life.collector.spans if span.trace == trace]


def test_a_run_is_one_trace(life: Life) -> None:
    wait_until("three traces", lambda: len({span.trace for span in life.collector.spans}) == 3, 30)
    spans = trace_of(life, RETRIED)
    assert [span.name for span in spans] == ["run it", "ingest", "silver", "gold"]
    root, *stages = spans
    assert root.parent == ""
    assert {span.parent for span in stages} == {root.span}
    assert all(root.start <= span.start <= span.end <= root.end for span in stages)
    assert all(span.status == 1 for span in spans)
    assert root.attributes["lakehouse.run"] == RETRIED
    assert root.attributes["k8s.namespace.name"] == "observed"
    assert root.resource["service.name"] == "lakehouse-operator"
    assert spans[2].attributes["lakehouse.attempts"] == 2
    assert spans[2].attributes["lakehouse.rows.written"] == 19
    assert life.collector.headers[0]["x-tenant"] == "lake"
    bad = {span.name: span for span in trace_of(life, BAD)}
    assert (bad["gold"].status, bad["gold"].message) == (2, "SqlFailed: made up by the test")
    assert bad["run it"].status == 2


def test_jobs_get_the_identity_that_their_stage_has_in_the_trace(life: Life) -> None:
    spans = {span.name: span for span in trace_of(life, RETRIED)}
    given = {}
    for job in life.stand.items("jobs"):
        labels = job["metadata"]["labels"]
        if labels["lakehouse.rs/run"] == RETRIED:
            (variable,) = [
                entry["value"]
                for entry in job["spec"]["template"]["spec"]["containers"][0]["env"]
                if entry["name"] == "TRACEPARENT"
            ]
            given[labels["lakehouse.rs/stage"], labels["lakehouse.rs/attempt"]] = variable
    assert len(given) == 4
    for (stage, attempt), parent in given.items():
        version, trace, span, flags = parent.split("-")
        assert (version, flags, trace) == ("00", "01", spans[stage].trace)
        assert (span == spans[stage].span) == ((stage, attempt) != ("silver", "1"))


def test_the_operators_lines_about_a_run_have_its_trace(life: Life) -> None:
    lines = [
        json.loads(line) for log in life.stand._logs for line in log.read_text().splitlines() if line.startswith("{")
    ]
    about = [line for line in lines if line.get("reason") == "Completed"]
    assert len(about) == 2
    trace = trace_of(life, GOOD)[0].trace
    assert trace in {line["span"]["trace_id"] for line in about}


def test_events_tell_transitions_once(life: Life) -> None:
    events = life.stand.api.items("/apis/events.k8s.io/v1/namespaces/observed/events")
    told = Counter(
        (event["regarding"]["name"], event["reason"], event["action"])
        for event in events
        if event["regarding"]["kind"] == "LakehouseRun"
    )
    assert not [key for key, count in told.items() if count > 1]
    assert not [event for event in events if event.get("series")], "nothing is told twice"
    of_bad = {reason for name, reason, _ in told if name == BAD}
    assert of_bad == {"Started", "StageStarted", "StageSucceeded", "StageFailed"}
    of_retried = {reason for name, reason, _ in told if name == RETRIED}
    assert of_retried == {"Started", "StageStarted", "StageSucceeded", "StageRetrying", "Completed"}


def test_a_running_stage_shows_how_far_it_is(stand: Callable[[str], Stand]) -> None:
    """The progress comes from the end of the pod's log and is written once, not at every look."""
    with stand("progressing") as it:
        gate = Gate("silver")
        it.end = gate
        said = {
            "message": "progress",
            "step": "write silver.beats",
            "rows": 250,
            "bytes": 4096,
            "total": 1000,
            "level": "INFO",
        }
        log = f"not JSON\n{json.dumps({**said, 'rows': 1})}\n{json.dumps(said)}\n{json.dumps({'message': 'something else'})}\n"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(log)}\r\nConnection: close\r\n\r\n"

        def log_of_silver(request: HttpRequest) -> bool:
            # Ingest may be asked for its own while it works.
            return sort_of(request) == ("GET", "pods/log") and "-silver-" in request.path

        # The first look may end with something that is to be done first.
        answer = Answer((head + log).encode())
        asked, _ = (it.world.expect(Fault(log_of_silver, Spot.REQUESTED, answer)) for _ in range(2))
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL), run())
        it.wait("silver to run", lambda: stage_state(it, "silver") == "Running")

        def silver() -> dict[str, Any]:
            (stage,) = [s for s in it.runs()[0]["status"]["stages"] if s["name"] == "silver"]
            return dict(stage)

        progress = it.wait("its progress", lambda: silver().get("progress"), 45)
        assert asked.fired.is_set()
        assert progress.pop("updatedAt")
        assert progress == {"step": "write silver.beats", "rows": 250, "bytes": 4096, "total": 1000, "percent": 25}
        writes, looks = len(it.traffic.writes()), it.traffic.counts["GET", "pods/log"]
        it.wait("another look", lambda: it.traffic.counts["GET", "pods/log"] > looks, 60)
        assert len(it.traffic.writes()) == writes, "what is no news is not written"
        gate.opened = True
        it.wait("the end", lambda: succeeded_condition(it.runs()[0]).get("status") == "True")
        assert "progress" not in silver()
        assert not it.complaints(), "\n".join(it.complaints())
