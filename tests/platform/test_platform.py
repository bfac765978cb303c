"""The platform chart: data survives a deleted pod, Postgres is ready for CDC, `helm test` names what does not answer."""

from __future__ import annotations

import subprocess

import pytest
import s3fs
from kubernetes import CLUSTER, Kubernetes, condition


def ready(kubernetes: Kubernetes, label: str) -> bool:
    """Whether a pod with the label exists and is ready, none terminating."""
    pods = kubernetes.list("pods", label)
    # A new pod has other conditions before it has this one.
    return (
        len(pods) == 1
        and "deletionTimestamp" not in pods[0]["metadata"]
        and condition(pods[0], "Ready").get("status") == "True"
    )


def label(service: str) -> str:
    return f"app.kubernetes.io/name={service},app.kubernetes.io/part-of=lakehouse"


def psql(kubernetes: Kubernetes, statements: str) -> str:
    """What psql prints in the pod of Postgres, on the catalog's database."""
    pod = kubernetes.list("pods", label("postgres"))[0]["metadata"]["name"]
    command = f'PGPASSWORD="$POSTGRES_PASSWORD" psql -q -h 127.0.0.1 -U "$POSTGRES_USER" -d catalog -tAc "{statements}"'
    return kubernetes.run("exec", pod, "--", "sh", "-c", command).strip()


def test_wal_level_is_logical(kubernetes: Kubernetes) -> None:
    assert psql(kubernetes, "show wal_level") == "logical"


@pytest.mark.parametrize("bucket", ["bronze", "silver", "gold"])
def test_the_buckets_exist(bucket: str, s3: dict[str, str]) -> None:
    files = s3fs.S3FileSystem(key=s3["access_key_id"], secret=s3["secret_access_key"], endpoint_url=s3["endpoint"])
    assert files.exists(bucket)


def test_data_survives_deleted_pods(kubernetes: Kubernetes, s3: dict[str, str]) -> None:
    files = s3fs.S3FileSystem(
        key=s3["access_key_id"], secret=s3["secret_access_key"], endpoint_url=s3["endpoint"], use_listings_cache=False
    )
    files.pipe("landing/survivor.txt", b"still here")
    psql(kubernetes, "drop table if exists survivor; create table survivor as select 'still here' as word")
    for service in ("minio", "postgres"):
        kubernetes.run("delete", "pod", "-l", label(service), "--wait=true")
        kubernetes.wait(f"{service} to be ready again", lambda service=service: ready(kubernetes, label(service)))
    assert kubernetes.wait("MinIO to answer", lambda: files.exists("landing/survivor.txt"), 60)
    assert files.cat("landing/survivor.txt") == b"still here"
    assert psql(kubernetes, "select word from survivor") == "still here"
    psql(kubernetes, "drop table survivor")


def test_helm_test_names_the_service_that_does_not_answer(kubernetes: Kubernetes) -> None:
    kind, name = next(
        (kind, item["metadata"]["name"])
        for kind in ("statefulset", "deployment")
        for item in kubernetes.list(kind, label("postgres"))
    )
    kubernetes.run("scale", kind, name, "--replicas=0")
    try:
        kubernetes.wait("postgres to be gone", lambda: not kubernetes.list("pods", label("postgres")), 60)
        done = subprocess.run([CLUSTER, "helm-test"], capture_output=True, text=True, timeout=300)
        assert done.returncode != 0
        assert "ostgres" in done.stdout + done.stderr
        assert "does not answer" in done.stdout + done.stderr
    finally:
        kubernetes.run("scale", kind, name, "--replicas=1")
        kubernetes.wait("postgres to be ready again", lambda: ready(kubernetes, label("postgres")))
