"""A lakehouse of a test's own, within the shared store and the shared server, and what readers see of it."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from faults import specs
from pyarrow import parquet
from pyiceberg.table import Table
from pyiceberg.table.snapshots import ancestors_of
from support import readers
from support.minio import Minio
from support.postgres import Postgres

COMMIT_TOKEN = "lakehouse.commit-token"
RESULTS = ("quality", "results")
OF_THE_ATTEMPT = {"snapshot", "checked_at"}
"""Columns of the results that two runs of the same do not have in common."""
LAYER_OF = {"ingest": "bronze", "silver": "silver", "gold": "gold", "maintenance": "silver"}

# Per source: digest, length and number of records of each object.
Ingested = dict[str, list[tuple[str, int, int | None]]]


@dataclass(frozen=True)
class TableState:
    """A table as a reader finds it, in a form that can be compared between lakes."""

    rows: pa.Table
    # Commit tokens of its snapshots, oldest first.
    commits: tuple[str, ...]

    def difference(self, other: "TableState") -> str:
        """What is not the same; empty when nothing."""
        if self.commits != other.commits:
            return f"commits {self.commits} instead of {other.commits}"
        if self.rows.schema.names != other.rows.schema.names:
            return f"columns {self.rows.schema.names} instead of {other.rows.schema.names}"
        if not self.rows.equals(other.rows):
            return f"{self.rows.num_rows} rows that are not the {other.rows.num_rows} expected"
        return ""


def sorted_rows(rows: pa.Table) -> pa.Table:
    """The rows in an order of their own: equal multisets give equal tables."""
    return rows.sort_by([(name, "ascending") for name in rows.column_names]).combine_chunks()


class Lake:
    """Prefixes in the buckets of a store, and a database."""

    def __init__(self, minio: Minio, postgres: Postgres, database: str, layers: dict[str, str]) -> None:
        self.database = database
        # Location of each layer, `bucket/prefix`.
        self.layers = layers
        self._minio, self._postgres = minio, postgres
        self._files = minio.files()

    def catalog_uri(self, port: int) -> str:
        """The catalog through the server or a proxy at `port`."""
        return f"{self._postgres.uri_at(port).rpartition('/')[0]}/{self.database}"

    def keys(self, layer: str, under: str = "") -> list[str]:
        """Keys of a layer below a folder, relative to the layer, in order."""
        root = f"{self.layers[layer]}/"
        return sorted(key.removeprefix(root) for key in self._files.find(root + under))

    def read(self, layer: str, key: str) -> bytes:
        content: bytes = self._files.cat_file(f"{self.layers[layer]}/{key}")
        return content

    def write(self, layer: str, key: str, content: bytes) -> None:
        self._files.pipe_file(f"{self.layers[layer]}/{key}", content)

    def report(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The report of an attempt."""
        stage = next(iter(spec["work"]))
        key = f"_lakehouse/runs/{specs.PIPELINE}/{spec['run']['id']}/{stage}-{spec['attempt']}.json"
        report: dict[str, Any] = json.loads(self.read(LAYER_OF[stage], key))
        return report

    def leases(self) -> list[str]:
        """What is leased, by whoever."""
        return self._sql("select resource from lakehouse_leases order by 1").split()

    def expire_leases(self) -> None:
        """Lets the time of all leases run out at once."""
        if self._sql("select to_regclass('lakehouse_leases') is not null") == "t":
            self._sql("update lakehouse_leases set expires_at = 0")

    def _sql(self, sql: str) -> str:
        return self._postgres.execute(self.database, sql)

    def tables(self) -> dict[str, TableState]:
        """Every table with all its rows; fails when a file that any of its snapshots needs is missing."""
        uri = self.catalog_uri(self._postgres.port).replace("postgresql://", "postgresql+psycopg2://")
        catalog = readers.postgres_catalog(uri, self._minio.properties())
        try:
            names = [".".join(name) for space in catalog.list_namespaces() for name in catalog.list_tables(space)]
            iceberg = {name: self._iceberg_table(catalog.load_table(name)) for name in names}
        finally:
            # A database with connections cannot be copied.
            catalog.engine.dispose()
        return dict(sorted((iceberg | self._parquet_tables() | self._delta_tables()).items()))

    def _iceberg_table(self, table: Table) -> TableState:
        present = {f"s3://{key}" for key in self._files.find(table.location().removeprefix("s3://"))}
        lineage = {snapshot.snapshot_id for snapshot in ancestors_of(table.current_snapshot(), table.metadata)}
        commits = []
        for snapshot in sorted(table.metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0):
            needed = {snapshot.manifest_list}
            for manifest in snapshot.manifests(table.io):
                entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                needed |= {manifest.manifest_path} | {entry.data_file.file_path for entry in entries}
            missing = sorted(needed - present)
            assert not missing, f"snapshot {snapshot.snapshot_id} of {table.name()} needs {missing}"
            # What a dead attempt left on a branch was never part of the table.
            if snapshot.snapshot_id in lineage:
                commits.append(snapshot.summary.additional_properties.get(COMMIT_TOKEN, "") if snapshot.summary else "")
        rows = table.scan().to_arrow()
        own = [name for name in rows.column_names if table.name() != RESULTS or name not in OF_THE_ATTEMPT]
        return TableState(sorted_rows(rows.select(own)), tuple(commits))

    def _parquet_tables(self) -> dict[str, TableState]:
        """Every plain Parquet table of the silver layer, whose newest manifest must name exactly the files that a listing shows."""
        found = {}
        keys = self.keys("silver")
        for folder in sorted({key.split("/_manifest/")[0] for key in keys if "/_manifest/" in key}):
            newest = max(key for key in keys if key.startswith(f"{folder}/_manifest/"))
            manifest = json.loads(self.read("silver", newest))
            live = {file["key"] for file in manifest["files"]}
            listed = {key for key in keys if key.startswith(f"{folder}/") and key.endswith(".parquet")}
            assert live == listed, f"{folder}: missing {sorted(live - listed)}, left {sorted(listed - live)}"
            rows = [parquet.read_table(pa.BufferReader(self.read("silver", key))) for key in sorted(live)]
            tokens = [recorded["entry"]["token"] for _, recorded in sorted(manifest["ledger"].items())]
            name = "{namespace}.{name}".format(**manifest["table"])
            state = sorted_rows(pa.concat_tables(rows)) if rows else pa.table({})
            found[name] = TableState(state, (f"generation {manifest['generation']}", *tokens))
        return found

    def _delta_folders(self) -> list[str]:
        keys = self.keys("silver")
        return sorted({key.split("/_delta_log/")[0] for key in keys if "/_delta_log/" in key})

    def copy_delta_tables(self, other: "Lake") -> None:
        """Takes the Delta tables of another lake's silver layer; their paths are relative."""
        keys = [key for folder in other._delta_folders() for key in other.keys("silver", f"{folder}/")]
        if keys:
            sources, targets = ([f"{lake.layers['silver']}/{key}" for key in keys] for lake in (other, self))
            self._files.copy(sources, targets)
            self._files.invalidate_cache()

    def _delta_tables(self) -> dict[str, TableState]:
        """Every Delta table of the silver layer as delta-rs reads it, none of whose versions lacks a file."""
        found = {}
        keys = self.keys("silver")
        for folder in self._delta_folders():
            table = DeltaTable(f"s3://{self.layers['silver']}/{folder}", storage_options=self._minio.delta_options())
            tokens = []
            for version in range(table.version() + 1):
                lines = self.read("silver", f"{folder}/_delta_log/{version:020}.json").splitlines()
                actions = [json.loads(line) for line in lines]
                needed = {f"{folder}/{action['add']['path']}" for action in actions if "add" in action}
                missing = sorted(needed - set(keys))
                assert not missing, f"version {version} of {folder} needs {missing}"
                batches = [action["txn"]["appId"].split("/", 2)[2] for action in actions if "txn" in action]
                tokens += [json.loads(batch)["token"] for batch in batches]
            space, _, name = folder.rpartition("/")
            namespace = "quarantine" if space else "silver"
            found[f"{namespace}.{name}"] = TableState(sorted_rows(table.to_pyarrow_table()), tuple(tokens))
        return found

    def ingested(self, day: dict[str, str]) -> Ingested:
        """The objects of each source, after comparing them with the only manifest of the day."""
        manifests = self.keys("bronze", f"{specs.PIPELINE}/_manifests/dt={day['start'][:10]}/")
        assert len(manifests) == 1, f"one manifest makes an ingest: {manifests}"
        found: Ingested = {}
        for source in json.loads(self.read("bronze", manifests[0]))["sources"]:
            for entry in source["objects"]:
                content = self.read("bronze", entry["key"])
                assert len(content) == entry["bytes"], f"{entry['key']} has another length"
                digest = hashlib.sha256(content).hexdigest()
                assert digest == entry["sha256"], f"{entry['key']} is not what its manifest says"
            objects = [(entry["sha256"], entry["bytes"], entry.get("records")) for entry in source["objects"]]
            found[source["name"]] = objects
        return found


def counts(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What a report says happened to the rows; what may differ between two lakes or two attempts is left out."""
    rows = ("rowsRead", "rowsWritten", "rowsQuarantined", "rowsDeduplicated", "rowsDropped")
    kept = ("name", *rows, "quarantineReasons", "expectations")
    return [{name: table.get(name) for name in kept} for table in report["tables"]]
