"""Memory: rows beyond what a process may have wait on disk and come out the same, in every write mode."""

import asyncio
import base64
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import manifests
from support.jobs import limit_memory, run_job
from support.lakehouse import Json, Lakehouse
from support.manifests import Document, column, landed
from support.minio import Minio
from support.proxy import Stream, World
from support.readers import delta_rows, ordered, without

DAYS = ("2024-05-01", "2024-05-02")
LATER = "2024-05-03"
TINY = {"LAKEHOUSE_MEMORY_LIMIT": "16Mi"}
COLUMNS = [
    column("id", "/id", "string", required=True),
    column("at", "/at", "timestamptz", required=True),
    column("n", "/n", "int"),
    column("text", "/text", "string"),
]


def table(name: str, write: Document, **more: object) -> Document:
    """A silver table of the source."""
    return {"name": name, "from": "things", "write": write, "columns": COLUMNS, **more}


TABLES = [
    table("added", {"append": {}}),
    table("replaced", {"replaceInterval": {"column": "at", "outside": "drop"}}, table={"format": "delta"}),
    table("overwritten", {"overwrite": {}}, table={"format": "parquet"}),
    table("first", {"append": {}}, deduplicate={"key": ["id"], "keep": "first"}),
    table(
        "last", {"replaceInterval": {"column": "at", "outside": "drop"}}, deduplicate={"key": ["id"], "keep": "last"}
    ),
    table("merged", {"merge": {"key": ["id"], "sequenceBy": ["at", "n"]}}),
    table(
        "checked",
        {"append": {}},
        expectations=[
            {"name": "many", "batch": "count(*) > 1000 AND count(DISTINCT id) > 100", "otherwise": "fail"},
            {"name": "even", "row": "n % 2 = 0", "otherwise": "quarantine"},
        ],
    ),
]


def lines(day: str, rows: int) -> Iterator[str]:
    """Records of a day: every sixth one is a later version of an earlier one, every hundredth is no JSON."""
    hour = 0
    for n in range(rows):
        if n % 100 == 99:
            yield f'{{"id": "{n}", broken'
            continue
        hour = n * 24 // rows
        number = n if n % 6 else n // 2
        record = {"id": f"{number:032}", "at": f"{day}T{hour:02}:00:00Z", "n": n, "text": f"{n * 7919 % 1000003:0120}"}
        yield json.dumps(record)


def pipeline(folder: Path, tables: list[Document]) -> Path:
    """A pipeline over the landed objects of a day."""
    source = landed("things", "in/{{ interval.date }}/*", "ndjson")
    return manifests.write(
        folder / "things.yaml", manifests.lakehouse(), manifests.pipeline("things", [source], tables)
    )


def land(lake: Lakehouse, rows: int) -> None:
    """Puts the objects of both days, two a day."""
    for day in DAYS:
        place = lake.folder / "landing" / "in" / day
        place.mkdir(parents=True)
        every = list(lines(day, rows))
        for number, half in enumerate((every[: rows // 3], every[rows // 3 :])):
            (place / f"{number}.ndjson").write_text("".join(f"{line}\n" for line in half))


def counts(report: Json) -> list[Json]:
    """What a report says of rows."""
    kept = (
        "name",
        "rowsRead",
        "rowsWritten",
        "rowsQuarantined",
        "rowsDeduplicated",
        "rowsDropped",
        "quarantineReasons",
    )
    tables = [{key: found.get(key) for key in kept} for found in report["tables"]]
    return [
        *tables,
        *(
            {"rule": rule["name"], "passed": rule["passed"]}
            for t in report["tables"]
            for rule in t.get("expectations", [])
        ),
    ]


def content(lake: Lakehouse) -> dict[str, object]:
    """All rows of all tables and quarantines, by outside readers where the format has some; objects are named after the run."""
    found: dict[str, object] = {}
    for definition in TABLES:
        name, form = definition["name"], definition.get("table", {}).get("format", "iceberg")
        for namespace in ("silver", "quarantine"):
            if form == "iceberg":
                rows = lake.rows(f"{namespace}.{name}")
            elif form == "delta":
                folder = lake.folder / "silver" / (name if namespace == "silver" else f"_quarantine/{name}")
                rows = delta_rows(folder)
            else:
                column = "text" if namespace == "silver" else "record"
                query = (
                    f"select count(*), count(distinct {column}), min({column}), max({column}) from {namespace}.{name}"
                )
                found[f"{namespace}.{name}"] = lake.sql(query).stdout
                continue
            found[f"{namespace}.{name}"] = ordered(without(rows, {"processed_at", "object"}))
    return found


def test_the_outcome_is_the_same_wherever_rows_wait(tmp_path: Path) -> None:
    """Days with and without room in memory.

    The second day meets the files of the first one, the first comes again with other rows, and a small one meets files beyond the memory.
    """
    lakes = {}
    for name, env in (("roomy", {}), ("tiny", {**TINY, "TMPDIR": str(tmp_path / "scratch")})):
        lake = lakes[name] = Lakehouse(tmp_path / name)
        (tmp_path / "scratch").mkdir(exist_ok=True)
        land(lake, 30_000)
        manifest = pipeline(tmp_path, TABLES)
        lake.run(manifest, span=DAYS, env=env)
        (extra,) = (lake.folder / "landing" / "in" / DAYS[0]).glob("1.ndjson")
        extra.write_text("".join(f"{line}\n" for line in list(lines(DAYS[0], 33_000))[10_000:]))
        lake.run(manifest, interval=DAYS[0], env=env)
        later = lake.folder / "landing" / "in" / LATER
        later.mkdir()
        (later / "0.ndjson").write_text("".join(f"{line}\n" for line in lines(LATER, 2_500)))
        lake.run(manifest, interval=LATER, env=env)
        assert not list((tmp_path / "scratch").iterdir()), "a temporary file is left"
    roomy, tiny = lakes["roomy"], lakes["tiny"]
    assert [counts(report) for report in tiny.reports("silver")] == [
        counts(report) for report in roomy.reports("silver")
    ]
    assert content(tiny) == content(roomy)


def test_a_folder_that_takes_no_files_is_named(lake: Lakehouse, tmp_path: Path) -> None:
    """Another attempt can help where somebody makes room: the reason says so, and the message which folder it is."""
    land(lake, 30_000)
    manifest = pipeline(tmp_path, [TABLES[3]])
    lake.run(manifest, interval=DAYS[0], stages=["ingest"])
    nowhere = tmp_path / "nowhere"
    failed = lake.fail(manifest, interval=DAYS[0], stages=["silver"], env={**TINY, "TMPDIR": str(nowhere)})
    assert "ResourcesExhausted" in failed.text, failed.text
    assert str(nowhere) in failed.text, failed.text
    nowhere.mkdir()
    lake.run(manifest, interval=DAYS[0], stages=["silver"], env={**TINY, "TMPDIR": str(nowhere)})
    assert not list(nowhere.iterdir())


@pytest.mark.parametrize("name", ["added", "first", "merged"])
def test_more_rows_than_the_kernel_allows_memory(name: str, lake: Lakehouse, tmp_path: Path) -> None:
    """A set beyond the process's hard limit of private memory, which the job finds out by itself.

    `bench/run --only memory` has ten times the limit.
    """
    limit, times, rows = 96 << 20, 36, 15_000
    (definition,) = [definition for definition in TABLES if definition["name"] == name]
    land(lake, 10)
    day = "".join(f"{line}\n" for line in lines(DAYS[0], rows))
    bytes_landed = 0
    for number in range(times):
        # Other keys each time, in records of the same length.
        text = day.replace('"id": "000', f'"id": "{number:03}')
        (lake.folder / "landing" / "in" / DAYS[0] / f"2-{number:03}.ndjson").write_text(text)
        bytes_landed += len(text)
    assert bytes_landed > 1.1 * limit
    manifest = pipeline(tmp_path, [definition])
    lake.run(manifest, interval=DAYS[0], stages=["ingest"])

    command = lake.command_line(*lake.run_arguments(manifest, interval=DAYS[0], stages=["silver"]))
    done = subprocess.run(
        command,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=lambda: limit_memory(limit),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = lake.reports("silver")
    (found,) = report["tables"]
    assert found["rowsRead"] == times * rows + 10
    assert found["rowsQuarantined"] == times * rows // 100
    assert found["rowsWritten"] + found["rowsDeduplicated"] == found["rowsRead"] - found["rowsQuarantined"]
    assert (found["rowsDeduplicated"] > times * 1000) == (name != "added")


class Narrow:
    """What stands before a slow store: it takes so many bytes a second, on all connections together, and answers at once."""

    def __init__(self, rate: int) -> None:
        self._rate, self._turn = rate, asyncio.Lock()

    async def __call__(self, world: World, client: Stream, server: Stream) -> None:
        """Passes on what both sides of a connection say."""
        await asyncio.gather(self._there(world, client, server), self._back(world, server, client))

    async def _there(self, world: World, source: Stream, target: Stream) -> None:
        while content := await source.reader.read(1 << 16):
            async with self._turn:
                await asyncio.sleep(len(content) / self._rate)
            await world.send(target, content)
        target.writer.write_eof()

    async def _back(self, world: World, source: Stream, target: Stream) -> None:
        while content := await source.reader.read(1 << 16):
            await world.send(target, content)
        target.writer.write_eof()


def test_a_slow_store_takes_no_more_memory(minio: Minio, tmp_path: Path) -> None:
    """What is made faster than the store takes it waits, but not in memory beyond the limit: of files, and of objects."""
    limit, objects, rows, prefix, run = 96 << 20, 9, 15_000, "slow", "things-2024-05-01-0a0b0c0d"
    chance, total = random.Random(5), 0
    for number in range(objects):
        # Nothing makes them smaller: the files are as large as the texts.
        texts = (base64.b85encode(chance.randbytes(560)).decode() for _ in range(rows))
        records = (
            {"id": f"{number}-{n:06}", "at": f"{DAYS[0]}T{n % 24:02}:00:00Z", "text": text}
            for n, text in enumerate(texts)
        )
        body = "".join(json.dumps(record) + "\n" for record in records).encode()
        minio.files().pipe_file(f"landing/{prefix}/{number}.ndjson", body)
        total += len(body)
    world = World()
    try:
        location = {
            **minio.location(prefix),
            "endpoint": f"http://127.0.0.1:{world.listen(Narrow(8_000_000), minio.port)}",
        }
        files = {"path": "*.ndjson", "format": "ndjson", "allowEmpty": False}
        table = {
            "name": "things",
            "from": "things",
            "write": {"append": {}},
            "columns": [COLUMNS[0], COLUMNS[1], COLUMNS[3]],
        }
        resolved = {"table": {**table, "table": {"format": "iceberg"}}, "decode": "ndjson", "definitionDigest": "one"}
        for stage, work in (
            ("ingest", {"sources": [{"name": "things", "source": {"files": files}}]}),
            ("silver", {"input": {"run": run}, "tables": [resolved]}),
        ):
            spec = {
                "contract": 1,
                "pipeline": "things",
                "owner": "prod/things",
                "run": {"name": "things-2024-05-01", "id": run, "createdAt": "2024-05-04T05:06:07Z"},
                "attempt": 1,
                "interval": {"start": f"{DAYS[0]}T00:00:00Z", "end": f"{DAYS[1]}T00:00:00Z"},
                "grain": "daily",
                "store": {"s3": location},
                "work": {stage: work},
            }
            catalog = {"LAKEHOUSE_CATALOG_URI": f"sqlite://{tmp_path}/catalog.db", "TMPDIR": str(tmp_path)}
            outcome = run_job(stage, spec, tmp_path / stage, {**minio.environment(), **catalog}, 500, limit)
            assert outcome.status == 0, outcome.log
    finally:
        world.close()
    assert outcome.termination["totals"]["rowsWritten"] == objects * rows, outcome.termination
    assert total > limit, "there must be more than may be in memory"
    written = sum(minio.files().du(path) for path in minio.files().glob(f"silver/{prefix}/things-*/data"))
    assert written > 0.75 * limit, f"{written} bytes of files say little about memory"
