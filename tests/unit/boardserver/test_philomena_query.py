"""The search language of Philomena, as the tests' board reads it."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.boardserver.philomena_query import BadQuery, Language, Range, Term, Text

# Tags as that engine has them: with spaces, and with all that its language knows.
ODD_TAGS = (
    *("fox", "blue sky", "smile (face)", "(x)", "a,b", "a, b", 'say "hi"', '"', "back\\slash"),
    *("star*", "what?", "id:5", "id.lt:5", "-minus", "!", "not", "not fox", "^3", "x^2", "a~1"),
    *("and", "a and b", "a && b", "a || b", ")", "(", ":)", "re:zero", "ラーメン", "\\", "\\*"),
)
LANGUAGE = Language(
    whole=frozenset({"id", "score"}),
    fractions=frozenset({"aspect_ratio"}),
    times=frozenset({"created_at"}),
    texts=frozenset({"sha512_hash"}),
)
BOARD: dict[int, set[str]] = {
    number: {tag for place, tag in enumerate(ODD_TAGS) if (number * 7 + place) % 5 < 2}
    for number in range(1, 12)
}
DAYS = {number: datetime(2024, 1, number, 12, tzinfo=UTC).timestamp() for number in BOARD}


def matching(term: Term) -> set[int]:
    if isinstance(term, Range):
        values = DAYS if term.field == "created_at" else {number: number for number in BOARD}
        return {number for number in BOARD if term.matches(values[number])}
    if term.field:
        return {number for number in BOARD if term.matches(f"sum {number}")}
    return {number for number, tags in BOARD.items() if any(map(term.matches, tags))}


def find(query: str) -> set[int]:
    return LANGUAGE.search(query, set(BOARD), matching)


def tagged(*tags: str) -> set[int]:
    return {number for number in BOARD if set(tags) <= BOARD[number]}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", set()),
        ("fox", tagged("fox")),
        ("FOX", tagged("fox")),
        ("  fox  ", tagged("fox")),
        ("blue sky", tagged("blue sky")),
        ("blue_sky", set()),
        ("fox,blue sky", tagged("fox", "blue sky")),
        ("fox AND blue sky && not", tagged("fox", "blue sky", "not")),
        ("fox OR blue sky", tagged("fox") | tagged("blue sky")),
        ("fox || blue sky, not", tagged("fox") | tagged("blue sky", "not")),
        ("(fox || blue sky), not", tagged("fox", "not") | tagged("blue sky", "not")),
        ("fox OR OR not", tagged("fox")),  # the second one has no blank of its own before it
        ("-fox", set(BOARD) - tagged("fox")),
        ("!fox, NOT not", set(BOARD) - tagged("fox") - tagged("not")),
        ("not fox", tagged("not fox")),  # in small letters, it is a word like others
        ("fox^2.5, not", tagged("fox", "not")),
        ("smile (face)", tagged("smile (face)")),  # brackets inside a term belong to it
        ("(smile (face))", tagged("smile (face)")),
        ("(x)", set()),  # and here they group
        (r"\(x\)", tagged("(x)")),
        ('"(x)"', tagged("(x)")),
        ('"a,b"', tagged("a,b")),
        (r"a\,b", tagged("a,b")),
        ("a and b", tagged("a and b")),
        ('"a && b"', tagged("a && b")),
        (r'"say \"hi\""', tagged('say "hi"')),
        ('say "hi"', tagged('say "hi"')),  # quotes count at the beginning only
        ("re:zero", tagged("re:zero")),  # no field of that name
        ("id:5", {5}),
        ('"id:5"', {5}),  # quotes do not hide a field
        (r"id\:5", tagged("id:5")),
        ("ID:5", tagged("id:5")),  # fields are written in small letters
        ("id.lt:4", {1, 2, 3}),
        ("id.lte:4, id.gt:1", {2, 3, 4}),
        ("id.gte:9", {9, 10, 11}),
        ("id.eq: 3 ", {3}),
        ("id:5~2", {3, 4, 5, 6, 7}),
        ("id.lt:99999999999", set()),  # beyond 32 bits it is 0
        ("id.gt:99999999999", set(BOARD)),
        ("aspect_ratio.gt:9.5", {10, 11}),
        ("created_at:2024-01-03", {3}),
        ("created_at.gt:2024-01-09", {10, 11}),
        ("created_at.lte:2024-01-02", {1, 2}),
        ("created_at.lt:2024-02", set(BOARD)),
        ("created_at:2023", set()),
        ("sha512_hash:SUM 3", {3}),
        ("sha512_hash:sum 1*", {1, 10, 11}),
        ("*", set(BOARD)),
        ("blue*", tagged("blue sky")),
        ("b?ue*y", tagged("blue sky")),
        (r"star\*", tagged("star*")),
        (r"what\?", tagged("what?")),
        (r"\*tar*", tagged("star*")),  # one star makes stars of all
    ],
)
def test_philomena(query: str, found: set[int]) -> None:
    assert find(query) == found


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("(fox", "Imbalanced parentheses."),
        (")", "Imbalanced parentheses."),
        ("fox)", "junk at end of expression: )"),
        ("fox (", "junk at end of expression: ("),
        ('"fox" not', "junk at end of expression: not"),
        ("fox,", "Expected a term."),
        (" ", "Expected a term."),
        ("--fox", "Expected a term."),
        ("fox OR , not", "Expected a term."),
        ("created_at:9999", "expected a date"),
        ("fox^-1", "Boost value must be non-negative."),
        ("id:abc", "expected an integer"),
        ("id:1.5", "expected an integer"),
        ("id.lt:5~2", "multiple ranges specified for id"),
        ("created_at:yesterday", "expected a date"),
        ("created_at:2024-13", "expected a date"),
        ("created_at:9999-12-31", "expected a date"),
        ("sha512_hash.lt:5", "has no ranges"),
        ("fox~1", "fuzzy"),
        ("(" * 60_000, "too many brackets"),
        ("a" + "(" * 60_000, "too many brackets"),
        ("a(b" * 20_000, "too many brackets"),
        ("(" * 60 + "fox" + ")" * 60, "too many brackets"),
    ],
)
def test_philomena_refuses(query: str, complaint: str) -> None:
    with pytest.raises(BadQuery, match=re.escape(complaint)):
        find(query)


def test_philomena_needs_little_for_many_stars() -> None:
    text = Language(*[frozenset[str]()] * 4).term("*a" * 500 + "b")
    assert isinstance(text, Text)
    assert not text.matches("a" * 1000)
    assert text.matches("a" * 1000 + "b")


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_philomena_knows_stars_and_question_marks(pattern: str, given_text: str) -> None:
    meant = "".join({"*": ".*", "?": "."}.get(char, char) for char in pattern)
    text = Text("", pattern, wild=True)
    assert text.matches(given_text) == bool(re.fullmatch(meant, given_text))


def test_philomena_reads_long_queries() -> None:
    assert find(" || ".join(["fox"] * 8000)) == tagged("fox")
    assert find("fox" + " " * 60_000 + ", not") == tagged("fox", "not")
    assert find(" " * 60_000 + "x " * 30_000) == set()


Expression = tuple[Any, ...]


def expressions() -> st.SearchStrategy[Expression]:
    terms = st.tuples(
        st.just("tag"), st.sampled_from(ODD_TAGS), st.sampled_from(("escaped", "quoted"))
    )
    numbers = st.tuples(
        st.just("id"), st.sampled_from(("lt", "lte", "gt", "gte", "eq")), st.integers(0, 12)
    )
    return st.recursive(
        terms | numbers,
        lambda inner: (
            st.tuples(st.just("not"), inner, st.sampled_from(("-", "!", "NOT ")))
            | st.tuples(st.just("and"), inner, inner, st.sampled_from((",", ", ", " AND ", " && ")))
            | st.tuples(st.just("or"), inner, inner, st.sampled_from((" OR ", " || ")))
        ),
        max_leaves=8,
    )


def written(expression: Expression) -> str:
    kind, *parts = expression
    if kind == "tag":
        tag, how = parts
        if how == "escaped":
            return re.sub(r"([^\w ])", r"\\\1", tag)
        inside = {"\\": r"\\\\", '"': r"\""} | {char: "\\" + char for char in "*?~:"}
        return '"' + "".join(inside.get(char, char) for char in tag) + '"'
    if kind == "id":
        return f"id.{parts[0]}:{parts[1]}"
    if kind == "not":
        return f"{parts[1]}({written(parts[0])})"
    return f"({written(parts[0])}){parts[2]}({written(parts[1])})"


def meant(expression: Expression) -> set[int]:
    kind, *parts = expression
    if kind == "tag":
        return tagged(parts[0])
    if kind == "id":
        compare = {"lt": "__lt__", "lte": "__le__", "gt": "__gt__", "gte": "__ge__", "eq": "__eq__"}
        return {number for number in BOARD if getattr(number, compare[parts[0]])(parts[1])}
    if kind == "not":
        return set(BOARD) - meant(parts[0])
    one, other = meant(parts[0]), meant(parts[1])
    return one & other if kind == "and" else one | other


@given(expressions())
def test_philomena_finds_what_an_expression_means(expression: Expression) -> None:
    assert find(written(expression)) == meant(expression)


@given(st.lists(st.sampled_from((*'fox ,()-!^~*?":.\\019', " AND ", " OR ", "NOT ", "id.lt:"))))
def test_philomena_takes_or_refuses_any_text(parts: list[str]) -> None:
    with contextlib.suppress(BadQuery):
        assert find("".join(parts)) <= set(BOARD)
