"""`lakehouse quarantine replay`: what is in quarantine is tried again, enters its table once, and leaves the quarantine."""

import json
from pathlib import Path

import pytest
from support import manifests
from support.lakehouse import Json, Lakehouse
from support.manifests import Document, column, landed

FIRST, SECOND = "2024-05-01", "2024-05-02"
MODES = {
    "append": {"append": {}},
    "replaceInterval": {"replaceInterval": {"column": "at"}},
    "merge": {"merge": {"key": ["id"], "sequenceBy": ["at"]}},
}


def land(lake: Lakehouse, day: str, *records: Json) -> None:
    """The file of a day."""
    place = lake.folder / "landing" / "in"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{day}.ndjson").write_text("".join(f"{json.dumps(record)}\n" for record in records))


def things(form: str, mode: str, most: int) -> Document:
    """A pipeline of one table that takes amounts up to `most`."""
    silver = {
        "name": "things",
        "from": "things",
        "table": {"format": form},
        "write": MODES[mode],
        "columns": [
            column("id", "/id", "long", required=True),
            column("at", "$intervalStart", "timestamptz", required=True),
            column("amount", "/amount", "long"),
        ],
        "expectations": [{"name": "most", "row": f"amount <= {most}", "otherwise": "quarantine"}],
    }
    return manifests.pipeline("things", [landed("things", "in/{{ interval.date }}.ndjson", "ndjson")], [silver])


def rows(lake: Lakehouse, query: str) -> list[Json]:
    """The rows of a query, whatever the table's format."""
    outcome = lake.command("sql", query, "--format", "json", "--local", lake.folder)
    assert outcome.status == 0, outcome.text
    return [json.loads(line) for line in outcome.stdout.splitlines()]


def ids(lake: Lakehouse, table: str = "silver.things") -> list[int]:
    """The keys of a table, each as often as it is there."""
    return [row["id"] for row in rows(lake, f"select id from {table} order by id")]


def aside(lake: Lakehouse, table: str = "quarantine.things") -> list[tuple[str, int]]:
    """Interval and place of everything in quarantine."""
    found = rows(lake, f"select interval_start, position from {table} order by 1, 2")
    return [(row["interval_start"][:10], row["position"]) for row in found]


def replay(lake: Lakehouse, manifest: Path, *options: str) -> str:
    """Runs the command; what it tells."""
    outcome = lake.command("quarantine", "replay", "-f", manifest, "--local", lake.folder, *options)
    assert outcome.status == 0, outcome.text
    return outcome.stdout


FORMS = [
    (form, mode) for form in ("iceberg", "delta", "parquet") for mode in MODES if (form, mode) != ("parquet", "merge")
]


@pytest.mark.parametrize(("form", "mode"), FORMS)
def test_what_passes_now_enters_once(lake: Lakehouse, tmp_path: Path, form: str, mode: str) -> None:
    """Two days with too large amounts; the limit is raised, once for one day and then for all."""
    old = manifests.write(tmp_path / "old.yaml", manifests.lakehouse(), things(form, mode, 10))
    new = manifests.write(tmp_path / "new.yaml", manifests.lakehouse(), things(form, mode, 100))
    land(lake, FIRST, *({"id": n, "amount": amount} for n, amount in enumerate([1, 50, 500, 2])))
    land(lake, SECOND, *({"id": n, "amount": amount} for n, amount in enumerate([1, 60], start=10)))
    lake.run(old, span=(FIRST, SECOND))
    assert (ids(lake), aside(lake)) == ([0, 3, 10], [(FIRST, 1), (FIRST, 2), (SECOND, 1)])

    # Under the old definition nothing passes, so nothing is committed.
    before = lake.files()
    replay(lake, old)
    changed = {path for path, time in lake.files().items() if before.get(path) != time}
    assert {
        path for path in changed if "things" in path and "_lakehouse" not in path and "_quality" not in path
    } == set()

    told = replay(lake, new, "--interval", FIRST)
    assert [line.split()[1::2] for line in told.splitlines()[2:]] == [["silver.things", FIRST, "2", "1", "1"]], told
    assert (ids(lake), aside(lake)) == ([0, 1, 3, 10], [(FIRST, 2), (SECOND, 1)])
    replay(lake, new, "--table", "things")
    assert (ids(lake), aside(lake)) == ([0, 1, 3, 10, 11], [(FIRST, 2)])
    again = lake.files()
    replay(lake, new)
    assert (ids(lake), aside(lake)) == ([0, 1, 3, 10, 11], [(FIRST, 2)])
    changed = {path for path, time in lake.files().items() if again.get(path) != time}
    assert {
        path for path in changed if "things" in path and "_lakehouse" not in path and "_quality" not in path
    } == set()
    # A run of the day under the new definition finds the rows in their place.
    lake.run(new, interval=FIRST, stages=["silver"])
    assert (ids(lake), aside(lake)) == ([0, 1, 3, 10, 11], [(FIRST, 2)])


@pytest.mark.parametrize("mode", MODES)
def test_a_replay_that_died_before_the_quarantine_is_finished(lake: Lakehouse, tmp_path: Path, mode: str) -> None:
    """The table has the row and the quarantine still has it too, as after a SIGKILL between the two commits."""
    old = manifests.write(tmp_path / "old.yaml", manifests.lakehouse(), things("delta", mode, 10))
    new = manifests.write(tmp_path / "new.yaml", manifests.lakehouse(), things("delta", mode, 100))
    land(lake, FIRST, *({"id": n, "amount": amount} for n, amount in enumerate([1, 50, 500])))
    lake.run(old, interval=FIRST)
    replay(lake, new)
    log = lake.folder / "silver" / "_quarantine" / "things" / "_delta_log"
    newest = max(log.glob("*.json"))
    newest.unlink()
    assert (ids(lake), aside(lake)) == ([0, 1], [(FIRST, 1), (FIRST, 2)])
    versions = len(list((lake.folder / "silver" / "things" / "_delta_log").glob("*.json")))
    replay(lake, new)
    assert (ids(lake), aside(lake)) == ([0, 1], [(FIRST, 2)])
    assert len(list((lake.folder / "silver" / "things" / "_delta_log").glob("*.json"))) == versions


def test_a_row_enters_when_its_partner_has_come(lake: Lakehouse, tmp_path: Path) -> None:
    """An order of a customer who comes a day later; the definition stays as it is."""
    at = column("at", "$intervalStart", "timestamptz", required=True)
    write = {"replaceInterval": {"column": "at"}}
    customers = {
        "name": "customers",
        "from": "customers",
        "write": write,
        "columns": [column("id", "/id", "long"), at],
    }
    orders = {
        "name": "orders",
        "from": "orders",
        "write": write,
        "columns": [column("id", "/id", "long"), column("customer", "/customer", "long"), at],
        "expectations": [
            {
                "name": "known",
                "references": {"table": "customers", "columns": {"customer": "id"}},
                "otherwise": "quarantine",
            }
        ],
    }
    sources = [
        landed(name, f"in/{name}-{{{{ interval.date }}}}.ndjson", "ndjson", allowEmpty=True)
        for name in ("customers", "orders")
    ]
    manifest = manifests.write(
        tmp_path / "shop.yaml", manifests.lakehouse(), manifests.pipeline("shop", sources, [orders, customers])
    )
    land(lake, f"customers-{FIRST}", {"id": 1})
    land(lake, f"orders-{FIRST}", {"id": 10, "customer": 1}, {"id": 11, "customer": 2})
    lake.run(manifest, interval=FIRST)
    assert (ids(lake, "silver.orders"), aside(lake, "quarantine.orders")) == ([10], [(FIRST, 1)])
    assert "nothing is in quarantine" in replay(lake, manifest, "--table", "customers")
    land(lake, f"customers-{SECOND}", {"id": 2})
    land(lake, f"orders-{SECOND}", {"id": 12, "customer": 2})
    lake.run(manifest, interval=SECOND)
    snapshots = lake.snapshots()["silver.customers"]
    replay(lake, manifest)
    assert (ids(lake, "silver.orders"), aside(lake, "quarantine.orders")) == ([10, 11, 12], [])
    assert lake.snapshots()["silver.customers"] == snapshots
    assert replay(lake, manifest) == "nothing is in quarantine\n"


def test_a_table_that_is_overwritten_is_passed_over(lake: Lakehouse, tmp_path: Path) -> None:
    """An older interval must not take the place of the newer one."""
    documents = []
    for most in (10, 100):
        document = things("iceberg", "append", most)
        document["spec"]["silver"][0]["write"] = {"overwrite": {}}
        documents.append(manifests.write(tmp_path / f"{most}.yaml", manifests.lakehouse(), document))
    land(lake, FIRST, {"id": 1, "amount": 1}, {"id": 2, "amount": 50})
    land(lake, SECOND, {"id": 3, "amount": 1})
    lake.run(documents[0], span=(FIRST, SECOND))
    told = replay(lake, documents[1])
    assert "silver.things is passed over" in told
    assert (ids(lake), aside(lake)) == ([3], [(FIRST, 1)])
    outcome = lake.command("quarantine", "replay", "-f", documents[1], "--local", lake.folder, "--table", "things")
    assert outcome.status == 20
    assert "--table things: silver.things is passed over" in outcome.stderr


def test_a_table_that_is_not_there_is_named(lake: Lakehouse, tmp_path: Path) -> None:
    """A misspelled option ends with one line, and a folder without tables says what to do."""
    manifest = manifests.write(tmp_path / "things.yaml", manifests.lakehouse(), things("iceberg", "append", 1))
    outcome = lake.command("quarantine", "replay", "-f", manifest, "--local", lake.folder, "--table", "thing")
    assert (outcome.status, outcome.stderr) == (
        20,
        "error: --table thing: the files have no such silver table; they have: things\n",
    )
    outcome = lake.command("quarantine", "replay", "-f", manifest, "--local", lake.folder)
    assert outcome.status == 20
    assert "has no tables yet" in outcome.stderr
