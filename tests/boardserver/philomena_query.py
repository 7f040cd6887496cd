"""The search language of Philomena: terms with AND, OR, NOT, groups, quotes and escapes.

It follows the engine's own lexer and parser rule by rule, so that its oddities are the engine's:

- a comma, ` && ` and ` AND ` join; ` || ` and ` OR ` choose; `-`, `!` and `NOT ` negate, once;
- a term goes on until one of these, so spaces belong to it, and so do brackets inside it;
- quotes protect commas and words such as AND, but neither stars nor the colon of `id:5`;
- a backslash protects one character, but no star where another star is unprotected;
- a whole number beyond 32 bits is taken for 0.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_DEEPEST = 50  # brackets within brackets

_BLANKS = " \t\n\r\v\f"
_BLANK = r"[ \t\n\r\v\f]"
_BOOST = re.compile(r"\^([-+]?)[0-9]+(?:\.[0-9]+)?")
_OPERATOR = re.compile(rf"(AND|&&|OR|\|\|){_BLANK}+")  # after blanks
_NOT = re.compile(rf"NOT{_BLANK}+")
_QUOTED = re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL)
_FUZZY = re.compile(r"(?<!\\)~[0-9]+(?:\.[0-9]+)?\Z")
_FIELD = re.compile(r"([a-z0-9_]+)(?:\.(eq|gt|gte|lt|lte))?:(.*)", re.DOTALL)
_NUMBER = re.compile(rf"([-+]?[0-9]+)(\.[0-9]+)?(?:~([0-9]+))?{_BLANK}*")
_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}


class BadQuery(Exception):
    """The text is no query; the engine says why."""


@dataclass(frozen=True)
class Range:
    """A term such as `id.lt:5`: bounds of a field's number, or of its time in seconds since 1970.

    A bound is `lt`, `lte`, `gt` or `gte`, and a number.
    """

    field: str
    bounds: tuple[tuple[str, float], ...]

    def matches(self, given: float) -> bool:
        """Return whether a field's value is within all bounds."""
        return all(_COMPARISONS[how](given, bound) for how, bound in self.bounds)


@dataclass(frozen=True)
class Text:
    """A term such as `fox` or `sha512_hash:abc`; a tag has no field.

    Where it is `wild`, a star stands for any text and a question mark for one character.
    """

    field: str
    value: str
    wild: bool = False

    def matches(self, given: str) -> bool:
        """Return whether a field's text fits."""
        return _like(given, self.value) if self.wild else given == self.value


Term = Range | Text


@dataclass(frozen=True)
class Language:
    """The fields that may be asked for, by what they hold."""

    whole: frozenset[str]
    fractions: frozenset[str]
    times: frozenset[str]
    texts: frozenset[str]

    def search(
        self, query: str, everything: set[int], find: Callable[[Term], set[int]]
    ) -> set[int]:
        """Return what a query matches, given what there is and what a term matches.

        Raises:
            BadQuery: if it is none.

        """
        if not query:  # nothing asked, nothing found
            return set()
        return _Parser(query, everything, lambda text: find(self.term(text))).found()

    def term(self, text: str) -> Term:
        """Return what a term asks for.

        Raises:
            BadQuery: if its field cannot be asked so.

        """
        match = _FIELD.match(text)
        if match is None:
            return _text("", text)
        name, how, value = match[1], match[2] or "eq", match[3].strip()
        if name in self.whole or name in self.fractions:
            return _number(name, how, value, whole=name in self.whole)
        if name in self.times:
            return _time(name, how, value)
        if name in self.texts:
            if how != "eq":
                raise BadQuery(f"{name} has no ranges")
            return _text(name, value)
        return _text("", text)


def _number(field: str, how: str, text: str, whole: bool) -> Range:
    match = _NUMBER.fullmatch(text)
    if match is None or (whole and match[2]):
        kind = "an integer, like `3' or `-10'" if whole else "a real number, like `2.7182818'"
        raise BadQuery(f"expected {kind}, starting at: {text}")
    value = float(match[1][:20] + (match[2] or ""))
    if whole and not -(2**31) <= value < 2**31:
        value = 0
    if how != "eq":
        if match[3]:
            raise BadQuery(f"multiple ranges specified for {field}")
        return Range(field, ((how, value),))
    spread = float((match[3] or "0")[:20])
    return Range(field, (("gte", value - spread), ("lte", value + spread)))


def _time(field: str, how: str, text: str) -> Range:
    """Read a year, month or day; the time between its ends is the one that is meant."""
    match = _DATE.fullmatch(text)
    try:
        year, month, day = (int(part or "1") for part in match.groups()) if match else (0, 1, 1)
        start = datetime(year, month, day, tzinfo=UTC)
        if match and match[3]:
            end = start + timedelta(days=1)
        elif match and match[2]:
            end = (start + timedelta(days=31)).replace(day=1)
        else:
            end = start.replace(year=year + 1)
    except (ValueError, OverflowError) as error:
        complaint = f"expected a date or time, like `2024-01-31', starting at: {text}"
        raise BadQuery(complaint) from error
    if how == "eq":
        return Range(field, (("gte", start.timestamp()), ("lt", end.timestamp())))
    return Range(field, ((how, (end if how in ("lte", "gt") else start).timestamp()),))


def _text(field: str, text: str) -> Text:
    if _FUZZY.search(text):
        raise BadQuery("this board knows no fuzzy terms")
    parts = re.findall(r"\\.|.", text, re.DOTALL)
    bare = "".join(part[-1] for part in parts).strip().lower()
    # The backslashes are gone by now: with one wild star or question mark, all are.
    return Text(field, bare, wild=any(part in ("*", "?") for part in parts))


def _like(text: str, pattern: str) -> bool:
    """Return whether a text fits a pattern with stars and question marks, however many these are.

    Only the last star that was met is ever tried again, a character further on.
    """
    at = here = 0
    star, after = -1, 0
    while at < len(text):
        if here < len(pattern) and pattern[here] == "*":
            star, after = here, at
            here += 1
        elif here < len(pattern) and pattern[here] in ("?", text[at]):
            at, here = at + 1, here + 1
        elif star >= 0:
            after += 1
            at, here = after, star + 1
        else:
            return False
    return not pattern[here:].strip("*")


# --- From text to tokens ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Token:
    kind: str  # "and", "or", "not", "(", ")", "boost", "term" or "end"
    text: str


def _tokens(query: str) -> Iterator[_Token]:
    at = 0
    while at < len(query):
        char = query[at]
        if char in _BLANKS:
            at, operator_ = _after_blanks(query, at)
            if operator_:
                yield operator_
                at += len(operator_.text)
        elif char == ",":
            yield _Token("and", char)
            at += 1
        elif char in "!-":
            yield _Token("not", char)
            at += 1
        elif match := _NOT.match(query, at):
            yield _Token("not", match[0])
            at = match.end()
        elif char in "()":
            yield _Token(char, char)
            at += 1
        elif match := _BOOST.match(query, at):
            yield _Token("boost", match[0])
            at = match.end()
        elif match := _QUOTED.match(query, at):
            yield _Token("term", re.sub(r'\\(["\\])', r"\1", match[1]))
            at = match.end()
        else:
            end = _end_of_term(query, at, 0)
            yield _Token("term", query[at:end])
            at = end


def _after_blanks(query: str, at: int) -> tuple[int, _Token | None]:
    """Return where the blanks at a place end, and the operator that follows them, if one does."""
    while at < len(query) and query[at] in _BLANKS:
        at += 1
    match = _OPERATOR.match(query, at)
    if match is None:
        return at, None
    return at, _Token("and" if match[1] in ("AND", "&&") else "or", match[0])


def _end_of_term(query: str, start: int, depth: int) -> int:
    """Return where the term at a place ends; that place itself if there is none."""
    if depth > _DEEPEST:
        raise BadQuery("too many brackets")
    at = start
    while at < len(query):
        char = query[at]
        if char in _BLANKS:
            end, operator_ = _after_blanks(query, at)
            if operator_ or query.startswith(")", end) or _BOOST.match(query, end):
                break
            at = end
        elif char in ",)" or _BOOST.match(query, at):
            break
        elif char == "(":
            end = _end_of_term(query, at + 1, depth + 1)
            if end == at + 1 or not query.startswith(")", end):
                break  # it has no partner, and begins a group
            at = end + 1
        else:
            at += 2 if char == "\\" and at + 1 < len(query) else 1
    return at


# --- From tokens to what is found -------------------------------------------------------------


class _Parser:
    """Reads tokens from left to right: OR binds least, then AND, boosts, NOT, groups."""

    def __init__(self, query: str, everything: set[int], find: Callable[[str], set[int]]) -> None:
        self._tokens = [*_tokens(query), _Token("end", "")]
        self._at = 0
        self._depth = 0
        self._everything = everything
        self._find = find

    def found(self) -> set[int]:
        """Return what the whole query matches."""
        found = self._any_of()
        if self._next.kind != "end":
            rest = "".join(token.text for token in self._tokens[self._at :])
            raise BadQuery(f"junk at end of expression: {rest}")
        return found

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _takes(self, kind: str) -> bool:
        """Go on if the next token is of this kind."""
        fits = self._next.kind == kind
        self._at += fits
        return fits

    def _any_of(self) -> set[int]:
        found = self._all_of()
        while self._takes("or"):
            found = found | self._all_of()
        return found

    def _all_of(self) -> set[int]:
        found = self._boosted()
        while self._takes("and"):
            found = found & self._boosted()
        return found

    def _boosted(self) -> set[int]:
        found = self._negated()
        boost = self._next.text
        if self._takes("boost") and boost.startswith("^-"):
            raise BadQuery("Boost value must be non-negative.")
        return found

    def _negated(self) -> set[int]:
        if self._takes("not"):
            return self._everything - self._group()
        return self._group()

    def _group(self) -> set[int]:
        text = self._next.text
        if self._takes("term"):
            return self._find(text)
        if self._next.kind == ")":
            raise BadQuery("Imbalanced parentheses.")
        if not self._takes("("):
            raise BadQuery("Expected a term.")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise BadQuery("too many brackets")
        found = self._any_of()
        self._depth -= 1
        if not self._takes(")"):
            raise BadQuery("Imbalanced parentheses.")
        return found
