"""One release has one version: programs, images, charts, documents and the changelog name the same."""

from __future__ import annotations

import re
import subprocess
from datetime import date

import pytest
import yaml
from support.binaries import binary
from support.paths import ROOT
from support.release import version

NUMBER = r"\d+\.\d+\.\d+"


@pytest.mark.parametrize("program", ["lakehouse", "lakehouse-operator", "lakehouse-api"])
def test_a_program_says_its_version(program: str) -> None:
    done = subprocess.run([binary(program), "--version"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split()[-1] == version()


@pytest.mark.parametrize("chart", ["lakehouse-operator", "lakehouse-platform"])
def test_a_chart_has_the_version_of_its_images(chart: str) -> None:
    found = yaml.safe_load((ROOT / "charts" / chart / "Chart.yaml").read_text())
    assert (found["version"], found["appVersion"]) == (version(), version())


def test_documents_and_values_name_images_of_this_release() -> None:
    files = [
        path
        for folder in ("charts", "dags", "deploy", "docs", "README.md")
        for path in ([ROOT / folder] if (ROOT / folder).is_file() else (ROOT / folder).rglob("*"))
        if path.suffix in (".md", ".yaml", ".py", ".tpl", ".txt")
    ]
    named = {
        (str(path.relative_to(ROOT)), tag)
        for path in files
        for tag in re.findall(rf"lakehouse/[a-z-]+:({NUMBER})", path.read_text())
    }
    assert named, "nothing names an image: what is looked for has changed"
    assert {tag for _, tag in named} == {version()}, named


def test_the_changelog_begins_with_this_release() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(rf"^## \[({NUMBER}|Unreleased)\](?: - (\S+))?$", text, re.MULTILINE)
    released = [(number, date.fromisoformat(day)) for number, day in headings if number != "Unreleased"]
    assert released[0][0] == version()
    # The newest first, by number and by day.
    assert released == sorted(released, key=lambda it: (tuple(map(int, it[0].split("."))), it[1]), reverse=True)
    assert headings.count(("Unreleased", "")) <= 1
