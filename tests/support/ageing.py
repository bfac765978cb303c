"""Makes a local lake older: what maintenance leaves alone for days must not need days to test."""

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

LAYERS = ("silver", "gold")


def age(folder: Path, by: timedelta) -> None:
    """Moves the times of all files of the tables, and those inside of Iceberg's metadata files, into the past."""
    for layer in LAYERS:
        for path in (folder / layer).rglob("*"):
            if path.name.endswith(".metadata.json"):
                path.write_text(json.dumps(earlier(json.loads(path.read_text()), by)))
        for path in (folder / layer).rglob("*"):
            if path.is_file():
                status = path.stat()
                os.utime(path, (status.st_atime - by.total_seconds(), status.st_mtime - by.total_seconds()))


def earlier(metadata: dict[str, Any], by: timedelta) -> dict[str, Any]:
    """The metadata of an Iceberg table with all of its times in the past."""
    milliseconds = int(by.total_seconds() * 1000)
    metadata["last-updated-ms"] -= milliseconds
    for name in ("snapshots", "snapshot-log", "metadata-log"):
        for entry in metadata.get(name, []):
            entry["timestamp-ms"] -= milliseconds
    return metadata
