"""Files of hand measurements as deploy/uploads.yaml takes them, and what its gold tables must hold."""

import gzip
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from support.readers import Row, ordered

HEADER = "device_id,checked_at,temperature,technician"
IMPOSSIBLE = "999.99"
"""A temperature that the pipeline's rule puts into quarantine."""


def _lines(day: str) -> list[str]:
    """Checks of a day: one soon after midnight, one twice, one of a device that is not there, one that is impossible."""
    number = date.fromisoformat(day).toordinal()
    lines = [
        f"d0000{device},{day}T{8 + device:02}:07:00Z,{15 + (number * device) % 7}.50,ada" for device in range(1, 6)
    ]
    return [
        f"d00007,{day}T00:01:00Z,14.25,grace",
        *lines,
        lines[0].replace("ada", "grace"),
        f"d99999,{day}T10:00:00Z,20.00,ada",
        f"d00008,{day}T11:00:00Z,{IMPOSSIBLE},ada",
    ]


def files(days: Sequence[str]) -> dict[str, bytes]:
    """Two files a day by their keys below the landing location, one of them compressed."""
    found = {}
    for day in days:
        lines = _lines(day)
        found[f"checks/{day}/a.csv"] = ("\n".join([HEADER, *lines[:4]]) + "\n").encode()
        # The time is no part of the bytes, so that the same file is the same input.
        found[f"checks/{day}/b.csv.gz"] = gzip.compress(("\n".join([HEADER, *lines[4:]]) + "\n").encode(), mtime=0)
    return found


def land(folder: Path, days: Sequence[str]) -> None:
    """Puts the files where a laptop's `files` sources read."""
    for key, content in files(days).items():
        path = folder / "landing" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def expected_checks(days: Sequence[str]) -> list[Row]:
    """silver.field_checks, without processed_at."""
    rows: dict[tuple[str, datetime], Row] = {}
    for day in days:
        for line in _lines(day):
            device, at, temperature, technician = line.split(",")
            if temperature != IMPOSSIBLE:
                checked_at = datetime.fromisoformat(at).astimezone(UTC)
                rows[device, checked_at] = {
                    "device_id": device,
                    "checked_at": checked_at,
                    "temperature": Decimal(temperature),
                    "technician": technician,
                }
    return ordered(rows.values())


def expected_facts(checks: Sequence[Row], readings: Sequence[Row]) -> list[Row]:
    """gold.fct_checks: each check beside the last reading within half an hour before it."""
    of_device: dict[str, list[Row]] = defaultdict(list)
    for reading in readings:
        of_device[reading["device_id"]].append(reading)
    rows = []
    for check in checks:
        at = check["checked_at"]
        near = [row for row in of_device[check["device_id"]] if at - timedelta(minutes=30) < row["ts"] <= at]
        measured = max(near, key=lambda row: row["ts"])["temperature"] if near else None
        rows.append(
            {
                "device_id": check["device_id"],
                "checked_at": at,
                "technician": check["technician"],
                "checked": check["temperature"],
                "measured": measured,
                "deviation": None if measured is None else measured - check["temperature"],
            }
        )
    return ordered(rows)


def expected_calibration(facts: Sequence[Row], days: Sequence[str]) -> list[Row]:
    """gold.calibration: per day the devices that were checked on it or the six days before, by their average deviation."""
    rows = []
    for day in map(date.fromisoformat, days):
        found: dict[str, list[Row]] = defaultdict(list)
        for fact in facts:
            if day - timedelta(days=6) <= fact["checked_at"].date() <= day:
                found[fact["device_id"]].append(fact)
        averages = {device: _average([fact["deviation"] for fact in of]) for device, of in found.items()}
        for device, of in found.items():
            own = averages[device]
            known = [abs(other) for other in averages.values() if other is not None]
            ahead = len(known) if own is None else sum(other > abs(own) for other in known)
            rows.append(
                {"day": day, "place": ahead + 1, "device_id": device, "checks": len(of), "average_deviation": own}
            )
    return ordered(rows)


def _average(values: Sequence[Decimal | None]) -> Decimal | None:
    """Rounded half away from zero at six digits: the average of a decimal with two."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return (sum(known, Decimal(0)) / len(known)).quantize(Decimal("0.000001"), rounding=ROUND_HALF_UP)
