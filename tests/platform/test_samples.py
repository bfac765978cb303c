"""Samples on the cluster, with the rows of the laptop: generated ones in both formats, scraped pages, and uploads into Delta tables with a week that
becomes stale and is refreshed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import s3fs
import yaml
from deltalake import DeltaTable
from documents import lakehouse, pipeline, renamed_tables, run
from kubernetes import Kubernetes, condition, stage
from pyiceberg.catalog.sql import SqlCatalog
from support import checks, manifests, pages, readers
from support.lakehouse import Lakehouse
from support.pages import PageServer
from support.readers import Row

WHEN = {"processed_at", "captured_at"}
"""Columns that say when a row was made, not what it is."""
OF_THE_RUN = {*WHEN, "object"}
"""Those, and the bronze object that has the run in its name."""
DAYS = ["2024-05-01", "2024-05-02"]


def on_laptop(folder: Any, *documents: dict[str, Any]) -> Lakehouse:
    """The documents run here, the days in order."""
    manifest = folder / "sample.yaml"
    manifest.write_text(yaml.safe_dump_all(documents))
    laptop = Lakehouse(folder / "lake")
    if documents[-1]["metadata"]["name"] == "uploads":
        checks.land(laptop.folder, DAYS)
    for day in DAYS:
        laptop.run(manifest, interval=day)
    return laptop


@pytest.fixture(scope="module")
def server(gateway: str) -> Iterator[PageServer]:
    """One page of books and one of quotes, where the cluster's pods reach them."""
    names = {"/index.html": "books_listing_scrapy.html", "/": "quotes_listing_scrapy.html"}
    last = {path: pages.recorded(name).replace(b'class="next"', b'class="last"') for path, name in names.items()}
    with PageServer(last, host=gateway) as found:
        yield found


def test_scraped_pages_have_the_rows_of_the_laptop(
    kubernetes: Kubernetes, server: PageServer, catalog: SqlCatalog, tmp_path: Any
) -> None:
    place = lakehouse("main", connections=[{"name": name, "baseUrl": server.url} for name in ("books", "quotes")])
    scrape = pipeline("scrape.yaml", "scrape", trigger={"external": {}})
    for source in scrape["spec"]["ingest"]:
        # The server may be asked for any day, and as fast as we like.
        source["scrape"] |= {"history": "byInterval", "requestInterval": "0s"}
    kubernetes.apply(place, scrape)
    for day in reversed(DAYS):
        kubernetes.apply(run(f"scrape-{day}", "scrape", day))
    done = [kubernetes.wait_succeeded(f"scrape-{day}") for day in DAYS]
    assert [stage(each, "silver")["rowsQuarantined"] for each in done] == [0, 0]
    laptop = on_laptop(tmp_path, place, scrape)
    for table in ("silver.books", "silver.quotes", "gold.book_ranking", "gold.ratings"):
        ours = readers.without(laptop.rows(table), WHEN)
        assert ours, table
        assert readers.without(readers.pyiceberg_rows(catalog, table), WHEN) == ours, table


def delta(s3: dict[str, str], location: str) -> list[Row]:
    """The rows of a Delta table in MinIO, read by delta-rs."""
    options = {
        "AWS_ENDPOINT_URL": s3["endpoint"],
        "AWS_ACCESS_KEY_ID": s3["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": s3["secret_access_key"],
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_S3_ALLOW_UNSAFE_RENAME": "true",
    }
    return readers.arrow_rows(DeltaTable(f"s3://{location}", storage_options=options).to_pyarrow_table())


def seen(done: dict[str, Any]) -> dict[str, Any]:
    """What a run's gold stage saw to be stale, without when."""
    found = dict(stage(done, "gold")["stale"])
    assert found.pop("observedAt")
    return found


def stale(kubernetes: Kubernetes, name: str) -> dict[str, Any]:
    """What the status of a pipeline says is stale."""
    found: dict[str, Any] = kubernetes.get("lhp", name).get("status", {}).get("staleIntervals", {})
    return found


def side_by_side(kubernetes: Kubernetes, name: str) -> None:
    """Runs all days at once. What looks back at a day that came later is told as stale, by the one that looked last, and is refreshed."""
    for day in DAYS:
        kubernetes.apply(run(f"{name}-{day}", name, day))
    found = [stage(kubernetes.wait_succeeded(f"{name}-{day}"), "gold")["stale"] for day in DAYS]
    last = max(found, key=lambda each: datetime.fromisoformat(each["observedAt"]))
    said = kubernetes.wait(
        "the pipeline to say what is stale",
        lambda: stale(kubernetes, name).get("observedAt") == last["observedAt"] and stale(kubernetes, name),
    )
    assert said["count"] == last["count"]
    if last["count"]:
        kubernetes.apply(run(f"{name}-refresh", name, DAYS[-1], stages=["gold"], refresh="Stale"))
        assert seen(kubernetes.wait_succeeded(f"{name}-refresh")) == {"count": 0}


@pytest.mark.parametrize("form", ["iceberg", "delta"])
@pytest.mark.parametrize("sample", ["sensors", "shop", "pulse"])
def test_generated_samples_have_the_rows_of_the_laptop(
    sample: str, form: str, kubernetes: Kubernetes, s3: dict[str, str], catalog: SqlCatalog, tmp_path: Any
) -> None:
    name = f"{sample}-{form}"
    document = manifests.in_format(pipeline(f"{sample}.yaml", name, trigger={"external": {}}), form)
    document = renamed_tables(document, f"{sample}_{form}")
    kubernetes.apply(lakehouse("main"), document)
    if document["spec"].get("gold"):
        side_by_side(kubernetes, name)
    else:
        for day in DAYS:
            kubernetes.apply(run(f"{name}-{day}", name, day))
            kubernetes.wait_succeeded(f"{name}-{day}")
    laptop = on_laptop(tmp_path, lakehouse("main"), document)
    for table, _ in manifests.tables(document):
        place = table.replace(".", "/")
        ours = laptop.rows(table) if form == "iceberg" else readers.delta_rows(laptop.folder / place)
        theirs = readers.pyiceberg_rows(catalog, table) if form == "iceberg" else delta(s3, place)
        assert ours, table
        assert readers.without(theirs, OF_THE_RUN) == readers.without(ours, OF_THE_RUN), table


def test_uploads_in_delta_are_refreshed_when_an_earlier_day_comes_late(
    kubernetes: Kubernetes, s3: dict[str, str], catalog: SqlCatalog, tmp_path: Any
) -> None:
    store = s3fs.S3FileSystem(key=s3["access_key_id"], secret=s3["secret_access_key"], endpoint_url=s3["endpoint"])
    for key, content in checks.files(DAYS).items():
        store.pipe(f"landing/{key}", content)
    uploads = pipeline("uploads.yaml", "uploads", trigger={"external": {}})
    kubernetes.apply(lakehouse("main"), uploads)
    first, later = DAYS
    kubernetes.apply(run(f"uploads-{later}", "uploads", later))
    done = kubernetes.wait_succeeded(f"uploads-{later}")
    assert seen(done) == {"count": 0}
    # The earlier day comes late: the later one has looked back at nothing.
    kubernetes.apply(run(f"uploads-{first}", "uploads", first))
    done = kubernetes.wait_succeeded(f"uploads-{first}")
    assert seen(done) == {"count": 1, "oldest": [f"{later}T00:00:00Z"]}
    said = kubernetes.wait(
        "the pipeline to say what is stale",
        lambda: stale(kubernetes, "uploads").get("count") and stale(kubernetes, "uploads"),
    )
    assert (said["oldest"], said["run"]) == ([f"{later}T00:00:00Z"], f"uploads-{first}")
    head, row = kubernetes.run("get", "lhp", "uploads").splitlines()
    assert row[head.index("STALE") :].split()[0] == "1"
    kubernetes.apply(run("uploads-refresh", "uploads", first, stages=["gold"], refresh="Stale"))
    refreshed = kubernetes.wait_succeeded("uploads-refresh")
    assert seen(refreshed) == {"count": 0}
    kubernetes.wait("the pipeline to say that nothing is", lambda: stale(kubernetes, "uploads").get("count") == 0)
    laptop = on_laptop(tmp_path, lakehouse("main"), uploads)
    for place in ("silver/field_checks", "gold/fct_checks"):
        ours = readers.without(readers.delta_rows(laptop.folder / place), WHEN)
        assert ours, place
        assert readers.without(delta(s3, place), WHEN) == ours, place
    for table in ("silver.station_readings", "gold.calibration"):
        ours = readers.without(laptop.rows(table), WHEN)
        assert ours, table
        assert readers.without(readers.pyiceberg_rows(catalog, table), WHEN) == ours, table


def test_a_refresh_without_gold_is_refused_by_the_api_server(kubernetes: Kubernetes) -> None:
    document = run("uploads-refused", "uploads", DAYS[0], stages=["silver"], refresh="Stale")
    with pytest.raises(AssertionError, match="it is the gold stage that refreshes"):
        kubernetes.apply(document)
    assert condition(kubernetes.get("lhp", "uploads"), "Ready").get("status") == "True"
