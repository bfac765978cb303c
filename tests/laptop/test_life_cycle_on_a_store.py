"""Lineage, a lost catalog and an erased key on MinIO and Postgres, where names and deletions are not those of a folder."""

import json
from pathlib import Path

import pytest
from openlineage.client.naming.dataset import S3
from support import manifests, openlineage, readers
from support.jobs import run_job
from support.lakehouse import Json, Lakehouse, Outcome
from support.minio import Minio
from support.postgres import Postgres

PIPELINE, NAMESPACE, PREFIX = "clicks", "prod", "life-cycle"
DAY = {"start": "2024-03-01T00:00:00Z", "end": "2024-03-02T00:00:00Z"}
RUN = "clicks-2024-03-01-0a0b0c0d"
SOURCE = {
    "name": "events",
    "clickstream": {"events": 2000, "users": 50, "products": 5, "seed": 3, "faultsPerTenThousand": 0},
}
TABLE = {
    "name": "clicks",
    "from": "events",
    "table": {"format": "iceberg"},
    "write": {"replaceInterval": {"column": "ts", "outside": "quarantine"}},
    "columns": [
        manifests.column("event_id", "/event_id", "string", required=True),
        manifests.column("ts", "/ts", "timestamptz", required=True),
        manifests.column("user_id", "/user_id", "string", required=True),
        manifests.column("price", "/price", "decimal(10,2)", required=True),
    ],
}


class Cluster:
    """A lakehouse of jobs, and the `lakehouse` command on its tables."""

    def __init__(self, minio: Minio, postgres: Postgres, folder: Path) -> None:
        self.minio, self.postgres, self.folder = minio, postgres, folder
        self.database = "life_cycle"
        self._command = Lakehouse(folder)

    @property
    def catalog_uri(self) -> str:
        """The catalog."""
        return f"{self.postgres.uri.rpartition('/')[0]}/{self.database}"

    def job(self, stage: str, work: Json) -> None:
        """One stage, as its image does it."""
        spec = {
            "contract": 1,
            "pipeline": PIPELINE,
            "owner": f"{NAMESPACE}/{PIPELINE}",
            "run": {"name": "clicks-2024-03-01", "id": RUN, "createdAt": "2024-03-04T05:06:07Z"},
            "attempt": 1,
            "interval": DAY,
            "grain": "daily",
            "store": {"s3": self.minio.location(PREFIX)},
            "lineage": {"namespace": "production"},
            "work": {stage: work},
        }
        environment = {**self.minio.environment(), "LAKEHOUSE_CATALOG_URI": self.catalog_uri}
        outcome = run_job(stage, spec, self.folder / stage, environment)
        assert outcome.status == 0, outcome.log

    def command(self, *arguments: str | Path, bronze: bool = False) -> Outcome:
        """`lakehouse` on the tables of the store."""
        place: list[str | Path] = ["--catalog-uri", self.catalog_uri, "--store-endpoint", self.minio.endpoint]
        place += ["--silver-bucket", f"silver/{PREFIX}", "--gold-bucket", f"gold/{PREFIX}"]
        place += ["--bronze-bucket", f"bronze/{PREFIX}"] if bronze else []
        return self._command.command(*arguments, *place, env=self.minio.environment())

    def rows(self) -> list[readers.Row]:
        """The table, as PyIceberg reads it."""
        uri = self.catalog_uri.replace("postgresql://", "postgresql+psycopg2://")
        return readers.pyiceberg_rows(readers.postgres_catalog(uri, self.minio.properties()), "silver.clicks")

    def objects(self, layer: str) -> dict[str, bytes]:
        """The objects of a layer by their keys."""
        files, root = self.minio.files(), f"{layer}/{PREFIX}/"
        return {key.removeprefix(root): files.cat_file(key) for key in files.find(root)}


@pytest.fixture(scope="module")
def cluster(minio: Minio, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A day of events."""
    cluster = Cluster(minio, postgres, tmp_path_factory.mktemp("cluster"))
    postgres.execute("postgres", f"create database {cluster.database}")
    cluster.job("ingest", {"sources": [{"name": "events", "source": {"clickstream": SOURCE["clickstream"]}}]})
    resolved = {"table": TABLE, "decode": "ndjson", "definitionDigest": "one"}
    cluster.job("silver", {"input": {"run": RUN}, "tables": [resolved]})
    return cluster


def test_events_lie_beside_the_reports_and_name_buckets(cluster: Cluster) -> None:
    bronze, silver = cluster.objects("bronze"), cluster.objects("silver")
    key = f"_lakehouse/runs/{PIPELINE}/{RUN}/{{}}-1.lineage.ndjson"
    events = [
        json.loads(line)
        for body in (bronze[key.format("ingest")], silver[key.format("silver")])
        for line in body.decode().splitlines()
    ]
    for event in events:
        openlineage.validate(event)
        assert event["job"]["namespace"] == "production"
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"] * 2
    (written,), (read,), (table,) = events[1]["outputs"], events[3]["inputs"], events[3]["outputs"]
    name = S3("bronze", f"{PREFIX}/{PIPELINE}/events")
    for dataset in (written, read):
        assert (dataset["namespace"], dataset["name"]) == (name.get_namespace(), name.get_name())
    assert table["namespace"] == "s3://silver"
    assert table["name"].startswith(f"{PREFIX}/clicks-")
    assert table["facets"]["columnLineage"]["fields"]["price"]["inputFields"][0]["name"] == name.get_name()


def test_a_new_catalog_is_filled_from_the_store(cluster: Cluster) -> None:
    before = cluster.rows()
    cluster.database = "life_cycle_again"
    cluster.postgres.execute("postgres", f"create database {cluster.database}")
    outcome = cluster.command("register", "--all", "-o", "json")
    assert outcome.status == 0, outcome.text
    assert [(line["table"], line["registration"]) for line in outcome.lines] == [("silver.clicks", "registered")]
    assert cluster.rows() == before


def test_a_key_is_erased(cluster: Cluster, tmp_path: Path) -> None:
    before = cluster.rows()
    user = before[0]["user_id"]
    manifest = manifests.write(tmp_path / "clicks.yaml", manifests.pipeline(PIPELINE, [SOURCE], [TABLE]))
    arguments = ["erase", "-f", manifest, "--key", f"user_id={user}", "-o", "json"]
    untouched = cluster.objects("bronze")
    other = cluster.command(*arguments, "-n", "elsewhere", bronze=True)
    assert other.status != 0
    assert "TableOwnedByOther" in other.text
    assert cluster.objects("bronze") == untouched, "who owns the tables is asked before anything is written"
    outcome = cluster.command(*arguments, "-n", NAMESPACE, bronze=True)
    assert outcome.status == 0, outcome.text
    assert cluster.rows() == [row for row in before if row["user_id"] != user]
    bronze = cluster.objects("bronze")
    assert not any(user.encode() in body for body in bronze.values())
    (manifest_body,) = [json.loads(body) for key, body in bronze.items() if "/_manifests/" in key]
    (entry,) = manifest_body["sources"][0]["objects"]
    assert len(bronze[entry["key"]]) == entry["bytes"]
    assert len([key for key in bronze if key.endswith(".ndjson") and "/dt=" in key]) == 1
    # One data file, one state.
    data = [key for key in cluster.objects("silver") if key.endswith(".parquet")]
    assert len(data) == 1
