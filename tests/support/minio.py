"""A MinIO of the test's own, on a free loopback port with its data in a temporary folder."""

import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import s3fs

from support import processes
from support.paths import ROOT
from support.ports import free_port
from support.waiting import wait_until

ACCESS_KEY_ID = "lakehouse-test"
SECRET_ACCESS_KEY = "a-secret-only-of-tests"


@cache
def program() -> Path:
    """The MinIO binary; tests/cluster builds it once."""
    command = [str(ROOT / "tests" / "cluster" / "cluster"), "tools", "minio"]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=1800, check=True)
    return Path(built.stdout.split()[-1])


class Minio:
    """The running server; a context manager."""

    def __init__(self) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.region = "us-east-1"
        self._folder = Path(tempfile.mkdtemp(prefix="lakehouse-minio-"))

    def environment(self, secret: str = SECRET_ACCESS_KEY) -> dict[str, str]:
        """The credentials as a job gets them."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": secret}

    def location(self, prefix: str = "") -> dict[str, str]:
        """The `s3` store location of a stage spec; `prefix` keeps tests apart within the four buckets."""
        tail = f"/{prefix}" if prefix else ""
        layers = {layer: f"{layer}{tail}" for layer in ("bronze", "silver", "gold", "landing")}
        return {"endpoint": self.endpoint, "region": self.region, **layers}

    def properties(self) -> dict[str, str]:
        """What PyIceberg needs to read from this store."""
        return {
            "py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO",
            "s3.endpoint": self.endpoint,
            "s3.access-key-id": ACCESS_KEY_ID,
            "s3.secret-access-key": SECRET_ACCESS_KEY,
            "s3.region": self.region,
        }

    def delta_options(self) -> dict[str, str]:
        """Storage options of delta-rs."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_REGION": self.region,
            "AWS_ALLOW_HTTP": "true",
        }

    def files(self) -> s3fs.S3FileSystem:
        """The store as a file system; nothing is cached."""
        return s3fs.S3FileSystem(
            key=ACCESS_KEY_ID,
            secret=SECRET_ACCESS_KEY,
            endpoint_url=self.endpoint,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def make_buckets(self) -> None:
        """Makes the buckets bronze, silver, gold and landing where they are missing."""
        for layer in ("bronze", "silver", "gold", "landing"):
            (self._folder / "data" / layer).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        log = self._folder / "log"
        (self._folder / "data").mkdir()
        environment = {
            **os.environ,
            "MINIO_ROOT_USER": ACCESS_KEY_ID,
            "MINIO_ROOT_PASSWORD": SECRET_ACCESS_KEY,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }
        command = [program(), "server", "--quiet", "--address", f"127.0.0.1:{self.port}", self._folder / "data"]
        self._process = processes.start(command, log, environment)
        try:
            wait_until(f"MinIO, log {log}", self._answers, 60)
        except BaseException:
            processes.stop(self._process)
            raise
        self.make_buckets()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes.stop(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"MinIO ended: {(self._folder / 'log').read_text()}")
        try:
            with urllib.request.urlopen(f"{self.endpoint}/minio/health/ready", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False
