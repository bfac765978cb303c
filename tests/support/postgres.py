"""A Postgres of the test's own, on a free loopback port with its data in a temporary folder."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from support.ports import free_port

USER = "lakehouse"
PASSWORD = "a-password-only-of-tests"
DATABASE = "catalog"


def programs() -> Path:
    """The folder with initdb and pg_ctl of the newest installed version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if not found:
        raise FileNotFoundError("Postgres is missing: run `make setup`")
    return found[-1]


class Postgres:
    """The running server; a context manager."""

    def __init__(self) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="lakehouse-postgres-"))
        self._data = self._folder / "data"

    @property
    def uri(self) -> str:
        """The URI as a job gets it."""
        return self.uri_at(self.port)

    @property
    def pyiceberg_uri(self) -> str:
        """The URI as SQLAlchemy takes it."""
        return self.uri.replace("postgresql://", "postgresql+psycopg2://")

    def uri_at(self, port: int, password: str = PASSWORD) -> str:
        """The URI through another port, such as that of a proxy, or with another password."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"

    def __enter__(self) -> Self:
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            # Postgres refuses to run as root.
            for path in (self._folder, secret):
                shutil.chown(path, "postgres", "postgres")
        self._run(
            "initdb",
            "-D",
            self._data,
            "-U",
            USER,
            "--auth=scram-sha-256",
            f"--pwfile={secret}",
            "-E",
            "UTF8",
            "--no-sync",
        )
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        # Thirty-two writers at once are more than the usual hundred.
        settings["max_connections"] = 300
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        self._run("pg_ctl", "-D", self._data, "-l", self._folder / "log", "-w", "-t", "60", "-o", options, "start")
        self.execute("postgres", f"create database {DATABASE}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("pg_ctl", "-D", self._data, "-m", "fast", "-w", "-t", "60", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def execute(self, database: str, sql: str) -> str:
        """What psql prints for `sql`, values only."""
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database]
        command = [programs() / "psql", *address, "-v", "ON_ERROR_STOP=1", "-At", "-c", sql]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        if done.returncode != 0:
            raise RuntimeError(f"psql: {done.stderr}")
        return done.stdout.strip()

    def _run(self, program: str, *arguments: str | Path) -> None:
        command: list[str | Path] = [programs() / program, *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        log = self._folder / f"{program}.log"
        # A file, not a pipe: the server that pg_ctl starts would hold a pipe open.
        with log.open("wb") as output:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=120, cwd=self._folder)
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {log.read_text()}")
