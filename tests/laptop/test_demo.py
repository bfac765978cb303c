"""`make demo`, twice, as a person runs it."""

import json
import os
import subprocess
from collections import Counter

import pytest
from support.lakehouse import Lakehouse, Outcome
from support.paths import ROOT

DAYS = [f"2024-03-0{day}" for day in range(1, 6)]


def make_demo(lake: Lakehouse) -> Outcome:
    """`make demo` into this folder."""
    done = subprocess.run(
        ["make", "--no-print-directory", "demo"],
        cwd=ROOT,
        env={**os.environ, "LAKEHOUSE_LOCAL": str(lake.folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Outcome(done.returncode, done.stdout, done.stderr)


def table_lines(text: str) -> list[str]:
    """The lines of the tables on the screen."""
    return [line for line in text.splitlines() if line.startswith("|")]


def funnel_table(outcome: Outcome) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the last table, which is under the words `gold.funnel`."""
    head, *rows = table_lines(outcome.stdout.split("gold.funnel")[1])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *rows)]
    return cells[0], cells[1:]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lakehouse:
    """The folder of both demos."""
    return Lakehouse(tmp_path_factory.mktemp("demo") / "lake")


@pytest.fixture(scope="module")
def first(lake: Lakehouse) -> Outcome:
    """The first `make demo`."""
    return make_demo(lake)


def test_it_ends_with_a_gold_table_and_where_to_look_further(first: Outcome, lake: Lakehouse) -> None:
    head, rows = funnel_table(first)
    funnel = lake.rows("gold.funnel")
    assert len(funnel) == len(DAYS)
    assert set(head) == set(funnel[0])
    assert [row[head.index("day")] for row in rows] == DAYS
    assert "make sql QUERY=" in first.stdout.split(table_lines(first.stdout)[-1])[1]


def test_the_events_are_a_shops(first: Outcome, lake: Lakehouse) -> None:
    events = lake.rows("silver.events")
    kinds = Counter(event["event_type"] for event in events)
    assert set(kinds) == {"view", "add_to_cart", "purchase"}
    assert kinds["view"] > kinds["add_to_cart"] > kinds["purchase"] > 0
    assert {event["ts"].date().isoformat() for event in events} == set(DAYS)
    assert len({event["event_id"] for event in events}) == len(events)


def test_a_second_demo_prints_the_same_and_commits_nothing(first: Outcome, lake: Lakehouse) -> None:
    snapshots = lake.snapshots()
    assert snapshots["silver.events"] == len(DAYS)
    second = make_demo(lake)
    assert table_lines(second.stdout) == table_lines(first.stdout)
    assert lake.snapshots() == snapshots


def test_make_sql_status_and_logs_look_further(first: Outcome, lake: Lakehouse) -> None:
    def make(*arguments: str) -> str:
        command = ["make", "--no-print-directory", "-o", "build", *arguments]
        env = {**os.environ, "LAKEHOUSE_LOCAL": str(lake.folder)}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    count = len(lake.rows("silver.events"))
    printed = make("sql", "QUERY=select count(*) as events from silver.events")
    head, row = table_lines(printed)
    assert (head.strip("| "), row.strip("| ")) == ("events", str(count))
    status = make("status")
    assert all(day in status for day in DAYS)
    assert "silver.events" in make("logs")


def test_the_funnel_is_that_of_the_events(first: Outcome, lake: Lakehouse) -> None:
    """Computed again from silver.events: sessions, those with a cart, those with a purchase."""
    kinds: dict[tuple[str, str], set[str]] = {}
    for event in lake.rows("silver.events"):
        kinds.setdefault((event["ts"].date().isoformat(), event["session_id"]), set()).add(event["event_type"])
    for row in lake.rows("gold.funnel"):
        sessions = [found for (day, _), found in kinds.items() if day == row["day"].isoformat()]
        carts, purchases = (sum(kind in found for found in sessions) for kind in ("add_to_cart", "purchase"))
        assert (row["sessions"], row["sessions_with_cart"], row["sessions_with_purchase"]) == (
            len(sessions),
            carts,
            purchases,
        )
        assert row["conversion_percent"] == pytest.approx(100 * purchases / len(sessions), abs=0.00501)


def test_sessions_go_from_view_to_cart_to_purchase(first: Outcome, lake: Lakehouse) -> None:
    """In the order of a session's events as they were sent, nobody buys or fills a cart without a step before.

    Some events are sent broken on purpose; a step whose predecessor was one of those is the only exception.
    """
    before = {"add_to_cart": "view", "purchase": "add_to_cart"}
    seen: dict[str, set[str]] = {}
    steps = broken = without = 0
    for path in lake.bronze("shop/*/dt=*/run=*/part-*"):
        for line in path.read_text().splitlines():
            try:
                event = json.loads(line)
                session, kind = event["session_id"], event["event_type"]
            except (json.JSONDecodeError, KeyError):
                broken += 1
                continue
            kinds = seen.setdefault(f"{path.parent.parent.name} {session}", set())
            broken += kind not in {"view", *before}
            steps += kind in before
            without += kind in before and before[kind] not in kinds
            kinds.add(kind)
    assert without <= broken < steps / 10
    assert len(seen) > len(DAYS)


def test_the_table_on_the_screen_is_what_pyiceberg_reads(first: Outcome, lake: Lakehouse) -> None:
    head, rows = funnel_table(first)
    read = sorted(lake.rows("gold.funnel"), key=lambda row: row["day"])
    for cells, row in zip(rows, read, strict=True):
        assert cells == [str(row[name]) for name in head]
