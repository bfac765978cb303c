"""Programs built from Go modules: kind, kubectl, helm, MinIO and the cluster's own parts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .cache import artifact, digest
from .settings import CLIENTS, GO_MODULES, GO_TAGS, GO_TOOLS, NODE_PARTS, PROVISIONER, kubernetes_version
from .shell import run

# A static program without paths of this machine: it runs on any node, from an empty image.
# Without inlining, and without debug information that the linker would drop: half the time to build, and fast enough for tests.
_FLAGS = f"{os.environ.get('GOFLAGS', '')} -buildvcs=false -trimpath '-gcflags=all=-l -dwarf=false'".strip()
_ENV = {"CGO_ENABLED": "0", "GOFLAGS": _FLAGS}
_TIMEOUT = 3600.0


def tool(name: str) -> Path:
    """Path of the program `name`: one of GO_TOOLS, CLIENTS, NODE_PARTS or PROVISIONER, or one with a module of its own in go/."""
    if name in GO_TOOLS:
        return _installed(name, GO_TOOLS[name])
    if name in CLIENTS:
        return _kubernetes("clients", CLIENTS) / name
    if name in NODE_PARTS:
        return _kubernetes("node-parts", NODE_PARTS) / name
    if name in PROVISIONER:
        return _kubernetes("provisioner", PROVISIONER) / name
    return _local(name)


def _installed(name: str, package: str) -> Path:
    tags = [f"-tags={GO_TAGS[name]}"] if name in GO_TAGS else []

    def build(out: Path) -> None:
        run(
            ["go", "install", *tags, "-ldflags=-s -w", package],
            timeout=_TIMEOUT,
            doing=f"building {name} from {package}",
            env={**_ENV, "GOBIN": str(out)},
        )

    return artifact(name, digest([package, *tags, _FLAGS, _go_version()]), build) / name


def _kubernetes(name: str, programs: dict[str, str]) -> Path:
    """The folder with these programs of go/kubernetes, built together: what they share is compiled once."""
    module = GO_MODULES / "kubernetes"
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    stamps = {
        f"k8s.io/component-base/version.git{part}": value
        for part, value in (("Version", version), ("Major", major), ("Minor", minor))
    }
    # the version that `helm template` and `helm lint` assume without a cluster; unset it is 1.20
    for place in ("chartutil", "lint/rules"):
        stamps |= {
            f"helm.sh/helm/v3/pkg/{place}.k8sVersion{part}": value
            for part, value in (("Major", major), ("Minor", minor))
        }
    flags = " ".join(["-s -w", *(f"-X {variable}={value}" for variable, value in stamps.items())])

    def build(out: Path) -> None:
        run(
            ["go", "build", f"-ldflags={flags}", "-o", f"{out}/", *programs.values()],
            timeout=_TIMEOUT,
            doing=f"building {', '.join(programs)}",
            cwd=module,
            env=_ENV,
        )

    return artifact(name, digest([module, flags, _FLAGS, *programs.values(), _go_version()]), build)


def _local(name: str) -> Path:
    module = GO_MODULES / name

    def build(out: Path) -> None:
        run(
            ["go", "build", "-ldflags=-s -w", "-o", str(out / name), "."],
            timeout=_TIMEOUT,
            doing=f"building {name}",
            cwd=module,
            env=_ENV,
        )

    return artifact(name, digest([module, _FLAGS, _go_version()]), build) / name


def _go_version() -> str:
    return run(["go", "env", "GOVERSION", "GOARCH"], timeout=60, doing="asking for the version of Go")


def copy_tools(names: tuple[str, ...], folder: Path) -> None:
    """Copy built programs into `folder`, for an image's build context."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy2(tool(name), folder / name)
