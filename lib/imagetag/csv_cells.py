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
_SKIPPED = r"[\s\x00-\x1f\ufeff'\"]*"
_FORMULA = _SKIPPED + r"[=+\-@\uff1d\uff0b\uff0d\uff20]"
# A semicolon, tab or line break in a text begins a cell where that separates them: quotes help only
# readers whose separator is the comma.
_PLACES = rf"^%s(?={_FORMULA}|{_SKIPPED}[\t\r\n])|(?<=[;\t\r\n])%s(?={_FORMULA})"
_LIVE = re.compile(_PLACES % ("", ""))
_DEAD = re.compile(_PLACES % ("'", "'"))


def quoted(text: str) -> str:
    """Return a text with an apostrophe before whatever could begin a formula."""
    return _LIVE.sub("'", text)


def unquoted(cell: str) -> str:
    """Return the text of which `quoted` made a cell."""
    return _DEAD.sub("", cell)


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
