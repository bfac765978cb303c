"""Everything that the operators of the cluster say, also those that a test kills: followed into files, container by container."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kubernetes import KubectlError, Kubernetes
from support import operator_logs

SELECTOR = "app.kubernetes.io/name=lakehouse-operator"


class OperatorLog:
    """Follows the logs from its start on; a context manager, with which all that it started ends."""

    def __init__(self, kubernetes: Kubernetes, folder: Path) -> None:
        self._kubernetes, self._folder = kubernetes, folder
        self._followers: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        # How much of each file was looked at.
        self._seen: dict[Path, int] = {}

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(60)
        for follower in self._followers.values():
            if follower.poll() is None:
                follower.terminate()
            follower.wait(20)

    def look(self) -> None:
        """Follows the containers that are new: the present one of each pod, and the one before it, whose end may not have been seen."""
        for pod in self._kubernetes.list("pods", SELECTOR):
            for container in pod["status"].get("containerStatuses", []):
                restarts: int = container["restartCount"]
                for number, flags in ((restarts - 1, ["--previous"]), (restarts, ["--follow"])):
                    if number >= 0:
                        self._follow(pod["metadata"]["name"], number, flags, container["state"])

    def _follow(self, pod: str, number: int, flags: list[str], state: dict[str, Any]) -> None:
        follower = self._followers.get((pod, number))
        # Not before it runs; anew where kubectl was sent away before it could read.
        if "waiting" in state and "--follow" in flags:
            return
        if follower is not None and (follower.poll() is None or follower.returncode == 0):
            return
        command = [
            self._kubernetes.kubectl,
            "--kubeconfig",
            self._kubernetes.kubeconfig,
            "-n",
            self._kubernetes.namespace,
        ]
        with (self._folder / f"{pod}-{number}.log").open("wb") as file:
            self._followers[pod, number] = subprocess.Popen(
                [*command, "logs", pod, *flags], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL
            )

    def _watch(self) -> None:
        while not self._stopping.wait(1):
            # An API server that is busy is asked again.
            with contextlib.suppress(KubectlError, subprocess.TimeoutExpired, json.JSONDecodeError):
                self.look()

    def text(self) -> str:
        """All that was said so far."""
        return "\n".join(file.read_text(errors="replace") for file in sorted(self._folder.glob("*.log")))

    def loud(self, allowed: list[str]) -> list[str]:
        """Panics, errors and warnings since the last look, but for messages that fit one of the patterns."""
        found = []
        for file in sorted(self._folder.glob("*.log")):
            lines = file.read_text(errors="replace")
            new = lines[self._seen.get(file, 0) :]
            # A line that is not whole yet is looked at with the next ones.
            new = new[: new.rfind("\n") + 1]
            self._seen[file] = self._seen.get(file, 0) + len(new)
            found += [f"{file.stem}: {line}" for line in operator_logs.loud(new, allowed)]
        return found
