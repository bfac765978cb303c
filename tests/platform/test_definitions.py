"""Definitions that must be refused, and what a user is told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from documents import ROOT, lakehouse, pipeline, run
from kubernetes import KubectlError, Kubernetes, condition
from support.waiting import wait_until

REFUSED = sorted((ROOT / "deploy" / "refused").glob("*.yaml"))


def expectation(file: Path) -> str:
    """The part of the message that the file's first line promises."""
    first = file.read_text().splitlines()[0]
    assert first.startswith("# expect: "), f"{file.name} begins with `# expect: …`"
    return first.removeprefix("# expect: ").strip()


@pytest.mark.parametrize("file", REFUSED, ids=lambda f: f.stem)
def test_a_refused_sample_is_refused_here_too(kubernetes: Kubernetes, file: Path) -> None:
    """By the API server where schema or CEL say so, else by a condition."""
    documents = [d for d in yaml.safe_load_all(file.read_text()) if d]
    try:
        kubernetes.apply(*documents)
    except KubectlError as error:
        assert (
            "unknown field" in str(error)
            or "Invalid value" in str(error)
            or "Unsupported value" in str(error)
            or "Required value" in str(error)
            or "is invalid" in str(error)
            or "must be no more than" in str(error)
        ), str(error)
        return
    kinds = {"LakehousePipeline": ("lhp", "Ready"), "LakehouseBackfill": ("lhb", "Succeeded")}
    objects = [(*kinds[d["kind"]], d["metadata"]["name"]) for d in documents if d["kind"] in kinds]

    def verdicts() -> list[str]:
        found = [condition(kubernetes.get(kind, name), verdict) for kind, verdict, name in objects]
        return [verdict["message"] for verdict in found if verdict.get("status") == "False"]

    def refused() -> bool:
        """Not by the first verdict: what one command applies is met one by one, a pipeline before its Lakehouse."""
        return any(expectation(file) in message for message in verdicts())

    try:
        wait_until(f"the refusal of {file.name}", refused, 30, state=lambda: "\n".join(verdicts()))
    finally:
        for kind, _, name in objects:
            kubernetes.delete(kind, name)


@pytest.mark.parametrize("file", sorted((ROOT / "deploy").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_sample_is_accepted(kubernetes: Kubernetes, file: Path) -> None:
    kubernetes.run("apply", "--dry-run=server", "-f", str(file))


def test_explain_has_the_docs(kubernetes: Kubernetes) -> None:
    text = kubernetes.run("explain", "lhp.spec.silver.columns.onError")
    assert "lose digits or overflow" in text
    assert "JSON Pointer" in kubernetes.run("explain", "lakehousepipelines.spec.silver.columns.from")


def test_a_run_is_immutable_but_for_its_state(kubernetes: Kubernetes) -> None:
    kubernetes.apply(run("immutable", "no-such-pipeline", "2024-03-01", state="Suspended"))
    with pytest.raises(KubectlError, match="interval is immutable"):
        kubernetes.apply(run("immutable", "no-such-pipeline", "2024-03-02", state="Suspended"))
    kubernetes.run("patch", "lhr", "immutable", "--type=merge", "-p", '{"spec":{"state":"Cancelled"}}')
    with pytest.raises(KubectlError, match="stays Cancelled"):
        kubernetes.run("patch", "lhr", "immutable", "--type=merge", "-p", '{"spec":{"state":"Active"}}')
    kubernetes.delete("lhr", "immutable")


def test_a_lakehouse_says_what_does_not_answer(kubernetes: Kubernetes) -> None:
    broken = lakehouse("broken")
    broken["spec"]["objectStore"]["endpoint"] = "http://nowhere.lakehouse.svc:9000"
    kubernetes.apply(broken)
    try:
        store = kubernetes.wait(
            "StoreReady=False",
            lambda: (c := condition(kubernetes.get("lh", "broken"), "StoreReady")).get("status") == "False" and c,
            60,
        )
        assert "nowhere.lakehouse.svc:9000" in store["message"]
        catalog = condition(kubernetes.get("lh", "broken"), "CatalogReady")
        assert catalog["status"] == "True", catalog
    finally:
        kubernetes.delete("lh", "broken")


def test_a_wrong_secret_is_named(kubernetes: Kubernetes) -> None:
    wrong = lakehouse("wrong-secret")
    wrong["spec"]["objectStore"]["credentialsSecret"] = "no-such-secret"
    kubernetes.apply(wrong)
    try:
        store = kubernetes.wait(
            "StoreReady not True",
            lambda: (
                (c := condition(kubernetes.get("lh", "wrong-secret"), "StoreReady")).get("status")
                in ("False", "Unknown")
                and c
            ),
            60,
        )
        assert "no-such-secret" in store["message"]
    finally:
        kubernetes.delete("lh", "wrong-secret")


def test_an_unknown_connection_is_a_condition_with_the_field(kubernetes: Kubernetes) -> None:
    document = pipeline("crypto.yaml", "unconnected", trigger={"external": {}})
    document["spec"]["ingest"][0]["http"]["connection"] = "nowhere"
    kubernetes.apply(document)
    try:
        ready = kubernetes.wait("a verdict", lambda: condition(kubernetes.get("lhp", "unconnected"), "Ready"), 30)
        assert ready["status"] == "False"
        assert "connection" in ready["message"] and "`nowhere`" in ready["message"]
    finally:
        kubernetes.delete("lhp", "unconnected")


def test_secrets_are_in_no_object_that_a_user_may_read(kubernetes: Kubernetes) -> None:
    secret = kubernetes.get("secret", "minio-credentials")["data"]["secret-access-key"]
    plain = subprocess.run(["base64", "-d"], input=secret, capture_output=True, text=True, check=True).stdout
    everything = json.dumps(
        [
            kubernetes.list(kind)
            for kind in ("lakehouses", "lakehousepipelines", "lakehouseruns", "jobs", "pods", "configmaps", "events")
        ]
    )
    logs = kubernetes.run("logs", "-l", "app.kubernetes.io/name=lakehouse-operator", "--tail=-1")
    assert plain not in everything
    assert plain not in logs
