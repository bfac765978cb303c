"""Store and catalog that refuse or do not answer, met by the images' binaries: the message, the exit code, no secret shown."""

from pathlib import Path
from typing import Any

import pytest
from support import jobs
from support.jobs import RETRYABLE, TERMINAL, JobOutcome
from support.minio import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Minio
from support.ports import free_port
from support.postgres import PASSWORD, Postgres

WRONG = "a-wrong-secret-0123"
INTERVAL = {"start": "2024-05-01T00:00:00Z", "end": "2024-05-02T00:00:00Z"}
BEATS = {
    "name": "beats",
    "from": "pulse",
    "write": {"replaceInterval": {"column": "ts"}},
    "columns": [{"name": "ts", "from": "/ts", "type": "timestamptz", "required": True}],
}
WORK: dict[str, Any] = {
    "ingest": {"sources": [{"name": "pulse", "source": {"pulse": {"every": "1h"}}}]},
    "silver": {
        "input": {"run": "pulse-2024-05-01-0badcafe"},
        "tables": [{"table": BEATS, "decode": "ndjson", "definitionDigest": "beats-1"}],
    },
}


def spec(stage: str, store: dict[str, str]) -> dict[str, Any]:
    """One attempt of a stage."""
    return {
        "contract": 1,
        "pipeline": "pulse",
        "owner": "test/pulse",
        "run": {"name": "pulse-2024-05-01", "id": "pulse-2024-05-01-0badcafe", "createdAt": "2024-05-02T00:00:01Z"},
        "attempt": 1,
        "interval": INTERVAL,
        "grain": "daily",
        "store": {"s3": store},
        "work": {stage: WORK[stage]},
    }


def assert_failed(outcome: JobOutcome, status: int, reason: str, *words: str) -> None:
    """The exit code, the same line in the termination message and the log, and no secret in either."""
    failure = outcome.termination["failure"]
    assert (outcome.status, failure["reason"], failure["retryable"]) == (status, reason, status == RETRYABLE)
    for word in words:
        assert word in failure["message"]
    assert failure["message"] in outcome.log.replace('\\"', '"')
    for secret in (WRONG, SECRET_ACCESS_KEY, PASSWORD):
        assert secret not in outcome.log + str(outcome.termination)


@pytest.mark.parametrize("stage", ["ingest", "silver"])
def test_a_wrong_secret_is_refused_for_good(minio: Minio, postgres: Postgres, tmp_path: Path, stage: str) -> None:
    env = {**minio.environment(secret=WRONG), "LAKEHOUSE_CATALOG_URI": postgres.uri}
    outcome = jobs.run_job(stage, spec(stage, minio.location("wrong-secret")), tmp_path, env)
    assert_failed(outcome, TERMINAL, "StoreAccessDenied", minio.endpoint, f"`{ACCESS_KEY_ID}`", "SignatureDoesNotMatch")
    assert minio.files().find("bronze/wrong-secret") == []


@pytest.mark.parametrize("stage", ["ingest", "silver"])
def test_missing_credentials_are_named(minio: Minio, postgres: Postgres, tmp_path: Path, stage: str) -> None:
    env = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "LAKEHOUSE_CATALOG_URI": postgres.uri}
    outcome = jobs.run_job(stage, spec(stage, minio.location("no-secret")), tmp_path, env)
    assert_failed(outcome, TERMINAL, "StoreAccessDenied", "environment variable AWS_ACCESS_KEY_ID is not set")


@pytest.mark.parametrize("stage", ["ingest", "silver"])
def test_an_unreachable_store_can_be_tried_again(minio: Minio, postgres: Postgres, tmp_path: Path, stage: str) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    store = {**minio.location("unreachable"), "endpoint": endpoint}
    env = {**minio.environment(), "LAKEHOUSE_CATALOG_URI": postgres.uri}
    outcome = jobs.run_job(stage, spec(stage, store), tmp_path, env)
    assert_failed(outcome, RETRYABLE, "StoreUnavailable", f"object store {endpoint} does not answer")


def test_a_missing_bucket_is_named(minio: Minio, tmp_path: Path) -> None:
    store = {**minio.location(), "bronze": "no-such-bucket"}
    outcome = jobs.run_job("ingest", spec("ingest", store), tmp_path, minio.environment())
    assert_failed(outcome, TERMINAL, "InvalidDefinition", "bucket `no-such-bucket` does not exist")


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [("port", RETRYABLE, "CatalogUnavailable"), ("password", RETRYABLE, "CatalogUnavailable")],
)
def test_a_catalog_that_does_not_answer_keeps_bronze(
    minio: Minio, postgres: Postgres, tmp_path: Path, fault: str, status: int, reason: str
) -> None:
    store = minio.location(f"catalog-{fault}")
    ingested = jobs.run_job("ingest", spec("ingest", store), tmp_path / "ingest", minio.environment())
    assert ingested.status == jobs.SUCCEEDED, ingested.log
    bronze = minio.files().find(store["bronze"])
    uri = postgres.uri_at(free_port()) if fault == "port" else postgres.uri_at(postgres.port, password=WRONG)
    env = {**minio.environment(), "LAKEHOUSE_CATALOG_URI": uri}
    failed = jobs.run_job("silver", spec("silver", store), tmp_path / "failed", env)
    assert_failed(failed, status, reason, "catalog postgresql://")
    assert minio.files().find(store["bronze"]) == bronze
    # Mended, the same attempt ends well: nothing was lost.
    env = {**minio.environment(), "LAKEHOUSE_CATALOG_URI": postgres.uri}
    mended = jobs.run_job("silver", spec("silver", store), tmp_path / "mended", env)
    assert mended.status == jobs.SUCCEEDED, mended.log
    totals = mended.termination["totals"]
    assert (totals["rowsRead"], totals["rowsWritten"], totals["rowsQuarantined"]) == (24, 24, 0)
