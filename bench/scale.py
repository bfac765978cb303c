"""The operator before a real API server with many pipelines and finished runs: memory, writes, reconciliations, time to the first Job.

etcd, kube-apiserver and the controllers are those of tests/control, which also plays the nodes; the API server's audit log is what counts writes.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import os
import queue
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml
from api import collection
from control_plane import OPERATOR_TOKEN, RELEASE, RELEASE_NAMESPACE, ControlPlane
from kubelet import Attempt, End, Kubelet, Node, succeeded
from scenarios import EXTERNAL, LAKEHOUSE, ON_APPLY, pipeline, run
from stand import succeeded_condition
from support import processes
from support.ports import free_port
from support.waiting import wait_until

JSON = dict[str, Any]
NAMESPACE = "scale"
# Requests at once while the past is made up.
AT_ONCE = 12
# No write for so many seconds: what there was to do is done.
QUIET = 6.0
# Longer than everything that is looked at again: Lakehouses every minute.
IDLE = 70.0
# Runs arrive at a rate of more than 10,000 an hour.
ARRIVAL_SECONDS, STAGE_SECONDS = 0.33, 1.5

# What a pipeline has that says nothing of its Jobs.
DEFAULTS: JSON = {"jobs": {}}

# The limits.
MEMORY_MIB, GROWTH_MIB, RECONCILE_SECONDS, WRITES, FIRST_JOB_SECONDS = 128, 10, 0.25, 12, 0.2


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    pipelines: int = 1000
    runs_of_each: int = 10
    config_maps: int = 700
    live: int = 50
    applies: int = 40

    def text(self) -> str:
        """What is there before the operator starts, and what happens then."""
        return (
            f"{self.pipelines:,} pipelines with {self.pipelines * self.runs_of_each:,} finished runs in one namespace; then {self.live} runs of three "
            f"stages of {STAGE_SECONDS} s, one every {ARRIVAL_SECONDS} s, {self.applies} applied pipelines one after the other, and {self.config_maps} foreign ConfigMaps of "
            "900 KB; etcd, API server, controllers and the operator share the processors"
        )


@dataclass(frozen=True)
class Write:
    """A write of the operator, as the API server's audit log has it."""

    verb: str
    resource: str
    name: str

    @property
    def counts(self) -> bool:
        """Renewals of the lease and Events are counted apart."""
        return self.resource not in ("leases", "events")


class Audit:
    """The API server's log of what the operator wrote."""

    def __init__(self, folder: Path) -> None:
        self._log, policy = folder / "audit.log", folder / "policy.yaml"
        operator = f"system:serviceaccount:{RELEASE_NAMESPACE}:{RELEASE}"
        writes = ["create", "update", "patch", "delete", "deletecollection"]
        rules = [{"level": "Metadata", "users": [operator], "verbs": writes}, {"level": "None"}]
        content = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
        policy.write_text(yaml.safe_dump(content))
        self.flags = [f"--audit-policy-file={policy}", f"--audit-log-path={self._log}", "--audit-log-maxsize=1000"]

    def position(self) -> int:
        """Where the log ends now."""
        return self._log.stat().st_size if self._log.exists() else 0

    def since(self, position: int) -> list[Write]:
        """The writes after a position."""
        with self._log.open("rb") as log:
            log.seek(position)
            # The last line may be half there.
            lines = log.read().rpartition(b"\n")[0].splitlines()
        found = []
        for event in map(json.loads, lines):
            of = event["objectRef"]
            resource = f"{of['resource']}/{of['subresource']}" if of.get("subresource") else of["resource"]
            found.append(Write(event["verb"], resource, of.get("name", "")))
        return found

    def quiet(self, what: str, seconds: float) -> None:
        """Waits until nothing was written for some seconds; `seconds` at most."""
        known, since = -1, time.monotonic()

        def still() -> bool:
            nonlocal known, since
            count = sum(write.counts for write in self.since(0))
            if count != known:
                known, since = count, time.monotonic()
            return time.monotonic() - since > QUIET

        wait_until(what, still, seconds, 0.5)


class Operator:
    """The process."""

    def __init__(self, binary: Path, kubeconfig: Path, log: Path) -> None:
        self._port, self._log = free_port(), log
        command = [binary, f"--namespace={NAMESPACE}", f"--listen=127.0.0.1:{self._port}", "--leader-elect"]
        command += [f"--lease-name={RELEASE}", f"--lease-namespace={NAMESPACE}"]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "POD_NAME": "operator-0"}
        self.process: subprocess.Popen[bytes] = processes.start([str(word) for word in command], log, environment)

    def ready(self, seconds: float = 120) -> None:
        """Waits until its caches are filled."""

        def filled() -> bool:
            assert self.process.poll() is None, self._log.read_text(errors="replace")[-2000:]
            return '"caches are filled"' in self._log.read_text(errors="replace")

        wait_until("the operator's caches", filled, seconds)

    def resident(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024

    def settled(self) -> float:
        """Resident memory in MiB, the highest of some looks."""
        seen = []
        for _ in range(10):
            seen.append(self.resident())
            time.sleep(0.5)
        return max(seen)

    def reconciliations(self) -> dict[str, Counter[float]]:
        """By kind, how many took at most so many seconds."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found: dict[str, Counter[float]] = {}
        for le, kind, count in re.findall(
            r'^lakehouse_reconcile_duration_seconds_bucket\{le="([^"]+)",kind="(\w+)"\} (\d+)', text, re.MULTILINE
        ):
            found.setdefault(kind, Counter())[float(le)] = int(count)
        return found

    def stop(self) -> None:
        processes.stop(self.process)


@dataclass
class Row:
    """A line of the table."""

    what: str
    value: str
    limit: str
    reached: bool


def measure(binary: Path, size: Size) -> list[str]:
    """Measures and prints; what missed its limit."""
    folder = Path(tempfile.mkdtemp(prefix="lakehouse-scale-"))
    try:
        audit = Audit(folder)
        flags = {
            "kube-apiserver": [*audit.flags, "--max-requests-inflight=3000", "--max-mutating-requests-inflight=1000"],
            "etcd": [f"--quota-backend-bytes={8 << 30}"],
        }
        with ControlPlane(flags, gogc=100) as plane, Kubelet(plane.api) as kubelet:
            plane.namespace(NAMESPACE)
            rows = []
            for row in Bench(binary, size, folder, plane, kubelet, audit).rows():
                # The table comes at the end, after many minutes.
                said(f"{row.what}: {row.value}")
                rows.append(row)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n| | measured | limit | |\n|---|---:|---:|---|")
    for row in rows:
        print(f"| {row.what} | {row.value} | {row.limit} | {'reached' if row.reached else '**missed**'} |")
    return [row.what for row in rows if not row.reached]


class Bench:
    """One pass, in the order of `rows`."""

    def __init__(
        self, binary: Path, size: Size, folder: Path, plane: ControlPlane, kubelet: Kubelet, audit: Audit
    ) -> None:
        self._binary, self._size, self._folder, self._audit = binary, size, folder, audit
        self._plane, self._api, self._kubelet = plane, plane.api, kubelet
        server = f"https://127.0.0.1:{plane.port}"
        self._kubeconfig = plane.kubeconfig(folder / "kubeconfig", server, OPERATOR_TOKEN)
        self._started = 0
        self._begun: dict[Attempt, float] = {}

    def _operator(self) -> Operator:
        self._started += 1
        return Operator(self._binary, self._kubeconfig, self._folder / f"operator-{self._started}.log")

    @contextlib.contextmanager
    def _running(self) -> Iterator[Operator]:
        operator = self._operator()
        try:
            operator.ready()
            yield operator
        finally:
            operator.stop()

    def rows(self) -> Iterator[Row]:
        """Measures line after line."""
        self._kubelet.nodes[NAMESPACE] = Node(lambda attempt: succeeded(attempt.stage))
        status = self._pattern()
        clock = time.monotonic()
        self._past(status)
        said(f"the past is there after {time.monotonic() - clock:.0f} s")
        with self._running() as operator:
            # It knows none of the pipelines: each gets its revision and its status.
            clock = time.monotonic()
            self._audit.quiet("the first operator to have nothing to do", 600)
            said(f"{self._size.pipelines:,} new pipelines are known after {time.monotonic() - clock - QUIET:.0f} s")
            first = operator.settled()
            yield from self._reconciliations("when all are new", operator, {}, ("LakehousePipeline",))
        position = self._audit.position()
        with self._running() as operator:
            time.sleep(IDLE)
            again = operator.settled()
            written = [write for write in self._audit.since(position) if write.resource != "leases"]
            yield at_most("resident memory, MiB, after the first start", first, MEMORY_MIB, "{:.0f}")
            yield at_most("resident memory, MiB, after a restart", again, MEMORY_MIB, "{:.0f}")
            yield at_most(f"writes within {IDLE:.0f} s of a restart, leases apart", len(written), 0, "{:.0f}")
            if written:
                said(f"written: {Counter((write.verb, write.resource) for write in written)}")
            before = operator.reconciliations()
            yield from self._live()
            yield self._first_job()
            yield from self._reconciliations("while runs live", operator, before, ("LakehouseRun", "LakehousePipeline"))
            yield at_most("resident memory, MiB, after these runs", operator.settled(), MEMORY_MIB, "{:.0f}")
            yield from self._foreign(operator)
        with self._running() as operator:
            time.sleep(QUIET)
            grown = operator.settled() - again
            yield at_most("growth by them after a restart, MiB", grown, GROWTH_MIB, "{:.1f}")

    def _pattern(self) -> JSON:
        """What a run looks like that the operator has brought to its end."""
        self._api.create(collection(NAMESPACE, "lakehouses"), LAKEHOUSE)
        self._api.create(collection(NAMESPACE, "lakehousepipelines"), pipeline(EXTERNAL, **DEFAULTS))
        with self._running():
            self._make_run("it", "it-pattern", date(2023, 1, 1))
            path = f"{collection(NAMESPACE, 'lakehouseruns')}/it-pattern"
            over = lambda: succeeded_condition(self._api.get(path) or {}).get("status") == "True"  # noqa: E731
            wait_until("the pattern of a run", over, 60)
            self._audit.quiet("the pattern to be done", 60)
        return self._api.request("GET", path)

    def _make_run(self, of: str, name: str, day: date) -> JSON:
        interval = {"start": f"{day}T00:00:00Z", "end": f"{day + timedelta(1)}T00:00:00Z"}
        document = run(name, interval=interval)
        document["spec"]["pipeline"] = of
        return self._api.create(collection(NAMESPACE, "lakehouseruns"), document)

    def _past(self, pattern: JSON) -> None:
        """Pipelines, and their runs with the statuses that an operator left."""

        def one(number: int) -> None:
            name = f"p{number:04}"
            document = pipeline(EXTERNAL, **DEFAULTS)
            document["metadata"]["name"] = name
            self._api.create(collection(NAMESPACE, "lakehousepipelines"), document)
            for day in range(self._size.runs_of_each):
                made = self._make_run(name, f"{name}-{day}", date(2024, 1, 1) + timedelta(day))
                text = json.dumps(pattern["status"]).replace(pattern["metadata"]["name"], made["metadata"]["name"])
                text = text.replace(pattern["metadata"]["uid"][:8], made["metadata"]["uid"][:8])
                status = json.loads(text.replace('"definition": "it-', f'"definition": "{name}-'))
                path = f"{collection(NAMESPACE, 'lakehouseruns')}/{made['metadata']['name']}/status"
                self._api.request("PUT", path, {**made, "status": status})

        each(one, range(self._size.pipelines))

    def _live(self) -> Iterator[Row]:
        """Runs of as many pipelines, many of them at work at the same time."""

        def end(attempt: Attempt) -> End | None:
            begun = self._begun.setdefault(attempt, time.monotonic())
            return succeeded(attempt.stage) if time.monotonic() - begun > STAGE_SECONDS else None

        self._kubelet.nodes[NAMESPACE].end = end
        position = self._audit.position()
        names = [f"p{number:04}" for number in range(min(self._size.live, self._size.pipelines))]
        for name in names:
            self._make_run(name, f"{name}-live", date(2024, 2, 1))
            time.sleep(ARRIVAL_SECONDS)

        def over() -> bool:
            paths = [f"{collection(NAMESPACE, 'lakehouseruns')}/{name}-live" for name in names]
            return all(succeeded_condition(self._api.get(path) or {}).get("status") == "True" for path in paths)

        wait_until("the runs to succeed", over, 300, 1)
        self._audit.quiet("the runs to be done", 120)
        written = self._audit.since(position)
        kinds = Counter((write.verb, write.resource) for write in written if write.counts)
        shown = ", ".join(
            f"{verb} {resource} {count / len(names):.2f}" for (verb, resource), count in sorted(kinds.items())
        )
        said(f"writes a run: {shown}; Events {sum(write.resource == 'events' for write in written) / len(names):.2f}")
        yield at_most("writes a run, Events apart", sum(kinds.values()) / len(names), WRITES, "{:.2f}")

    def _first_job(self) -> Row:
        """From the request that applies a pipeline to the event of its first Job, seen by a watch."""
        self._kubelet.nodes[NAMESPACE].end = lambda attempt: succeeded(attempt.stage)
        seen: queue.Queue[tuple[str, float]] = queue.Queue()
        stopping = threading.Event()

        def watch() -> None:
            while not stopping.is_set():
                with contextlib.suppress(OSError, http.client.HTTPException):
                    for job in self._api.watch(collection(NAMESPACE, "jobs")):
                        seen.put((job["metadata"]["labels"]["lakehouse.rs/pipeline"], time.monotonic()))
                        if stopping.is_set():
                            return

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        took = []
        for number in range(self._size.applies):
            document = pipeline(ON_APPLY, **DEFAULTS)
            name = document["metadata"]["name"] = f"applied-{number:03}"
            begun = time.monotonic()
            self._api.create(collection(NAMESPACE, "lakehousepipelines"), document)
            while (first := seen.get(timeout=60))[0] != name:
                pass
            took.append(first[1] - begun)
            # Its run goes on beside the next one, as others' do.
            time.sleep(0.3)
        stopping.set()
        self._audit.quiet("the applied pipelines to be done", 120)
        watching.join(30)
        said(f"to the first Job: {min(took):.3f} to {max(took):.3f} s")
        return at_most(
            "seconds from apply to the first Job, median", statistics.median(took), FIRST_JOB_SECONDS, "{:.3f}"
        )

    def _reconciliations(
        self, when: str, operator: Operator, before: dict[str, Counter[float]], kinds: Sequence[str]
    ) -> Iterator[Row]:
        now = operator.reconciliations()
        for kind in kinds:
            counts = Counter(now[kind])
            counts.subtract(before.get(kind, Counter()))
            total = counts[float("inf")]
            # The histogram has no value between its bounds: the first bound that 99 of 100 keep.
            bound = min(le for le, count in counts.items() if count >= 0.99 * total)
            yield Row(
                f"p99 of {total:,} reconciliations of {kind} {when}, s",
                f"≤ {bound}",
                f"< {RECONCILE_SECONDS}",
                bound <= RECONCILE_SECONDS,
            )

    def _foreign(self, operator: Operator) -> Iterator[Row]:
        before, text = operator.settled(), "x" * 900_000

        def one(number: int) -> None:
            document = {"metadata": {"name": f"foreign-{number}"}, "data": {"it": text}}
            made = self._api.create(collection(NAMESPACE, "configmaps"), copy.deepcopy(document))
            path = f"{collection(NAMESPACE, 'configmaps')}/{made['metadata']['name']}"
            self._api.merge(path, {"metadata": {"annotations": {"changed": "yes"}}})

        each(one, range(self._size.config_maps))
        time.sleep(QUIET)
        grown = operator.settled() - before
        yield at_most(f"growth by {self._size.config_maps} foreign ConfigMaps, MiB", grown, GROWTH_MIB, "{:.1f}")


def each(work: Callable[[Any], Any], items: Sequence[Any]) -> None:
    """Some at once; fails with the first failure."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(work, items):
            pass


def at_most(what: str, value: float, limit: float, form: str) -> Row:
    """A line whose value may not be above its limit."""
    return Row(what, form.format(value), f"≤ {limit:g}", value <= limit)


def said(text: str) -> None:
    """A line beside the table."""
    print(f"\n{text}", flush=True)
