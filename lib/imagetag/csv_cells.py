"""Texts as cells of CSV that no spreadsheet takes for a formula, and back.

A spreadsheet runs what begins with one of the characters that OWASP's page "CSV Injection" names,
and a file's name, a URL and a group are whatever a stranger calls them.
"""

from __future__ import annotations

import re

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
