"""Manifests of the tests: samples of deploy/, and small pipelines written for one case."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from support.paths import DEPLOY

Document = dict[str, Any]
API_VERSION = "lakehouse.rs/v1alpha1"


def sample(file: str) -> list[Document]:
    """The documents of a file under deploy/."""
    return [document for document in yaml.safe_load_all((DEPLOY / file).read_text()) if document]


def sample_pipeline(file: str) -> Document:
    """The pipeline of a file under deploy/."""
    return next(document for document in sample(file) if document["kind"] == "LakehousePipeline")


def lakehouse(connections: Sequence[Document] = (), name: str = "main") -> Document:
    """A Lakehouse; on a laptop its store and catalog are the local folder."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Lakehouse",
        "metadata": {"name": name},
        "spec": {
            "objectStore": {"endpoint": "http://minio.lakehouse.svc:9000", "credentialsSecret": "minio-credentials"},
            "catalog": {"sql": {"uriSecret": {"name": "catalog", "key": "uri"}}},
            "connections": list(connections),
        },
    }


def archive(name: str, url: str) -> Document:
    """A connection that can be asked for the past, as the replay server can."""
    return {"name": name, "baseUrl": url, "archive": {"query": {"at": "{{ interval.start }}"}}}


def pipeline(name: str, ingest: Sequence[Document], silver: Sequence[Document] = (), **spec: Any) -> Document:
    """A daily pipeline on the Lakehouse `main`."""
    return {
        "apiVersion": API_VERSION,
        "kind": "LakehousePipeline",
        "metadata": {"name": name},
        "spec": {"lakehouse": "main", "interval": "daily", "ingest": list(ingest), "silver": list(silver), **spec},
    }


def with_spec(document: Document, **spec: Any) -> Document:
    """A copy of a document with fields of its spec replaced."""
    changed = copy.deepcopy(document)
    changed["spec"].update(spec)
    return changed


def tables(pipeline: Document) -> Iterator[tuple[str, Document]]:
    """Every table of a pipeline by its name."""
    for layer in ("silver", "gold"):
        for table in pipeline["spec"].get(layer, ()):
            yield f"{layer}.{table['name']}", table


def in_format(pipeline: Document, form: str) -> Document:
    """A copy of a pipeline with tables of one format. Partition transforms, which Delta does not have, are left out there."""
    changed = copy.deepcopy(pipeline)
    for _, table in tables(changed):
        layout = table.setdefault("table", {})
        layout["format"] = form
        if form == "delta" and "partitionBy" in layout:
            layout["partitionBy"] = [field for field in layout["partitionBy"] if "(" not in field]
    return changed


def write(path: Path, *documents: Document) -> Path:
    """Writes a manifest file."""
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return path


def column(name: str, origin: str, kind: str, **more: Any) -> Document:
    """A silver column."""
    return {"name": name, "from": origin, "type": kind, **more}


def landed(name: str, path: str, form: str, **more: Any) -> Document:
    """A source of uploaded files."""
    return {"name": name, "files": {"path": path, "format": form, **more}}


def fetched(name: str, path: str, **more: Any) -> Document:
    """A source behind the connection `api`, with the records at /data and no patience."""
    return {"name": name, "http": {"connection": "api", "path": path, "records": "/data", "retries": 0, **more}}
