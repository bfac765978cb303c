"""`lakehouse logs` of a run whose pods are gone: what its jobs put into a real store comes back, line by line."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import ADMIN_TOKEN, ControlPlane
from kubelet import Attempt, End
from scenarios import EXTERNAL, LAKEHOUSE, RUN, pipeline, run
from stand import Stand, succeeded_condition
from support.binaries import binary
from support.jobs import run_job
from support.minio import Minio

JSON = dict[str, Any]
# Where the store is for pods; nobody else can look this name up.
WITHIN = "http://minio.lakehouse.svc:9000"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class RealJobs:
    """A node that runs the images' programs as their Jobs say, with a store that is elsewhere than for pods."""

    def __init__(self, stand: Stand, minio: Minio, folder: Path) -> None:
        self._stand, self._minio, self._folder = stand, minio, folder
        # What each attempt said.
        self.said: dict[tuple[str, int], list[str]] = {}

    def __call__(self, attempt: Attempt) -> End:
        (job,) = [
            job
            for job in self._stand.items("jobs")
            if (job["metadata"]["labels"]["lakehouse.rs/stage"], job["metadata"]["labels"]["lakehouse.rs/attempt"])
            == (attempt.stage, str(attempt.number))
        ]
        pod = job["spec"]["template"]["spec"]
        (volume,) = [volume["configMap"] for volume in pod["volumes"] if "configMap" in volume]
        specs = self._stand.get("configmaps", volume["name"])
        assert specs is not None
        (item,) = volume["items"]
        spec = json.loads(specs["data"][item["key"]].replace(WITHIN, self._minio.endpoint))
        # Silver's first attempt meets a catalog that is away.
        away = attempt.stage == "silver" and attempt.number == 1
        catalog = self._folder / ("nowhere/catalog.db" if away else "catalog.db")
        environment = {it["name"]: it["value"] for it in pod["containers"][0]["env"] if "value" in it}
        environment |= {**self._minio.environment(), "LAKEHOUSE_CATALOG_URI": f"sqlite://{catalog}"}
        place = self._folder / f"{attempt.stage}-{attempt.number}"
        outcome = run_job(attempt.stage, spec, place, environment)
        self.said[attempt.stage, attempt.number] = outcome.log.splitlines()
        return End(outcome.status, "Error" if outcome.status else "Completed", json.dumps(outcome.termination))


@pytest.fixture(scope="module")
def ran(stand: Callable[[str], Stand], minio: Minio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealJobs]:
    """A run that succeeded after one retry; its pods are gone, its Jobs are not."""
    buckets = {
        layer: place for layer, place in minio.location("archived").items() if layer not in ("endpoint", "region")
    }
    lakehouse = json.loads(json.dumps(LAKEHOUSE))
    lakehouse["spec"] |= {"buckets": buckets}
    lakehouse["spec"]["objectStore"] |= {"endpoint": WITHIN, "region": minio.region}
    with stand("archived") as it:
        jobs = RealJobs(it, minio, tmp_path_factory.mktemp("jobs"))
        it.end = jobs
        it.start()
        it.apply(lakehouse, pipeline(EXTERNAL), run())
        it.wait("silence", it.settled, 240)
        assert succeeded_condition(it.get("lakehouseruns", RUN) or {}).get("status") == "True", it.describe()
        for pod in it.items("pods"):
            it.api.delete(it.path("pods", pod["metadata"]["name"]))
        it.wait("its pods to go", lambda: not it.items("pods"))
        yield jobs


@pytest.fixture
def logs(plane: ControlPlane, minio: Minio, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command, as whoever has the store's keys calls it."""
    kubeconfig = plane.kubeconfig(tmp_path / "kubeconfig", f"https://127.0.0.1:{plane.port}", ADMIN_TOKEN)

    def command(*arguments: str, keys: bool = True) -> subprocess.CompletedProcess[str]:
        place = ["--kubeconfig", str(kubeconfig), "--namespace", "archived"]
        environment = {name: value for name, value in os.environ.items() if name not in KEYS}
        environment |= minio.environment() if keys else {}
        return subprocess.run(
            [binary("lakehouse"), "logs", RUN, *arguments, *place],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            check=False,
        )

    return command


def test_what_jobs_said_comes_back_from_the_store(
    ran: RealJobs, minio: Minio, logs: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    assert list(ran.said) == [("ingest", 1), ("silver", 1), ("silver", 2), ("gold", 1)]
    assert all(ran.said.values())
    done = logs("--store-endpoint", minio.endpoint, "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    read: dict[tuple[str, int], list[str]] = {}
    for line in map(json.loads, done.stdout.splitlines()):
        assert line["run"] == RUN
        read.setdefault((line["stage"], line["attempt"]), []).append(line["line"])
    # Every line of every attempt, the failed one too, in order.
    assert read == ran.said
    assert list(read) == list(ran.said)
    assert "CatalogUnavailable" in read["silver", 1][-1]

    text = logs("--store-endpoint", minio.endpoint, "--stage", "gold")
    assert text.stdout.splitlines() == [f"gold | {line}" for line in ran.said["gold", 1]]


def test_without_keys_or_a_store_in_reach_it_says_so_of_every_attempt(
    ran: RealJobs, minio: Minio, logs: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for why, done in (
        ("needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", logs("--store-endpoint", minio.endpoint, keys=False)),
        ("--store-endpoint", logs()),
    ):
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        said = done.stderr.splitlines()
        assert said[-1] == f"error: run {RUN}: the logs of 4 attempts could not be read"
        for (stage, number), line in zip(ran.said, said, strict=False):
            assert f"the log of {stage}, attempt {number}, cannot be read: its pod is gone or never started" in line
            assert why in line


def test_an_object_that_expired_is_named(
    ran: RealJobs, minio: Minio, logs: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """After the others: a store may have rules of its own for what is old."""
    (key,) = minio.files().glob("silver/archived/_lakehouse/runs/it/*/silver-1.log.ndjson")
    minio.files().rm(key)
    done = logs("--store-endpoint", minio.endpoint, "--stage", "silver", "-o", "json")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["line"] for line in lines if "line" in line] == ran.said["silver", 2]
    assert f"there is no s3://{key}" in done.stderr
    assert done.stderr.splitlines()[-1] == f"error: run {RUN}: the log of 1 attempt could not be read"
