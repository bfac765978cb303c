"""Lineage of whole runs: events that the published classes take, datasets and columns that hang together, and sinks that fail nothing."""

import copy
import http.server
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openlineage.client.naming.dataset import S3, LocalFileSystem
from support import manifests, openlineage
from support.lakehouse import Lakehouse
from support.manifests import column
from support.openlineage import Event
from support.ports import free_port
from support.serving import ServerInThread

DAY = "2024-03-01"
SHOP = manifests.DEPLOY / "shop.yaml"


@pytest.fixture
def events(lake: Lakehouse, tmp_path: Path) -> list[Event]:
    """The events of one day of the shop, all of them valid."""
    path = tmp_path / "events.ndjson"
    outcome = lake.command(*lake.run_arguments(SHOP, interval=DAY), "--lineage", path)
    assert outcome.status == 0, outcome.text
    return openlineage.events(path)


def of_stage(events: list[Event], stage: str, kind: str = "COMPLETE") -> Event:
    """The one event of a stage."""
    (found,) = [event for event in events if event["job"]["name"] == f"shop.{stage}" and event["eventType"] == kind]
    return found


def table_of(dataset: Event) -> str:
    """The name of a dataset among the tables."""
    return dataset["facets"]["symlinks"]["identifiers"][0]["name"]


def outputs(event: Event) -> dict[str, Event]:
    """Output datasets of tables by their names."""
    return {table_of(dataset): dataset for dataset in event["outputs"]}


def sources(dataset: Event, name: str, tables: dict[str, str]) -> dict[str, list[str]]:
    """What a column comes from: `table.field` with the subtypes of its transformations."""
    fields = dataset["facets"]["columnLineage"]["fields"][name]["inputFields"]
    return shown(fields, tables)


def shown(fields: list[Event], tables: dict[str, str]) -> dict[str, list[str]]:
    return {
        f"{tables[field['name']]}.{field['field']}": [item["subtype"] for item in field["transformations"]]
        for field in fields
    }


def test_every_stage_has_a_beginning_and_an_end_in_one_run(events: list[Event]) -> None:
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        (f"shop.{stage}", kind) for stage in ("ingest", "silver", "gold") for kind in ("START", "COMPLETE")
    ]
    for stage in ("ingest", "silver", "gold"):
        first, last = of_stage(events, stage, "START"), of_stage(events, stage)
        assert first["run"]["runId"] == last["run"]["runId"]
        assert first["eventTime"] <= last["eventTime"]
    assert len({event["run"]["runId"] for event in events}) == 3
    parents = {json.dumps(event["run"]["facets"]["parent"]) for event in events}
    assert len(parents) == 1, "all stages are of one run of the pipeline"
    assert {event["run"]["facets"]["nominalTime"]["nominalStartTime"] for event in events} == {f"{DAY}T00:00:00Z"}


def test_an_attempt_at_work_tells_how_far_it_is(lake: Lakehouse, tmp_path: Path) -> None:
    sensors = {"devices": 10, "every": "1s", "continuous": {"eventsPerSecond": 100, "duration": "4s"}}
    place = manifests.lakehouse()
    place["spec"]["lineage"] = {"runningInterval": "1s"}
    pipeline = manifests.pipeline("live", [{"name": "readings", "sensors": sensors}])
    begun = time.monotonic()
    lake.run(manifests.write(tmp_path / "live.yaml", place, pipeline), interval=DAY)
    assert time.monotonic() - begun < 15
    (path,) = (lake.folder / "bronze").rglob("ingest-1.lineage.ndjson")
    first, newest, last = openlineage.events(path)
    assert [event["eventType"] for event in (first, newest, last)] == ["START", "RUNNING", "COMPLETE"]
    assert first["run"]["runId"] == newest["run"]["runId"] == last["run"]["runId"]
    assert first["eventTime"] < newest["eventTime"] < last["eventTime"]
    progress = newest["run"]["facets"]["lakehouse_progress"]
    assert (progress["step"], progress["rows"] >= 0) == ("fetch readings", True)


def test_datasets_hang_together_and_are_named_as_the_specification_says(lake: Lakehouse, events: list[Event]) -> None:
    ingest, silver, gold = (of_stage(events, stage) for stage in ("ingest", "silver", "gold"))
    names = [(dataset["namespace"], dataset["name"]) for dataset in ingest["outputs"]]
    assert names == [(dataset["namespace"], dataset["name"]) for dataset in silver["inputs"]]
    folder = LocalFileSystem(str(lake.folder.resolve() / "bronze/shop/clicks"))
    assert names == [(folder.get_namespace(), folder.get_name())]
    made = {(dataset["namespace"], dataset["name"]) for dataset in silver["outputs"] + gold["outputs"]}
    assert {(dataset["namespace"], dataset["name"]) for dataset in gold["inputs"]} <= made
    catalog = lake.catalog()
    for event in (silver, gold):
        report = {table["name"]: table for table in lake.reports(event["job"]["name"].split(".")[1])[0]["tables"]}
        for name, dataset in outputs(event).items():
            table = catalog.load_table(name)
            assert f"file://{dataset['name']}" == table.location()
            fields = [field["name"] for field in dataset["facets"]["schema"]["fields"]]
            assert fields == [field.name for field in table.schema().fields]
            written = dataset["outputFacets"]["outputStatistics"]["rowCount"]
            assert written == len(lake.rows(name)), name
            if not name.startswith("quarantine."):
                assert dataset["facets"]["version"]["datasetVersion"] == report[name]["snapshot"]
    assert "quarantine.events" in outputs(silver)


def test_columns_know_where_they_come_from(events: list[Event]) -> None:
    silver, gold = of_stage(events, "silver"), of_stage(events, "gold")
    tables = {dataset["name"]: table_of(dataset) for dataset in silver["outputs"] + gold["outputs"]}
    tables[silver["inputs"][0]["name"]] = "clicks"
    events_table = outputs(silver)["silver.events"]
    assert sources(events_table, "price", tables) == {"clicks./price": ["TRANSFORMATION"]}
    assert sources(events_table, "region", tables) == {"clicks./region": ["IDENTITY"]}
    rows = shown(events_table["facets"]["columnLineage"]["dataset"], tables)
    assert set(rows) == {"clicks./event_id", "clicks./ts", "clicks./event_type", "clicks./price"}

    sales = outputs(gold)["gold.daily_sales"]
    assert sources(sales, "revenue", tables) == {"gold.fct_purchases.price": ["AGGREGATION"]}
    assert sources(sales, "region", tables) == {"gold.fct_purchases.region": ["IDENTITY"]}
    assert shown(sales["facets"]["columnLineage"]["dataset"], tables) == {
        "gold.fct_purchases.day": ["GROUP_BY", "FILTER"],
        "gold.fct_purchases.region": ["GROUP_BY"],
    }
    purchases = outputs(gold)["gold.fct_purchases"]
    assert sources(purchases, "day", tables) == {"silver.events.ts": ["TRANSFORMATION"]}
    # Every field that lineage names is a field of a dataset that the events describe.
    described = {
        (dataset["name"], field["name"])
        for event in (silver, gold)
        for dataset in event["inputs"] + event["outputs"]
        for field in dataset["facets"]["schema"]["fields"]
    }
    for event in (silver, gold):
        for dataset in event["outputs"]:
            facet = dataset["facets"].get("columnLineage", {"fields": {}, "dataset": []})
            named = [field for item in facet["fields"].values() for field in item["inputFields"]] + facet["dataset"]
            assert {(field["name"], field["field"]) for field in named} <= described


def test_expectations_are_told_with_their_verdicts(events: list[Event]) -> None:
    silver = of_stage(events, "silver")
    tests = {test["name"]: test for test in silver["run"]["facets"]["test"]["tests"]}
    assert tests["silver.events.enough_events"]["status"] == "pass"
    assert tests["silver.events.enough_events"]["severity"] == "error"
    assert tests["silver.events.known_type"]["status"] == "fail"
    assert tests["silver.events.known_type"]["content"].startswith("event_type IN")
    assertions = silver["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert {item["assertion"]: item["success"] for item in assertions} == {
        name: test["status"] == "pass" for name, test in tests.items()
    }


def test_the_events_are_kept_beside_the_reports_where_the_lakehouse_asks_for_it(
    lake: Lakehouse, tmp_path: Path
) -> None:
    place = manifests.with_spec(manifests.lakehouse(), lineage={"http": {"url": "http://127.0.0.1:1/never"}})
    path = manifests.write(tmp_path / "all.yaml", *manifests.sample("shop.yaml"), place)
    lake.run(path, interval=DAY)
    kept = sorted(lake.folder.glob("*/_lakehouse/runs/shop/*/*.lineage.ndjson"))
    assert [file.name for file in kept] == [
        "ingest-1.lineage.ndjson",
        "gold-1.lineage.ndjson",
        "silver-1.lineage.ndjson",
    ]
    for file in kept:
        assert [event["eventType"] for event in openlineage.events(file)] == ["START", "COMPLETE"]
    # The endpoint of a cluster is not used from a laptop.
    assert not any("lineageFault" in report for report in lake.reports())


def test_a_repeated_run_says_that_it_wrote_nothing(lake: Lakehouse, events: list[Event], tmp_path: Path) -> None:
    path = tmp_path / "again.ndjson"
    arguments = lake.run_arguments(SHOP, interval=DAY, stages=["silver"])
    assert lake.command(*arguments, "--lineage", path).status == 0
    (again,) = [event for event in openlineage.events(path) if event["eventType"] == "COMPLETE"]
    assert again["run"]["runId"] != of_stage(events, "silver")["run"]["runId"]
    tables = outputs(again)
    assert {name: table["facets"]["version"] for name, table in tables.items() if name.startswith("silver.")} == {
        name: table["facets"]["version"]
        for name, table in outputs(of_stage(events, "silver")).items()
        if name.startswith("silver.")
    }
    assert not any(table["outputFacets"] for table in tables.values())


def test_a_stage_that_fails_says_why(lake: Lakehouse, tmp_path: Path) -> None:
    silver = {
        "name": "numbers",
        "from": "numbers",
        "write": {"overwrite": {}},
        "columns": [column("n", "/n", "int")],
        "expectations": [{"name": "many", "batch": "count(*) > 5", "otherwise": "fail"}],
    }
    path = manifests.write(
        tmp_path / "few.yaml", manifests.pipeline("few", [manifests.landed("numbers", "n.ndjson", "ndjson")], [silver])
    )
    landing = tmp_path / "landing"
    landing.mkdir()
    (landing / "n.ndjson").write_text('{"n": 1}\n')
    events_path = tmp_path / "events.ndjson"
    arguments = [*lake.run_arguments(path, interval=DAY), "--landing", landing, "--lineage", events_path]
    assert lake.command(*arguments).status == 20
    *_, last = openlineage.events(events_path)
    assert last["eventType"] == "FAIL"
    assert last["run"]["facets"]["errorMessage"]["message"].startswith("ExpectationFailed: ")
    assert last["outputs"] == []
    (ingest,) = [
        event for event in openlineage.events(events_path) if event["job"]["name"] == "few.ingest" and event["inputs"]
    ]
    assert ingest["inputs"][0]["name"] == str(landing.resolve() / "n.ndjson")


class Endpoint(ServerInThread):
    """Takes events over HTTP and keeps what it was sent."""

    def __init__(self) -> None:
        taken: list[tuple[str, str, Event]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.append((self.path, self.headers.get("Authorization", ""), json.loads(body)))
                self.send_response(201)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nothing on the screen."""

        super().__init__(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        self.taken = taken


def test_an_endpoint_gets_the_events_in_order_with_the_token(lake: Lakehouse) -> None:
    with Endpoint() as endpoint:
        url = f"http://127.0.0.1:{endpoint.port}/api/v1/lineage"
        arguments = lake.run_arguments(SHOP, interval=DAY)
        outcome = lake.command(*arguments, "--lineage", url, env={"LAKEHOUSE_LINEAGE_TOKEN": "sesame"})
    assert outcome.status == 0, outcome.text
    assert {(path, token) for path, token, _ in endpoint.taken} == {("/api/v1/lineage", "Bearer sesame")}
    for _, _, event in endpoint.taken:
        openlineage.validate(event)
    assert [event["eventType"] for _, _, event in endpoint.taken] == ["START", "COMPLETE"] * 3


def test_an_endpoint_that_is_down_fails_nothing_and_is_named(lake: Lakehouse) -> None:
    url = f"http://127.0.0.1:{free_port()}/api/v1/lineage"
    outcome = lake.command(*lake.run_arguments(SHOP, interval=DAY, stages=["ingest"]), "--lineage", url)
    assert outcome.status == 0, outcome.text
    (report,) = lake.reports()
    assert f"lineage event not delivered: {url}: no connection within 10 s" in report["lineageFault"]
    assert any(line["event"] == "warning" and url in line["message"] for line in outcome.lines)
    assert list(lake.folder.glob("bronze/_lakehouse/runs/shop/*/ingest-1.lineage.ndjson"))


def test_names_of_an_s3_store_are_those_of_the_specification() -> None:
    name = S3("silver", "lake/events-0a")
    assert (name.get_namespace(), name.get_name()) == ("s3://silver", "lake/events-0a")


def broken(change: Callable[[Event], Any], event: Event) -> Event:
    """A copy of an event with one fault."""
    event = copy.deepcopy(event)
    change(event)
    return event


def test_the_check_itself_finds_faults(events: list[Event]) -> None:
    """What validates the events must be able to refuse one."""
    event = of_stage(events, "silver")
    faults: list[Callable[[Event], Any]] = [
        lambda e: e.pop("producer"),
        lambda e: e["run"].update(runId="7"),
        lambda e: e.update(eventType="DONE"),
        lambda e: e.update(eventTime="yesterday"),
        lambda e: e["job"].pop("name"),
        lambda e: e["run"]["facets"]["nominalTime"].pop("_producer"),
        lambda e: e["run"]["facets"]["parent"].update(_schemaURL="https://example.org/Parent.json"),
        lambda e: e["outputs"][0]["outputFacets"]["outputStatistics"].update(rowCount="many"),
        lambda e: e["inputs"][0]["inputFacets"].update(own=1),
        lambda e: e["outputs"][0]["facets"]["schema"]["fields"][0].update(kind="x"),
    ]
    for number, change in enumerate(faults):
        with pytest.raises(ValueError):
            openlineage.validate(broken(change, event))
            pytest.fail(f"fault {number} was taken")
