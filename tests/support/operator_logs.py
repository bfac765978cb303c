"""What operators say while tests look elsewhere: panics, errors and warnings that no test has planned."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

# What an operator says when the API server does not answer as it should; it tries again. That something is forbidden is no such fault: the chart lacks a right.
API_FAULTS = tuple(
    rf"^(?!.*\bforbidden\b){words}"
    for words in (
        "cannot (create|read|list|patch|delete|write) ",
        r"watch\b",
        "event queue error: ",
        "event could not be published",
        "the lease ",
    )
)
# And while an API server begins, which has not read its Roles yet.
API_BEGINS = (*API_FAULTS, r"\bis forbidden\b")

# What its client of the catalog says of a database that is slow to answer, such as one whose pod a test deleted, or on a busy machine.
SLOW_CATALOG = (r"^(acquired connection, but time to acquire exceeded slow threshold|slow statement)",)


def loud(text: str, allowed: Iterable[str] = ()) -> list[str]:
    """The lines of a log that are a panic, an error or a warning; those whose message fits one of the patterns `allowed` are left out; a panic never is."""
    found = []
    for line in text.splitlines():
        if "panicked at" in line or "fatal runtime error" in line or "stack overflow" in line:
            found.append(line)
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            # The last line of one that was killed.
            continue
        if not isinstance(entry, dict) or entry.get("level") not in ("WARN", "ERROR"):
            continue
        message = str(entry.get("message", ""))
        if not any(re.search(pattern, message) for pattern in allowed):
            found.append(line)
    return found
