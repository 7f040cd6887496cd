"""Rows of CSV and TSV: what a quotation mark may join, and what it may not."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagetag.boards import records
from imagetag.boards.entries import BadEntry
from imagetag.boards.records import Line, Records

Found = list[tuple[int, list[str] | str]]


def read(text: str, delimiter: str = ",", columns: int = 2) -> Found:
    """The rows by the number of their first line; of one that cannot be read, the reason."""
    lines: list[Line] = [
        (str(number), BadEntry("too_long") if line == "LONG\n" else line)
        for number, line in enumerate(io.StringIO(text, newline=None), 1)
    ]
    found = Records(
        iter(lines), delimiter, lambda row: len(row) == columns and row[0].startswith("http")
    )
    return [(int(where), row.reason if isinstance(row, BadEntry) else row) for where, row in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http1,a\n\nhttp2,b", [(1, ["http1", "a"]), (3, ["http2", "b"])]),
        ('http1,"a, b"\nhttp2, "c, d"\n', [(1, ["http1", "a, b"]), (2, ["http2", "c, d"])]),
        ('http1,"a\nb"\nhttp2,c\n', [(1, ["http1", "a\nb"]), (3, ["http2", "c"])]),
        ('http1,"a ""b"" c"\n', [(1, ["http1", 'a "b" c'])]),
        # never closed
        ('http1,"a\nhttp2,b\nhttp3,c\n', [(1, "quotes"), (2, ["http2", "b"]), (3, ["http3", "c"])]),
        ('http1,"a', [(1, "quotes")]),
        ('"http1,a\nhttp2,b', [(1, "quotes"), (2, ["http2", "b"])]),
        # closed by the mark that opens another field
        ('http1,"a\nhttp2,b\nhttp3,"c"', [(1, "quotes"), (2, ["http2", "b"]), (3, ["http3", "c"])]),
        ('http1,"a\nhttp2,""\n', [(1, "quotes"), (2, ["http2", ""])]),
        ('http1,"a\nhttp2,"\nb"\n', [(1, "quotes"), (2, ["http2", "\nb"])]),
        # by one that nothing opens: its line is no better
        ('http1,"a\nhttp2,b\nhttp3,c"\n', [(1, "quotes"), (2, ["http2", "b"]), (3, "quotes")]),
        ('http1,"a\nhttp2,b"\nhttp3,c\n', [(1, "quotes"), (2, "quotes"), (3, ["http3", "c"])]),
        # a caption may have a line that looks like a row
        (
            'http1,"a\nhttp8, b\n\nc\nd"\nhttp2,c',
            [(1, ["http1", "a\nhttp8, b\n\nc\nd"]), (6, ["http2", "c"])],
        ),
        # joined, but not to a row
        ('http1,x,"a\nb"\nhttp2,c\n', [(1, "quotes"), (2, "quotes"), (3, ["http2", "c"])]),
        # text behind a field that was closed, and marks within one that has none at its start
        ('http1,"a" b\nhttp2,5" c\n', [(1, "quotes"), (2, ["http2", '5" c'])]),
        ('http1,"he said \\"hi\\""\nhttp2,b', [(1, "quotes"), (2, ["http2", "b"])]),
        ('http1,"a\nLONG\nb"\n', [(1, "quotes"), (2, "too_long"), (3, ['b"'])]),
    ],
)
def test_csv(text: str, found: Found) -> None:
    assert read(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('http1\t"a b"\nhttp2\tc\n', [(1, ["http1", "a b"]), (2, ["http2", "c"])]),
        ('http1\t"a\tb"\n', [(1, ["http1", "a\tb"])]),
        ('http1\t"a\nb"\nhttp2\tc\n', [(1, ["http1", "a\nb"]), (3, ["http2", "c"])]),
        ('http1\t"a\nhttp2\tb\n', [(1, ["http1", '"a']), (2, ["http2", "b"])]),
        ('http1\t"a\nhttp2\tb"\n', [(1, ["http1", '"a']), (2, ["http2", 'b"'])]),
        ('http1\t"a" b\nhttp2\tc\n', [(1, ["http1", '"a" b']), (2, ["http2", "c"])]),
        ('http1\t"a', [(1, ["http1", '"a'])]),
    ],
)
def test_in_a_file_with_tabs_a_mark_that_is_not_closed_is_text(text: str, found: Found) -> None:
    assert read(text, "\t") == found


def test_what_is_joined_is_bounded() -> None:
    most = 1000
    tail = "\nhttp2,c\n"
    whole = 'http1,"a' + "\nx" * most + '"' + tail
    assert [where for where, _ in read(whole)] == [1, most + 2]
    longer = 'http1,"a' + "\nx" * (most + 1) + '"' + tail
    found = read(longer)
    assert found[0] == (1, "quotes")
    assert [where for where, _ in found] == list(range(1, most + 4)), "a line is lost"
    wide = 'http1,"a' + f"\n{'x' * 100_000}" * 12 + '"' + tail
    assert [where for where, _ in read(wide)] == list(range(1, 15))


@pytest.mark.parametrize("line", ['http1,"a\n', 'a",b,"\n', '"\n', 'http1,"\n'])
def test_a_file_of_open_marks_is_read_in_so_many_steps_for_each_line(
    monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    steps = 0
    parsed = records._parsed

    def counted(lines: Iterable[str], dialect: Any) -> list[str] | None:
        def taken() -> Iterator[str]:
            nonlocal steps
            for one in lines:
                steps += 1
                yield one

        return parsed(taken(), dialect)

    monkeypatch.setattr(records, "_parsed", counted)
    monkeypatch.setattr(records, "_MOST_CHARACTERS", 10_000)
    rows = read(line * 3000)
    assert len(rows) <= 3000
    assert steps <= 30 * 3000 + 10_000


fields = st.text('ab "\n,\t', max_size=8)


@given(st.lists(fields, min_size=1, max_size=8), st.sampled_from(",\t"))
@settings(deadline=None)
def test_whatever_is_written_as_csv_is_read_again(captions: list[str], delimiter: str) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows((f"http{number}", caption) for number, caption in enumerate(captions))
    assert [row for _, row in read(stream.getvalue(), delimiter)] == [
        [f"http{number}", caption] for number, caption in enumerate(captions)
    ]


@given(st.lists(st.sampled_from(("http1,a", "http2", '"', ",", "\n", "a", '""')), max_size=40))
@settings(deadline=None)
def test_a_row_that_stands_on_a_line_of_its_own_is_never_lost(parts: list[str]) -> None:
    text = "".join(parts) + "\nhttp9,good\n"
    rows = read(text)
    assert rows[-1] == (text.count("\n"), ["http9", "good"])
