"""The crypto pipeline on the cluster: three Jobs with three images, objects in three buckets, rows equal to the laptop's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
import s3fs
import yaml
from documents import lakehouse, pipeline, run, sample
from kubernetes import Kubernetes, stage
from pyiceberg.catalog.sql import SqlCatalog
from support import readers
from support.crypto_reference import TABLES
from support.lakehouse import Lakehouse
from support.replay import ReplayServer

DAYS = ("2019-05-30", "2020-01-14", "2024-06-22")
# Columns that say when a row was made, not what it is.
WHEN = {"processed_at", "captured_at"}


def archive(server: ReplayServer) -> list[dict[str, Any]]:
    """The connection `coincap` of a Lakehouse that is told to replay."""
    return [{"name": "coincap", "baseUrl": server.url, "archive": {"query": {"at": "{{ interval.start }}"}}}]


@pytest.fixture(scope="module")
def runs(kubernetes: Kubernetes, replay: ReplayServer) -> dict[str, dict[str, Any]]:
    """One finished run per recorded day."""
    kubernetes.apply(lakehouse("main", connections=archive(replay)))
    kubernetes.apply(pipeline("crypto.yaml", "crypto", trigger={"external": {}}))
    for day in DAYS:
        kubernetes.apply(run(f"crypto-{day}", "crypto", day))
    return {day: kubernetes.wait_succeeded(f"crypto-{day}") for day in DAYS}


def test_three_jobs_with_three_images_ran(kubernetes: Kubernetes, runs: dict[str, dict[str, Any]]) -> None:
    for day in DAYS:
        jobs = kubernetes.jobs_of(f"crypto-{day}")
        images = [
            job["spec"]["template"]["spec"]["containers"][0]["image"].split(":")[0].split("/")[-1] for job in jobs
        ]
        assert sorted(images) == ["gold", "ingest", "silver"]


def test_objects_lie_in_the_three_buckets(runs: dict[str, dict[str, Any]], s3: dict[str, str]) -> None:
    files = s3fs.S3FileSystem(key=s3["access_key_id"], secret=s3["secret_access_key"], endpoint_url=s3["endpoint"])
    assert files.glob("bronze/crypto/assets/dt=2024-06-22/run=*/part-00000.json")
    assert files.glob("bronze/crypto/_manifests/dt=2024-06-22/run=*.json")
    for bucket in ("silver", "gold"):
        assert files.glob(f"{bucket}/**/*.parquet")


def test_status_has_the_counts(runs: dict[str, dict[str, Any]]) -> None:
    silver = stage(runs["2024-06-22"], "silver")
    # 20 coins, read once for each of the two silver tables.
    assert (silver["rowsRead"], silver["rowsWritten"], silver["rowsQuarantined"]) == (40, 40, 0)
    assert silver["report"].startswith("s3://silver/_lakehouse/runs/crypto/")


@pytest.mark.parametrize("table", TABLES)
def test_rows_equal_the_laptops(
    table: str, runs: dict[str, dict[str, Any]], catalog: SqlCatalog, replay: ReplayServer, tmp_path_factory: Any
) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "laptop-crypto"
    laptop = Lakehouse(folder)
    if not folder.exists():
        manifest = tmp_path_factory.mktemp("manifests") / "crypto.yaml"
        documents = [lakehouse("main", connections=archive(replay)), *sample("crypto.yaml")]
        manifest.write_text(yaml.safe_dump_all(documents))
        for day in DAYS:
            laptop.run(manifest, interval=day)
    ours = readers.without(readers.pyiceberg_rows(laptop.catalog(), table), WHEN)
    theirs = readers.without(readers.pyiceberg_rows(catalog, table), WHEN)
    assert len(theirs) > 0
    assert theirs == ours


def test_apply_alone_runs_the_last_complete_interval(kubernetes: Kubernetes, runs: dict[str, dict[str, Any]]) -> None:
    """`kubectl apply -f deploy/pulse.yaml`, nothing else."""
    kubernetes.apply(*sample("pulse.yaml"))
    made = kubernetes.wait(
        "a run of pulse", lambda: [r for r in kubernetes.list("lhr") if r["spec"]["pipeline"] == "pulse"], 60
    )
    done = kubernetes.wait_succeeded(made[0]["metadata"]["name"])
    assert stage(done, "silver")["rowsWritten"] > 0
    kubernetes.apply(*sample("pulse.yaml"))
    assert len([r for r in kubernetes.list("lhr") if r["spec"]["pipeline"] == "pulse"]) == 1


def test_duckdb_reads_the_pulse_from_minio(
    kubernetes: Kubernetes, s3: dict[str, str], runs: dict[str, dict[str, Any]]
) -> None:
    table = next(d for d in sample("pulse.yaml") if d["kind"] == "LakehousePipeline")["spec"]["silver"][0]
    files = s3fs.S3FileSystem(key=s3["access_key_id"], secret=s3["secret_access_key"], endpoint_url=s3["endpoint"])
    paths = files.glob(f"silver/{table['name']}/**/*.parquet")
    assert paths
    connection = duckdb.connect()
    for path in paths:
        with files.open(path) as source:
            Path("/dev/shm/pulse.parquet").write_bytes(source.read())
        codecs = connection.sql(
            "select distinct compression from parquet_metadata('/dev/shm/pulse.parquet')"
        ).fetchall()
        assert codecs == [("ZSTD",)]
        assert connection.sql("select count(*) from '/dev/shm/pulse.parquet'").fetchone() != (0,)
    Path("/dev/shm/pulse.parquet").unlink()


def test_maintenance_keeps_the_rows(
    kubernetes: Kubernetes, runs: dict[str, dict[str, Any]], catalog: SqlCatalog
) -> None:
    before = {table: readers.pyiceberg_rows(catalog, table) for table in TABLES}
    kubernetes.apply(run("crypto-maintenance", "crypto", DAYS[-1], stages=["maintenance"]))
    done = kubernetes.wait_succeeded("crypto-maintenance")
    did = stage(done, "maintenance")
    assert {table["name"] for table in did["tables"]} >= set(TABLES)
    assert " files became " in did["message"]
    (job,) = kubernetes.jobs_of("crypto-maintenance")
    image = job["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.split(":")[0].endswith("lakehouse/maintenance")
    assert {table: readers.pyiceberg_rows(catalog, table) for table in TABLES} == before


def test_get_and_describe_speak_to_a_person(kubernetes: Kubernetes, runs: dict[str, dict[str, Any]]) -> None:
    table = kubernetes.run("get", "lhp,lhr")
    heads = [line.split() for line in table.splitlines() if line.startswith("NAME")]
    assert {"PHASE", "INTERVAL", "ROWS", "AGE"} <= set(heads[0])
    assert {"PIPELINE", "INTERVAL", "PHASE", "WRITTEN", "QUARANTINED", "AGE"} <= set(heads[1])
    row = next(line for line in table.splitlines() if line.startswith("lakehouserun.lakehouse.rs/crypto-2024-06-22"))
    assert "Completed" in row and "2024-06-22T00:00:00Z" in row
    description = kubernetes.run("describe", "lhr", "crypto-2024-06-22")
    assert "silver" in description.split("Events:")[1]
    assert "rows" in description.split("Events:")[1]
