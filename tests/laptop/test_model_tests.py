"""`lakehouse test`: the unit tests of gold models, in the samples and where they fail."""

from pathlib import Path

import pytest
from support import manifests
from support.lakehouse import Lakehouse, Outcome
from support.manifests import DEPLOY, Document, column, landed

SQL = """
SELECT CAST(at AS date) AS day, count(*) AS readings, sum(amount) AS total
FROM silver.amounts WHERE at >= $start AND at < $end GROUP BY CAST(at AS date)
"""


def definition(**test: object) -> Document:
    """A model with one test."""
    silver = {
        "name": "amounts",
        "from": "amounts",
        "write": {"append": {}},
        "columns": [
            column("id", "/id", "string", required=True),
            column("at", "/at", "timestamptz"),
            column("amount", "/amount", "decimal(10,2)"),
        ],
    }
    model = {
        "name": "totals",
        "write": {"replaceInterval": {"column": "day"}},
        "sql": SQL,
        "tests": [{"name": "one_day", "interval": "2024-01-01", **test}],
    }
    return manifests.pipeline("totals", [landed("amounts", "in/*", "ndjson")], [silver], gold=[model])


GIVEN = {
    "silver.amounts": [
        {"at": "2024-01-01T10:00:00Z", "amount": "1.10"},
        {"at": "2024-01-01T11:00:00Z", "amount": "2.20"},
        {"at": "2024-01-02T00:00:00Z", "amount": "100.00"},
    ]
}


def run(lake: Lakehouse, tmp_path: Path, *arguments: str, **test: object) -> Outcome:
    """`lakehouse test` over this test."""
    manifest = manifests.write(tmp_path / "totals.yaml", manifests.lakehouse(), definition(**test))
    return lake.command("test", "-f", manifest, *arguments)


@pytest.mark.parametrize("file", sorted(path.name for path in DEPLOY.glob("*.yaml") if "tests:" in path.read_text()))
def test_the_tests_of_the_samples_pass(lake: Lakehouse, file: str) -> None:
    outcome = lake.command("test", "-f", DEPLOY / file)
    assert outcome.status == 0, outcome.text
    written = sum(len(model.get("tests", ())) for model in manifests.sample_pipeline(file)["spec"]["gold"])
    assert outcome.stdout.splitlines()[-1] == f"{written} passed, 0 failed"
    assert written > 0


def test_rows_are_compared_by_the_columns_that_are_expected(lake: Lakehouse, tmp_path: Path) -> None:
    outcome = run(lake, tmp_path, given=GIVEN, expect=[{"day": "2024-01-01", "total": "3.30"}])
    assert (outcome.status, outcome.stdout) == (0, "gold.totals one_day: ok\n1 passed, 0 failed\n"), outcome.text
    assert not lake.folder.exists(), "nothing is stored"


def test_what_differs_is_shown(lake: Lakehouse, tmp_path: Path) -> None:
    outcome = run(
        lake, tmp_path, given=GIVEN, expect=[{"readings": 2, "total": "3.31"}, {"readings": 9, "total": "3.30"}]
    )
    assert outcome.status == 20
    assert outcome.stdout == (
        "gold.totals one_day: FAILED: rows differ (- expected, + computed)\n"
        "  - readings=2, total=3.31\n"
        "  - readings=9, total=3.30\n"
        "  + readings=2, total=3.30\n"
        "0 passed, 1 failed\n"
    )
    assert outcome.stderr == "error: 1 of 1 tests failed\n"


def test_a_table_that_is_not_given_is_empty(lake: Lakehouse, tmp_path: Path) -> None:
    assert run(lake, tmp_path, expect=[]).status == 0
    outcome = run(lake, tmp_path, given=GIVEN, expect=[])
    assert outcome.stdout.splitlines()[1] == "  + day=2024-01-01, readings=2, total=3.30"


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            {"given": {"silver.others": []}, "expect": []},
            "given.silver.others: the model does not read it; it reads: silver.amounts",
        ),
        (
            {"given": {"silver.amounts": [{"amuont": 1}]}, "expect": []},
            "given.silver.amounts: row 0: there is no column amuont; columns: id, at, amount, processed_at",
        ),
        (
            {"given": {"silver.amounts": [{"amount": "much"}]}, "expect": []},
            "given.silver.amounts: row 0: ",
        ),
        (
            {"given": GIVEN, "expect": [{"sum": 3}]},
            "expect: row 0: there is no column sum; columns: day, readings, total",
        ),
        ({"interval": "yesterday", "expect": []}, "interval: "),
    ],
    ids=["table", "column", "value", "expected", "interval"],
)
def test_a_test_that_cannot_be_run_says_why(
    lake: Lakehouse, tmp_path: Path, test: dict[str, object], message: str
) -> None:
    outcome = run(lake, tmp_path, **test)
    assert outcome.status == 20
    assert f"gold.totals one_day: FAILED: {message}" in outcome.stdout, outcome.text


def test_a_model_without_tests_is_not_taken_for_tested(lake: Lakehouse, tmp_path: Path) -> None:
    outcome = run(lake, tmp_path, "--model", "total", expect=[])
    assert outcome.status == 20
    assert "no gold model `total` with tests" in outcome.stderr


def test_tests_change_nothing_of_what_is_committed(lake: Lakehouse, tmp_path: Path) -> None:
    (lake.folder / "landing" / "in").mkdir(parents=True)
    (lake.folder / "landing" / "in" / "a").write_text('{"id": "a", "at": "2024-01-01T00:00:00Z", "amount": 1}\n')
    for expect in ([], [{"total": "1.00"}]):
        manifest = manifests.write(tmp_path / "totals.yaml", manifests.lakehouse(), definition(expect=expect))
        lake.run(manifest, interval="2024-01-01")
    assert lake.snapshots()["gold.totals"] == 1
