"""What a run says while it works: bars for a person at a terminal, JSON lines for a program."""

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from support import manifests, orders
from support.lakehouse import Lakehouse
from support.orders import DAYS


@pytest.fixture
def manifest(lake: Lakehouse, tmp_path: Path) -> Path:
    """The orders pipeline, its input landed."""
    orders.land(lake.folder)
    return manifests.write(tmp_path / "orders.yaml", manifests.lakehouse(), orders.definition())


def test_a_program_gets_one_json_object_per_line(lake: Lakehouse, manifest: Path) -> None:
    outcome = lake.run(manifest, interval=DAYS[0])
    lines = [json.loads(line) for line in outcome.stderr.splitlines()]
    stages = [(line["stage"], line["state"]) for line in lines if line.get("event") == "stage"]
    assert stages == [(stage, state) for stage in ("ingest", "silver", "gold") for state in ("Running", "Succeeded")]
    (silver,) = [line for line in lines if (line.get("stage"), line.get("state")) == ("silver", "Succeeded")]
    # Six records, read once for each of five tables; one table is deduplicated, and so are three merges.
    assert silver["totals"]["rowsRead"] == 30
    assert silver["totals"]["rowsWritten"] == 4 * 3 + 6
    assert silver["totals"]["rowsDeduplicated"] == 4 * 3


def test_a_person_at_a_terminal_sees_every_stage(lake: Lakehouse, manifest: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [str(argument) for argument in lake.command_line(*lake.run_arguments(manifest, interval=DAYS[0]))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color"},
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:
                # The other side of the terminal is closed: the process has ended.
                break
            shown += chunk
        assert process.wait(timeout=60) == 0
    os.close(ours)
    text = shown.decode()
    assert '{"event"' not in text
    for stage in ("ingest", "silver", "gold"):
        assert f"✓ {stage}" in text
    assert "30 rows read, 18 written" in text
