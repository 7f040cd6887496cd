"""The README tells every option and exit code as the code has them."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from imagetag import errors
from imagetag.boards import SITES
from imagetag.settings import JobSettings, TagSettings, default_text, option_name
from jobs.cli import JOBS

_README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def _settings(name: str) -> type[JobSettings]:
    module = importlib.import_module(f"jobs.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, JobSettings)
        and value.__module__ == module.__name__
    ]
    assert len(found) == 1
    return found[0]


def _rows(settings: type[JobSettings], without: type[JobSettings] | None) -> list[str]:
    known = set() if without is None else set(without.model_fields)
    return [
        f"| `{option_name(name)}` | {default_text(field)} | {field.description} |"
        for name, field in settings.model_fields.items()
        if name not in known
    ]


def _section(title: str) -> str:
    match = re.search(rf"^### {re.escape(title)}$(.*?)^##", _README, re.DOTALL | re.MULTILINE)
    assert match, f"the README has no section {title!r}"
    return match[1]


@pytest.mark.parametrize("name", JOBS)
def test_every_option_of_a_job_is_in_its_table(name: str) -> None:
    table = [line for line in _section(name).splitlines() if line.startswith("| `--")]
    assert table == _rows(_settings(name), TagSettings)


def test_every_common_option_is_in_its_table() -> None:
    table = [line for line in _section("Common options").splitlines() if line.startswith("| `--")]
    assert table == _rows(TagSettings, None)


def test_every_exit_code_is_told() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", _README, re.MULTILINE)}
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert told == codes


def test_every_board_is_in_the_table() -> None:
    rows = [
        f"| `{site.name}` | {site.engine} | {site.root.removeprefix('https://')} | {site.login} |"
        for site in SITES.values()
    ]
    assert "\n".join(rows) in _README


def test_pictures_and_files_that_are_named_exist() -> None:
    root = Path(__file__).parents[2]
    links = re.findall(r"\]\(([^)#:]+)\)", _README)
    assert links
    assert [link for link in links if not (root / link).exists()] == []
