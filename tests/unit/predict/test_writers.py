"""Predictions as files: each format reads back as it was written."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from imagetag.errors import UsageError
from imagetag.predict import writers
from imagetag.predict.writers import (
    Answers,
    CsvWriter,
    Table,
    kind_of,
    shard_name,
    write_file,
)

NAMES = [
    "plain.png",
    "a, b.png",
    'say "cheese".png',
    "line\nbreak\r\n.png",
    " spaces .png",
    "初音ミク/🎀.png",
    "semi;tab\t'.png",
]
GOOD = [
    Answers(name, f"https://board.example/{i}", None, [round(i / 7, 6), 1e-6], [i > 3, False])
    for i, name in enumerate(NAMES)
]
BAD = Answers("bad.png", "", 'truncated: 3 bytes, "at" least')
ODD = Answers("odd.png", "", None, [None, 1.0], [None, True])
ROWS = [*GOOD, BAD, ODD]
TAGS = ["fox", "=owl"]
LONG, WIDE = Table("long", TAGS), Table("wide", TAGS)
COLUMNS = ["file", "page_url", "probability", "decision", "error", "tag"]
WIDE_COLUMNS = [
    *("file", "page_url", "error"),
    *("probability:fox", "decision:fox", "probability:=owl", "decision:=owl"),
]
NONE = "no_number: the model gives none for this picture"


def cells(table: Table) -> list[tuple[Any, ...]]:
    return [tuple(row) for answers in ROWS for row in table.rows(answers)]


def test_a_picture_has_a_row_a_tag_or_one_with_two_columns_a_tag() -> None:
    assert list(LONG.columns) == COLUMNS
    assert list(WIDE.columns) == WIDE_COLUMNS
    assert (LONG.rows_a_picture, WIDE.rows_a_picture) == (2, 1)
    long, wide = cells(LONG), cells(WIDE)
    assert (len(long), len(wide)) == (18, 9)
    page = "https://board.example/1"
    assert long[2:4] == [
        ("a, b.png", page, 0.142857, False, None, "fox"),
        ("a, b.png", page, 1e-6, False, None, "=owl"),
    ]
    assert wide[1] == ("a, b.png", page, None, 0.142857, False, 1e-6, False)
    assert long[14:16] == [("bad.png", "", None, None, BAD.error, tag) for tag in TAGS]
    assert wide[7] == ("bad.png", "", BAD.error, None, None, None, None)
    assert long[16:] == [
        ("odd.png", "", None, None, NONE, "fox"),
        ("odd.png", "", 1.0, True, None, "=owl"),
    ]
    assert wide[8] == ("odd.png", "", NONE, None, None, 1.0, True)
    assert [BAD.reason, ODD.reason, GOOD[0].reason] == ["truncated", "no_number", None]


def test_csv_reads_back_as_it_was(tmp_path: Path) -> None:
    write_file(tmp_path / "out", "csv", LONG, ROWS)
    with (tmp_path / "out").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == COLUMNS
    assert [row[0] for row in rows[::2]] == [answers.file for answers in ROWS]
    assert [row[1] for row in rows[::2]] == [answers.page_url for answers in ROWS]
    assert [row[2] for row in rows[:6:2]] == ["0.000000", "0.142857", "0.285714"]
    assert [row[3] for row in rows[:14:2]] == ["false"] * 4 + ["true"] * 3
    assert {row[4] for row in rows[:14]} == {""}
    assert rows[14] == ["bad.png", "", "", "", 'truncated: 3 bytes, "at" least', "fox"]
    assert rows[1] == ["plain.png", "https://board.example/0", "0.000001", "false", "", "'=owl"]
    write_file(tmp_path / "out", "csv", WIDE, ROWS)
    with (tmp_path / "out").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == WIDE_COLUMNS
    assert rows[1][2:] == ["", "0.142857", "false", "0.000001", "false"]
    assert rows[7] == ["bad.png", "", 'truncated: 3 bytes, "at" least', "", "", "", ""]


def test_a_text_of_csv_is_no_formula_and_a_number_stays_one(tmp_path: Path) -> None:
    live = "=HYPERLINK(1).png"
    rows = [Answers(live, "@x", None, [0.25], [False]), Answers(" +1", "", "-a: b")]
    table = Table("long", [""])
    write_file(tmp_path / "out", "csv", table, rows)
    assert (tmp_path / "out").read_text(encoding="utf-8").splitlines()[1:] == [
        "'=HYPERLINK(1).png,'@x,0.250000,false,,",
        "' +1,,,,'-a: b,",
    ]
    write_file(tmp_path / "out", "jsonl", table, rows)
    assert json.loads((tmp_path / "out").read_text().splitlines()[0])["file"] == live


@pytest.mark.parametrize("table", [LONG, WIDE])
def test_json_lines_read_back_as_they_were(table: Table, tmp_path: Path) -> None:
    write_file(tmp_path / "out", "jsonl", table, ROWS)
    lines = (tmp_path / "out").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    found = [json.loads(line) for line in lines]
    assert [tuple(row.values()) for row in found] == cells(table)
    assert {tuple(row) for row in found} == {tuple(table.columns)}


@pytest.mark.parametrize(("table", "groups"), [(LONG, [4, 4, 4, 4, 2]), (WIDE, [2, 2, 2, 2, 1])])
def test_parquet_reads_back_as_it_was(
    table: Table, groups: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "_ROW_GROUP", 4)
    monkeypatch.setattr(writers, "_CELLS", 4 * 6 if table is LONG else 2 * 7)
    write_file(tmp_path / "out", "parquet", table, iter(ROWS))
    found = pyarrow.parquet.read_table(tmp_path / "out")
    kinds = {str: "string", float: "double", bool: "bool"}
    assert {field.name: str(field.type) for field in found.schema} == {
        name: kinds[kind] for name, kind in table.columns.items()
    }
    assert [tuple(row.values()) for row in found.to_pylist()] == cells(table)
    meta = pyarrow.parquet.ParquetFile(tmp_path / "out").metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == groups


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_same_rows_are_the_same_bytes(kind: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_file(tmp_path / name, kind, LONG, ROWS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_no_rows_are_a_file_all_the_same(kind: Any, tmp_path: Path) -> None:
    write_file(tmp_path / "out", kind, LONG, [])
    data = (tmp_path / "out").read_bytes()
    if kind == "parquet":
        table = pyarrow.parquet.read_table(tmp_path / "out")
        assert (table.num_rows, table.column_names) == (0, list(COLUMNS))
    else:
        assert (
            data == {"csv": b"file,page_url,probability,decision,error,tag\r\n", "jsonl": b""}[kind]
        )


def test_answers_come_back_from_their_line() -> None:
    for answers in ROWS:
        assert "\n" not in answers.as_json()
        again = Answers.from_json(answers.as_json())
        for table in (LONG, WIDE):
            assert [*table.rows(again)] == [*table.rows(answers)]
    for line in ("", "[]", "{}", '{"file": "a"}', "null", '{"file":"a","else":1}'):
        with pytest.raises(ValueError, match=r"\w"):
            Answers.from_json(line)


def test_csv_is_written_as_it_comes() -> None:
    stream = io.StringIO(newline="")
    writer = CsvWriter(stream, Table("long", ["fox"]))
    assert stream.getvalue() == "file,page_url,probability,decision,error,tag\r\n"
    writer.write(Answers("a.png", "", None, [0.5], [True]))
    assert stream.getvalue().splitlines()[1] == "a.png,,0.500000,true,,fox"


def test_the_name_of_the_output_is_its_format() -> None:
    assert kind_of("-") == "csv"
    assert kind_of("s3://bucket/x.JSONL") == "jsonl"
    assert kind_of("x.csv") == "csv"
    assert kind_of("a/b.parquet") == "parquet"
    for name in ("x.parquets", "folder/", "csv", "", ".csv", "a/.jsonl", "x.csv/"):
        with pytest.raises(UsageError, match=r"must end in \.csv, \.jsonl or \.parquet"):
            kind_of(name)


def test_parquet_without_what_it_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs pyarrow; install .*\[parquet\]"):
        kind_of("a.parquet")
    assert kind_of("a.csv") == "csv"


def test_a_shard_has_an_output_of_its_own() -> None:
    assert shard_name("a.csv", 0, 1) == "a.csv"
    assert shard_name("s3://b/c/a.b.jsonl", 3, 4) == "s3://b/c/a.b-00003-of-00004.jsonl"
    assert shard_name("-", 1, 4) == "-"
