"""A Chromium for pages that are rendered, and what is left of those that ended."""

import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def chromium_environment(folder: Path) -> dict[str, str]:
    """Variables with which the project's programs find Chromium and put its files into `folder`.

    Without a Chromium the test is skipped, in CI it fails. Root, and a machine without user namespaces, can have none with a sandbox.
    """
    if not os.environ.get("LAKEHOUSE_CHROMIUM") and not any(map(shutil.which, NAMES)):
        message = f"there is no Chromium ({', '.join(NAMES)}): tests/setup installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    folder.mkdir(parents=True, exist_ok=True)
    sandbox = {"LAKEHOUSE_CHROMIUM_SANDBOX": "off"} if os.geteuid() == 0 else {}
    return {**sandbox, "TMPDIR": str(folder)}


def chromium_processes(folder: Path) -> dict[int, str]:
    """Processes of Chromiums whose files are in `folder`, and their arguments; the dead that nobody waited for do not count."""
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            arguments = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = (process / "cwd").readlink()
        except OSError:
            continue
        # The children of a zygote do not say where their files are; all keep the folder that they were begun in.
        if arguments and place.is_relative_to(folder):
            found[int(process.name)] = arguments
    return found


def chromium_folders(folder: Path) -> list[Path]:
    """Folders of Chromiums in `folder`."""
    return sorted(folder.glob("lakehouse-chromium-*"))
