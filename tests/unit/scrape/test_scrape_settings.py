"""The options of `imagetag scrape` that are checked beyond their type."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from imagetag.errors import UsageError
from imagetag.job.command_line import parse_settings
from imagetag.scrape.scrape import scrape_tag
from imagetag.scrape.selection import DEFAULTS, Selection
from jobs.scrape import ScrapeSettings, selection_of


def parse(*argv: str) -> ScrapeSettings:
    given = ["--storage=here", "--tags=asuka", *argv]
    return parse_settings(ScrapeSettings, given, command="scrape", summary="Scrape.")


def test_from_python_the_same_is_taken_as_from_the_command_line() -> None:
    assert selection_of(parse(), "b") == Selection(board="b", **DEFAULTS)


def test_from_python_a_field_that_there_is_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'limt' is no field of a selection: there are .*limit"):
        scrape_tag(tmp_path, "fox", "folder+nowhere", limt=5)
    with pytest.raises(UsageError, match="folder"):
        scrape_tag(tmp_path, "fox", f"folder+{tmp_path}/nowhere")


@pytest.mark.parametrize("given", ["2024-01-31", "2024-01-31T00:00:00Z"])
def test_since_is_a_day_in_utc(given: str) -> None:
    assert parse(f"--since={given}").since == datetime(2024, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize("given", ["2024", "20240131", "5", "1e9", "yesterday"])
def test_since_is_no_number_of_seconds(given: str) -> None:
    with pytest.raises(UsageError, match=f"--since.*take a day such as 2024-01-31.*{given}"):
        parse(f"--since={given}")


@pytest.mark.parametrize("option", ["--max-rate", "--max-aspect"])
@pytest.mark.parametrize("given", ["inf", "nan"])
def test_a_limit_is_a_number(option: str, given: str) -> None:
    with pytest.raises(UsageError, match=option):
        parse(f"{option}={given}")
