"""Each defence that SECURITY.md tells of has a test, and a release has one name everywhere."""

from __future__ import annotations

import re
import subprocess

import pytest

from imagetag import __version__
from tests.packages import PROJECT, ROOT

POLICY = (ROOT / "SECURITY.md").read_text()
ROWS = re.findall(r"^\| (?!against|---)(.*?) \| .* \| (.*) \|$", POLICY, re.MULTILINE)
CHANGES = (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(("against", "tests"), ROWS)
def test_each_defence_has_tests_that_exist(against: str, tests: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
    assert named
    assert len(named) == tests.count("`") // 2
    for path, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), name


def test_the_defences_are_found() -> None:
    assert len(ROWS) > 10


def test_the_version_is_that_of_the_changelog_s_top() -> None:
    top = re.search(r"^## (\S+) \((not released|\d{4}-\d\d-\d\d)\)$", CHANGES, re.MULTILINE)
    assert top, "its first heading is the version, and when it was released"
    assert top[1] == __version__ == PROJECT["version"]


def test_a_tag_of_this_commit_is_that_version_and_it_is_released() -> None:
    done = subprocess.run(
        ["git", "tag", "--points-at", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    for tag in re.findall(r"^v\d.*$", done.stdout, re.MULTILINE):
        assert tag == f"v{__version__}"
        assert re.search(rf"^## {re.escape(__version__)} \(\d", CHANGES, re.MULTILINE)
