"""Texts as cells of CSV that no spreadsheet takes for a formula, and back; lines with a bound.

A spreadsheet runs what begins with one of the characters that OWASP's page "CSV Injection" names,
and a file's name, a URL and a group are whatever a stranger calls them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

_MAX_LINE = 1 << 16  # bytes

# What readers skip or take off before they look: white space, control characters, BOMs, quotes.
_SKIPPED = r"[\s\x00-\x1f\ufeff'\"]"
_SKIPPED_FIRST = re.compile(f"{_SKIPPED}*+")
# All that is skipped before a formula, once: from each of its characters it would be gone through
# again, and a cell of some hundred thousand would take minutes.
_BEFORE_FORMULA = re.compile(rf"(?<!{_SKIPPED}){_SKIPPED}*+(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
# A semicolon, tab or line break in a text begins a cell where that separates them: quotes help only
# readers whose separator is the comma.
_SEPARATES = re.compile(r"[;\t\r\n]")
_BREAK = re.compile(r"[\t\r\n]")
_QUOTED_BREAK = re.compile(r"([\t\r\n])'")


def quoted(text: str) -> str:
    """Return a text with an apostrophe before whatever could begin a formula."""
    if not _SEPARATES.search(text):  # as of most
        return "'" + text if _BEFORE_FORMULA.match(text) else text
    found = _BEFORE_FORMULA.sub(
        lambda run: "'" * _begins_cell(run) + _BREAK.sub(r"\g<0>'", run[0]), text
    )
    return "'" + found if _begins_with_break(text) else found


def unquoted(cell: str) -> str:
    """Return the text of which `quoted` made a cell."""
    if not _SEPARATES.search(cell):
        return cell.removeprefix("'") if _BEFORE_FORMULA.match(cell) else cell
    found = _BEFORE_FORMULA.sub(
        lambda run: _QUOTED_BREAK.sub(r"\1", run[0].removeprefix("'" * _begins_cell(run))), cell
    )
    return found.removeprefix("'") if _begins_with_break(cell) else found


def _begins_cell(run: re.Match[str]) -> bool:
    return run.start() == 0 or run.string[run.start() - 1] == ";"


def _begins_with_break(text: str) -> bool:
    """Tell whether what is skipped at the beginning has a break in it, and no formula behind it."""
    first = _SKIPPED_FIRST.match(text)
    has_break = first is not None and _BREAK.search(first[0]) is not None
    return has_break and _BEFORE_FORMULA.match(text) is None


def bounded_lines(stream: BinaryIO, max_bytes: int) -> Iterator[str]:
    """Yield the lines of a table, a longer one than any of ours in pieces.

    Raises:
        ValueError: if it is larger than `max_bytes`, or no UTF-8.

    """
    left = max_bytes
    while line := stream.readline(_MAX_LINE):
        left -= len(line)
        if left < 0:
            raise ValueError(f"it is larger than {max_bytes:,} bytes")
        yield line.decode()
