"""Artifacts built once: a folder per name and hash of the inputs, complete or absent."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .settings import cache_dir
from .shell import say


def digest(inputs: Iterable[str | Path]) -> str:
    """A short hash of strings, and of the names, modes and contents of files and folders."""
    total = hashlib.sha256()
    for item in inputs:
        files = [item]
        if isinstance(item, Path) and item.is_dir():
            files = sorted(path for path in item.rglob("*") if path.is_file())
        for part in files:
            if isinstance(part, Path):
                name = str(part.relative_to(item)) if part != item else part.name
                executable = part.stat().st_mode & 0o111 != 0
                data = f"{name}\0{executable}\0".encode() + part.read_bytes()
            else:
                data = part.encode()
            total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:16]


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Let one process at a time work on `name`; the lock goes with the process."""
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def artifact(name: str, key: str, build: Callable[[Path], object]) -> Path:
    """The folder that `build` filled for `key`, building it now if it is not there.

    The folder gets its name by one rename after `build` returned, so an interrupted build is
    never taken for a finished one.
    """
    final = cache_dir() / "artifacts" / f"{name}-{key}"
    if final.is_dir():
        return final
    with lock(name):
        if final.is_dir():
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        for interrupted in final.parent.glob(f".{name}@*"):
            shutil.rmtree(interrupted, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{name}@", dir=final.parent))
        say(f"building {name} (once; kept in {final})")
        start = time.monotonic()
        try:
            build(work)
            work.chmod(0o755)
            work.rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        say(f"built {name} in {time.monotonic() - start:.0f} s")
    return final
