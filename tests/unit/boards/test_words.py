"""What boards say in the place of posts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagetag.boards.words import meaning_of, words_of
from tests.boards import values


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('"Missing authentication"', "Missing authentication"),
        ('{"success": false, "reason": "no\\nway", "message": "at all"}', "no way: at all"),
        ('{"errors": ["one", "two"]}', "one: two"),
        ('[{"message": "hello"}]', "hello"),
        ('["hello"]', "hello"),
        ("plain words\n", "plain words"),
        ("<error>Missing authentication</error>", "Missing authentication"),
        ('<?xml version="1.0"?>\n<response success="false" reason="offline"/>', "offline"),
        ("<html><title>Sorry</title><h1>Down &amp; out</h1><p>x</p></html>", "Sorry: Down & out"),
        ("", ""),
        ("[]", ""),
        ('[{"id": 1, "message": "a tag"}]', ""),
        ('{"posts": [{"id": 1}], "message": "a tag"}', ""),
        ('[{"id": 1, "tags": "try again later', ""),
        ('<posts><post id="1" message="log in"/></posts>', ""),
    ],
)
def test_the_words_of_an_answer(content: str, words: str) -> None:
    assert words_of(content.encode()) == words


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("Missing authentication. Go to the API site for more information", "account"),
        ("You must be logged in", "account"),
        ("Please sign in to search", "account"),
        ("This API requires an account", "account"),
        ("Anonymous search is disabled", "account"),
        ("Members only", "account"),
        ("Invalid API key", "account"),
        ("Authentication failed, try again", "account"),
        ("You have been throttled", "busy"),
        ("Rate limit of your API key exceeded", "busy"),
        ("Down for maintenance", "busy"),
        ("Search error: API limited due to abuse.", "busy"),
        ("The database timed out running your query", "busy"),
        ("Try again later", "busy"),
        ("You cannot search for more than 2 tags at a time", "query"),
        ("PostQuery::TagLimitError", "query"),
        ("You cannot go beyond page 1000", "query"),
        ("Too deep! Pull it back some.", "query"),
        ("Search of this kind is disabled", "query"),
        ("Just a moment...", None),
        ("Blog in English", None),
        ("API offline. Feel free to browse the site the old fashioned way for now.", None),
        ("", None),
    ],
)
def test_what_words_mean(words: str, meaning: str | None) -> None:
    assert meaning_of(words) == meaning


@given(st.binary() | values.map(str).map(str.encode))
def test_any_bytes_are_few_words(content: bytes) -> None:
    words = words_of(content)
    assert len(words) <= 300
    assert "\n" not in words
    meaning_of(words)


@pytest.mark.parametrize("text", ["<", "<title", "<input ", "<h1>", "<a reason=", "<input type "])
def test_hostile_markup_is_read_once(text: str) -> None:
    assert len(words_of(b"<html>" + text.encode() * 20_000)) <= 300
