"""Tags and rows from strangers' files: read as meant, or left out; never a crash."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagetag.boards.entries import BadEntry, Entry, clean_tag, joined, read_entry, read_tags
from imagetag.boards.fields import MAX_ID
from imagetag.boards.linkfile import read_url
from imagetag.boards.links import read_row
from imagetag.boards.listed import ID_BITS, stable_id

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
FIELDS = """
    url image_url file_url tags tag_string caption text id md5 rating width height parent_id score
    created_at date other
"""
COLUMNS = st.sampled_from(FIELDS.split())
TAG = st.text("abcxyz0189_()'!:é東", min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        # As booru dumps have them, as prompts, and as gallery-dl writes them.
        ("1girl long_hair  solo\n", ("1girl", "long_hair", "solo")),
        ("1girl, long hair,solo", ("1girl", "long_hair", "solo")),
        ("1girl\nlong_hair\nsolo\n", ("1girl", "long_hair", "solo")),
        ("twilight sparkle\r\npony\r\n", ("twilight_sparkle", "pony")),
        ("1girl, long  hair,\nsolo, ,\n", ("1girl", "long_hair", "solo")),
        (r"asuka \(plugsuit\), solo", ("asuka_(plugsuit)", "solo")),
        ('["1girl", "long hair"]', ("1girl", "long_hair")),
        ("solo solo", ("solo",)),
        (" \n\t ", ()),
        ("", ()),
        (None, ()),
        (["1girl", "long hair", None, ""], ("1girl", "long_hair")),
        ({"general": ["solo"], "character": ["asuka", "solo"], "lore": []}, ("solo", "asuka")),
    ],
)
def test_tags_are_read_as_they_are_meant(text: Any, tags: tuple[str, ...]) -> None:
    assert read_tags(text) == tags


@pytest.mark.parametrize(
    "value",
    [
        *("['1girl', 'solo']", "[" * 50_000 + "]" * 50_000, "[1, 2]", '[["a"]]'),
        *(5, 1.5, True, b"solo", [5], [["solo"]], {"general": "solo"}, {"general": {"a": []}}),
        *("a\0b", "x" * 201, "\ud800", "a\ufffd", ["a\x85b\x86"], "\x1b[31m"),
        " ".join(map(str, range(5001))),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_what_is_no_list_of_tags_is_refused(value: Any) -> None:
    # Less would be worse than nothing: a missing tag makes a picture an example of its absence.
    with pytest.raises(BadEntry):
        read_tags(value)


@given(st.lists(TAG, unique=True))
def test_tags_written_in_any_way_are_read_alike(tags: list[str]) -> None:
    tags = [tag for tag in map(clean_tag, tags) if tag.strip("_")]
    expected = tuple(dict.fromkeys(tags))
    assert read_tags(" ".join(tags)) == expected
    assert read_tags("\n".join(tags)) == expected
    assert read_tags(", ".join(tags)) == expected
    assert read_tags(tags) == expected
    assert read_tags(json.dumps(tags)) == expected


@given(ANYTHING)
def test_tags_that_are_read_can_be_written_down(value: Any) -> None:
    try:
        tags = read_tags(value)
    except BadEntry:
        return
    assert len(set(tags)) == len(tags)
    for tag in tags:
        assert tag == "".join(tag.split())
        assert 0 < len(tag.encode()) <= 800
        assert clean_tag(tag) == tag


@given(st.dictionaries(COLUMNS, ANYTHING | st.just("http://example.org/1.jpg") | TAG))
def test_a_row_is_a_picture_or_is_left_out(row: dict[str, Any]) -> None:
    try:
        url, entry = read_url(row), read_row(row)
    except BadEntry:
        return
    assert url.startswith(("http://", "https://"))
    assert not any(char < " " for char in url)
    assert entry.id is None or 0 < entry.id < MAX_ID
    assert entry.created_at is None or entry.created_at.tzinfo is UTC


def test_all_that_is_told_is_read() -> None:
    row = {
        "url": " https://example.org/1.jpg ",
        "caption": "solo",
        "id": "17.0",
        "md5": "D41D8CD98F00B204E9800998ECF8427E",
        "rating": "Q",
        "width": 640.0,
        "height": "480",
        "parent_id": 12,
        "score": "-3",
        "created_at": "2020-02-03T04:05:06+01:00",
    }
    url, entry = read_url(row), read_row(row)
    assert url == "https://example.org/1.jpg"
    assert (entry.id, entry.width, entry.height) == (17, 640, 480)
    assert (entry.parent_id, entry.score) == (12, -3)
    assert entry.md5 == "d41d8cd98f00b204e9800998ecf8427e"
    assert entry.rating == "questionable"
    assert entry.created_at == datetime(2020, 2, 3, 3, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("rating", "read"),
    [
        *((None, "general"), ("", "general"), ("safe", "general"), ("g", "general")),
        *(("s", "sensitive"), (" Explicit ", "explicit"), ("?", None), (5, None), (["g"], None)),
    ],
)
def test_a_rating_that_is_not_known_is_not_taken_for_general(rating: Any, read: Any) -> None:
    assert read_entry({"rating": rating}, "solo").rating == read


@pytest.mark.parametrize(
    "value", ["0", "-1", "1.5", "٣", 1.5, float("nan"), float("inf"), True, 10**30, "9" * 30, [1]]
)
def test_what_is_no_id_is_none(value: Any) -> None:
    assert read_entry({"id": value}, "solo").id is None


@pytest.mark.parametrize(
    "url",
    [
        *("", None, 5, "x.jpg", "//example.org/1.jpg", "ftp://example.org/1", "file:///etc/passwd"),
        *("http://", "http:///x", "http://[::1", "https://example.org/\n1", "http://a.b/\0"),
        *("http://example.org/" + "x" * 5000, "http://example.org/\ud800", "http://a.b/\ufffd"),
    ],
)
def test_a_row_without_a_url_that_can_be_asked_for_is_left_out(url: Any) -> None:
    with pytest.raises(BadEntry):
        read_url({"url": url, "tags": "solo"})


DATE = datetime(2020, 1, 1, tzinfo=UTC)
RECORDS = st.builds(
    Entry,
    tags=st.lists(st.sampled_from("abcd"), unique=True).map(tuple),
    id=st.none() | st.integers(1, 3),
    width=st.sampled_from((None, 8)),
    height=st.sampled_from((None, 9)),
    rating=st.sampled_from(("general", "sensitive", "questionable", "explicit", None)),
    parent_id=st.none() | st.integers(1, 3),
    score=st.none() | st.integers(-1, 1),
    created_at=st.none() | st.just(DATE),
)


@given(RECORDS, RECORDS)
def test_what_two_records_say_is_joined_whichever_comes_first(one: Entry, other: Entry) -> None:
    both, reverse = joined(one, other), joined(other, one)
    assert replace(both, tags=()) == replace(reverse, tags=())
    assert set(both.tags) == set(reverse.tags) == {*one.tags, *other.tags}
    assert len(set(both.tags)) == len(both.tags)
    if one == other:
        assert both == one


def test_the_stricter_of_two_records_holds() -> None:
    first = Entry(("a",), rating="general", score=5, created_at=DATE + timedelta(1), width=9)
    second = Entry(("b",), rating="explicit", score=-2, created_at=DATE, md5="0" * 32)
    third = Entry(("a",), rating=None, width=8)
    both = joined(first, second)
    assert (both.rating, both.score, both.created_at) == ("explicit", -2, DATE)
    assert (both.md5, both.width) == ("0" * 32, 9)  # told by one of them
    assert joined(first, third).rating is None  # it may be any
    assert joined(first, third).width == 8
    assert joined(second, third).rating == "explicit"
    with pytest.raises(BadEntry, match="md5_conflict"):
        joined(second, replace(second, md5="1" * 32))
    many = [Entry(tuple(f"{letter}{n}" for n in range(3000))) for letter in "ab"]
    with pytest.raises(BadEntry, match="tags"):
        joined(*many)


@given(st.text(), st.text(), st.integers(0, 5))
def test_ids_are_positive_and_few_bits(name: str, other: str, attempt: int) -> None:
    assert 0 < stable_id(name.encode(errors="replace").decode(), attempt) < 2**ID_BITS < MAX_ID


def test_ids_last() -> None:
    # Stored datasets know pictures by them.
    assert stable_id("asuka/1.jpg") == 509655476802706
