"""The binaries under test."""

import os
from pathlib import Path

from support.paths import ROOT


def binary(name: str) -> Path:
    """The binary `name`, as `make build` makes it; a missing one is a failure, not a skip."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    folder = Path(os.environ.get("LAKEHOUSE_BIN_DIR") or target / "debug")
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `make build`, or set LAKEHOUSE_BIN_DIR")
    return path
