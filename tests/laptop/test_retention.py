"""Bronze retention: what ended long ago goes, and nothing that a run may still need."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import manifests
from support.lakehouse import Json, Lakehouse

DAYS = ("2024-03-01", "2024-03-02", "2024-03-03")
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
TEN_DAYS = 10 * 86_400


def write(folder: Path, name: str = "beats", otherwise: str = "warn", **maintenance: Json) -> Path:
    """A pipeline of one heartbeat; the batch rule never holds."""
    silver = {
        "name": f"{name}_pulses",
        "from": "beat",
        "write": {"append": {}},
        "columns": [manifests.column("pulse_id", "/pulse_id", "string", required=True)],
        "expectations": [{"name": "never", "batch": "count(*) < 0", "otherwise": otherwise}],
    }
    source = {"name": "beat", "pulse": {"every": "3600s"}}
    document = manifests.pipeline(name, [source], [silver], maintenance={"compact": {"enabled": False}, **maintenance})
    return manifests.write(folder / f"{name}-{otherwise}.yaml", document)


def older(*paths: Path, seconds: int = TEN_DAYS) -> None:
    """Moves the times of files into the past."""
    for path in paths:
        then = time.time() - seconds
        os.utime(path, (then, then))


def bronze(lake: Lakehouse, pipeline: str = "beats") -> dict[str, list[Path]]:
    """Objects and manifests by the day they are for."""
    found: dict[str, list[Path]] = {}
    for path in (lake.folder / "bronze" / pipeline).rglob("*"):
        if path.is_file() and path.name != "retired":
            (day,) = [part.removeprefix("dt=") for part in path.parts if part.startswith("dt=")]
            found.setdefault(day, []).append(path)
    return found


def retire(lake: Lakehouse, manifest: Path) -> Json:
    """Runs the stage; what it did to bronze."""
    lake.run(manifest, interval=DAYS[0], stages=["maintenance"])
    (entry,) = [table for table in lake.reports("maintenance")[-1]["tables"] if table["name"] == "bronze"]
    return entry["maintenance"]


@pytest.fixture
def manifest(lake: Lakehouse, tmp_path: Path) -> Path:
    """Three days long ago, and yesterday, of a pipeline that keeps bronze for a year; and another pipeline."""
    path = write(tmp_path, bronzeRetention="365d")
    lake.run(path, span=(DAYS[0], DAYS[-1]))
    lake.run(path, interval=YESTERDAY)
    lake.run(write(tmp_path, name="others"), interval=DAYS[0])
    return path


def test_old_intervals_go_and_say_so(lake: Lakehouse, manifest: Path) -> None:
    before = lake.rows("silver.beats_pulses")
    young = retire(lake, manifest)
    assert (young["bronzeIntervalsKept"], young.get("bronzeIntervalsRetired", 0)) == (3, 0), "it was written just now"
    assert set(bronze(lake)) == {*DAYS, YESTERDAY}

    files = [path for paths in bronze(lake).values() for path in paths]
    size = sum(path.stat().st_size for day in DAYS for path in bronze(lake)[day] if "_manifests" not in path.parts)
    older(*files)
    older(*[path for paths in bronze(lake, "others").values() for path in paths])
    did = retire(lake, manifest)
    assert did["bronzeIntervalsRetired"] == 3
    assert did["bronzeObjectsDeleted"] == 6, "an object and a manifest a day"
    assert did["bronzeBytesDeleted"] == size
    assert set(bronze(lake)) == {YESTERDAY}
    assert set(bronze(lake, "others")) == {DAYS[0]}
    assert lake.rows("silver.beats_pulses") == before

    outcome = lake.fail(manifest, interval=DAYS[0], stages=["silver"])
    assert outcome.status == 20
    assert "its bronze was retired by maintenance.bronzeRetention at " in outcome.text
    again = retire(lake, manifest)
    assert again.get("bronzeIntervalsRetired", 0) == 0

    # A source that can answer for the past fills the interval again.
    outcome = lake.command(*lake.run_arguments(manifest, interval=DAYS[0]), "--again")
    assert outcome.status == 0, outcome.text
    assert set(bronze(lake)) == {DAYS[0], YESTERDAY}
    assert len(lake.rows("silver.beats_pulses")) == len(before)


def test_a_dry_run_counts_only(lake: Lakehouse, manifest: Path, tmp_path: Path) -> None:
    older(*[path for paths in bronze(lake).values() for path in paths])
    before = bronze(lake)
    did = retire(lake, write(tmp_path, bronzeRetention="365d", bronzeRetentionDryRun=True))
    assert (did["bronzeIntervalsRetired"], did["bronzeObjectsDeleted"]) == (3, 6)
    assert bronze(lake) == before


def test_what_an_unfinished_run_pinned_stays(lake: Lakehouse, manifest: Path, tmp_path: Path) -> None:
    strict = write(tmp_path, otherwise="fail", bronzeRetention="365d")
    lake.fail(strict, interval=DAYS[1], stages=["silver"])
    # One that pinned and was done needs its input no more.
    lake.command(*lake.run_arguments(manifest, interval=DAYS[2], stages=["silver"]), "--again")
    older(*[path for paths in bronze(lake).values() for path in paths])
    did = retire(lake, manifest)
    assert (did["bronzeIntervalsRetired"], did["bronzeIntervalsKept"]) == (2, 1)
    assert set(bronze(lake)) == {DAYS[1], YESTERDAY}
    # A run that nobody goes on with does not keep it for ever.
    older(*(lake.folder / "silver" / "_lakehouse").rglob("silver-inputs.json"))
    assert retire(lake, manifest)["bronzeIntervalsRetired"] == 1
    assert set(bronze(lake)) == {YESTERDAY}


def test_nothing_goes_unless_it_is_asked_for(lake: Lakehouse, manifest: Path, tmp_path: Path) -> None:
    older(*[path for paths in bronze(lake).values() for path in paths])
    lake.run(write(tmp_path), interval=DAYS[0], stages=["maintenance"])
    assert not any(table["name"] == "bronze" for table in lake.reports("maintenance")[-1]["tables"])
    assert set(bronze(lake)) == {*DAYS, YESTERDAY}
