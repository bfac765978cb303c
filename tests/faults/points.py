"""The points at which a job is killed, as its store and its catalog see them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from faults import pg
from support.http_proxy import http_request
from support.proxy import Fault, Spot


@dataclass(frozen=True)
class Point:
    """A point in the life of a job."""

    name: str
    matches: Callable[[object], bool]
    spot: Spot
    # The table whose commit this is, as reports name it.
    table: str = ""
    # How often it has to match first.
    after: int = 0

    @property
    def committed(self) -> bool:
        """Whether the commit is made when the job dies here."""
        return self.spot is not Spot.REQUESTED

    def __str__(self) -> str:
        return self.name

    def fault(self) -> Fault:
        before = itertools.count()
        return Fault(lambda seen: self.matches(seen) and next(before) >= self.after, self.spot)


def reading(what: str, path: str) -> Point:
    return Point(f"reading-{what}", http_request("GET", path), Spot.HALF_ANSWERED)


def upload(what: str, path: str, query: str = "") -> list[Point]:
    """Within and after the upload of an object, before the job knows of it."""
    return [
        Point(f"half-sent-{what}", http_request("PUT", path, query), Spot.HALF_SENT),
        Point(f"uploaded-{what}", http_request("PUT", path, query), Spot.APPLIED),
    ]


def commit(what: str, matches: Callable[[object], bool], table: str = "", after: int = 0) -> list[Point]:
    """Around the one request that makes the work visible."""
    return [
        Point(f"before-commit-{what}", matches, Spot.REQUESTED, table, after),
        Point(f"commit-unanswered-{what}", matches, Spot.APPLIED, table, after),
        Point(f"committed-{what}", matches, Spot.ANSWERED, table, after),
    ]


def put(path: str) -> Callable[[object], bool]:
    return http_request("PUT", path)


def iceberg_file(table: str) -> str:
    """The path of a data file of the Iceberg table `namespace.name`."""
    namespace, name = table.split(".")
    place = {"silver": "silver/[^/]+", "quarantine": "silver/[^/]+/_quarantine", "gold": "gold/[^/]+"}[namespace]
    return rf"^/{place}/{name}-[0-9a-f]+/data/.*\.parquet$"


def parquet_file(name: str) -> str:
    """The path of a data file of a plain Parquet table of silver."""
    return rf"^/silver/[^/]+/{name}/.*\.parquet$"


def parquet_manifest(name: str, generation: int) -> str:
    """The path of a manifest of a plain Parquet table of silver: 0 creates it, 1 is its first commit."""
    return rf"^/silver/[^/]+/{name}/_manifest/{generation:012}\.json$"


def delta_file(name: str) -> str:
    """The path of a data file of a Delta table of silver."""
    return rf"^/silver/[^/]+/{name}/part-.*\.parquet$"


def delta_commit(name: str, version: int) -> str:
    """The path of a commit of a Delta table of silver: 0 creates it, 1 is the first day's."""
    return rf"^/silver/[^/]+/{name}/_delta_log/{version:020}\.json$"


def swap(table: str) -> Callable[[object], bool]:
    """The commit of the Iceberg table `namespace.name`: the catalog moves it to its next metadata file."""
    return pg.statement(r"^\s*UPDATE\s+iceberg_tables", *table.split("."))


def creation(table: str) -> Callable[[object], bool]:
    """The creation of the Iceberg table `namespace.name`."""
    return pg.statement(r"^\s*INSERT\s+INTO\s+iceberg_tables", *table.split("."))


def reported(stage: str) -> Point:
    return Point("reported", put(rf"/_lakehouse/runs/.+/{stage}-1\.json$"), Spot.APPLIED)
