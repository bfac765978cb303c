"""What stages say outlives them: beside the report, with the run's trace and without a credential."""

import json
import signal
import time
from pathlib import Path

import pytest
from support import manifests, orders
from support.jobs import RETRYABLE, SUCCEEDED, run_job, start_job
from support.lakehouse import Json, Lakehouse
from support.orders import DAYS
from support.waiting import wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
CANARY = "canary-of-the-secret-key"
RUN = "clicks-2024-03-01-0a0b0c0d"


def lines(path: Path) -> list[Json]:
    """A log: every line is one JSON object."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def manifest(lake: Lakehouse, tmp_path: Path) -> Path:
    """The orders pipeline, its input landed."""
    orders.land(lake.folder)
    return manifests.write(tmp_path / "orders.yaml", manifests.lakehouse(), orders.definition())


def test_a_run_of_this_machine_leaves_its_logs(lake: Lakehouse, manifest: Path) -> None:
    lake.run(manifest, interval=DAYS[0])
    traces = set()
    for stage, layer in (("ingest", "bronze"), ("silver", "silver"), ("gold", "gold")):
        (log,) = lake.folder.glob(f"{layer}/_lakehouse/runs/*/*/{stage}-1.log.ndjson")
        said = lines(log)
        assert said[0]["message"] == "stage begins"
        assert said[0]["stage"] == stage
        assert said[-1]["message"] == "stage succeeded"
        report = json.loads(log.with_name(f"{stage}-1.json").read_text())
        assert {line["trace_id"] for line in said} == {report["traceId"]}
        traces.add(report["traceId"])
    assert len(traces) == 1
    shown = lake.command("logs", "--local", lake.folder)
    assert shown.status == 0, shown.text
    assert [line.split(" | ")[0] for line in shown.stdout.splitlines() if "stage begins" in line] == [
        "ingest",
        "silver",
        "gold",
    ]
    only = lake.command("logs", "--local", lake.folder, "--stage", "silver", "-o", "json")
    assert {json.loads(line)["stage"] for line in only.stdout.splitlines()} == {"silver"}


def test_a_stage_that_failed_leaves_its_log_too(lake: Lakehouse, manifest: Path) -> None:
    for source in (lake.folder / "landing").rglob("*"):
        if source.is_file():
            source.unlink()
    lake.fail(manifest, interval=DAYS[0])
    (log,) = lake.folder.glob("bronze/_lakehouse/runs/*/*/ingest-1.log.ndjson")
    last = lines(log)[-1]
    assert last["level"] == "ERROR"
    assert last["reason"]
    nothing = lake.command("logs", "no-such-run", "--local", lake.folder)
    assert nothing.status == 20
    assert nothing.stderr == "error: there is no run `no-such-run`: `lakehouse status` lists them\n"


def test_a_run_of_this_machine_is_handed_on_as_json(lake: Lakehouse, manifest: Path) -> None:
    lake.run(manifest, interval=DAYS[0])
    status = json.loads(lake.command("status", "--local", lake.folder, "-o", "json").stdout)
    (run,) = status["runs"]
    assert run["state"] == "Succeeded"
    assert [record["stage"] for record in run["stages"]] == ["ingest", "silver", "gold"]
    text = lake.command("status", "--local", lake.folder, "-o", "yaml").stdout
    assert "state: Succeeded" in text


def spec(root: Path, rate: int) -> Json:
    """Ingest of a clickstream that comes at `rate` events a second."""
    return {
        "contract": 1,
        "pipeline": "clicks",
        "owner": "ns/clicks",
        "run": {"name": "clicks-2024-03-01", "id": RUN, "createdAt": "2024-03-04T05:06:07Z"},
        "attempt": 1,
        "interval": {"start": "2024-03-01T00:00:00Z", "end": "2024-03-02T00:00:00Z"},
        "grain": "daily",
        "store": {"local": {"root": str(root)}},
        "work": {
            "ingest": {
                "sources": [
                    {"name": "events", "source": {"clickstream": {"events": 2000, "eventsPerSecond": rate, "seed": 3}}}
                ]
            }
        },
    }


def environment(**more: str) -> dict[str, str]:
    """What a pod's environment has."""
    return {"TRACEPARENT": TRACEPARENT, "AWS_SECRET_ACCESS_KEY": CANARY, **more}


def archived(root: Path) -> Path:
    """Where the log of the attempt lies."""
    return root / f"bronze/_lakehouse/runs/clicks/{RUN}/ingest-1.log.ndjson"


def test_a_job_stopped_by_its_node_leaves_its_log(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    with start_job("ingest", spec(root, 50), tmp_path / "job", environment()) as process:
        time.sleep(1.5)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == RETRYABLE, said
    kept = lines(archived(root))
    assert [json.loads(line) for line in said.splitlines()] == kept
    assert {line["trace_id"] for line in kept} == {TRACE}
    assert kept[-1]["reason"] == "Interrupted"
    steps = [line for line in kept if line["message"] in ("step begins", "progress")]
    assert steps, "the operator reads progress from these lines"
    assert all(isinstance(line["rows"], int) and line["step"] for line in steps)


def test_no_line_holds_a_credential(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    # The source's folder is named like the secret: the job says which object it lacks.
    wanted = spec(root, 0)
    wanted["work"]["ingest"]["sources"] = [
        {
            "name": "events",
            "source": {"files": {"path": f"{CANARY}/missing.ndjson", "format": "ndjson", "allowEmpty": False}},
        }
    ]
    outcome = run_job("ingest", wanted, tmp_path / "job", environment())
    assert outcome.status != SUCCEEDED
    kept = archived(root).read_text()
    assert "***/missing.ndjson" in kept
    for text in (outcome.log, kept):
        assert CANARY not in text


def test_the_log_of_a_job_at_work_is_put_before_its_end(tmp_path: Path) -> None:
    """What a job said is there when it is killed: it has half a minute's delay."""
    root = tmp_path / "store"
    root.mkdir()
    with start_job("ingest", spec(root, 40), tmp_path / "job", environment()) as process:
        try:
            wait_until("the log of a job at work", archived(root).exists, 45)
            assert process.poll() is None
        finally:
            process.kill()
            process.communicate(timeout=30)
    assert lines(archived(root))[0]["message"] == "stage begins"
