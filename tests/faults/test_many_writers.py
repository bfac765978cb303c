"""Thirty-two processes and a thousand commits on one table: the tables crate's own test, given Python with readers, a store and a database."""

import os
import subprocess
import sys

import pytest
from support.minio import Minio
from support.paths import ROOT
from support.postgres import Postgres


@pytest.mark.parametrize("table", ["iceberg_on_sqlite", "iceberg_on_postgres", "delta_on_s3"])
def test_every_row_is_there_once(minio: Minio, postgres: Postgres, table: str) -> None:
    # --workspace, so that features are those of the build that the other tests use and nothing is compiled twice.
    command = [
        "cargo",
        "test",
        "--workspace",
        "--locked",
        "--test",
        "it",
        f"many_writers::{table}",
        "--",
        "--nocapture",
    ]
    environment = {
        **os.environ,
        **minio.environment(),
        "LAKEHOUSE_READERS": sys.executable,
        "LAKEHOUSE_TEST_CATALOG": postgres.uri,
        "LAKEHOUSE_TEST_S3": minio.endpoint,
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SKIPPED" not in done.stdout
    assert "1 passed; 0 failed" in done.stdout
    print(next(line for line in done.stdout.splitlines() if f"{1000} commits" in line))
