"""Lakes and jobs on one MinIO and one Postgres: what every test of this folder starts from."""

import itertools
import json
import time
from pathlib import Path
from typing import Any

from faults import pg, specs
from faults.job import JOB_SECONDS, Job
from faults.lake import Lake
from faults.points import Point
from support import http_proxy
from support.minio import Minio
from support.postgres import Postgres
from support.proxy import World

Spec = dict[str, Any]
LAYERS = ("bronze", "silver", "gold", "landing")


class Stand:
    """Makes lakes, starts jobs in them, and ends every process that a test leaves behind."""

    def __init__(self, minio: Minio, postgres: Postgres, folder: Path) -> None:
        self._minio, self._postgres, self._folder = minio, postgres, folder
        self._numbers = itertools.count(1)
        self._jobs: list[Job] = []
        self._worlds: list[World] = []

    def lake(self, name: str, like: Lake | None = None, own: tuple[str, ...] = LAYERS) -> Lake:
        """A lake of its own.

        With `like` it begins with that lake's catalog, as of now, and shares that lake's layers but for its `own`.
        Tables that the catalog has already stay where they are, with their files: no two commits write the same name. Those of
        Delta have no other catalog than their place, so they are copied.
        """
        label = f"{name}_{next(self._numbers)}"
        layers = {layer: f"{layer}/{label}" for layer in LAYERS}
        template = ""
        if like is not None:
            layers |= {layer: place for layer, place in like.layers.items() if layer not in own}
            template = f" template {like.database}"
        self._postgres.execute("postgres", f"create database {label}{template}")
        lake = Lake(self._minio, self._postgres, label, layers)
        if like is not None and "silver" in own:
            lake.copy_delta_tables(like)
        return lake

    def world(self) -> World:
        """Proxies for the jobs that are started with it."""
        world = World()
        self._worlds.append(world)
        return world

    def start(self, lake: Lake, spec: Spec, world: World | None = None) -> Job:
        """Starts the job of a spec, behind the proxies of `world` if one is given."""
        store, catalog = self._minio.port, self._postgres.port
        if world is not None:
            store, catalog = world.listen(http_proxy.handle, store), world.listen(pg.handle, catalog)
        place = {"endpoint": f"http://127.0.0.1:{store}", "region": self._minio.region, **lake.layers}
        env = {**self._minio.environment(), "LAKEHOUSE_CATALOG_URI": lake.catalog_uri(catalog)}
        folder = self._folder / f"{next(self._numbers):04}-{lake.database}"
        job = Job(spec | {"store": {"s3": place}}, folder, env)
        self._jobs.append(job)
        return job

    def run(self, lake: Lake, spec: Spec) -> Spec:
        """Runs an undisturbed job to its end; its report."""
        self.start(lake, spec).end()
        return lake.report(spec)

    def kill_at(self, lake: Lake, spec: Spec, point: Point) -> None:
        """Runs the job of a spec up to a point and kills it there."""
        world = self.world()
        fault = world.expect(point.fault())
        job = self.start(lake, spec, world)
        deadline = time.monotonic() + JOB_SECONDS
        while not fault.fired.wait(0.02):
            if not job.running:
                job.end()
                raise AssertionError(f"ended without getting to {point}")
            assert not world.errors, world.errors
            assert time.monotonic() < deadline, f"not at {point} within {JOB_SECONDS:.0f} s"
        job.kill()
        world.cut()
        assert not world.errors, world.errors

    def tidy(self) -> None:
        """Ends what a test left behind."""
        while self._jobs:
            self._jobs.pop().stop()
        while self._worlds:
            self._worlds.pop().close()


def landed_orders() -> bytes:
    """A file as someone would upload it; half of it is more than a socket's buffers take."""
    orders = (
        {"order_id": f"o-{number}", "ts": specs.SECOND_DAY["start"], "note": "x" * 90} for number in range(20_000)
    )
    return b"".join(json.dumps(order).encode() + b"\n" for order in orders)
