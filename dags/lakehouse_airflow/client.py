"""The few calls to the Kubernetes API that a task makes: read a pipeline, make or adopt a run, cancel one."""

from __future__ import annotations

import json
from typing import Any, Protocol

from kubernetes.client import ApiException

from lakehouse_airflow.naming import SUBMISSION_LABEL, Grain
from lakehouse_airflow.runs import GROUP, PIPELINES, RUNS, VERSION, Adopt, Conflict, Request, Run, decide

ROUNDS = 5
"""How often a task reads again after somebody else made the run with the same name."""

CANCELLED = {"spec": {"state": "Cancelled"}}
MERGE_PATCH = "application/merge-patch+json"
"""Said with every patch: the client's own choice is refused for custom resources."""


class CustomObjects(Protocol):
    """What is used of `kubernetes.client.CustomObjectsApi`."""

    def get_namespaced_custom_object(self, group: str, version: str, namespace: str, plural: str, name: str) -> Any: ...
    def list_namespaced_custom_object(
        self, group: str, version: str, namespace: str, plural: str, *, label_selector: str
    ) -> Any: ...
    def create_namespaced_custom_object(
        self, group: str, version: str, namespace: str, plural: str, body: Any
    ) -> Any: ...
    def patch_namespaced_custom_object(
        self, group: str, version: str, namespace: str, plural: str, name: str, body: Any, *, _content_type: str
    ) -> Any: ...


class Refused(Exception):
    """The cluster will not do what is asked, however often: the text is the one line that says why."""


def reason_of(error: ApiException) -> str:
    """What the API server says, without the headers around it."""
    try:
        message = json.loads(error.body or "").get("message")
    except (ValueError, AttributeError):
        message = None
    return str(message or error.reason or error.status)


class Lakehouse:
    """The runs and pipelines of one namespace."""

    def __init__(self, api: CustomObjects, namespace: str) -> None:
        self._api = api
        self.namespace = namespace

    def grain(self, pipeline: str) -> Grain:
        """`spec.interval` of a pipeline; raises Refused when there is no such pipeline."""
        try:
            found = self._api.get_namespaced_custom_object(GROUP, VERSION, self.namespace, PIPELINES, pipeline)
        except ApiException as error:
            if error.status == 404:
                raise Refused(f"no LakehousePipeline {pipeline} in namespace {self.namespace}") from error
            raise
        grain: Grain = found["spec"]["interval"]
        return grain

    def make_or_adopt(self, request: Request) -> Run:
        """The run that does what is asked: made now, found unfinished, or found done under the same key.

        Raises Refused when the API server does not accept the run, or another one is in the way.
        """
        selector = f"{SUBMISSION_LABEL}={request.submission.label}"
        for _ in range(ROUNDS):
            found = self._api.list_namespaced_custom_object(
                GROUP, VERSION, self.namespace, RUNS, label_selector=selector
            )
            match decide(found["items"], request):
                case Adopt(run):
                    return run
                case Conflict(line):
                    raise Refused(line)
                case create:
                    body = request.manifest(create.ordinal, create.retry_of)
            try:
                made: Run = self._api.create_namespaced_custom_object(GROUP, VERSION, self.namespace, RUNS, body)
            except ApiException as error:
                if error.status == 409:
                    continue
                if error.status in (400, 403, 422):
                    raise Refused(f"LakehouseRun {body['metadata']['name']}: {reason_of(error)}") from error
                raise
            return made
        raise Refused(
            f"LakehouseRun {body['metadata']['name']} exists without the label {selector}: it is not one of this task's"
        )

    def cancel(self, run: str) -> None:
        """Asks the operator to stop a run; one that is gone is fine."""
        try:
            self._api.patch_namespaced_custom_object(
                GROUP, VERSION, self.namespace, RUNS, run, CANCELLED, _content_type=MERGE_PATCH
            )
        except ApiException as error:
            if error.status != 404:
                raise
