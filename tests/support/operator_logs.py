"""What operators say while tests look elsewhere: panics, errors and warnings that no test has planned."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

# What an operator says when the API server does not answer as it should; it tries again, and a test that plans such faults expects it.
API_FAULTS = (
    r"^cannot \w+ [A-Za-z]+ ?\S*: ",
    r"^cannot \w+ [a-z ]*\S+: ",
    r"^watch\b",
    r"^event could not be published",
    r"^the lease ",
    r"^not sent: this operator does not hold the lease",
)


def loud(text: str, allowed: Iterable[str] = ()) -> list[str]:
    """The lines of a log that are a panic, an error or a warning; those whose message fits one of the patterns `allowed` are left out.

    A panic and an error are never left out by [`API_FAULTS`][] alone: it has only patterns of warnings that the operator recovers from.
    """
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
