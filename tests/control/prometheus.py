"""The real Prometheus on loopback, scraping one operator."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from control_plane import program
from support import processes
from support.paths import ROOT
from support.ports import free_port
from support.waiting import wait_until

CHART = ROOT / "charts" / "lakehouse-operator"
RULES = CHART / "files" / "prometheus" / "rules.yaml"


class Prometheus:
    """A Prometheus with the chart's rules; a context manager."""

    def __init__(self, target: str, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._config = folder / "prometheus.yml"
        scrape = {"job_name": "lakehouse-operator", "honor_labels": True, "static_configs": [{"targets": [target]}]}
        config = {
            "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [scrape],
        }
        self._config.write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [
            program("prometheus"),
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._folder}/data",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        self._process = processes.start(command, self._folder / "prometheus.log", os.environ)
        try:
            wait_until("Prometheus", self._ready, 60)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            processes.stop(self._process)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _ask(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values of an instant query."""
        result = self._ask("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def rules(self) -> list[dict[str, Any]]:
        """The rules as Prometheus has them."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def target(self) -> dict[str, Any]:
        """How the last scrape went."""
        (only,) = self._ask("targets")["activeTargets"]
        return dict(only)
