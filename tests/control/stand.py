"""One operator in one namespace, with a proxy before the API server: what it asks for is seen, and can go wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from api import ApiError, collection
from control_plane import OPERATOR_TOKEN, ControlPlane
from kubelet import Attempt, End, Kubelet, Node, succeeded
from support import http_proxy, operator_logs, processes
from support.binaries import binary
from support.http_proxy import HttpRequest
from support.ports import free_port
from support.proxy import Answer, Fault, Hold, Reset, Silence, Spot, World
from support.waiting import wait_until

JSON = dict[str, Any]
WRITES = ("POST", "PUT", "PATCH", "DELETE")
IMAGES = {stage: f"lakehouse/{stage}:one" for stage in ("ingest", "silver", "gold", "maintenance")}


@dataclass(frozen=True)
class Call:
    """A request as the n-th of its sort: `PUT lakehouseruns/status #3`."""

    method: str
    resource: str
    number: int

    def __str__(self) -> str:
        return f"{self.method} {self.resource} #{self.number}"


def sort_of(request: HttpRequest) -> tuple[str, str]:
    """Method and resource of a request, without names; `watch` and `list` are methods of their own."""
    found = re.fullmatch(
        r"/apis?/(?:v1|[^/]+/[^/]+)(?:/namespaces/[^/]+)?/([^/]+)(?:/([^/]+))?(?:/([^/]+))?", request.path
    )
    if not found:
        return request.method, request.path
    resource, name, sub = found.groups()
    method = request.method
    if method == "GET" and not name:
        method = "WATCH" if "watch=" in request.query else "LIST"
    return method, f"{resource}/{sub}" if sub else resource


def is_write(method: str) -> bool:
    return method in WRITES


@dataclass
class Traffic:
    """Every request of the stand's operators, in order."""

    calls: list[Call] = field(default_factory=list)
    # When each came, by time.monotonic().
    times: list[float] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note(self, request: HttpRequest) -> Call:
        method, resource = sort_of(request)
        self.counts[method, resource] += 1
        call = Call(method, resource, self.counts[method, resource])
        self.calls.append(call)
        self.times.append(time.monotonic())
        return call

    def writes(self) -> list[Call]:
        """All but renewals of a lease."""
        return [call for call in self.calls if is_write(call.method) and call.resource != "leases"]

    def since_last_write(self) -> float:
        """Seconds; a lease is renewed all the time."""
        calls = zip(self.calls, self.times, strict=True)
        last = [when for call, when in calls if is_write(call.method) and call.resource != "leases"]
        return time.monotonic() - last[-1] if last else float("inf")


class Stand:
    """The namespace, the proxy and the operator; a context manager."""

    def __init__(self, plane: ControlPlane, kubelet: Kubelet, name: str, folder: Path) -> None:
        self.api, self.name, self._plane, self._kubelet = plane.api, name, plane, kubelet
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        self.node = Node(lambda attempt: self.end(attempt))
        self.end: Callable[[Attempt], End | None] = lambda attempt: succeeded(attempt.stage)
        self.traffic = Traffic()
        self.world = World()
        port = self.world.listen(http_proxy.handle, plane.port, plane.tls)
        self.world.observe(self._note)
        self._kubeconfig = plane.kubeconfig(self._folder / "kubeconfig", f"http://127.0.0.1:{port}", OPERATOR_TOKEN)
        self.operators: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []
        self._last: Call | None = None
        self.images = IMAGES
        # Flags of every operator.
        self.flags: Sequence[str] = ()
        # Held by whoever ends and starts operators.
        self.lock = threading.RLock()

    def __enter__(self) -> Self:
        self._plane.namespace(self.name)
        self._kubelet.nodes[self.name] = self.node
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for operator in self.operators:
            if operator.poll() is None:
                operator.send_signal(signal.SIGCONT)
                processes.stop(operator)
        self.world.close()
        self._kubelet.nodes.pop(self.name, None)

    def _note(self, request: HttpRequest) -> None:
        self._last = self.traffic.note(request)

    # The operator.

    def start(self, *flags: str) -> subprocess.Popen[bytes]:
        """Starts an operator."""
        log = self._folder / f"operator-{len(self.operators)}.log"
        command = [binary("lakehouse-operator"), f"--namespace={self.name}", f"--listen=127.0.0.1:{free_port()}"]
        command += [f"--{stage}-image={image}" for stage, image in self.images.items()]
        environment = {
            **os.environ,
            "KUBECONFIG": str(self._kubeconfig),
            "POD_NAME": f"{self.name}-{len(self.operators)}",
        }
        operator = processes.start([*map(str, command), *self.flags, *flags], log, environment)
        self.operators.append(operator)
        self._logs.append(log)
        return operator

    def kill(self, operator: subprocess.Popen[bytes] | None = None) -> None:
        """Ends an operator, the last one by default, as a crash does."""
        operator = operator or self.operators[-1]
        operator.kill()
        operator.wait()

    def replace(self, images: dict[str, str]) -> None:
        """Ends the operator as a rollout does and starts one with other images; so does every later start."""
        with self.lock:
            self.images = images
            processes.stop(self.operators[-1], 5)
            self.start()

    def crash(self) -> None:
        """Kills the operator, ends all connections, and starts another one."""
        with self.lock:
            self.kill()
            self.world.cut()
            self.start()

    def forget(self, run: str) -> None:
        """Takes a run's status away, as a backup does that keeps none."""
        path = self.path("lakehouseruns", run)

        def forgotten() -> bool:
            found = self.api.get(path)
            assert found is not None
            found.pop("status", None)
            try:
                self.api.request("PUT", f"{path}/status", found)
            except ApiError as error:
                # The operator wrote meanwhile.
                if error.status != 409:
                    raise
                return False
            return True

        self.wait("the status to go", forgotten)

    def expect(self, call: Call, spot: Spot, action: Hold | Reset | Silence | Answer | None = None) -> Fault:
        """Lets the fault meet this call."""
        return self.world.expect(Fault(lambda request: self._last == call, spot, action or Hold()))

    def complaints(self) -> list[str]:
        """Lines of the operators' logs that no operator should write, whatever happens around it."""
        lines = (line for log in self._logs for line in log.read_text(errors="replace").splitlines())
        return [line for line in lines if '"level":"ERROR"' in line or "panicked" in line]

    def loud(self, allowed: Iterable[str] = ()) -> list[str]:
        """Panics, errors and warnings in the operators' logs, but for messages that fit one of the patterns."""
        return [f"{self.name}: {line}" for line in operator_logs.loud(self.log(), allowed)]

    def log(self) -> str:
        """All that the operators wrote."""
        return "\n".join(log.read_text(errors="replace") for log in self._logs)

    # The objects.

    def path(self, kind: str, name: str) -> str:
        return f"{collection(self.name, kind)}/{name}"

    def apply(self, *documents: JSON) -> None:
        """Makes objects of a kind of lakehouse.rs."""
        for document in documents:
            self.api.create(collection(self.name, document["kind"].lower() + "s"), document)

    def get(self, kind: str, name: str) -> JSON | None:
        return self.api.get(self.path(kind, name))

    def items(self, kind: str) -> list[JSON]:
        return self.api.items(collection(self.name, kind))

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
        """The first true value of `condition`."""
        return wait_until(f"{self.name}: {what}", condition, seconds, 0.1, self.describe)

    def runs(self) -> list[JSON]:
        return sorted(self.items("lakehouseruns"), key=lambda run: run["metadata"]["name"])

    def settled(self) -> bool:
        """Every run has an outcome, every Job may expire, and the operator has nothing more to write."""
        runs = self.runs()
        over = all(succeeded_condition(run).get("status") in ("True", "False") for run in runs)
        return (
            over
            and all(job["spec"]["ttlSecondsAfterFinished"] <= 86400 for job in self.items("jobs"))
            and self.traffic.since_last_write() > 0.7
        )

    def describe(self) -> str:
        """What a person would look at first."""
        lines = []
        for run in self.runs():
            condition = succeeded_condition(run)
            lines.append(f"{run['metadata']['name']}: {condition.get('reason')}: {condition.get('message')}")
            for stage in (run.get("status") or {}).get("stages", []):
                lines.append(f"  {stage['name']} {stage['state']} attempt {stage['attempt']} {stage.get('job')}")
        lines += [f"Job {job['metadata']['name']}: {job.get('status')}" for job in self.items("jobs")]
        lines += [str(call) for call in self.traffic.calls[-12:]]
        for log in self._logs:
            lines += log.read_text(errors="replace").splitlines()[-5:]
        return "\n".join(lines)

    def outcome(self) -> JSON:
        """What is there in the end, without what differs from time to time: times, UIDs, and names made of them."""
        uids = {run["metadata"]["uid"].replace("-", "")[:8]: run["metadata"]["name"] for run in self.runs()}

        def plain(value: Any) -> Any:
            text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>", str(value))
            for uid, name in uids.items():
                text = text.replace(uid, f"<{name}>")
            return text

        def tidy(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: tidy(inner) for key, inner in value.items()}
            if isinstance(value, list):
                return [tidy(inner) for inner in value]
            return plain(value) if isinstance(value, str) else value

        return {
            "runs": {
                run["metadata"]["name"]: tidy({"spec": run["spec"], "status": run.get("status")}) for run in self.runs()
            },
            "pipelines": {it["metadata"]["name"]: tidy(it.get("status")) for it in self.items("lakehousepipelines")},
            "jobs": {
                plain(job["metadata"]["name"]): {
                    "image": job["spec"]["template"]["spec"]["containers"][0]["image"],
                    "ttl": job["spec"].get("ttlSecondsAfterFinished"),
                    "ended": sorted(
                        c["type"] for c in (job.get("status") or {}).get("conditions", []) if c["status"] == "True"
                    ),
                }
                for job in self.items("jobs")
            },
            "configmaps": sorted(plain(it["metadata"]["name"]) for it in self.items("configmaps")),
            "revisions": sorted(it["metadata"]["name"] for it in self.items("controllerrevisions")),
        }

    def check_single_execution(self) -> None:
        """No attempt of a stage had more than one Job, and no stage did its work twice."""
        done: Counter[tuple[str, str]] = Counter()
        for attempt, jobs in self.node.ran.items():
            assert len(jobs) == 1, f"{self.name}: {attempt} ran as {len(jobs)} Jobs"
            done[attempt.uid, attempt.stage] += list(jobs.values()).count(0)
        twice = [stage for stage, count in done.items() if count > 1]
        assert not twice, f"{self.name}: done twice: {twice}\n{self.describe()}"


def succeeded_condition(run: JSON) -> JSON:
    """The condition `Succeeded` of a run; empty while it has none."""
    conditions: Sequence[JSON] = (run.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == "Succeeded"), {})
