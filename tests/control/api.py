"""The Kubernetes API as JSON over HTTPS, as little of it as these tests need."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

JSON = dict[str, Any]
# The kinds that the operator works on, by the path of their namespaced collections.
COLLECTIONS = {
    "lakehouses": "apis/lakehouse.rs/v1alpha1",
    "lakehousepipelines": "apis/lakehouse.rs/v1alpha1",
    "lakehouseruns": "apis/lakehouse.rs/v1alpha1",
    "lakehousebackfills": "apis/lakehouse.rs/v1alpha1",
    "controllerrevisions": "apis/apps/v1",
    "jobs": "apis/batch/v1",
    "configmaps": "api/v1",
    "pods": "api/v1",
    "events": "apis/events.k8s.io/v1",
}


class ApiError(AssertionError):
    """The API server answered with another status than 2xx."""

    def __init__(self, status: int, method: str, path: str, text: str) -> None:
        super().__init__(f"{method} {path}: {status} {text[:500]}")
        self.status = status


def collection(namespace: str, kind: str) -> str:
    """The path of a kind's objects in a namespace."""
    return f"/{COLLECTIONS[kind]}/namespaces/{namespace}/{kind}"


class Api:
    """A client; each thread has its own connection."""

    def __init__(self, port: int, tls: ssl.SSLContext, token: str) -> None:
        self._port, self._tls, self._token = port, tls, token
        self._local = threading.local()

    def request(self, method: str, path: str, body: JSON | None = None, content: str = "application/json") -> JSON:
        """The answer's object; ApiError for anything but success."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content, "Accept": "application/json"}
        for again in (True, True, True, True, False):
            connection = getattr(self._local, "connection", None)
            if connection is None:
                connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._tls, timeout=60)
                self._local.connection = connection
            try:
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 429 or not again:
                    break
                # It has just started, and asks to come back in a second.
                time.sleep(1)
            except (OSError, http.client.HTTPException):
                # The server closes connections that were idle for long, and those of a server that restarted are gone.
                connection.close()
                self._local.connection = None
                if not again:
                    raise
        if not 200 <= answer.status < 300:
            raise ApiError(answer.status, method, path, text.decode(errors="replace"))
        found: JSON = json.loads(text) if text.startswith(b"{") else {}
        return found

    def answers(self, path: str) -> bool:
        """Whether the server answers with success."""
        try:
            self.request("GET", path)
        except (ApiError, OSError, http.client.HTTPException):
            return False
        return True

    def get(self, path: str) -> JSON | None:
        """An object, if it is there."""
        try:
            return self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def create(self, path: str, body: JSON) -> JSON:
        return self.request("POST", path, body)

    def merge(self, path: str, patch: JSON) -> JSON:
        return self.request("PATCH", path, patch, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        self.request("DELETE", path)

    def items(self, path: str) -> list[JSON]:
        """The objects of a collection."""
        found: list[JSON] = self.request("GET", path)["items"]
        return found

    def watch(self, path: str) -> Iterator[JSON]:
        """Objects of a collection as they appear and change, those that are there first; ends with the connection."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._tls, timeout=5)
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        try:
            connection.request("GET", f"{path}?watch=1&allowWatchBookmarks=false", headers=headers)
            answer = connection.getresponse()
            while line := answer.readline():
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]
        finally:
            connection.close()
