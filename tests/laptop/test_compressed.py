"""Uploaded files that are compressed, damaged, huge or hostile: what can be read is read, the rest is one described record each."""

import gzip
import hashlib
import json
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from support import manifests
from support.lakehouse import Lakehouse
from support.manifests import Document, column, landed
from support.readers import Row

Pack = Callable[[bytes], bytes]
DAY = "2024-05-01"
IDS = list(range(2000))
LINES = [json.dumps({"id": number}).encode() for number in IDS]
NDJSON = b"\n".join(LINES) + b"\n"
CSV = b"id\n" + b"\n".join(str(number).encode() for number in IDS) + b"\n"


def zstd(content: bytes) -> bytes:
    """One zstd frame."""
    return pa.compress(content, codec="zstd", asbytes=True)


def definition(form: str, **files: object) -> Document:
    """All uploads of the source, as `silver.numbers`."""
    table = {
        "name": "numbers",
        "from": "uploads",
        "write": {"append": {}},
        "columns": [column("id", "/id", "long", required=True), column("object", "$object", "string")],
    }
    return manifests.pipeline("numbers", [landed("uploads", "in/*", form, **files)], [table])


def run(lake: Lakehouse, form: str, files: dict[str, bytes], **more: object) -> tuple[list[int], list[Row]]:
    """The ids in the table and the quarantined records, after a run over these uploads."""
    folder = lake.folder / "landing" / "in"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = manifests.write(lake.folder / "numbers.yaml", manifests.lakehouse(), definition(form, **more))
    lake.run(manifest, interval=DAY)
    quarantine = lake.rows("quarantine.numbers") if "quarantine.numbers" in lake.tables() else []
    return sorted(row["id"] for row in lake.rows("silver.numbers")), quarantine


@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
@pytest.mark.parametrize(("form", "content"), [("ndjson", NDJSON), ("csv", CSV)], ids=["ndjson", "csv"])
def test_compressed_files_are_read(lake: Lakehouse, pack: Pack, form: str, content: bytes) -> None:
    packed = pack(content)
    ids, quarantine = run(lake, form, {f"a.{form}.gz": packed})
    assert (ids, quarantine) == (IDS, [])
    [stored] = lake.bronze()
    assert stored.name == f"part-00000.{form}.gz"
    assert stored.read_bytes() == packed, "bronze holds the bytes as they were uploaded"


def test_the_content_decides_not_the_name(lake: Lakehouse) -> None:
    ids, quarantine = run(lake, "ndjson", {"a.gz": NDJSON, "b.ndjson": gzip.compress(NDJSON), "c": zstd(NDJSON)})
    assert (ids, quarantine) == (sorted(IDS * 3), [])


def test_members_one_after_the_other_are_one_file(lake: Lakehouse) -> None:
    half = len(NDJSON) // 2
    ids, quarantine = run(lake, "ndjson", {"a.gz": gzip.compress(NDJSON[:half]) + gzip.compress(NDJSON[half:])})
    assert (ids, quarantine) == (IDS, [])


@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_a_truncated_file_gives_its_whole_lines_and_one_record_that_says_so(lake: Lakehouse, pack: Pack) -> None:
    ids, quarantine = run(lake, "ndjson", {"a": pack(NDJSON)[:-20], "b": b'{"id": 7000}\n'})
    assert ids[-1] == 7000
    assert ids[:-1] == IDS[: len(ids) - 1], "every whole line before the damage, none twice"
    [record] = quarantine
    assert record["rule"] == "malformed"
    assert "data is damaged or cut off" in record["reason"]
    assert record["position"] == len(ids) - 1


def test_a_damaged_document_is_one_record(lake: Lakehouse) -> None:
    damaged = bytearray(gzip.compress(CSV))
    damaged[len(damaged) // 2] ^= 0xFF
    ids, quarantine = run(lake, "csv", {"a.csv.gz": bytes(damaged), "b.csv": b"id\n1\n"})
    assert ids == [1]
    [record] = quarantine
    assert (record["rule"], record["position"]) == ("malformed", 0)
    assert record["object"].endswith("part-00000.csv.gz")


def test_nothing_in_a_gzip_file_is_no_record(lake: Lakehouse) -> None:
    assert run(lake, "ndjson", {"a.gz": gzip.compress(b""), "b": NDJSON}) == (IDS, [])


def test_a_record_beyond_the_limit_is_described(lake: Lakehouse) -> None:
    long = b'{"id": 1, "pad": "' + b"x" * 5000 + b'"}'
    ids, quarantine = run(lake, "ndjson", {"a": b'{"id": 0}\n' + long + b'\n{"id": 2}\n'}, maxRecordBytes=1024)
    assert ids == [0, 2]
    [record] = quarantine
    assert (record["rule"], record["position"], record["record"]) == ("too_long", 1, long[:1024].decode())
    digest = hashlib.sha256(long).hexdigest()
    place = f"bytes 10 to {10 + len(long)} of the object's content, SHA-256 {digest}"
    assert record["reason"] == f"{len(long)} bytes are more than maxRecordBytes 1024; {place}"


def test_a_bomb_costs_no_memory(lake: Lakehouse, tmp_path: Path) -> None:
    """One record of 1 GiB in a file of 1 MB, read by a process that may have less."""
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        for _ in range(1024):
            file.write(b"x" * (1 << 20))
        file.write(b'\n{"id": 5}\n')
    folder = lake.folder / "landing" / "in"
    folder.mkdir(parents=True)
    bomb.rename(folder / "a.gz")
    manifest = manifests.write(lake.folder / "numbers.yaml", manifests.lakehouse(), definition("ndjson"))
    command = lake.command_line(*lake.run_arguments(manifest, interval=DAY))
    limit = 512 << 20
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["id"] for row in lake.rows("silver.numbers")] == [5]
    [record] = lake.rows("quarantine.numbers")
    assert (record["rule"], record["position"]) == ("too_long", 0)
    assert record["reason"].startswith(f"{1 << 30} bytes are more than maxRecordBytes {16 << 20}; bytes 0 to ")
