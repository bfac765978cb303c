"""`lakehouse backfill`, `suspend` and `resume` against a real API server, with the operator at work."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ADMIN_TOKEN, ControlPlane
from kubelet import failed, succeeded
from scenarios import EXTERNAL, LAKEHOUSE, pipeline
from stand import Stand
from support.binaries import binary

JSON = dict[str, Any]
DAYS = [f"2024-01-0{day}" for day in range(1, 5)]


class Client:
    """The command, for one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self._place = ["--kubeconfig", str(kubeconfig), "--namespace", namespace]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [str(binary("lakehouse")), *arguments, *self._place]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """Standard output and standard error of a command that ends with this status."""
        process = self.start(*arguments)
        try:
            stdout, stderr = process.communicate(timeout=120)
        except BaseException:
            process.kill()
            raise
        assert process.returncode == status, f"exit {process.returncode}\n{stdout}\n{stderr}"
        return stdout, stderr

    def backfill(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        span = ("--pipeline", "it", "--from", DAYS[0], "--to", DAYS[-1])
        return self.run("backfill", *span, *arguments, status=status)


@pytest.fixture
def client(plane: ControlPlane, tmp_path: Path) -> Callable[[str], Client]:
    kubeconfig = plane.kubeconfig(tmp_path / "kubeconfig", f"https://127.0.0.1:{plane.port}", ADMIN_TOKEN)
    return lambda namespace: Client(kubeconfig, namespace)


def test_a_range_is_shown_made_paused_and_waited_for(
    stand: Callable[[str], Stand], client: Callable[[str], Client], tmp_path: Path
) -> None:
    with stand("command") as it:
        command = client("command")
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL, gold=[]))
        shown, _ = command.backfill("--dry-run", "--order", "backward", "-o", "text")
        assert shown.splitlines() == [*DAYS[::-1], "4 of 4 intervals would be run, 0 are left alone"]
        assert json.loads(command.backfill("--dry-run")[0])["intervals"] == [f"{day}T00:00:00Z" for day in DAYS]
        assert not it.items("lakehousebackfills"), "a dry run writes nothing"

        opened = {"it": False}
        it.end = lambda attempt: succeeded(attempt.stage) if opened["it"] else None
        made, _ = command.backfill("-o", "text")
        name = "it-2024-01-01-2024-01-04"
        assert made == f"lakehousebackfill.lakehouse.rs/{name} created\n"
        assert command.backfill("-o", "text")[0] == f"lakehousebackfill.lakehouse.rs/{name} found\n"
        _, refused = command.backfill("--rerun", "all", status=2)
        assert "asked for otherwise" in refused
        overview, _ = command.run("get")
        assert "| it " in overview and f"| {name} " in overview, overview
        assert [it["kind"] for it in json.loads(command.run("get", "-o", "json")[0])["items"]] == [
            "LakehousePipeline",
            "LakehouseBackfill",
        ]
        assert command.run("suspend", f"backfill/{name}")[0].endswith("suspended\n")
        _, unfinished = command.backfill("--wait", "--timeout", "1s", status=4)
        assert "not finished within 1s" in unfinished
        opened["it"] = True
        command.run("resume", f"lhb/{name}")
        outcome, told = command.backfill("--wait")
        outcome = json.loads(outcome)
        assert (outcome["outcome"], outcome["succeeded"]) == ("Succeeded", 4)
        assert any(json.loads(line)["event"] == "status" for line in told.splitlines())
        # Its runs stand below it, by their intervals.
        tree, _ = command.run("get", name)
        head, counts, *branches = tree.splitlines()
        assert head.startswith(f"backfill {name}  Completed  2024-01-01T00:00:00Z to 2024-01-05T00:00:00Z")
        assert counts.startswith("pipeline it: 4 of 4 intervals succeeded, 0 active, 0 failed")
        assert [line.split()[2] for line in branches] == [f"{day}T00:00:00Z" for day in DAYS]
        assert all("Completed" in line and "20 read, 19 written" in line for line in branches), tree
        objects = json.loads(command.run("get", f"backfill/{name}", "-o", "json")[0])["items"]
        assert [it["kind"] for it in objects] == ["LakehouseBackfill", *["LakehouseRun"] * 4]
        listed = yaml.safe_load(command.run("get", "backfills", "-o", "yaml")[0])["items"]
        assert [it["metadata"]["name"] for it in listed] == [name]
        assert f"| {name} " in command.run("get", "lhb")[0]
        # It is none of those at work any more.
        assert f"| {name} " not in command.run("get")[0]
        # What has run is left alone.
        shown, _ = command.backfill("--dry-run", "-o", "text")
        assert shown == "0 of 4 intervals would be run, 4 are left alone\n"

        # The same from a file, and a failure is the command's.
        it.end = lambda attempt: failed("SourceRefused", False)
        span = {"start": "2024-02-01T00:00:00Z", "end": "2024-02-03T00:00:00Z"}
        document = {
            "apiVersion": "lakehouse.rs/v1alpha1",
            "kind": "LakehouseBackfill",
            "metadata": {"name": "february"},
            "spec": {"pipeline": "it", "range": span, "maxParallel": 1},
        }
        file = tmp_path / "february.yaml"
        file.write_text(yaml.safe_dump(document))
        _, failure = command.run("backfill", "-f", str(file), "--wait", status=1)
        assert "backfill february failed: IntervalsFailed: done, but not all of it: 0 of 2" in failure
        tree, failure = command.run("get", "backfill/february", "--watch", status=1)
        assert tree.count("└─ ingest: made up by the test") == 2, tree
        assert "backfill february failed: IntervalsFailed" in failure
        _, refused = command.run("get", "backfill/march", status=2)
        assert "LakehouseBackfill march: there is none of this name" in refused


def test_a_watched_backfill_gives_its_exit_code(stand: Callable[[str], Stand], client: Callable[[str], Client]) -> None:
    with stand("watched") as it:
        command = client("watched")
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL, gold=[]))
        opened = {"it": False}
        it.end = lambda attempt: succeeded(attempt.stage) if opened["it"] else None
        command.backfill("-o", "text", "--max-parallel", "4")
        watching = command.start("get", "backfill/it-2024-01-01-2024-01-04", "--watch")
        try:
            it.wait("runs at work", lambda: len(it.node.ran) == 4)
            opened["it"] = True
            shown, said = watching.communicate(timeout=60)
        finally:
            watching.kill()
        assert watching.returncode == 0, said
        states = [line for line in shown.splitlines() if line.startswith("pipeline it: ")]
        assert states[-1].startswith("pipeline it: 4 of 4 intervals succeeded")
        assert len(states) > 1, "it was shown again when something changed"


def test_what_cannot_be_is_refused_before_anything_is_made(
    stand: Callable[[str], Stand], client: Callable[[str], Client]
) -> None:
    with stand("refused") as it:
        command = client("refused")
        it.start()
        it.apply(LAKEHOUSE, pipeline({"schedule": {"cron": "@daily"}}, gold=[]))
        for arguments, words in [
            (("--stage", "gold"), "spec.stages: the pipeline has no gold stage"),
            (("--stage", "maintenance"), "maintenance is about tables"),
            (("--parameter", "limit=1"), "parameters.limit: the pipeline declares no such parameter"),
            (("--refresh", "stale"), "spec.refresh"),
        ]:
            _, refused = command.backfill(*arguments, status=2)
            assert words in refused and len(refused.splitlines()) == 1, refused
        _, refused = command.run("backfill", "--pipeline", "it", "--from", "2024-01-02", "--to", "2024-01-01", status=2)
        assert "--to: it lies before --from" in refused
        _, refused = command.run("backfill", "--pipeline", "nope", "--from", DAYS[0], "--to", DAYS[0], status=2)
        assert "LakehousePipeline nope" in refused
        assert not it.items("lakehousebackfills")
        # A schedule is suspended by the same command.
        command.run("suspend", "pipeline/it")
        found = it.get("lakehousepipelines", "it")
        assert found and found["spec"]["trigger"]["schedule"]["suspend"] is True
        command.run("resume", "lhp/it")
        found = it.get("lakehousepipelines", "it")
        assert found and found["spec"]["trigger"]["schedule"]["suspend"] is False
        assert "pipeline/NAME" in command.run("suspend", "it", status=2)[1]
