"""A real control plane on loopback: etcd, kube-apiserver, and of kube-controller-manager what the operator relies on.

There is no node: `kubelet` plays one. Everything ends with the context manager.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from api import Api
from support import processes
from support.paths import ROOT
from support.ports import free_port
from support.waiting import wait_until

ADMIN_TOKEN = "the-token-of-the-test"
OPERATOR_TOKEN = "the-token-of-the-operator"
# The operator's release, whose ServiceAccount has the chart's Role in every namespace of a test, and no other right.
RELEASE, RELEASE_NAMESPACE = "lakehouse-operator", "lakehouse-system"
# What acts on the operator's objects in a cluster. Namespaces of tests stay until the end: deleting one costs more than all that happened in it.
CONTROLLERS = "job-controller,garbage-collector-controller,ttl-after-finished-controller"


@cache
def program(name: str) -> Path:
    """A program of the test cluster; tests/cluster builds it once."""
    command = [str(ROOT / "tests" / "cluster" / "cluster"), "tools", name]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=3600, check=True)
    return Path(built.stdout.split()[-1])


@cache
def _rights() -> str:
    """Roles and RoleBindings that the chart gives the operator in the namespace `the-namespace`, and for its lease."""
    command = [program("helm"), "template", RELEASE, ROOT / "charts" / "lakehouse-operator"]
    command += [
        "--namespace",
        RELEASE_NAMESPACE,
        "--set",
        "watchNamespaces={the-namespace}",
        "--set",
        "crds.install=false",
    ]
    command += ["--show-only", "templates/rbac.yaml"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout


class ControlPlane:
    """The running control plane, with further flags of its programs by their names."""

    def __init__(
        self,
        flags: Mapping[str, Sequence[str]] | None = None,
        gogc: int = 800,
        definitions: Path | None = ROOT / "crds" / "generated",
    ) -> None:
        """`definitions`: the folder of the CRDs that are there from the beginning; None: none are."""
        self._definitions = definitions
        self._flags = dict(flags or {})
        # Memory is there, and what collects garbage would take a fifth of the time; not with gigabytes in use.
        self._environment = {**os.environ, "GOGC": str(gogc)}
        self._folder = Path(tempfile.mkdtemp(prefix="lakehouse-control-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.etcd_port, self.port = free_port(), free_port()
        self.tls = ssl.create_default_context()
        # Its certificate is one that it made for itself.
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE
        self.api = Api(self.port, self.tls, ADMIN_TOKEN)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            processes.stop(process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def namespace(self, name: str) -> None:
        """Makes a namespace in which the operator has the rights that its chart gives it."""
        self.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
        for document in yaml.safe_load_all(_rights().replace("the-namespace", name)):
            if document:
                # The Role for the lease is one of the release's namespace; here every stand has a lease of its own.
                document["metadata"]["namespace"] = name
                kind = document["kind"].lower() + "s"
                self.api.create(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{name}/{kind}", document)
        # The API server learns of them a moment later; an operator that is there before would say that it is forbidden.
        operator = Api(self.port, self.tls, OPERATOR_TOKEN)
        wait_until(f"the rights in {name}", lambda: operator.answers(f"/apis/batch/v1/namespaces/{name}/jobs"), 60)

    def kubeconfig(self, path: Path, server: str, token: str) -> Path:
        """Writes a kubeconfig for `server`."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "clusters": [{"name": "it", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "it", "user": {"token": token}}],
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def restart_api_server(self) -> None:
        """Ends the API server as a machine's restart does, and starts it again on its port."""
        self._api_server.kill()
        self._api_server.wait()
        self._processes.remove(self._api_server)
        self._start_api_server()

    def _run(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = self._folder / f"{name}.log"
        process = processes.start([program(name), *arguments, *self._flags.get(name, ())], log, self._environment)
        self._processes.append(process)
        return process

    def _start(self) -> None:
        listen, peers = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{free_port()}"
        self._run(
            "etcd",
            f"--data-dir={self._folder}/etcd",
            f"--listen-client-urls={listen}",
            f"--advertise-client-urls={listen}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            # Its data need not outlive the test.
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        key = self._folder / "service-accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True, timeout=60)
        operator = f"system:serviceaccount:{RELEASE_NAMESPACE}:{RELEASE}"
        tokens = f'{ADMIN_TOKEN},admin,1,"system:masters"\n{OPERATOR_TOKEN},{operator},2,"system:authenticated"\n'
        (self._folder / "tokens.csv").write_text(tokens)
        self._start_api_server()
        config = self.kubeconfig(self._folder / "admin.kubeconfig", f"https://127.0.0.1:{self.port}", ADMIN_TOKEN)
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={config}",
            f"--controllers={CONTROLLERS}",
            "--leader-elect=false",
            f"--service-account-private-key-file={key}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            f"--cert-dir={self._folder}/controller-manager",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        )
        for document in sorted(self._definitions.glob("*.yaml")) if self._definitions else []:
            definition = yaml.safe_load(document.read_text())
            self.api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}"
            wait_until(f"{document.name} to be served", lambda path=path: _established(self.api.get(path)), 60)

    def _start_api_server(self) -> None:
        self._api_server = self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self._folder}/api-server",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._folder}/service-accounts.key",
            f"--service-account-signing-key-file={self._folder}/service-accounts.key",
            f"--token-auth-file={self._folder}/tokens.csv",
            "--authorization-mode=RBAC",
            # No ServiceAccount is made for a namespace of these tests, and no pod is ever given a token.
            "--disable-admission-plugins=ServiceAccount",
        )
        wait_until("the API server to be ready", lambda: self.api.answers("/readyz"), 120, state=self._last_words)

    def _last_words(self) -> str:
        return "\n".join((self._folder / "kube-apiserver.log").read_text().splitlines()[-20:])


def _established(definition: dict[str, Any] | None) -> bool:
    conditions = ((definition or {}).get("status") or {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
