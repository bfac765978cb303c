"""`lakehouse upload`: files of this machine where `files` sources find them, on a laptop and in an S3 store."""

from pathlib import Path

import pytest
from support import manifests
from support.lakehouse import Lakehouse
from support.manifests import column, landed
from support.minio import Minio

DAY = "2024-05-01"
PEOPLE = manifests.pipeline(
    "people",
    [landed("people", "people/{{ interval.date }}/*.csv", "csv")],
    [
        {
            "name": "people",
            "from": "people",
            "write": {"append": {}},
            "columns": [column("name", "/name", "string", required=True)],
        }
    ],
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file to upload."""
    path = tmp_path / "staff.csv"
    path.write_text("name\nAda\nGrace\n")
    return path


def test_what_is_uploaded_is_found_by_the_source(lake: Lakehouse, file: Path) -> None:
    uploaded = lake.command("upload", file, "--to", f"people/{DAY}", "--local", lake.folder)
    place = f"{lake.folder}/landing/people/{DAY}/staff.csv"
    assert (uploaded.status, uploaded.stdout) == (0, f"file://{place}: uploaded (15 bytes)\n"), uploaded.text
    assert Path(place).read_bytes() == file.read_bytes()
    lake.run(manifests.write(lake.folder / "people.yaml", manifests.lakehouse(), PEOPLE), interval=DAY)
    assert sorted(row["name"] for row in lake.rows("silver.people")) == ["Ada", "Grace"]


def test_another_content_is_not_replaced_unasked(lake: Lakehouse, file: Path) -> None:
    command = ("upload", file, "--local", lake.folder)
    assert lake.command(*command).status == 0
    again = lake.command(*command)
    assert (again.status, again.stdout.split(": ", 1)[1]) == (0, "is there already (15 bytes)\n")
    file.write_text("name\nEdsger\n")
    refused = lake.command(*command)
    there = lake.folder / "landing" / "staff.csv"
    assert refused.status == 20
    assert refused.stderr == f"error: file://{there} is there with another content: --replace replaces it\n"
    assert there.read_text() == "name\nAda\nGrace\n"
    replaced = lake.command(*command, "--replace")
    assert (replaced.status, replaced.stdout) == (0, f"file://{there}: replaced (12 bytes)\n")
    assert there.read_text() == file.read_text()


def test_nothing_is_uploaded_when_two_files_have_one_name(lake: Lakehouse, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / file.name
    other.parent.mkdir()
    other.write_text("name\n")
    refused = lake.command("upload", file, other, "--local", lake.folder)
    assert refused.status == 20
    assert f"{file} and {other} would both be" in refused.stderr
    assert not list((lake.folder / "landing").rglob("*.csv"))


def test_a_missing_file_is_named(lake: Lakehouse, tmp_path: Path) -> None:
    missing = tmp_path / "missing.csv"
    refused = lake.command("upload", missing, "--local", lake.folder)
    assert refused.status == 20
    assert refused.stderr == f"error: {missing}: No such file or directory (os error 2)\n"


def test_a_store_is_uploaded_to(lake: Lakehouse, minio: Minio, tmp_path: Path) -> None:
    large = tmp_path / "large.ndjson"
    large.write_bytes(b'{"pad": "' + b"x" * (20 << 20) + b'"}\n')
    place = ("--store-endpoint", minio.endpoint, "--landing-bucket", "landing/upload-test", "--to", "in")
    # a folder that the environment names, as `make` does, is not meant then
    environment = {**minio.environment(), "LAKEHOUSE_LOCAL": str(lake.folder)}
    uploaded = lake.command("upload", large, *place, env=environment)
    assert (uploaded.status, uploaded.stdout) == (
        0,
        f"s3://landing/upload-test/in/large.ndjson: uploaded ({large.stat().st_size} bytes)\n",
    ), uploaded.text
    assert minio.files().cat("landing/upload-test/in/large.ndjson") == large.read_bytes()
    denied = lake.command("upload", large, *place, env=minio.environment(secret="a-wrong-secret"))
    assert denied.status == 20
    assert "access denied for key id" in denied.stderr
