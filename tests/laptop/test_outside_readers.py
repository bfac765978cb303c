"""The tables crate's own test of outside readers, given what it needs: Python with readers, a store and a database."""

import os
import subprocess
import sys

from support import spark
from support.minio import Minio
from support.paths import ROOT
from support.postgres import Postgres


def test_pyiceberg_and_duckdb_read_what_the_tables_crate_writes(minio: Minio, postgres: Postgres) -> None:
    # --workspace, so that features are those of the build that the other tests use and nothing is compiled twice.
    command = ["cargo", "test", "--workspace", "--locked", "--test", "it", "readers::", "--", "--nocapture"]
    environment = {
        **os.environ,
        **minio.environment(),
        "LAKEHOUSE_READERS": sys.executable,
        "LAKEHOUSE_TEST_CATALOG": postgres.uri,
        "LAKEHOUSE_TEST_S3": minio.endpoint,
    }
    if not spark.missing():
        environment |= spark.environment() | {"LAKEHOUSE_SPARK": str(spark.python())}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SKIPPED" not in done.stdout
    assert "5 passed; 0 failed" in done.stdout
    assert ("Spark read" in done.stdout) != bool(spark.missing())
