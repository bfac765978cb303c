"""Every file of deploy/ is valid; every one of deploy/refused/ is refused with the words in its first line."""

from pathlib import Path

import pytest
from support.jobs import TERMINAL
from support.lakehouse import Lakehouse
from support.manifests import DEPLOY

SAMPLES = sorted(DEPLOY.glob("*.yaml"))
REFUSED = sorted((DEPLOY / "refused").rglob("*.yaml"))


def name(path: Path) -> str:
    """The path as people write it."""
    return str(path.relative_to(DEPLOY))


def test_there_are_samples_of_both_kinds() -> None:
    assert len(SAMPLES) >= 6
    assert len(REFUSED) >= 12


@pytest.mark.parametrize("sample", SAMPLES, ids=name)
def test_a_sample_is_valid(lake: Lakehouse, sample: Path) -> None:
    outcome = lake.validate(sample)
    assert outcome.status == 0, outcome.text


@pytest.mark.parametrize("sample", REFUSED, ids=name)
def test_a_refused_sample_says_why(lake: Lakehouse, sample: Path) -> None:
    expected = sample.read_text().splitlines()[0].removeprefix("# expect: ")
    outcome = lake.validate(sample)
    assert outcome.status == TERMINAL
    assert expected in outcome.text
    assert sample.name in outcome.text
