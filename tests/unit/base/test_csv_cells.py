"""No cell of a CSV file is a live formula, and each gives back the text it was made of."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imagetag.csv_cells import quoted, unquoted
from tests.cost import processor_seconds

LIVE = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"  # OWASP's, and their full-width forms

texts = st.text(st.sampled_from(LIVE + " '\";,|a1\x00\ufeff\u00a0\u3000")) | st.text()


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1.png", "'=1+1.png"),
        ("+1", "'+1"),
        ("-3.png", "'-3.png"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t'=1"),
        ("\tplain", "'\tplain"),
        ("\r\nplain", "'\r\nplain"),
        ("  =1", "'  =1"),
        ("\ufeff=1", "'\ufeff=1"),
        ('"=1', "'\"=1"),
        ("'=1", "''=1"),
        ("\uff1d1", "'\uff1d1"),
        ("x;=1+1;", "x;'=1+1;"),
        ("x\n -1", "x\n' -1"),
    ],
)
def test_what_a_spreadsheet_would_run_has_an_apostrophe_before_it(text: str, cell: str) -> None:
    assert quoted(text) == cell
    assert unquoted(cell) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "plain.png", "a=b+c-d@e.png", "it's.png", "'tis.png", " spaces .png", "line\nbreak"),
        *("https://board.example/?s=view&id=-1;page=2", "safebooru:-5", "semi;tab\t'.png", "(=_=)"),
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert quoted(text) == unquoted(text) == text


@given(texts)
@example("'" * 50 + "=")
def test_every_text_comes_back(text: str) -> None:
    assert unquoted(quoted(text)) == text


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@given(first=texts, second=texts)
def test_no_cell_is_a_formula_whatever_separates_them(
    separator: str, first: str, second: str
) -> None:
    table = io.StringIO(newline="")
    csv.writer(table).writerow([quoted(first), quoted(second), "0.5"])
    try:
        rows = list(csv.reader(io.StringIO(table.getvalue(), newline=""), delimiter=separator))
    except csv.Error:  # a line break that this reader takes no quotes for
        return
    for cell in (cell for row in rows for cell in row):
        assert cell.strip('\x00\ufeff "\u00a0\u3000\t\r\n')[:1] not in set(
            "=+-@\uff1d\uff0b\uff0d\uff20"
        )
        assert separator != "," or cell[:1] not in set("\t\r\n")


@pytest.mark.parametrize("piece", ["\t", "'", "\t'", ";=", " "])
def test_a_long_cell_is_gone_through_once(piece: str) -> None:
    """What a reader of CSV takes at once, or twice that."""
    text = piece * (200_000 // len(piece))
    with processor_seconds(5):
        assert unquoted(quoted(text)) == text
