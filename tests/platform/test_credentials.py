"""After all other tests: no credential of the cluster stands anywhere but in its Secret. Values are random, so each is its own canary.

Those of Airflow's alerts, which test_airflow.py gave to Airflow alone, stand nowhere outside its database.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote, urlsplit

import s3fs
from canaries import planted
from kubernetes import KubectlError, Kubernetes
from operator_log import OperatorLog

# Where something could have been written down. Secrets are the one place where they belong.
KINDS = (
    *("lakehouses", "lakehousepipelines", "lakehouseruns", "lakehousebackfills", "controllerrevisions"),
    *("jobs", "pods", "configmaps", "events", "leases", "deployments", "statefulsets", "replicasets", "services"),
)
# Names, which are no secrets.
NAMES = {"username", "access-key-id", "user"}
# Shorter ones would be found by chance.
SHORTEST = 8


def credentials(kubernetes: Kubernetes) -> dict[str, str]:
    """Every secret value of the namespace, by where it stands."""
    found = {}
    for secret in kubernetes.list("secrets"):
        if secret.get("type") in ("helm.sh/release.v1", "kubernetes.io/service-account-token"):
            continue
        for key, value in (secret.get("data") or {}).items():
            text = base64.b64decode(value).decode(errors="replace").strip()
            # Of a URI the password.
            text = urlsplit(text).password or text if "://" in text else text
            if key not in NAMES and len(text) >= SHORTEST:
                found[f"{secret['metadata']['name']}.{key}"] = text
    return found


def forms(value: str) -> set[str]:
    """How a value may be written."""
    return {value, quote(value, safe=""), base64.b64encode(value.encode()).decode(), json.dumps(value)[1:-1]}


def showing(texts: dict[str, str], secrets: dict[str, str]) -> list[tuple[str, str]]:
    """Which text has which credential."""
    return [
        (where, whose)
        for whose, value in secrets.items()
        for where, text in texts.items()
        if any(form in text for form in forms(value))
    ]


def logs(kubernetes: Kubernetes, pods: list[dict[str, Any]]) -> dict[str, str]:
    """What the containers said that are there."""
    found = {}
    for pod in pods:
        name = pod["metadata"]["name"]
        for flags in ([], ["--previous"]):
            try:
                found[f"log of {name} {' '.join(flags)}"] = kubernetes.run("logs", name, "--all-containers", *flags)
            except KubectlError:
                # It has gone meanwhile, has not started, or there is no previous one.
                continue
    return found


def test_no_credential_shows_anywhere(kubernetes: Kubernetes, s3: dict[str, str], operator_log: OperatorLog) -> None:
    secrets = credentials(kubernetes) | planted()
    assert {"minio-credentials.secret-access-key", "catalog.password", "catalog.uri"} <= secrets.keys()
    assert any(name.startswith("airflow.") for name in secrets)
    # What a text is searched for is found where it is.
    hidden = json.dumps(kubernetes.list("secrets"))
    assert {whose for _, whose in showing({"Secrets": hidden}, {"it": secrets["catalog.password"]})} == {"it"}

    texts = {f"{kind} of all namespaces": kubernetes.run("get", kind, "-A", "-o", "json") for kind in KINDS}
    texts |= logs(kubernetes, kubernetes.list("pods"))
    texts["the operators' logs"] = operator_log.text()
    assert '"message"' in texts["the operators' logs"]
    files = s3fs.S3FileSystem(
        key=s3["access_key_id"], secret=s3["secret_access_key"], endpoint_url=s3["endpoint"], use_listings_cache=False
    )
    kept = [
        path
        for bucket in ("bronze", "silver", "gold")
        for path in files.find(f"{bucket}/_lakehouse")
        if path.endswith((".json", ".ndjson", ".html"))
    ]
    assert any(path.endswith(".log.ndjson") for path in kept), "archived logs"
    texts |= {path: body.decode(errors="replace") for path, body in files.cat(kept).items()}
    assert showing(texts, secrets) == []
