"""Every condition, reason and event that the operator can set is in its documents, with what it means and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from support.paths import ROOT

OPERATOR = ROOT / "operator" / "src"
OPERATIONS = ROOT / "docs" / "operations.md"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
WORD = r"[A-Z][A-Za-z]+"
# Words of other programs that the operator reads, and names of kinds: in the same places as reasons, and none.
OTHERS = {
    # Kinds.
    *("Lakehouse", "LakehouseBackfill", "LakehousePipeline", "LakehouseRun"),
    # Status of a condition.
    *("True", "False", "Unknown"),
    # Conditions of Jobs and pods, and what a kubelet, a scheduler and the Job controller say.
    *(
        "Complete",
        "Failed",
        "DisruptionTarget",
        "PodScheduled",
        "DeadlineExceeded",
        "PodFailurePolicy",
        "SchedulerError",
    ),
    *("Image", "RegistryUnavailable", "ContainerCreating", "PodInitializing", "Error"),
}


def sources() -> Iterator[tuple[Path, str]]:
    """What decides and tells, without its unit tests and comments."""
    for path in sorted([*OPERATOR.glob("plan/**/*.rs"), *OPERATOR.glob("controller/**/*.rs")]):
        # Classes of failed requests are labels of a metric.
        if path.name != "error.rs":
            text = path.read_text().split("#[cfg(test)]")[0]
            yield path, re.sub(r"//.*", "", text)


def words() -> set[str]:
    """Every word that may be a condition or a reason."""
    found = {word for _, text in sources() for word in re.findall(rf'"({WORD})"', text)} - OTHERS
    # What is given to a constructor is one, whatever it is called elsewhere.
    for _, text in sources():
        found |= set(re.findall(rf'Verdict::new\(\s*"\w+",\s*"({WORD})"', text))
        found |= set(re.findall(rf'Note::(?:normal|warning)\(\s*"({WORD})"', text))
        found |= set(re.findall(rf'\.(?:waiting|failed|stage_failed)\([^"\n]*"({WORD})"', text))
    return found


def reasons_of_jobs() -> set[str]:
    """The reasons that a report can have."""
    text = (ROOT / "jobs" / "contract" / "src" / "failure.rs").read_text()
    body = text[text.index("pub enum Reason {") :]
    return set(re.findall(rf"^    ({WORD}),$", body[: body.index("\n}")], re.MULTILINE))


def documented(path: Path, section: str | None = None) -> dict[str, list[str]]:
    """The rows of a document's tables by the words in their first cell: the other cells."""
    text = path.read_text()
    if section:
        start = text.index(f"\n## {section}\n")
        text = text[start : text.index("\n## ", start + 1)]
    rows = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            first, *others = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            rows |= dict.fromkeys(re.findall(rf"`({WORD})`", first), others)
    return rows


def test_everything_that_is_said_is_documented() -> None:
    said = words()
    # Else the search finds nothing any more.
    assert {"Ready", "StoreReady", "TimesMissed", "JobNameTaken", "RunReplaced", "ReportLost", "AccessDenied"} <= said
    rows = documented(OPERATIONS, "Conditions and reasons")
    missing = sorted(said - rows.keys())
    assert not missing, f"docs/operations.md, Conditions and reasons, does not have {missing}"


def test_every_reason_of_a_job_is_documented() -> None:
    reasons = reasons_of_jobs()
    assert {"InvalidDefinition", "IncompatibleVersion", "Internal"} <= reasons
    missing = sorted(reasons - documented(TROUBLESHOOTING, "Reasons of a failed run").keys())
    assert not missing, f"docs/troubleshooting.md, Reasons of a failed run, does not have {missing}"


def test_every_class_of_failure_is_documented() -> None:
    text = (ROOT / "crds" / "src" / "common.rs").read_text()
    body = text[text.index("pub enum FailureClass {") :]
    classes = set(re.findall(rf"^    ({WORD}),$", body[: body.index("\n}")], re.MULTILINE))
    assert "Disruption" in classes
    assert not classes - documented(OPERATIONS, "Retries").keys()


def test_every_row_says_what_it_means_and_what_to_do() -> None:
    for path, section in ((OPERATIONS, "Conditions and reasons"), (TROUBLESHOOTING, "Reasons of a failed run")):
        for word, cells in documented(path, section).items():
            assert len(cells) >= 2 and all(cells), f"{path.name}: {word}: {cells}"


def test_nothing_is_documented_that_cannot_be_said() -> None:
    gone = sorted(documented(OPERATIONS, "Conditions and reasons").keys() - words() - reasons_of_jobs())
    assert not gone, f"docs/operations.md, Conditions and reasons, has {gone}, which nothing says"
