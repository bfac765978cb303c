"""The kind node image built without an image registry."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from . import docker
from .base import base_image
from .cache import artifact, digest
from .gobuild import copy_tools, tool
from .settings import NODE_FILES, cache_dir, kubernetes_version
from .shell import run

_STATIC = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "coredns", "pause")
_ON_NODE = ("kubeadm", "kubelet", "kubectl")
_PARTS = (*_STATIC, *_ON_NODE, "kube-proxy", "kube-router", "local-path-provisioner")
_PROVISIONER = "lakehouse/local-path-provisioner:node"
_FIREWALL = "lakehouse/kube-router:node"
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def node_image() -> str:
    """Name of the node image, which docker holds when this returns."""
    base = base_image()
    key = digest([NODE_FILES, base, *(str(tool(part)) for part in _PARTS), Path(__file__)])
    ref = f"lakehouse/node:{key}"
    if docker.image_field(ref, "{{.Id}}"):
        return ref

    def build(out: Path) -> None:
        _build(base, ref)
        docker.save([ref], out / "image.tar")

    docker.load(artifact("node-image", key, build) / "image.tar")
    return ref


def _build(base: str, ref: str) -> None:
    with tempfile.TemporaryDirectory(prefix=".node-", dir=cache_dir()) as folder:
        context = Path(folder)
        names = _image_names()
        copy_tools(_ON_NODE, context / "bin")
        images = context / "images"
        images.mkdir()
        for name in _STATIC:
            _write_image(images / f"{name}.tar", names[name], tool(name), f"/usr/local/bin/{name}")
        _save_base_images(base, names["kube-proxy"], images / "on-base.tar")
        (context / "version").write_text(f"{kubernetes_version()}\n")
        for source in NODE_FILES.iterdir():
            if source.suffix in (".yaml", ".toml"):
                text = source.read_text()
                for mark, image in (
                    ("@PAUSE@", names["pause"]),
                    ("@PROVISIONER@", _PROVISIONER),
                    ("@FIREWALL@", _FIREWALL),
                ):
                    text = text.replace(mark, image)
                (context / source.name).write_text(text)
            else:
                shutil.copy2(source, context)
        docker.build(context, context / "Dockerfile", ref, args={"BASE": base})


def _image_names() -> dict[str, str]:
    """Names that kubeadm will look for, by the last word of their repository."""
    listed = run(
        [tool("kubeadm"), "config", "images", "list", "--kubernetes-version", kubernetes_version()],
        timeout=60,
        doing="asking kubeadm for its image names",
    )
    return {line.rsplit("/", 1)[1].split(":")[0]: line for line in listed.split()}


def _save_base_images(base: str, proxy: str, archive: Path) -> None:
    """What needs the base's programs shares its layer, and kube-router those that kube-proxy needs too: one archive holds all."""
    for binary, dockerfile, ref, under in (
        ("kube-proxy", "proxy.Dockerfile", proxy, base),
        ("kube-router", "firewall.Dockerfile", _FIREWALL, proxy),
        ("local-path-provisioner", "storage.Dockerfile", _PROVISIONER, base),
    ):
        with tempfile.TemporaryDirectory(prefix=".part-", dir=cache_dir()) as folder:
            copy_tools((binary,), Path(folder))
            docker.build(Path(folder), NODE_FILES / dockerfile, ref, args={"BASE": under})
    docker.save([proxy, _FIREWALL, _PROVISIONER], archive)


def _write_image(out: Path, ref: str, binary: Path, path: str) -> None:
    """Write a docker archive of an image that holds one static program and nothing else."""
    layer = _tar([(path.lstrip("/"), binary.read_bytes(), 0o755)])
    config = json.dumps(
        {
            "architecture": run(["go", "env", "GOARCH"], timeout=60, doing="asking Go for the architecture").strip(),
            "os": "linux",
            "config": {"Entrypoint": [path], "Env": [f"PATH={_SEARCH_PATH}"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            "history": [{"created_by": "tests/cluster"}],
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [ref], "Layers": ["layer.tar"]}]).encode()
    out.write_bytes(_tar([(name, config, 0o644), ("layer.tar", layer, 0o644), ("manifest.json", manifest, 0o644)]))


def _tar(files: list[tuple[str, bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data, mode in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = mode
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
