"""Rows of CSV and TSV: what a quotation mark joins is bounded, and no other line is lost to it.

A field in quotation marks may go on over several lines, and where its mark was never closed, by
mistake or because the file knows no quoting, it would go on to the next mark, and all rows between
would become part of one. So lines are joined only if that gives one whole row, and not if half of
those behind the first would be rows by themselves: a caption may hold one such line. Else each is
read alone.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from imagetag.boards.entries import BadEntry

if TYPE_CHECKING:
    from _csv import Dialect

_MOST_LINES = 1000  # behind the one that a row begins on, and
_MOST_CHARACTERS = 1 << 20  # of all of them
_READINGS = 10  # of a line on the average, where lines are joined in vain and read again

# Where a line or a row begins, and what it holds, or why it cannot be read.
Line = tuple[str, "str | BadEntry"]
Record = tuple[str, "list[str] | BadEntry"]


class Records:
    """The rows of a file, from its lines.

    Args:
        lines: those behind its header.
        delimiter: between fields. In a file with tabs a mark that is not closed is text, as many
            of them know no quoting; in CSV it is a mistake.
        is_row: whether fields are a row, as far as can be told without reading them.

    Attributes:
        as_text: in how many lines marks were taken for text, and
        first_as_text: where the first of them is.

    """

    def __init__(
        self, lines: Iterator[Line], delimiter: str, is_row: Callable[[list[str]], bool]
    ) -> None:
        self._lines, self._is_row = lines, is_row
        self._marks_may_be_text = delimiter == "\t"
        # Made once: a reader takes it from there three times as fast as from arguments.
        made = partial(csv.reader, (), delimiter=delimiter, skipinitialspace=True)
        self._strict, self._lenient = made(strict=True).dialect, made().dialect
        self._plain = made(quoting=csv.QUOTE_NONE).dialect
        self._again: deque[Line] = deque()  # lines that were read too far
        self._left = _MOST_CHARACTERS  # that may be joined in vain
        self.as_text = 0
        self.first_as_text = ""

    def __iter__(self) -> Iterator[Record]:
        """Yield the rows; one that cannot be read is a BadEntry, and a blank line is none."""
        while (line := self._next()) is not None:
            where, text = line
            row = text if isinstance(text, BadEntry) else self._row(where, text)
            if row:
                yield where, row

    def _next(self) -> Line | None:
        if self._again:
            return self._again.popleft()
        line = next(self._lines, None)
        if line is not None and isinstance(line[1], str):
            self._left = min(self._left + _READINGS * len(line[1]), _MOST_CHARACTERS)
        return line

    def _row(self, where: str, text: str) -> list[str] | BadEntry:
        """Return the row that begins with a line; what does not belong to it is read again."""
        joined: list[tuple[str, str]] = []
        row = _parsed(self._with_more(text, joined), self._strict)
        if row is not None and not joined:
            return row
        if row is not None and self._is_row(row) and not self._are_rows(joined):
            return row
        self._again.extendleft(reversed(joined))
        self._left -= sum(len(more) for _, more in joined)
        if self._marks_may_be_text:
            alone = _parsed([text], self._plain)
            if alone is not None:
                self.as_text += 1
                self.first_as_text = self.first_as_text or where
            return alone or BadEntry("syntax")
        if row is not None and _parsed([joined[-1][1]], self._strict) is not None:
            # What seemed to close the field is a mark that nothing opens: a mistake as well.
            self._again[len(joined) - 1] = joined[-1][0], BadEntry("quotes")
        return BadEntry("quotes" if '"' in text else "syntax")

    def _with_more(self, text: str, joined: list[tuple[str, str]]) -> Iterator[str]:
        """Yield a line, and for as long as more are wanted those that follow, which are noted."""
        yield text
        left = self._left
        while len(joined) < _MOST_LINES and (line := self._next()) is not None:
            where, more = line
            if isinstance(more, BadEntry) or len(more) > left:
                self._again.appendleft(line)
                return
            left -= len(more)
            joined.append((where, more))
            yield more

    def _are_rows(self, lines: list[tuple[str, str]]) -> bool:
        """Tell whether half of the lines would be rows by themselves, marks closed or not."""
        alone = others = 0
        for _, text in lines:
            if self._is_row(_parsed([text], self._lenient) or []):
                alone += 1
            elif text.strip():
                others += 1
        return 0 < alone >= others


def _parsed(lines: Iterable[str], dialect: Dialect) -> list[str] | None:
    """Return the first row of lines, of which it takes as many as it needs; None if wrong."""
    try:
        return next(csv.reader(lines, dialect), [])
    except csv.Error:
        return None
