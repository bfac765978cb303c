"""The project's own images: built, measured, and loaded into the kind cluster."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import docker, rootfs
from .base import base_image
from .cache import artifact, digest
from .gobuild import tool
from .kind import kind_cluster, kubectl
from .settings import DAGS, IMAGE_FILES, REPO, cache_dir
from .shell import ClusterError, run, say

_BINARIES = {
    "ingest": "ingest",
    "silver": "silver",
    "gold": "gold",
    "maintenance": "maintenance",
    "operator": "lakehouse-operator",
    "cli": "lakehouse",
}
"""Image name to Rust binary."""

_LIMITS_MB = {
    "release": {"ingest": 40, "silver": 120, "gold": 120, "maintenance": 120},
    "dev": {"ingest": 40, "silver": 200, "gold": 200, "maintenance": 200},
}
"""Largest uncompressed size allowed, in megabytes of 1,000,000 bytes, of images built with a profile of Cargo.

What ships is held to `release`. The tests, which build with `dev`, notice by its limits when a program grows out of proportion.
"""

PROFILES = tuple(_LIMITS_MB)

OTHERS = ("minio", "postgres", "airflow")
"""Images of programs that are not ours: their inputs are pinned, so each is built once."""

NAMES = (*_BINARIES, *OTHERS)

EXTRAS = ("ingest-chromium",)
"""Images that only some pipelines need: built when they are named."""

_BINARY_DOCKERFILE = IMAGE_FILES / "binary.Dockerfile"
_KEY_LABEL = "lakehouse.build-key"


@dataclass(frozen=True)
class _Workspace:
    version: str
    target: Path


def reference(name: str) -> str:
    """Full name of our image `name`; the tag is the workspace's version."""
    return f"lakehouse/{name}:{_workspace().version}"


def build(names: tuple[str, ...], profile: str = "release") -> None:
    """Build the named images; the Rust ones from a build with `profile` made here."""
    docker.ensure_daemon()
    unknown = [name for name in names if name not in (*NAMES, *EXTRAS)]
    if unknown:
        raise ClusterError(f"no image is called {unknown[0]!r}: there are {', '.join((*NAMES, *EXTRAS))}")
    binaries = [_BINARIES[name] for name in names if name in _BINARIES]
    if "ingest-chromium" in names:
        binaries.append(_BINARIES["ingest"])
    if binaries:
        _cargo_build(binaries, profile)
    for name in names:
        if name in _BINARIES:
            _build_binary(name, _programs(profile) / _BINARIES[name], reference(name))
        elif name == "ingest-chromium":
            _build_ingest_chromium(_programs(profile) / _BINARIES["ingest"])
        elif name == "minio":
            _build_minio()
        elif name == "postgres":
            _build_postgres()
        else:
            _build_airflow()
    for name in names:
        say(f"image {reference(name)}: {docker.image_bytes(reference(name)) / 1e6:.1f} MB")


def check_sizes(profile: str = "release") -> None:
    """Fail if an image of a job, built with `profile`, is larger than its limit."""
    docker.ensure_daemon()
    for name, limit in _LIMITS_MB[profile].items():
        size = docker.image_bytes(reference(name)) / 1e6
        print(f"{reference(name)}: {size:.1f} MB of at most {limit} MB")
        if size > limit:
            raise ClusterError(f"image {reference(name)} has {size:.1f} MB uncompressed, more than {limit} MB")


def load(names: tuple[str, ...]) -> None:
    """Bring the named images into the kind cluster, and restart what runs an older build of one."""
    cluster = kind_cluster()
    if not cluster:
        say("this is not a kind cluster: its nodes must be able to pull the images themselves")
        return
    wanted = {name: docker.image_id(reference(name)) for name in names}
    node = f"{cluster}-control-plane"
    # kind puts an image where its tag already is; this remembers which build each tag stands for
    seen = run(
        ["docker", "exec", node, "sh", "-c", "mkdir -p /kind/loaded && cd /kind/loaded && grep -r . . || true"],
        timeout=60,
        doing=f"asking {node} for its images",
    )
    held = dict(line.removeprefix("./").split(":", 1) for line in seen.splitlines())
    changed = [name for name in names if held.get(name) != wanted[name]]
    if not changed:
        say("the cluster holds these images already")
        return
    refs = [reference(name) for name in changed]
    say(f"loading {' '.join(refs)}")
    run([tool("kind"), "load", "docker-image", "--name", cluster, *refs], timeout=600, doing="kind load")
    script = "; ".join(f"echo {wanted[name]} > /kind/loaded/{name}" for name in changed)
    run(["docker", "exec", node, "sh", "-c", script], timeout=60, doing=f"marking images in {node}")
    _restart_users([ref for name, ref in zip(changed, refs) if name in held])


def _restart_users(refs: list[str]) -> None:
    """Restart workloads of these images: a tag that now means another build restarts nothing itself."""
    listed = (
        json.loads(kubectl("get", "deployments,statefulsets", "-A", "-o", "json", doing="listing workloads"))
        if refs
        else {"items": []}
    )
    for item in listed["items"]:
        containers = item["spec"]["template"]["spec"]["containers"]
        if any(container["image"] in refs for container in containers):
            kind, meta = item["kind"].lower(), item["metadata"]
            say(f"restarting {kind} {meta['namespace']}/{meta['name']}")
            where = f"{kind}/{meta['name']}"
            kubectl("-n", meta["namespace"], "rollout", "restart", where, doing=f"restarting {where}")


@cache
def _workspace() -> _Workspace:
    command = ["cargo", "metadata", "--no-deps", "--format-version=1"]
    found = json.loads(run(command, timeout=120, doing="reading the workspace", cwd=REPO))
    version = next(package["version"] for package in found["packages"] if package["name"] == "lakehouse-operator")
    return _Workspace(version, Path(found["target_directory"]))


def _programs(profile: str) -> Path:
    """The folder of the binaries that Cargo makes with `profile`."""
    return _workspace().target / ("debug" if profile == "dev" else profile)


def _cargo_build(binaries: list[str], profile: str) -> None:
    say(f"cargo build --profile {profile}: {', '.join(binaries)}")
    # the whole workspace, as the tests build it: a part alone would unify other features and build twice
    run(
        ["cargo", "build", "--profile", profile, "--locked", "--workspace", "--bins"],
        timeout=7200,
        doing=f"cargo build --profile {profile}",
        cwd=REPO,
        show_errors=True,
    )


def _build_binary(name: str, binary: Path, ref: str, labels: dict[str, str] | None = None) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache_dir()) as folder:
        rootfs.assemble(binary, Path(folder) / "rootfs")
        docker.build(Path(folder), _BINARY_DOCKERFILE, ref, target=name, labels=labels)


def _build_ingest_chromium(binary: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".ingest-chromium-", dir=cache_dir()) as folder:
        shutil.copy2(binary, Path(folder) / "ingest")
        dockerfile = IMAGE_FILES / "ingest-chromium.Dockerfile"
        docker.build(Path(folder), dockerfile, reference("ingest-chromium"), args={"BASE": base_image()})


def _build_minio() -> None:
    binary = tool("minio")
    key = digest([str(binary), _BINARY_DOCKERFILE, Path(rootfs.__file__)])
    _keyed("minio", key, lambda ref, labels: _build_binary("minio", binary, ref, labels))


def _build_postgres() -> None:
    _build_on_base("postgres", (IMAGE_FILES / "postgres-entrypoint",))


def _build_airflow() -> None:
    _build_on_base("airflow", airflow_inputs())


def airflow_inputs() -> tuple[Path, ...]:
    """What Airflow's image is made from, beside its Dockerfile: DAGs are not part of it."""
    return DAGS / "requirements.txt", DAGS / "constraints.txt", IMAGE_FILES / "airflow-heartbeat"


def _build_on_base(name: str, inputs: tuple[Path, ...]) -> None:
    """An image on the Debian base, from `<name>.Dockerfile` and the files that it copies."""
    base = base_image()
    dockerfile = IMAGE_FILES / f"{name}.Dockerfile"

    def make(ref: str, labels: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache_dir()) as folder:
            for path in inputs:
                shutil.copy2(path, folder)
            docker.build(Path(folder), dockerfile, ref, args={"BASE": base}, labels=labels)

    _keyed(name, digest([base, dockerfile, *inputs]), make)


def _keyed(name: str, key: str, make) -> None:
    """An image whose inputs are all pinned: built once, kept as an archive in the cache."""
    ref = reference(name)
    if docker.image_field(ref, f'{{{{index .Config.Labels "{_KEY_LABEL}"}}}}') == key:
        return

    def build_archive(out: Path) -> None:
        make(ref, {_KEY_LABEL: key})
        docker.save([ref], out / "image.tar")

    docker.load(artifact(f"{name}-image", digest([key, ref]), build_archive) / "image.tar")
