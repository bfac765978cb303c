"""A Kubernetes API server and an S3 store on loopback, as far as the DAGs use them: real clients talk to them over HTTP.

Runs stay as they were made until a test (or `autopilot`) sets their status. Faults are switched on by tests.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

from aiohttp import web

API = "/apis/lakehouse.rs/v1alpha1/namespaces/{namespace}"
Status = dict[str, Any]


def stage(name: str, state: str = "Succeeded", **more: Any) -> dict[str, Any]:
    """An entry of `status.stages`."""
    return {"name": name, "state": state, "attempt": 1, **more}


def status_of(word: str, *stages: dict[str, Any], reason: str = "", message: str = "", **more: Any) -> Status:
    """A run's status with the condition `Succeeded` (`True`, `False` or `Unknown`) and its stages."""
    condition = {"type": "Succeeded", "status": word, "reason": reason, "message": message}
    return {"conditions": [condition], "stages": list(stages), **more}


def problem(code: int, reason: str, message: str) -> web.Response:
    """A Status object, as the API server refuses with."""
    return web.json_response({"kind": "Status", "code": code, "reason": reason, "message": message}, status=code)


class FakeApi:
    """The servers' state. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.pipelines: dict[str, str] = {"crypto": "daily", "pulse": "daily", "shop": "daily", "uploads": "daily"}
        self.runs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, tuple[str, list[str]]] = {}
        """Pod name → (Job name, log lines)."""
        self.objects: dict[str, set[str]] = {"bronze": set()}
        self.uploads: dict[str, bytes] = {}
        """What was put: `bucket/key` → content."""
        self.calls: Counter[str] = Counter()
        self.patches: list[tuple[str, str, Any]] = []
        """Every patch: run, content type, body."""
        self.autopilot: Callable[[dict[str, Any]], Status] | None = None
        """Gives a new run the status it has at once."""
        self.before_create: Callable[[dict[str, Any]], None] | None = None
        """Called once before a run is stored: what somebody else does at that moment."""
        self.refuse: tuple[int, str, str] | None = None
        """Answer to every creation."""
        self.broken: list[int] = []
        """Statuses that the next reads of runs are answered with."""
        self.drop_watches = 0
        """How many watches are cut in the middle of a line: by turns the answer ends there, or the connection."""
        self.expire_watches = 0
        """How many watches are answered with 410."""
        self.version = 100
        self.address = ""
        self._closing = False
        self._changed: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._lock = threading.RLock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FakeApi:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._notify()
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get(API + "/lakehousepipelines/{name}", self._get_pipeline)
        app.router.add_get(API + "/lakehouseruns", self._list_runs)
        app.router.add_post(API + "/lakehouseruns", self._create_run)
        app.router.add_get(API + "/lakehouseruns/{name}", self._get_run)
        app.router.add_patch(API + "/lakehouseruns/{name}", self._patch_run)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods", self._list_pods)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods/{name}/log", self._log)
        app.router.add_get("/{bucket}", self._list_objects)
        app.router.add_put("/{bucket}/{key:.+}", self._put_object)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.address = f"http://127.0.0.1:{port}"

    def set_status(self, name: str, status: Status) -> None:
        """What the operator does."""
        with self._lock:
            self.runs[name]["status"] = status
            self._touch(name)

    def delete(self, name: str) -> None:
        """Removes a run."""
        with self._lock:
            run = self.runs.pop(name)
            run["deleted"] = True
            self._notify()

    def add_run(self, run: dict[str, Any], status: Status | None = None) -> str:
        """Stores a run as if somebody else had made it."""
        with self._lock:
            name: str = run["metadata"]["name"]
            stored = copy.deepcopy(run)
            if status:
                stored["status"] = status
            self.runs[name] = stored
            self._touch(name)
            return name

    def _touch(self, name: str) -> None:
        self.version += 1
        self.runs[name]["metadata"]["resourceVersion"] = str(self.version)
        self._notify()

    def _notify(self) -> None:
        for loop, event in list(self._changed):
            loop.call_soon_threadsafe(event.set)

    async def _get_pipeline(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.pipelines:
            return problem(404, "NotFound", f'lakehousepipelines.lakehouse.rs "{name}" not found')
        return web.json_response({"metadata": {"name": name}, "spec": {"interval": self.pipelines[name]}})

    async def _create_run(self, request: web.Request) -> web.Response:
        run = await request.json()
        name = run["metadata"]["name"]
        self.calls["create"] += 1
        if self.refuse:
            return problem(*self.refuse)
        if self.before_create:
            meanwhile, self.before_create = self.before_create, None
            meanwhile(run)
        if name in self.runs:
            return problem(409, "AlreadyExists", f'lakehouseruns.lakehouse.rs "{name}" already exists')
        self.add_run(run, self.autopilot(run) if self.autopilot else None)
        return web.json_response(self.runs[name], status=201)

    async def _get_run(self, request: web.Request) -> web.Response:
        self.calls["get"] += 1
        if self.broken:
            return problem(self.broken.pop(0), "Fault", "not now")
        name = request.match_info["name"]
        if name not in self.runs:
            return problem(404, "NotFound", f'lakehouseruns.lakehouse.rs "{name}" not found')
        return web.json_response(self.runs[name])

    async def _patch_run(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.runs:
            return problem(404, "NotFound", f'lakehouseruns.lakehouse.rs "{name}" not found')
        body = await request.json()
        self.patches.append((name, request.content_type, body))
        with self._lock:
            self.runs[name]["spec"] |= body["spec"]
            self._touch(name)
        return web.json_response(self.runs[name])

    async def _list_runs(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            return await self._watch(request)
        self.calls["list"] += 1
        label, _, value = request.query["labelSelector"].partition("=")
        found = [run for run in self.runs.values() if run["metadata"].get("labels", {}).get(label) == value]
        return web.json_response({"kind": "LakehouseRunList", "metadata": {}, "items": found})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.calls["watch"] += 1
        name = request.query["fieldSelector"].removeprefix("metadata.name=")
        version = int(request.query["resourceVersion"])
        answer = web.StreamResponse()
        await answer.prepare(request)
        if self.expire_watches:
            self.expire_watches -= 1
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await answer.write(web.json_response({"type": "ERROR", "object": gone}).body + b"\n")
            return answer
        if self.drop_watches:
            self.drop_watches -= 1
            await answer.write(b'{"type": "MODIFIED", "obj')
            if self.drop_watches % 2:
                assert request.transport is not None
                request.transport.abort()
            return answer
        changed = asyncio.Event()
        listener = (asyncio.get_running_loop(), changed)
        self._changed.append(listener)
        try:
            while not self._closing:
                run = self.runs.get(name)
                if run is None:
                    await answer.write(
                        web.json_response({"type": "DELETED", "object": {"metadata": {"name": name}}}).body + b"\n"
                    )
                    return answer
                if int(run["metadata"]["resourceVersion"]) > version:
                    version = int(run["metadata"]["resourceVersion"])
                    await answer.write(web.json_response({"type": "MODIFIED", "object": run}).body + b"\n")
                await changed.wait()
                changed.clear()
            return answer
        finally:
            self._changed.remove(listener)

    async def _list_pods(self, request: web.Request) -> web.Response:
        self.calls["pods"] += 1
        job = request.query["labelSelector"].removeprefix("job-name=")
        items = [
            {
                "metadata": {"name": name, "creationTimestamp": "2024-06-23T00:00:00Z"},
                "status": {"phase": "Running"},
            }
            for name, (owner, _) in self.pods.items()
            if owner == job
        ]
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _log(self, request: web.Request) -> web.StreamResponse:
        self.calls["log"] += 1
        if request.match_info["name"] not in self.pods:
            return problem(403, "Forbidden", "pods/log is forbidden")
        answer = web.StreamResponse()
        await answer.prepare(request)
        for line in self.pods[request.match_info["name"]][1]:
            await answer.write(line.encode() + b"\n")
        return answer

    async def _list_objects(self, request: web.Request) -> web.Response:
        self.calls["list objects"] += 1
        bucket, prefix = request.match_info["bucket"], request.query.get("prefix", "")
        keys = sorted(key for key in self.objects[bucket] if key.startswith(prefix))
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>2</Size><ETag>x</ETag>"
            "<LastModified>2024-06-23T00:00:00Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            for key in keys
        )
        text = (
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(keys)}</KeyCount>"
            f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
        )
        return web.Response(text=text, content_type="application/xml")

    async def _put_object(self, request: web.Request) -> web.Response:
        body = await request.read()
        if "aws-chunked" in request.headers.get("Content-Encoding", ""):
            # One chunk, its size in hexadecimal before it, a checksum behind it.
            size, _, rest = body.partition(b"\r\n")
            body = rest[: int(size.split(b";")[0], 16)]
        self.uploads[f"{request.match_info['bucket']}/{request.match_info['key']}"] = body
        return web.Response(headers={"ETag": '"x"'})
