"""The Debian base image, made by debootstrap from this machine's own package mirror."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from . import docker
from .cache import artifact, digest
from .settings import DEBIAN_SUITE
from .shell import ClusterError, run

_LOCAL_CERTIFICATES = Path("/usr/local/share/ca-certificates")


def base_image() -> str:
    """Name of the base image, which docker holds when this returns."""
    sources = _sources()
    certificates = [_LOCAL_CERTIFICATES] if _LOCAL_CERTIFICATES.is_dir() else []
    key = digest([DEBIAN_SUITE, sources, *certificates, Path(__file__)])
    ref = f"lakehouse/debian-base:{key}"
    if docker.image_field(ref, "{{.Id}}"):
        return ref
    archive = artifact("debian-base", key, lambda out: _bootstrap(out, sources)) / "rootfs.tar"
    run(
        [
            "docker",
            "import",
            "-c",
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "-c",
            'CMD ["bash"]',
            archive,
            ref,
        ],
        timeout=300,
        doing="importing the Debian base image",
    )
    return ref


def _bootstrap(out: Path, sources: str) -> None:
    docker.ensure_root("debootstrap (it unpacks Debian with its owners and runs chroot)")
    docker.ensure_packages({"debootstrap": "debootstrap"})
    root = out / "root"
    mirror = sources.split()[1]
    run(
        ["debootstrap", "--variant=minbase", "--include=ca-certificates", DEBIAN_SUITE, root, mirror],
        timeout=1200,
        doing=f"debootstrap {DEBIAN_SUITE}",
    )
    (root / "etc/apt/sources.list").write_text(sources)
    # certificates that this machine trusts for its registries: builds inside the image go there too
    if _LOCAL_CERTIFICATES.is_dir():
        shutil.copytree(_LOCAL_CERTIFICATES, root / "usr/local/share/ca-certificates", dirs_exist_ok=True)
        run(["chroot", root, "update-ca-certificates"], timeout=120, doing="update-ca-certificates in the base image")
    for leftover in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
        for path in (root / leftover).rglob("*"):
            if path.is_file():
                path.unlink()
    run(
        ["tar", "--numeric-owner", "--exclude=./dev/*", "-C", root, "-cf", out / "rootfs.tar", "."],
        timeout=300,
        doing="packing the base image",
    )
    shutil.rmtree(root)


def _sources() -> str:
    """The sources.list of the image: this machine's Debian entries, for the image's suite."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    codename = release.get("VERSION_CODENAME", "").strip('"')
    mirror = os.environ.get("LAKEHOUSE_DEBIAN_MIRROR")
    entries = [(mirror, DEBIAN_SUITE)] if mirror else []
    if not mirror and release.get("ID", "").strip('"') == "debian":
        wanted = {codename + suffix: DEBIAN_SUITE + suffix for suffix in ("", "-updates", "-security")}
        found = {wanted[suite]: uri for uri, suite in reversed(_apt_entries()) if suite in wanted}
        entries = [(found[suite], suite) for suite in wanted.values() if suite in found]
    if not entries or entries[0][1] != DEBIAN_SUITE:
        raise ClusterError(
            "no Debian mirror in /etc/apt: set LAKEHOUSE_DEBIAN_MIRROR to the URL of one (it must carry "
            f"{DEBIAN_SUITE})"
        )
    return "".join(f"deb {uri} {suite} main\n" for uri, suite in entries)


def _apt_entries() -> list[tuple[str, str]]:
    """(mirror, suite) of each binary source with component `main`, in either of apt's formats."""
    entries: list[tuple[str, str]] = []
    folder = Path("/etc/apt/sources.list.d")
    for path in [Path("/etc/apt/sources.list"), *sorted(folder.glob("*.list"))]:
        for line in path.read_text().splitlines() if path.is_file() else ():
            words = line.split("]", 1)[-1].split() if "[" in line else line.split()[1:]
            if line.startswith("deb ") and len(words) >= 3 and "main" in words[2:]:
                entries.append((words[0], words[1]))
    for path in sorted(folder.glob("*.sources")):
        for paragraph in path.read_text().split("\n\n"):
            pairs = (line.split(":", 1) for line in paragraph.splitlines() if ":" in line and line[0] not in "# ")
            fields = {name.lower(): value.split() for name, value in pairs}
            if "deb" in fields.get("types", []) and "main" in fields.get("components", []):
                entries += [(uri, suite) for uri in fields.get("uris", []) for suite in fields.get("suites", [])]
    return entries
