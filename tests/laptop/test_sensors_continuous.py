"""`sensors` in real time: its own end, its rate, and what a stop leaves to the next attempt."""

import json
import signal
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support import manifests
from support.jobs import RETRYABLE, SUCCEEDED, run_job, start_job
from support.lakehouse import Json, Lakehouse
from support.waiting import wait_until

HOUR = "2024-05-01T05"


def definition(folder: Path, continuous: Json | None, **more: Any) -> Path:
    """A pipeline that keeps readings of ten devices of an hour."""
    sensors = {"devices": 10, "every": "60s", "seed": 7, **more}
    if continuous is not None:
        sensors["continuous"] = continuous
    silver = {
        "name": "readings",
        "from": "readings",
        "write": {"replaceInterval": {"column": "ts"}},
        "columns": [
            manifests.column("device_id", "/device_id", "string", required=True),
            manifests.column("ts", "/ts", "timestamptz", required=True),
        ],
    }
    pipeline = manifests.pipeline("live", [{"name": "readings", "sensors": sensors}], [silver], interval="hourly")
    return manifests.write(folder / "live.yaml", manifests.lakehouse(), pipeline)


def readings(lake: Lakehouse) -> list[str]:
    """The lines of the newest manifest's objects, in their order."""
    manifest = lake.manifests()[-1]
    (source,) = manifest["sources"]
    lines: list[str] = []
    for entry in source["objects"]:
        content = (lake.folder / "bronze" / entry["key"]).read_text().splitlines()
        assert len(content) == entry["records"]
        lines += content
    return lines


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The readings of the hour when all of them are there at once."""
    folder = tmp_path_factory.mktemp("bounded")
    lake = Lakehouse(folder / "lake")
    lake.run(definition(folder, None), interval=HOUR, stages=["ingest"])
    return readings(lake)


def test_readings_of_the_past_come_at_once_and_are_those_of_the_bounded_form(
    tmp_path: Path, bounded: list[str]
) -> None:
    lake = Lakehouse(tmp_path / "lake")
    lake.run(definition(tmp_path, {}), interval=HOUR, stages=["ingest"], timeout=20)
    assert readings(lake) == bounded


def test_a_stop_keeps_what_was_read_and_the_next_attempt_goes_on_behind_it(tmp_path: Path, bounded: list[str]) -> None:
    lake = Lakehouse(tmp_path / "lake")
    path = definition(tmp_path, {"eventsPerSecond": 200})
    with lake.start(*lake.run_arguments(path, interval=HOUR)) as process:
        wait_until("the attempt to begin", lambda: list((lake.folder / "bronze").rglob("*.claim")), 20)
        time.sleep(0.7)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=25)
    assert process.returncode != 0
    assert "readings are kept" in stderr, stderr
    assert not lake.manifests(), "an ingest that was stopped does not exist yet"
    kept = sum(len(path.read_text().splitlines()) for path in lake.bronze())
    assert 20 <= kept < len(bounded) - 100
    begun = time.monotonic()
    lake.run(path, interval=HOUR)
    assert time.monotonic() - begun > (len(bounded) - kept) / 200 * 0.95, "the others come at the rate, too"
    assert readings(lake) == bounded
    objects = lake.manifests()[-1]["sources"][0]["objects"]
    assert len(objects) == 2
    assert objects[0]["records"] == kept
    assert len(lake.rows("silver.readings")) == len(bounded)


def test_a_pod_that_is_stopped_is_tried_again_behind_what_it_read(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    sensors = {"devices": 10, "every": "10m", "seed": 7, "continuous": {"eventsPerSecond": 400}}
    spec: Json = {
        "contract": 1,
        "pipeline": "live",
        "owner": "ns/live",
        "run": {"name": "live-1", "id": "live-1-01234567", "createdAt": "2024-05-02T01:02:03Z"},
        "attempt": 1,
        "interval": {"start": "2024-05-01T00:00:00Z", "end": "2024-05-02T00:00:00Z"},
        "grain": "daily",
        "store": {"local": {"root": str(root)}},
        "work": {"ingest": {"sources": [{"name": "readings", "source": {"sensors": sensors}}]}},
    }
    with start_job("ingest", spec, tmp_path / "first", {}) as process:
        wait_until("the attempt to begin", lambda: list((root / "bronze").rglob("*.claim")), 20)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=25)
    assert process.returncode == RETRYABLE, said
    termination = json.loads((tmp_path / "first" / "termination.json").read_text())
    assert termination["failure"]["reason"] == "Interrupted"
    outcome = run_job("ingest", spec | {"attempt": 2}, tmp_path / "second", {})
    assert outcome.status == SUCCEEDED, outcome.log
    lake = Lakehouse(root)
    keys = [entry["key"] for entry in lake.manifests()[0]["sources"][0]["objects"]]
    assert [key.split("/run=")[1] for key in keys] == [
        "live-1-01234567-1/part-00000.ndjson",
        "live-1-01234567-2/part-00001.ndjson",
    ]
    came = [(reading["ts"], reading["device_id"]) for reading in map(json.loads, readings(lake))]
    assert len(came) == len(set(came)) > 1400
    assert came == sorted(came), "none twice, none missing between the attempts"


def test_a_stream_ends_by_itself_after_its_duration(tmp_path: Path) -> None:
    lake = Lakehouse(tmp_path / "lake")
    rate, seconds = 400, 2
    path = definition(tmp_path, {"eventsPerSecond": rate, "duration": f"{seconds}s"}, every="1s")
    lake.run(path, interval=HOUR, stages=["ingest"], timeout=30)
    assert len(readings(lake)) == pytest.approx(rate * seconds, rel=0.05)


def test_live_readings_tell_of_the_present(tmp_path: Path) -> None:
    """Those of the current hour until now are there at once, the others when their time comes."""
    lake = Lakehouse(tmp_path / "lake")
    path = definition(tmp_path, {"duration": "3s"}, devices=1, every="1s", dropoutsPerTenThousand=0)
    begun = datetime.now(UTC)
    if begun.minute == 59 and begun.second > 50:
        pytest.skip("the hour ends within the test")
    lake.run(path, interval=begun.strftime("%Y-%m-%dT%H"), stages=["ingest"], timeout=30)
    times = sorted({datetime.fromisoformat(json.loads(line)["ts"]) for line in readings(lake)})
    assert times[0] == begun.replace(minute=0, second=0, microsecond=0)
    assert {after - before for before, after in pairwise(times)} <= {timedelta(seconds=1)}
    assert begun + timedelta(seconds=1) < times[-1] <= datetime.now(UTC)


def test_the_register_is_no_stream(tmp_path: Path) -> None:
    outcome = Lakehouse(tmp_path / "lake").validate(definition(tmp_path, {}, stream="devices"))
    assert outcome.status != 0
    assert "spec.ingest[0].sensors: continuous is for stream readings" in outcome.text
