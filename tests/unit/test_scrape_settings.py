"""The options of `imagetag scrape` that are checked beyond their type."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from imagetag.errors import UsageError
from imagetag.settings import parse_settings
from jobs.scrape import ScrapeSettings


def parse(*argv: str) -> ScrapeSettings:
    given = ["--storage=here", "--tags=asuka", *argv]
    return parse_settings(ScrapeSettings, given, command="scrape", summary="Scrape.")


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
