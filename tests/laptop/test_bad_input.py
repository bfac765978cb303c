"""Records that do not fit: each goes to quarantine as it was received, with a rule and a reason, and nothing else is touched."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import manifests, readers
from support.jobs import TERMINAL
from support.lakehouse import Lakehouse
from support.manifests import Document, column, landed
from support.readers import Row

DAY = "2024-05-01"
COLUMNS = [
    column("id", "/id", "string", required=True),
    column("amount", "/amount", "decimal(10,2)"),
    column("count", "/count", "int"),
    column("total", "/total", "long"),
    column("ratio", "/ratio", "double"),
    column("paid", "/paid", "boolean"),
    column("born", "/born", "date"),
    column("at", "/at", "timestamptz"),
    column("seen", "/seen", "timestamptz", unit="milliseconds"),
]


@dataclass(frozen=True)
class Case:
    """A line of input that is no row."""

    line: str
    rule: str
    reason: str


LOSSY = "has more digits than the column can hold"
RANGE = "is beyond the column's range"
CASES = {
    "malformed": Case('{"id": "m", "amount": ', "malformed", "not valid JSON at byte 22: expected a JSON value"),
    "not JSON at all": Case("<html>", "malformed", "not valid JSON at byte 0: expected a JSON value"),
    "array": Case('[{"id": "a"}]', "not_an_object", "the record is not an object"),
    "text": Case('"just text"', "not_an_object", "the record is not an object"),
    "number": Case("42", "not_an_object", "the record is not an object"),
    "null": Case("null", "not_an_object", "the record is not an object"),
    "missing": Case('{"amount": 1}', "required:id", "column id is required and the record has nothing there"),
    "null id": Case('{"id": null}', "required:id", "column id is required and the record has null there"),
    "lossy decimal": Case(
        '{"id": "b", "amount": "1.005"}', "cast:amount", f'column amount: "1.005" {LOSSY}; its type is decimal(10,2)'
    ),
    "lossy exponent": Case(
        '{"id": "b", "amount": 5e-3}', "cast:amount", f"column amount: 5e-3 {LOSSY}; its type is decimal(10,2)"
    ),
    "wide decimal": Case(
        '{"id": "c", "amount": 123456789}',
        "cast:amount",
        f"column amount: 123456789 {RANGE}; its type is decimal(10,2)",
    ),
    "int overflow": Case(
        '{"id": "d", "count": 2147483648}', "cast:count", f"column count: 2147483648 {RANGE}; its type is int"
    ),
    "int fraction": Case('{"id": "e", "count": "1.5"}', "cast:count", f'column count: "1.5" {LOSSY}; its type is int'),
    "long overflow": Case(
        '{"id": "f", "total": 9223372036854775808}',
        "cast:total",
        f"column total: 9223372036854775808 {RANGE}; its type is long",
    ),
    "no number": Case(
        '{"id": "g", "ratio": "NaN"}', "cast:ratio", 'column ratio: "NaN" is not a number; its type is double'
    ),
    "no boolean": Case(
        '{"id": "h", "paid": "yes"}', "cast:paid", 'column paid: "yes" is not a boolean; its type is boolean'
    ),
    "no date": Case(
        '{"id": "i", "born": "2024-02-30"}',
        "cast:born",
        'column born: "2024-02-30" is no day or time of day that exists; its type is date',
    ),
    "no offset": Case(
        '{"id": "j", "at": "2024-05-01T00:00:00"}',
        "cast:at",
        'column at: "2024-05-01T00:00:00" has no offset, so it is no instant: declare the column as timestamp; its type is timestamptz',
    ),
    "too fine": Case(
        '{"id": "k", "at": "2024-05-01T00:00:00.0000001Z"}',
        "cast:at",
        'column at: "2024-05-01T00:00:00.0000001Z" is finer than a microsecond; its type is timestamptz',
    ),
    "no unit": Case(
        '{"id": "l", "at": 1714521600}',
        "cast:at",
        "column at: 1714521600 is a number: the column needs a unit to read it as a time; its type is timestamptz",
    ),
}

GOOD = [
    {
        "id": "ok",
        "amount": "12345678.90",
        "count": -2147483648,
        "total": 9223372036854775807,
        "ratio": 0.1,
        "paid": True,
    },
    {"id": "n" * 200, "born": "2024-02-29", "at": "2024-05-01T02:00:00.000001+02:00", "seen": 1714521600123},
]
NOTHING: Row = {column["name"]: None for column in COLUMNS}
EXPECTED = [
    {
        **NOTHING,
        "id": "n" * 200,
        "born": datetime(2024, 2, 29).date(),
        "at": datetime(2024, 5, 1, 0, 0, 0, 1, tzinfo=UTC),
        "seen": datetime(2024, 5, 1, 0, 0, 0, 123000, tzinfo=UTC),
    },
    {
        **NOTHING,
        "id": "ok",
        "amount": Decimal("12345678.90"),
        "count": -2147483648,
        "total": 9223372036854775807,
        "ratio": 0.1,
        "paid": True,
    },
]


def table(**more: Any) -> Document:
    """The silver table `things`."""
    return {"name": "things", "from": "things", "write": {"append": {}}, "columns": COLUMNS, **more}


def write(path: Path, silver: Document, form: str = "ndjson", **source: Any) -> Path:
    """A pipeline over uploaded files."""
    pipeline = manifests.pipeline("things", [landed("things", "things/*", form, **source)], [silver])
    return manifests.write(path, manifests.lakehouse(), pipeline)


def land(lake: Lakehouse, name: str, content: bytes) -> None:
    """Uploads a file."""
    place = lake.folder / "landing" / "things"
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(content)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Lakehouse:
    """A run over all cases, with a good record before and after them."""
    folder = tmp_path_factory.mktemp("mixed")
    lake = Lakehouse(folder / "lake")
    lines = [json.dumps(GOOD[0]), *[case.line for case in CASES.values()], json.dumps(GOOD[1])]
    land(lake, "all.ndjson", "\n".join(lines).encode())
    lake.run(write(folder / "things.yaml", table()), interval=DAY)
    return lake


@pytest.mark.parametrize("name", CASES)
def test_a_bad_record_is_kept_with_its_reason(mixed: Lakehouse, name: str) -> None:
    case, position = CASES[name], list(CASES).index(name) + 1
    (found,) = [row for row in mixed.rows("quarantine.things") if row["position"] == position]
    found.pop("processed_at")
    assert found == {
        "interval_start": datetime(2024, 5, 1, tzinfo=UTC),
        "object": str(mixed.bronze()[0].relative_to(mixed.folder / "bronze")),
        "position": position,
        "rule": case.rule,
        "reason": case.reason,
        "record": case.line,
    }


def test_the_good_records_are_written_and_all_are_counted(mixed: Lakehouse) -> None:
    rows = mixed.rows("silver.things")
    assert readers.without(rows, {"processed_at"}) == readers.ordered(EXPECTED)
    (report,) = mixed.reports("silver")
    (counts,) = report["tables"]
    assert (counts["rowsRead"], counts["rowsWritten"], counts["rowsQuarantined"]) == (len(CASES) + 2, 2, len(CASES))
    rules = [case.rule for case in CASES.values()]
    assert counts["quarantineReasons"] == {rule: rules.count(rule) for rule in rules}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"data": [{"id": "a"}', "not valid JSON at byte 21: expected `,` or `]`"),
        (b'{"data": {"id": "a"}}', '`/data` of the document is not an array of records: it is {"id": "a"}'),
        (b'{"other": []}', "`/data` of the document is not an array of records: it is nothing"),
        (b'{"data": [{"id": "\xff"}]}', "the document is not valid UTF-8"),
    ],
    ids=["cut off", "no array", "no records", "no UTF-8"],
)
def test_a_document_that_cannot_be_read_is_kept_whole(
    lake: Lakehouse, tmp_path: Path, content: bytes, reason: str
) -> None:
    land(lake, "bad.json", content)
    land(lake, "good.json", b'{"data": [{"id": "b"}]}')
    lake.run(write(tmp_path / "things.yaml", table(), "json", records="/data"), interval=DAY)
    (found,) = lake.rows("quarantine.things")
    assert (found["rule"], found["reason"]) == ("malformed", reason)
    assert found["record"] == content.decode(errors="replace")
    assert (lake.folder / "bronze" / found["object"]).read_bytes() == content
    assert [row["id"] for row in lake.rows("silver.things")] == ["b"]


def test_on_error_null_keeps_the_row(lake: Lakehouse, tmp_path: Path) -> None:
    land(lake, "a.ndjson", b'{"id": "a", "count": 2147483648}\n')
    columns = [column("id", "/id", "string", required=True), column("count", "/count", "int", onError="null")]
    lake.run(write(tmp_path / "things.yaml", table(columns=columns)), interval=DAY)
    assert [(row["id"], row["count"]) for row in lake.rows("silver.things")] == [("a", None)]


def test_on_error_fail_commits_nothing_and_names_the_value(lake: Lakehouse, tmp_path: Path) -> None:
    content = b'{"id": "a", "count": 1}\n{"id": "b", "count": 2147483648}\n'
    land(lake, "a.ndjson", content)
    columns = [column("id", "/id", "string", required=True), column("count", "/count", "int", onError="fail")]
    outcome = lake.fail(write(tmp_path / "things.yaml", table(columns=columns)), interval=DAY)
    assert outcome.status == TERMINAL
    (bronze,) = lake.bronze()
    assert bronze.read_bytes() == content
    key = bronze.relative_to(lake.folder / "bronze")
    message = f"silver.things: object {key}, record 1: column count: 2147483648 {RANGE}; its type is int"
    assert message in outcome.text
    assert "CastFailed" in outcome.text
    assert lake.snapshots().get("silver.things", 0) == 0


def test_a_broken_rule_that_fails_commits_nothing(lake: Lakehouse, tmp_path: Path) -> None:
    land(lake, "a.ndjson", b'{"id": "a"}\n')
    rule = {"name": "enough_things", "batch": "count(*) >= 2", "otherwise": "fail"}
    outcome = lake.fail(write(tmp_path / "things.yaml", table(expectations=[rule])), interval=DAY)
    assert outcome.status == TERMINAL
    assert "ExpectationFailed" in outcome.text
    assert (
        "silver.things expectation enough_things: `count(*) >= 2` does not hold over the 1 rows of this run"
        in outcome.text
    )
    assert lake.snapshots().get("silver.things", 0) == 0
    assert len(lake.bronze()) == 1


def test_no_file_is_not_an_empty_day(lake: Lakehouse, tmp_path: Path) -> None:
    manifest = write(tmp_path / "things.yaml", table())
    outcome = lake.fail(manifest, interval=DAY)
    assert outcome.status == TERMINAL
    assert "EmptyResponse" in outcome.text
    assert "source things: no file matches `things/*`" in outcome.text
    assert lake.manifests() == []


DEEP = b"[" * 100_000
HOSTILE: dict[str, tuple[bytes, str | None]] = {
    "deep": (b'{"id": "deep", "x": ' + DEEP + b"]" * len(DEEP) + b"}", None),
    "deep without end": (DEEP, "not valid JSON at byte 100000: expected a JSON value"),
    "no UTF-8": (b'{"id": "\xff"}', "the line is not valid UTF-8"),
    "NUL": (b'{"id": "n\\u0000l"}', None),
    "raw NUL": (b'{"id": "\x00"}', "not valid JSON at byte 8: expected an escaped control character"),
    "half a pair": (b'{"id": "\\ud800"}', "it has half of a surrogate pair, which is no character"),
    "beyond doubles": (b'{"id": "a", "ratio": 1e400}', f"column ratio: 1e400 {RANGE}; its type is double"),
    "beyond exponents": (b'{"id": "b", "amount": 1e999999999999}', f"column amount: 1e999999999999 {RANGE}"),
    "long number": (b'{"id": "c", "amount": ' + b"9" * 100_000 + b"}", f"999… {RANGE}; its type is decimal(10,2)"),
    "no number": (b'{"id": "d", "ratio": NaN}', "not valid JSON at byte 21: expected a JSON value"),
    "key twice": (b'{"id": "e", "count": 1, "count": 2}', None),
    "drifted to an object": (b'{"id": "f", "count": {"value": 3}}', 'column count: {"value": 3} is not a number'),
    "drifted to a list": (b'{"id": ["g"]}', 'column id: ["g"] is an array or object: declare the column as json'),
    "drifted to a number": (b'{"id": 7}', None),
}


def test_hostile_lines_cost_nothing_but_themselves(lake: Lakehouse, tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    lines = [b"", b'{"id": "first"}', *(line for line, _ in HOSTILE.values()), b"   ", b'{"id": "last"}\r']
    land(lake, "a.ndjson", mark + b"\n".join(lines))
    land(lake, "b.ndjson", b"")
    land(lake, "c.ndjson", mark)
    lake.run(write(tmp_path / "things.yaml", table()), interval=DAY)
    good = {"first", "deep", "n\0l", "e", "7", "last"}
    assert {row["id"] for row in lake.rows("silver.things")} == good
    assert [row["count"] for row in lake.rows("silver.things") if row["id"] == "e"] == [2], "the later one counts"
    refused = {name: reason for name, (_, reason) in HOSTILE.items() if reason is not None}
    found = {row["position"]: row for row in lake.rows("quarantine.things")}
    for position, (name, (line, reason)) in enumerate(HOSTILE.items(), 1):
        if reason is not None:
            row = found.pop(position)
            assert reason in row["reason"], name
            assert row["record"] == line.decode(errors="replace"), name
    assert found == {}
    (counts,) = lake.reports("silver")[0]["tables"]
    expected = (len(good) + len(refused), len(good), len(refused))
    assert (counts["rowsRead"], counts["rowsWritten"], counts["rowsQuarantined"]) == expected
