"""Reading one field, or one answer, of what boards say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagetag.boards import fields
from tests.boards import values


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (5, 5),
        ("5", 5),
        ("007", 7),
        (10**6 - 1, 10**6 - 1),
        (10**6, None),
        (0, None),
        ("0", None),
        (-5, None),
        ("-5", None),
        ("", None),
        ("-", None),
        ("--5", None),
        ("+5", None),
        (" 5", None),
        ("5.0", None),
        (5.0, None),
        ("²", None),
        ("٣", None),
        ("9" * 5000, None),
        (10**400, None),
        (True, None),
        (None, None),
        ([5], None),
        (float("nan"), None),
    ],
)
def test_positive(value: Any, number: int | None) -> None:
    assert fields.positive(value) == number


@pytest.mark.parametrize(
    ("value", "score"),
    [(0, 0), ("-3", -3), (-3, -3), ("", None), (10**9, None), (True, None), (1.5, None)],
)
def test_score(value: Any, score: int | None) -> None:
    assert fields.score(value) == score


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (1319266932, "2011-10-22T07:02:12"),
        ("1319266932", "2011-10-22T07:02:12"),
        ({"json_class": "Time", "s": 1319266932, "n": 123}, "2011-10-22T07:02:12"),
        ("Sat Oct 22 02:02:12 -0500 2011", "2011-10-22T07:02:12"),
        ("Sat Jan 1 02:02:12 +0530 2011", "2010-12-31T20:32:12"),
        ("2011-10-22T02:02:12.000-05:00", "2011-10-22T07:02:12"),
        ("2011-10-22T07:02:12Z", "2011-10-22T07:02:12"),
        ("2011-10-22T07:02:12", "2011-10-22T07:02:12"),
        ("2011-10-22 07:02:12", "2011-10-22T07:02:12"),
        *((0, None), ("0", None), (-5, None), (None, None), ("", None), ("soon", None)),
        *((True, None), (1.5, None), ([], None), ({}, None), (10**15, None)),
        ({"s": {"s": 5}}, None),
        ("Sat Oct 32 02:02:12 -0500 2011", None),
        ("Sat Foo 22 02:02:12 -0500 2011", None),
        ("Sat Oct 22 02:02:12 -9900 2011", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("9999-12-31T23:59:59-23:59", None),
        ("2011-10-22T07:02:12Z" * 1000, None),
    ],
)
def test_moment(value: Any, moment: str | None) -> None:
    expected = datetime.fromisoformat(moment).replace(tzinfo=UTC) if moment else None
    assert fields.moment(value) == expected


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("https://a.example/1.png?x#y", "https://a.example/1.png?x#y"),
        ("//a.example/1.png", "https://a.example/1.png"),
        ("/1.png", "https://board.example/1.png"),
        ("1.png", "https://board.example/b/1.png"),
        ("../../1.png", "https://board.example/1.png"),
        ("http://[::1]/1.png", "http://[::1]/1.png"),
        (None, ""),
        ("", ""),
    ],
)
def test_url_of_a_file(value: Any, url: str) -> None:
    assert fields.file_url("https://board.example/b/", value) == url


def is_refused(read: Callable[..., Any], *values: Any) -> bool:
    try:
        read(*values)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(
    "value",
    [
        *("http://[", "http://", "http:///x", "http://a:0/", "http://a:99999/", "http://a:b/"),
        *("ftp://a/b", "javascript:alert(1)", "data:image/png;base64,AA", "file:///a"),
        *("http://a/\ud800", 5, ["a"], {}),
    ],
)
def test_url_that_leads_nowhere(value: Any) -> None:
    assert is_refused(fields.file_url, "https://board.example/", value)


def test_words_and_names() -> None:
    assert fields.words(" b a\tb\u3000c\n") == ("b", "a", "c")
    assert fields.words("") == ()
    assert fields.names(["long hair", "a", " long\u00a0hair ", "", "b\nc"]) == (
        "long_hair",
        "a",
        "b_c",
    )


@pytest.mark.parametrize("value", [None, 5, {}, "a b", ["a", 5], ["\ud800"], [["a"]]])
def test_names_that_are_none(value: Any) -> None:
    assert is_refused(fields.names, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, -5, 1.5]", [1, -5, 1.5]),
        ("\ufeff{}", {}),
        ("\n\ufeff \ufeff{}", {}),
        ("[NaN, Infinity, -Infinity]", [None, None, None]),
        (f"[{'9' * 5000}, {10**18}, {10**17}]", [None, None, 10**17]),
        ('"a\tb"', "a\tb"),
    ],
)
def test_json_that_can_be_read(text: str, value: Any) -> None:
    assert fields.load_json(text.encode()) == value


@pytest.mark.parametrize("content", [b"", b"{", b"[1,]", b"[" * 10**6, b'{"a":' * 10**5, b"\xff"])
def test_json_that_cannot_be_read(content: bytes) -> None:
    assert is_refused(fields.load_json, content)


def test_xml_posts_by_attributes_and_by_children() -> None:
    xml = b'<posts count="2"><post id="1" tags="a"/><post><id>2</id><tags>b c</tags></post></posts>'
    assert fields.load_xml_posts(xml) == [{"id": "1", "tags": "a"}, {"id": "2", "tags": "b c"}]


@pytest.mark.parametrize(
    "before", ["", "\n", "\r\n\r\n", " \t", "\ufeff", "\n\ufeff", "\ufeff\n\ufeff \n"]
)
@pytest.mark.parametrize("declared", ["", '<?xml version="1.0" encoding="UTF-8"?>\n'])
def test_xml_is_read_whatever_blank_is_before_it(before: str, declared: str) -> None:
    xml = f'{before}{declared}<posts><post id="1" tags="é"/></posts>\n\n'
    assert fields.load_xml_posts(xml.encode()) == [{"id": "1", "tags": "é"}]


def test_xml_in_another_encoding_keeps_its_own_mark() -> None:
    xml = '<?xml version="1.0" encoding="UTF-16"?><posts><post id="1" tags="é"/></posts>'
    assert fields.load_xml_posts(xml.encode("utf-16")) == [{"id": "1", "tags": "é"}]


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ("", "not XML"),
        ("\ufeff \n", "not XML"),
        ("x\n<posts/>", "not XML"),
        ("<posts>", "not XML"),
        ("<a>" * 100_000, "not XML"),
        ("<!DOCTYPE posts><posts/>", "not XML"),
        ('<!DOCTYPE p [<!ENTITY a "b">]><posts>&a;</posts>', "not XML"),
        ('<response success="false" reason="API offline"/>', "<response> API offline"),
        ("<error>Missing authentication</error>", "<error> Missing authentication"),
    ],
)
def test_xml_that_is_no_list_of_posts(xml: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fields.load_xml_posts(xml.encode())


@given(value=values | st.dictionaries(st.sampled_from(["s", "n"]), values))
def test_any_value_is_read_or_refused(value: Any) -> None:
    for read in (fields.positive, fields.score, fields.md5, fields.moment):
        read(value)
    fields.rating(value, {"s": "general"})
    for refuse in (fields.post_id, fields.words, fields.names):
        is_refused(refuse, value)
