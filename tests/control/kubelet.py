"""A node without containers: pods of stages end as the test says, in the words of a kubelet."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from api import Api, ApiError

JSON = dict[str, Any]
TOTALS = {"rowsRead": 20, "rowsWritten": 19, "rowsQuarantined": 1, "rowsDeduplicated": 0, "rowsDropped": 0}


@dataclass(frozen=True)
class Attempt:
    """What a pod is for."""

    run: str
    uid: str
    stage: str
    number: int


@dataclass(frozen=True)
class End:
    """How a container ends: its exit code, the reason that a kubelet gives, and what the job wrote."""

    code: int
    reason: str
    message: str


def succeeded(stage: str) -> End:
    """The end of a stage that did its work."""
    message = {"contract": 1, "totals": {**TOTALS, "bytesWritten": 4096}, "tables": [[f"{stage}.it", "42", 19]]}
    return End(0, "Completed", json.dumps(message))


def failed(reason: str, retryable: bool) -> End:
    """The end of a stage that says why it failed."""
    failure = {"reason": reason, "message": "made up by the test", "retryable": retryable}
    message = {"contract": 1, "failure": failure, "totals": {**TOTALS, "bytesWritten": 0}, "tables": []}
    return End(10 if retryable else 20, "Error", json.dumps(message))


@dataclass
class Node:
    """What happens to the pods of one namespace."""

    # How an attempt ends; None: not yet, it is asked for again.
    end: Callable[[Attempt], End | None]
    # How an attempt ends whose pod is deleted or evicted while it runs; without it, it says nothing any more.
    stopped: Callable[[Attempt], End] | None = None
    # The UIDs of the Jobs whose pods ran, by attempt, and how they ended.
    ran: dict[Attempt, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))


class Kubelet:
    """Plays the node for every namespace that has one in `nodes`; a context manager."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.nodes: dict[str, Node] = {}
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, daemon=True),
            threading.Thread(target=self._work, daemon=True),
        ]
        self._lock = threading.Lock()
        self._pods: dict[str, JSON] = {}
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(20)

    def _watch(self) -> None:
        while not self._stopping.is_set():
            # A watch that was silent for some seconds, or whose server went, begins anew.
            with contextlib.suppress(OSError, http.client.HTTPException, ApiError, ValueError):
                for pod in self._api.watch("/api/v1/pods"):
                    with self._lock:
                        self._pods[pod["metadata"]["uid"]] = pod
                    if self._stopping.is_set():
                        return
            time.sleep(0.1)

    def _work(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                pods = list(self._pods.items())
            for uid, pod in pods:
                try:
                    done = self._step(pod)
                except (OSError, http.client.HTTPException):
                    done = False
                except ApiError as error:
                    done = error.status in (404, 409)
                    if not done and error.status < 500:
                        self.errors.append(str(error))
                        done = True
                if done:
                    with self._lock:
                        self._pods.pop(uid, None)
            time.sleep(0.02)

    def _step(self, pod: JSON) -> bool:
        """Whether nothing is left to do for the pod."""
        metadata, status = pod["metadata"], pod.get("status") or {}
        node = self.nodes.get(metadata["namespace"])
        gone = bool(metadata.get("deletionTimestamp"))
        if status.get("phase") in ("Succeeded", "Failed") or node is None or (gone and node.stopped is None):
            return node is not None
        labels = metadata["labels"]
        number = int(labels["lakehouse.rs/attempt"])
        attempt = Attempt(
            labels["lakehouse.rs/run"], labels["lakehouse.rs/run-uid"], labels["lakehouse.rs/stage"], number
        )
        job = next(owner["uid"] for owner in metadata["ownerReferences"] if owner["kind"] == "Job")
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        container = pod["spec"]["containers"][0]
        seen = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if job not in node.ran[attempt]:
            node.ran[attempt][job] = -1
            running = {**seen, "ready": True, "state": {"running": {"startedAt": now}}}
            self._api.merge(path, {"status": {"phase": "Running", "startTime": now, "containerStatuses": [running]}})
        end = node.stopped(attempt) if gone and node.stopped else node.end(attempt)
        if end is None:
            return False
        terminated = {"exitCode": end.code, "reason": end.reason, "message": end.message, "finishedAt": now}
        ended = {**seen, "ready": False, "state": {"terminated": {**terminated, "startedAt": now}}}
        phase = "Succeeded" if end.code == 0 else "Failed"
        self._api.merge(path, {"status": {"phase": phase, "containerStatuses": [ended]}})
        node.ran[attempt][job] = end.code
        return True
