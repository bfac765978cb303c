"""Published attacks on operators of this kind, tried on ours: crashes by malformed metadata, credentials in what everybody reads, foreign objects.

The other half of the list, about what a definition makes of a pod, is operator/tests/attacks.rs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from api import COLLECTIONS, collection
from kubelet import succeeded
from scenarios import API, EXTERNAL, LAKEHOUSE, RUN, pipeline, run
from stand import Stand
from support.http_proxy import HttpRequest

JSON = dict[str, Any]
HOSTILE = ("\x00not-json{", "$(AWS_SECRET_ACCESS_KEY)", "{{=1/0}}", "-1", "9" * 400, "\n---\nkind: Pod", "x" * 200_000)
KEYS = ("scheduled-time", "generation", "definition", "attempt", "run", "stage", "trigger")


def secret(name: str, **values: str) -> JSON:
    data = {key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def alive(it: Stand) -> bool:
    return it.operators[-1].poll() is None


def test_malformed_metadata_stops_nothing(stand: Callable[[str], Stand]) -> None:
    with stand("malformed") as it:
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL))
        for number, text in enumerate(HOSTILE):
            annotations = {f"lakehouse.rs/{key}": text for key in KEYS} if len(text) < 1000 else {"podSpecPatch": text}
            of_pipeline = pipeline(EXTERNAL)
            of_pipeline["metadata"] = {"name": f"it-{number}", "annotations": annotations}
            of_run = run(f"hostile-{number}")
            of_run["metadata"]["annotations"] = annotations
            it.apply(of_pipeline, of_run)
        # Labels that say what they are not, on runs and on Jobs that nobody owns.
        for number, label in enumerate(("NaN", "-1", "x.y_z", "99999999999999999999", "")):
            labels = {f"lakehouse.rs/{key}": label.strip("-") for key in KEYS}
            of_run = run(f"labelled-{number}")
            of_run["metadata"]["labels"] = labels
            it.apply(of_run)
            stray = {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {
                    "name": f"stray-{number}",
                    "labels": {**labels, "app.kubernetes.io/managed-by": "lakehouse-operator"},
                },
                "spec": {
                    "suspend": True,
                    "template": {
                        "spec": {"restartPolicy": "Never", "containers": [{"name": "stage", "image": "none"}]}
                    },
                },
            }
            it.api.create(collection(it.name, "jobs"), stray)
        it.apply(run())

        def ended() -> bool:
            conditions = {
                c["type"]: c["status"]
                for c in (it.get("lakehouseruns", RUN) or {}).get("status", {}).get("conditions", [])
            }
            return conditions.get("Succeeded") == "True"

        it.wait("a good run beside them", ended)
        outcomes = it.wait("an outcome or a reason for each", lambda: _all_spoken_of(it))
        assert all(outcomes[f"hostile-{number}"] == "True" for number in range(len(HOSTILE))), outcomes
        assert alive(it)
        assert it.complaints() == []
        # What the operator does not own it leaves alone.
        assert {f"stray-{number}" for number in range(5)} <= {job["metadata"]["name"] for job in it.items("jobs")}


def _all_spoken_of(it: Stand) -> dict[str, str] | None:
    found = {}
    for one in it.runs():
        conditions = {c["type"]: c for c in (one.get("status") or {}).get("conditions", [])}
        if conditions.get("Succeeded", {}).get("status") not in ("True", "False"):
            return None
        found[one["metadata"]["name"]] = conditions["Succeeded"]["status"]
    return found


def test_names_as_long_as_they_may_be_do_not_meet(stand: Callable[[str], Stand]) -> None:
    with stand("long-names") as it:
        it.start()
        it.apply(LAKEHOUSE)
        names = [f"{'p' * 51}{last}" for last in "ab"]
        for name in names:
            it.apply({**pipeline({"onApply": {"start": "2024-01-01T00:00:00Z"}}), "metadata": {"name": name}})
        it.wait("two runs", lambda: len(it.runs()) == 2)
        it.apply({**run(f"{'r' * 62}a"), "spec": {**run()["spec"], "pipeline": names[0]}})
        it.apply({**run(f"{'r' * 62}b"), "spec": {**run()["spec"], "pipeline": names[1]}})
        it.wait("silence", it.settled, 120)
        jobs = [job["metadata"]["name"] for job in it.items("jobs")]
        assert len(jobs) == 4 * 3
        assert all(len(name) <= 63 for name in jobs)
        it.check_single_execution()
        assert it.complaints() == []


def test_credentials_are_nowhere_but_in_their_secrets(stand: Callable[[str], Stand]) -> None:
    canaries = [f"canary{number}of{what}" for number, what in enumerate(("id", "key", "uri", "odd", "api", "lineage"))]
    access, key, password, odd, token, lineage = canaries
    with stand("canaries") as it:
        place = f"/api/v1/namespaces/{it.name}/secrets"
        uris = {
            "uri": f"postgresql://someone:{password}@127.0.0.1:9/catalog",
            "other": f"postgresql://some one:{odd}@@127.0.0.1:nine/cata log?x={odd}",
            "third": f"mysql://someone:{odd}@127.0.0.1/catalog",
            "fourth": odd,
        }
        it.api.create(place, secret("minio-credentials", access_key_id=access, secret_access_key=key))
        it.api.create(place, secret("catalog", **uris))
        it.api.create(place, secret("api", token=token))
        it.api.create(place, secret("marquez", token=lineage))
        connection = {
            "name": "api",
            "baseUrl": "https://api.example.com",
            "authorizationSecret": {"name": "api", "key": "token"},
        }
        endpoint = {"url": "http://marquez:5000/x", "authorizationSecret": {"name": "marquez", "key": "token"}}
        for number, uri in enumerate(uris):
            spec = {
                "objectStore": {"endpoint": "http://127.0.0.1:9", "credentialsSecret": "minio-credentials"},
                "catalog": {"sql": {"uriSecret": {"name": "catalog", "key": uri}}},
                "connections": [connection],
                "lineage": {"http": endpoint},
            }
            name = "main" if number == 0 else f"other-{number}"
            it.apply({"apiVersion": API, "kind": "Lakehouse", "metadata": {"name": name}, "spec": spec})
        it.start()
        fetched = {"name": "fetched", "http": {"connection": "api", "path": "/v1?token=x"}}
        definition = pipeline(EXTERNAL)
        definition["spec"]["ingest"].append(fetched)
        it.apply(definition, run())
        it.end = lambda attempt: succeeded(attempt.stage)
        it.wait("silence", it.settled)
        it.wait("every Lakehouse to be looked at", lambda: all("status" in one for one in it.items("lakehouses")), 120)
        said = json.dumps([one["status"] for one in it.items("lakehouses")])
        # It had them in its hands.
        assert it.traffic.counts["GET", "secrets"] >= 8
        assert "Forbidden" not in said and "SecretNotFound" not in said, said
        everything = {kind: json.dumps(it.items(kind)) for kind in COLLECTIONS}
        assert (
            "LAKEHOUSE_CONNECTION_API_TOKEN" in everything["jobs"] and "LAKEHOUSE_LINEAGE_TOKEN" in everything["pods"]
        )
        everything["log"] = it.log()
        assert everything["events"] != "[]" and everything["log"]
        for canary in canaries:
            hidden = (canary, base64.b64encode(canary.encode()).decode())
            found = [where for where, text in everything.items() if any(form in text for form in hidden)]
            assert found == [], f"{canary} is in {found}"


def test_what_is_of_others_is_not_read(stand: Callable[[str], Stand]) -> None:
    asked: list[tuple[str, str]] = []

    def note(request: HttpRequest) -> None:
        if request.method == "GET":
            asked.append((request.path, request.query))

    with stand("foreign") as it:
        it.world.observe(note)
        it.start()
        it.apply(LAKEHOUSE, pipeline(EXTERNAL), run())
        it.wait("silence", it.settled)
        # With a second definition there are old ones to look through.
        changed = pipeline(EXTERNAL, parameters={"edited": "yes"})
        it.api.merge(it.path("lakehousepipelines", "it"), {"spec": changed["spec"]})
        it.wait("old definitions", lambda: any(path.endswith("/controllerrevisions") for path, _ in asked))
    collections = [(path, query) for path, query in asked if path.rsplit("/", 1)[-1] in COLLECTIONS]
    own = {"lakehouses", "lakehousepipelines", "lakehouseruns", "lakehousebackfills"}
    others = [(path, query) for path, query in collections if path.rsplit("/", 1)[-1] not in own]
    assert {path.rsplit("/", 1)[-1] for path, _ in others} == {"jobs", "pods", "controllerrevisions"}
    assert all("labelSelector=" in query for _, query in others), others
    assert not [path for path, _ in asked if path.endswith(("/secrets", "/configmaps"))]
