"""deploy/sensors.yaml: what the generated records become, against the same computed in Python from the bronze objects."""

import json
from collections import Counter, defaultdict
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from support import manifests, readers
from support.lakehouse import Json, Lakehouse

DAYS = ["2024-05-01", "2024-05-02"]
DEVICES = 100
TICKS = 24 * 60 // 5
"""Readings that a device takes in a day."""
POSSIBLE = (Decimal(-40), Decimal(60))
"""Temperatures that the pipeline's rule accepts."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lakehouse:
    """The sample, run for two days, the later one first."""
    lake = Lakehouse(tmp_path_factory.mktemp("sensors") / "lake")
    for day in reversed(DAYS):
        lake.run(manifests.DEPLOY / "sensors.yaml", interval=day)
    return lake


def records(lake: Lakehouse, source: str) -> list[Json]:
    """The records of a source in bronze, numbers exact."""
    lines = [
        line for path in lake.bronze(f"sensors/{source}/dt=*/run=*/part-*") for line in path.read_text().splitlines()
    ]
    return [json.loads(line, parse_float=Decimal) for line in lines]


def accepted(reading: Json) -> bool:
    return POSSIBLE[0] <= reading["temperature"] <= POSSIBLE[1]


def rounded(value: Decimal, places: int) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP)


def test_silver_holds_every_reading_and_quarantine_the_impossible_ones(lake: Lakehouse) -> None:
    sent = records(lake, "readings")
    assert 0.985 < len(sent) / (len(DAYS) * DEVICES * TICKS) < 1
    assert {reading["anomaly"] for reading in sent} == {None, "spike", "stuck", "offset"}
    expected = [reading | {"ts": datetime.fromisoformat(reading["ts"])} for reading in sent if accepted(reading)]
    assert readers.without(lake.rows("silver.readings"), {"processed_at"}) == readers.ordered(expected)
    impossible = [reading for reading in sent if not accepted(reading)]
    assert impossible
    assert {reading["anomaly"] for reading in impossible} <= {"spike", "offset", "stuck"}
    assert Counter(row["rule"] for row in lake.rows("quarantine.readings")) == {
        "temperature_is_possible": len(impossible)
    }


def test_the_register_is_merged_to_one_row_a_device(lake: Lakehouse) -> None:
    register = records(lake, "register")
    assert len(register) == len(DAYS) * DEVICES
    times = {"installed_at", "seen_at"}
    newest = [
        {
            name: datetime.fromisoformat(value) if name in times else value
            for name, value in device.items()
            if name != "firmware_since"
        }
        for device in register
        if device["seen_at"].startswith(DAYS[-1])
    ]
    assert readers.without(lake.rows("silver.devices"), {"processed_at"}) == readers.ordered(newest)
    assert {row["device_id"] for row in lake.rows("gold.dim_device")} == {
        reading["device_id"] for reading in records(lake, "readings")
    }


def test_a_version_of_a_device_holds_until_its_next_firmware(tmp_path: Path) -> None:
    lake = Lakehouse(tmp_path / "lake")
    for day in ("2024-05-01", "2024-10-01", "2024-07-01"):
        lake.run(manifests.DEPLOY / "sensors.yaml", interval=day, stages=["ingest", "silver"])
    seen: dict[str, dict[datetime, str]] = defaultdict(dict)
    for device in records(lake, "register"):
        seen[device["device_id"]][datetime.fromisoformat(device["firmware_since"])] = device["firmware"]
    expected = []
    for device, versions in seen.items():
        begins = sorted(versions)
        for begin, end in zip(begins, [*begins[1:], None], strict=True):
            version = {"device_id": device, "firmware": versions[begin], "firmware_since": begin}
            expected.append(version | {"valid_from": begin, "valid_to": end, "is_current": end is None})
    assert len(expected) > len(seen), "five months bring most devices another firmware"
    found = readers.without(lake.rows("silver.device_versions"), {"processed_at"})
    assert found == readers.ordered(expected)


def test_gold_is_what_python_computes(lake: Lakehouse) -> None:
    groups: dict[tuple[date, str], list[Json]] = defaultdict(list)
    for reading in filter(accepted, records(lake, "readings")):
        groups[datetime.fromisoformat(reading["ts"]).date(), reading["device_id"]].append(reading)

    def row(day: date, device: str, readings: list[Json]) -> dict[str, Any]:
        temperatures = [reading["temperature"] for reading in readings]
        humidities = [reading["humidity"] for reading in readings]
        return {
            "day": day,
            "device_id": device,
            "readings": len(readings),
            "anomalies": sum(reading["anomaly"] is not None for reading in readings),
            "coldest": min(temperatures),
            "warmest": max(temperatures),
            "average_temperature": rounded(sum(temperatures) / len(readings), 6),
            "average_humidity": rounded(sum(humidities) / len(readings), 6),
        }

    expected = [row(day, device, readings) for (day, device), readings in groups.items()]
    assert lake.rows("gold.daily_readings") == readers.ordered(expected)
    site = {device["device_id"]: device["site"] for device in lake.rows("gold.dim_device")}
    assert set(site.values()) == {"hamburg", "madrid", "singapore", "cold-store"}
    climate = lake.rows("gold.site_climate")
    assert {(row["day"], row["site"]) for row in climate} == {(row["day"], site[row["device_id"]]) for row in expected}
    for found in climate:
        of_site = [row for row in expected if row["day"] == found["day"] and site[row["device_id"]] == found["site"]]
        assert found["devices"] == len(of_site)
        assert found["readings"] == sum(row["readings"] for row in of_site)
        assert found["anomalies"] == sum(row["anomalies"] for row in of_site)
        assert (found["coldest"], found["warmest"]) == (
            min(row["coldest"] for row in of_site),
            max(row["warmest"] for row in of_site),
        )


def test_facts_per_hour_add_up_to_the_readings(lake: Lakehouse) -> None:
    groups: dict[tuple[datetime, str], list[Json]] = defaultdict(list)
    for reading in filter(accepted, records(lake, "readings")):
        hour = datetime.fromisoformat(reading["ts"]).replace(minute=0, second=0, microsecond=0)
        groups[hour, reading["device_id"]].append(reading)
    expected = [
        {
            "hour": hour,
            "device_id": device,
            "readings": len(readings),
            "anomalies": sum(reading["anomaly"] is not None for reading in readings),
            "temperature_sum": sum(reading["temperature"] for reading in readings),
            "humidity_sum": sum(reading["humidity"] for reading in readings),
        }
        for (hour, device), readings in groups.items()
    ]
    assert lake.rows("gold.fct_readings") == readers.ordered(expected)


def test_devices_are_ranked_within_their_site(lake: Lakehouse) -> None:
    site = {device["device_id"]: device["site"] for device in lake.rows("gold.dim_device")}
    daily = lake.rows("gold.daily_readings")
    expected = []
    for row in daily:
        rivals = [
            other["average_temperature"]
            for other in daily
            if other["day"] == row["day"] and site[other["device_id"]] == site[row["device_id"]]
        ]
        warmer = sum(other > row["average_temperature"] for other in rivals)
        kept = {name: row[name] for name in ("day", "device_id", "average_temperature")}
        expected.append({**kept, "site": site[row["device_id"]], "warmth_rank": warmer + 1})
    assert lake.rows("gold.device_ranking") == readers.ordered(expected)


def test_a_site_is_held_against_the_day_before_although_that_ran_later(lake: Lakehouse) -> None:
    climate = {(row["day"].isoformat(), row["site"]): row for row in lake.rows("gold.site_climate")}
    expected = []
    for (day, site), row in climate.items():
        before = climate.get((DAYS[0], site)) if day == DAYS[1] else None
        changes = {
            f"{name}_change": None if before is None else row[name] - before[name]
            for name in ("warmest", "coldest", "anomalies")
        }
        expected.append({"day": row["day"], "site": site, **changes})
    assert any(row["warmest_change"] for row in expected)
    assert lake.rows("gold.climate_change") == readers.ordered(expected)


def test_the_same_day_again_is_the_same_bytes(lake: Lakehouse, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = Lakehouse(tmp_path_factory.mktemp("sensors-again") / "lake")
    again.run(manifests.DEPLOY / "sensors.yaml", interval=DAYS[0], stages=["ingest"])
    digests = [
        sorted(entry["sha256"] for source in manifest["sources"] for entry in source["objects"])
        for each in (lake, again)
        for manifest in each.manifests("sensors")
        if manifest["interval"]["start"].startswith(DAYS[0])
    ]
    assert len(digests) == 2
    assert digests[0] == digests[1]
