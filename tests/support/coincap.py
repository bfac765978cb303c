"""The recorded CoinCap answers, one per date."""

from dataclasses import dataclass
from datetime import UTC, datetime

from support.shared import shared_data

# Dates assigned to the recordings that have no timestamp of their own.
ASSIGNED = {"2022-03-15": "2022-03_top30.data.json", "2022-12-15": "2022-12_top15.data.json"}


@dataclass(frozen=True)
class Recording:
    """An answer of `/assets` as CoinCap gave it on a date."""

    date: str
    body: bytes


def recordings() -> dict[str, Recording]:
    """Every recorded answer by its date; those without a timestamp are wrapped with noon of an assigned date."""
    found = {path.stem: path.read_bytes() for path in sorted(shared_data("coincap", "assets").glob("*.json"))}
    for date, name in ASSIGNED.items():
        records = shared_data("coincap", "assets", "no-timestamp", name).read_bytes()
        noon = datetime.fromisoformat(date).replace(hour=12, tzinfo=UTC)
        found[date] = b'{"data":%b,"timestamp":%d}' % (records.strip(), int(noon.timestamp() * 1000))
    return {date: Recording(date, body) for date, body in sorted(found.items())}
