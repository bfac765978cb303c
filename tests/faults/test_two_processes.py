"""Two processes of one run at once, as when a node is lost and comes back: one commit per table, equal rows."""

import http.server
import itertools
import json
from collections.abc import Callable, Iterator

import pytest
from faults import baseline, specs
from faults.baseline import Baseline
from faults.job import JOB_SECONDS
from faults.points import delta_commit, parquet_manifest, put, swap
from faults.stand import Spec, Stand
from support.jobs import RETRYABLE
from support.serving import ServerInThread

# Longest time that the faster process waits for the other at the commit.
MEETING_SECONDS = 8.0

ATTEMPTS = {"same-attempt": (1, 1), "next-attempt": (1, 2)}


def both(
    stand: Stand,
    base: Baseline,
    spec: Spec,
    own: tuple[str, ...],
    at: Callable[[object], bool],
    attempts: tuple[int, int],
) -> None:
    """Both start at once and meet at the commit that `at` names; then they race."""
    stage = next(iter(spec["work"]))
    lake = stand.lake(f"{stage}_two", base.before, own)
    world = stand.world()
    meeting = world.gather(at, 2, MEETING_SECONDS)
    jobs = [stand.start(lake, specs.attempt(spec, number), world) for number in attempts]
    for job in jobs:
        job.end()
    assert meeting.met, "the two did not commit at the same time"
    assert not world.errors, world.errors
    base.verify(lake, lake.report(specs.attempt(spec, attempts[1])))


@pytest.mark.parametrize("attempts", ATTEMPTS.values(), ids=ATTEMPTS)
def test_ingest(stand: Stand, ingest_baseline: Baseline, attempts: tuple[int, int]) -> None:
    both(stand, ingest_baseline, baseline.INGEST, ("bronze",), put(r"/_manifests/dt="), attempts)


SILVER_COMMITS = {
    "replaceInterval": swap("silver.events"),
    "append": swap("silver.event_log"),
    "quarantine": swap("quarantine.events"),
    "parquet": put(parquet_manifest("event_files", 1)),
    "delta-append": put(delta_commit("delta_event_log", 2)),
    "results": swap("quality.results"),
    "delta-replaceInterval": put(delta_commit("delta_events", 2)),
}


@pytest.mark.parametrize("attempts", ATTEMPTS.values(), ids=ATTEMPTS)
@pytest.mark.parametrize("at", SILVER_COMMITS.values(), ids=SILVER_COMMITS)
def test_silver(
    stand: Stand, unaudited_silver_baseline: Baseline, at: Callable[[object], bool], attempts: tuple[int, int]
) -> None:
    both(stand, unaudited_silver_baseline, baseline.UNAUDITED_SILVER, ("silver",), at, attempts)


@pytest.mark.parametrize("attempts", ATTEMPTS.values(), ids=ATTEMPTS)
def test_audited_tables(stand: Stand, silver_baseline: Baseline, attempts: tuple[int, int]) -> None:
    """Their writers take turns: the second one finds the tables published, and the results of the rules kept."""
    lake = stand.lake("silver_turns", silver_baseline.before, ("silver",))
    world = stand.world()
    jobs = [stand.start(lake, specs.attempt(baseline.SILVER, number), world) for number in attempts]
    for job in jobs:
        job.end()
    assert not world.errors, world.errors
    silver_baseline.verify(lake, lake.report(specs.attempt(baseline.SILVER, attempts[1])))


@pytest.mark.parametrize("attempts", ATTEMPTS.values(), ids=ATTEMPTS)
def test_gold(stand: Stand, gold_baseline: Baseline, attempts: tuple[int, int]) -> None:
    both(stand, gold_baseline, baseline.GOLD, ("gold",), swap("gold.daily_customers"), attempts)


@pytest.mark.parametrize("kind", [kind for kind in SILVER_COMMITS if kind != "results"])
def test_a_run_that_comes_late(stand: Stand, unaudited_silver_baseline: Baseline, kind: str) -> None:
    """A run that was about to commit when another one, of a newer definition, did the whole interval.

    The operator does not let this happen; a node that was lost and comes back does. Whoever commits last, no file that the
    table needs is gone and no row is there twice.
    """
    base, spec = unaudited_silver_baseline, baseline.UNAUDITED_SILVER
    lake = stand.lake("silver_late", base.before, ("silver",))
    world = stand.world()
    meeting = world.gather(SILVER_COMMITS[kind], 2, JOB_SECONDS)
    late = stand.start(lake, spec, world)
    assert meeting.one.wait(JOB_SECONDS), f"no commit\n{late.log()}"
    stand.run(lake, specs.newer_definition(spec))
    world.dismiss(meeting)
    # The faster one took the files staged for the Parquet tables for those of a dead attempt: they are written again.
    assert late.end(RETRYABLE)["failure"]["reason"] == "CommitConflict"
    stand.run(lake, specs.attempt(spec, 2))
    assert not world.errors, world.errors
    # Both runs leave their results.
    rows, expected = (
        {name: state.rows for name, state in tables.items() if name != "quality.results"}
        for tables in (lake.tables(), base.tables)
    )
    assert rows == expected


@pytest.fixture
def changing_source() -> Iterator[str]:
    """The URL of a source that answers differently each time."""
    numbers = itertools.count(1)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps([{"answer": next(numbers)}]).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ServerInThread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.port}/now"


@pytest.mark.parametrize("attempts", ATTEMPTS.values(), ids=ATTEMPTS)
def test_a_source_that_answers_both_differently(stand: Stand, changing_source: str, attempts: tuple[int, int]) -> None:
    """One answer counts, and the bytes that its manifest names are the ones it was made for."""
    lake = stand.lake("ingest_changing")
    world = stand.world()
    meeting = world.gather(put(r"/_manifests/dt="), 2, MEETING_SECONDS)
    spec = specs.stage_spec(specs.SECOND_DAY, specs.http_work(changing_source))
    jobs = [stand.start(lake, specs.attempt(spec, number), world) for number in attempts]
    for job in jobs:
        job.end()
    assert meeting.met, "the two did not commit at the same time"
    # Compares the objects with their digests.
    assert len(lake.ingested(specs.SECOND_DAY)["answers"]) == 1
