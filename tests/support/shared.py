"""Recorded real input, kept outside the project."""

import os
from pathlib import Path

import pytest

from support.paths import ROOT


def shared_data(*parts: str) -> Path:
    """A file or folder of the recorded input. Without it the test is skipped, in CI it fails."""
    folder = Path(os.environ.get("LAKEHOUSE_SHARED_DATA") or ROOT.parent / "shared" / "data")
    path = folder.joinpath(*parts)
    if not path.exists():
        message = f"{path} is missing: set LAKEHOUSE_SHARED_DATA to the folder with the recorded input"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path
