"""Which posts are wanted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from imagetag.boards.base import Post, Query
from imagetag.scrape.selection import Selection, extension_of

DEFAULTS: dict[str, Any] = {
    "board": "https://board.example",
    "limit": 10,
    "negatives": "random",
    "negative_ratio": 1.0,
    "ratings": ("general",),
    "extensions": ("jpg", "png"),
    "min_side": 64,
    "max_pixels": 1_000_000,
    "max_aspect": None,
    "max_bytes": 10**6,
    "min_score": None,
    "blocked_tags": (),
    "since": None,
    "test_fraction": 0.2,
}
POST = Post(
    id=5,
    board="board.example",
    page_url="https://board.example/5",
    file_url="https://board.example/5.jpeg",
    md5=None,
    width=800,
    height=600,
    tags=("fox", "red"),
    rating="general",
    parent_id=None,
    score=3,
    created_at=datetime(2024, 5, 1, tzinfo=UTC),
)


def select(**options: Any) -> Selection:
    return Selection(**DEFAULTS | options)


def post(**fields: Any) -> Post:
    names = {name: getattr(POST, name) for name in Post.__dataclass_fields__}
    return Post(**names | fields)


def test_a_post_that_is_wanted() -> None:
    assert select().unfit(POST, "fox", "positive") is None
    assert select().unfit(POST, "owl", "negative") is None


@pytest.mark.parametrize(
    ("options", "fields", "reason"),
    [
        ({}, {"tags": ("red",)}, "tag_absent"),
        ({"blocked_tags": ("red",)}, {}, "blocked_tag"),
        ({"blocked_tags": ("re",)}, {}, None),
        ({}, {"rating": "sensitive"}, "rating"),
        ({}, {"rating": None}, "rating"),
        ({}, {"rating": None, "file_url": None}, None),
        ({"ratings": ("general", "explicit")}, {"rating": "explicit"}, None),
        ({}, {"tags": ("fox", "nude")}, "rating_by_tags"),
        ({}, {"tags": ("fox", "penis")}, "rating_by_tags"),
        ({"ratings": ("questionable",)}, {"tags": ("fox", "nude"), "rating": "questionable"}, None),
        (
            {"ratings": ("questionable",)},
            {"tags": ("fox", "penis"), "rating": "questionable"},
            "rating_by_tags",
        ),
        ({"ratings": ("general", "explicit")}, {"tags": ("fox", "penis")}, None),
        ({"since": datetime(2024, 5, 1, tzinfo=UTC)}, {}, None),
        ({"since": datetime(2024, 5, 2, tzinfo=UTC)}, {}, "too_old"),
        ({"since": datetime(2024, 5, 1, tzinfo=UTC)}, {"created_at": None}, "too_old"),
        ({"min_score": 3}, {}, None),
        ({"min_score": 4}, {}, "score"),
        ({"min_score": 0}, {"score": None}, None),
        ({"min_score": -5}, {"score": -4}, None),
        ({}, {"file_url": ""}, "no_file"),
        ({}, {"file_url": "https://board.example/5.webm?5"}, "video"),
        ({}, {"file_url": "https://board.example/5.zip"}, "video"),
        ({}, {"file_url": "https://board.example/5.gif"}, "extension"),
        ({}, {"file_url": "https://board.example/5.avif"}, "extension"),
        ({}, {"file_url": "https://board.example/5"}, None),
        ({}, {"file_url": "https://board.example/view.php?5.gif"}, None),
        ({}, {"width": 63}, "too_small"),
        ({}, {"width": 64, "height": 64}, None),
        ({"max_pixels": 480_000}, {}, None),
        ({"max_pixels": 479_999}, {}, "too_many_pixels"),
        ({"max_aspect": 1.33}, {}, "aspect"),
        ({"max_aspect": 1.34}, {}, None),
        ({"max_aspect": 1.34}, {"width": 600, "height": 800}, None),
        ({}, {"width": None, "height": None}, None),
    ],
)
def test_why_a_post_is_not_wanted(
    options: dict[str, Any], fields: dict[str, Any], reason: str | None
) -> None:
    assert select(**options).unfit(post(**fields), "fox", "positive") == reason


def test_a_negative_has_not_the_tag() -> None:
    assert select().unfit(POST, "fox", "negative") == "tag_present"


def test_the_board_is_asked_for_as_much_as_it_can_filter() -> None:
    assert select().query(("a",), ("b",)) == Query(("a",), ("b",), ("general",), dated=False)
    assert select(since=datetime(2024, 1, 1, tzinfo=UTC)).query().dated


@pytest.mark.parametrize(
    ("url", "ending"),
    [
        ("https://b.example/a/b.JPG", "jpg"),
        ("https://b.example/a.jpeg?x=.png", "jpg"),
        ("https://b.example/a.b/c", ""),
        ("file:///a/b.webp", "webp"),
        ("https://b.example/é.png#x", "png"),
    ],
)
def test_the_ending_of_a_url(url: str, ending: str) -> None:
    assert extension_of(url) == ending
