"""The few files around one binary: what an image FROM scratch needs to run it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .shell import ClusterError

_USER = "65532"
_CERTIFICATES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/cert.pem"),
)
# glibc opens these by name when it resolves a host or a user, so ldd does not list them
_OPENED_BY_GLIBC = ("libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")


def assemble(binary: Path, root: Path) -> None:
    """Fill `root` with `binary`, the shared libraries it loads, certificates and a nonroot user."""
    if not binary.is_file():
        raise ClusterError(f"there is no {binary}: the build did not make it")
    program = root / "usr/local/bin" / binary.name
    _copy(binary, program, 0o755)
    for library in shared_libraries(binary):
        _copy(library, root / library.relative_to("/"), 0o755)
    certificates = next((path for path in _CERTIFICATES if path.is_file()), None)
    if certificates is None:
        raise ClusterError("this machine has no bundle of CA certificates: install ca-certificates")
    _copy(certificates, root / "etc/ssl/certs/ca-certificates.crt", 0o644)
    _write(root / "etc/passwd", f"nonroot:x:{_USER}:{_USER}:nonroot:/tmp:/sbin/nologin\n")
    _write(root / "etc/group", f"nonroot:x:{_USER}:\n")
    _write(root / "etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    temporary = root / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)


def shared_libraries(binary: Path) -> list[Path]:
    """Shared libraries of `binary`, the loader among them; empty for a static program."""
    listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, timeout=60, check=False)
    if listed.returncode != 0:
        if "not a dynamic executable" in listed.stdout + listed.stderr:
            return []
        raise ClusterError(f"ldd {binary.name}: {(listed.stderr or listed.stdout).strip()}")
    found: list[Path] = []
    for line in listed.stdout.splitlines():
        name, _, target = line.strip().partition(" => ")
        if target.startswith("not found"):
            raise ClusterError(f"{binary.name} needs {name}, which this machine does not have")
        path = (target or name).split(" (")[0].strip()
        if path.startswith("/"):
            found.append(Path(path))
    for libc in [path for path in found if path.name == "libc.so.6"]:
        found += [extra for extra in (libc.with_name(name) for name in _OPENED_BY_GLIBC) if extra.exists()]
    return sorted(set(found))


def _copy(source: Path, target: Path, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
