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
from imagetag.predict.writers import COLUMNS, CsvWriter, Prediction, kind_of, shard_name, write_file

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
    Prediction(name, f"https://board.example/{i}", round(i / 7, 6), i / 7 >= 0.5, None, "fox")
    for i, name in enumerate(NAMES)
]
BAD = Prediction("bad.png", "", None, None, 'truncated: 3 bytes, "at" least', "fox")
ROWS = [*GOOD, BAD, Prediction("sure.png", "", 1e-6, False, None, "=owl")]


def test_csv_reads_back_as_it_was(tmp_path: Path) -> None:
    write_file(tmp_path / "out", "csv", ROWS)
    with (tmp_path / "out").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["file", "page_url", "probability", "decision", "error", "tag"]
    assert [row[0] for row in rows] == [row.file for row in ROWS]
    assert [row[1] for row in rows] == [row.page_url for row in ROWS]
    assert [row[2] for row in rows[:3]] == ["0.000000", "0.142857", "0.285714"]
    assert [row[3] for row in rows[:-2]] == ["false"] * 4 + ["true"] * 3
    assert {row[4] for row in rows[:-2]} == {""}
    assert rows[-2] == ["bad.png", "", "", "", 'truncated: 3 bytes, "at" least', "fox"]
    assert rows[-1] == ["sure.png", "", "0.000001", "false", "", "'=owl"]


def test_a_text_of_csv_is_no_formula_and_a_number_stays_one(tmp_path: Path) -> None:
    live = "=HYPERLINK(1).png"
    rows = [Prediction(live, "@x", 0.25, False, None), Prediction(" +1", "", None, None, "-a: b")]
    write_file(tmp_path / "out", "csv", rows)
    assert (tmp_path / "out").read_text(encoding="utf-8").splitlines()[1:] == [
        "'=HYPERLINK(1).png,'@x,0.250000,false,,",
        "' +1,,,,'-a: b,",
    ]
    write_file(tmp_path / "out", "jsonl", rows)
    assert json.loads((tmp_path / "out").read_text().splitlines()[0])["file"] == live


def test_json_lines_read_back_as_they_were(tmp_path: Path) -> None:
    write_file(tmp_path / "out", "jsonl", ROWS)
    lines = (tmp_path / "out").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    found = [json.loads(line) for line in lines]
    assert found == [dict(zip(COLUMNS, row, strict=True)) for row in map(tuples, ROWS)]
    assert [*found[0]] == list(COLUMNS)
    assert found[-2]["decision"] is None


def tuples(row: Prediction) -> tuple[Any, ...]:
    return row.file, row.page_url, row.probability, row.decision, row.error, row.tag


def test_parquet_reads_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "_ROW_GROUP", 4)
    write_file(tmp_path / "out", "parquet", iter(ROWS))
    table = pyarrow.parquet.read_table(tmp_path / "out")
    assert [str(kind) for kind in table.schema.types] == [
        *("string", "string", "double", "bool", "string", "string")
    ]
    assert [tuple(row.values()) for row in table.to_pylist()] == [*map(tuples, ROWS)]
    assert table.column_names == list(COLUMNS)
    groups = pyarrow.parquet.ParquetFile(tmp_path / "out").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [4, 4, 1]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_same_rows_are_the_same_bytes(kind: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_file(tmp_path / name, kind, ROWS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_no_rows_are_a_file_all_the_same(kind: Any, tmp_path: Path) -> None:
    write_file(tmp_path / "out", kind, [])
    data = (tmp_path / "out").read_bytes()
    if kind == "parquet":
        table = pyarrow.parquet.read_table(tmp_path / "out")
        assert (table.num_rows, table.column_names) == (0, list(COLUMNS))
    else:
        assert (
            data == {"csv": b"file,page_url,probability,decision,error,tag\r\n", "jsonl": b""}[kind]
        )


def test_a_row_comes_back_from_its_line() -> None:
    for row in ROWS:
        assert "\n" not in row.as_json()
        assert Prediction.from_json(row.as_json()) == row
    for line in ("", "[]", "{}", '{"file": "a"}', "null", '{"file":"a","else":1}'):
        with pytest.raises(ValueError, match=r"\w"):
            Prediction.from_json(line)


def test_csv_is_written_as_it_comes() -> None:
    stream = io.StringIO(newline="")
    writer = CsvWriter(stream)
    assert stream.getvalue() == "file,page_url,probability,decision,error,tag\r\n"
    writer.write(Prediction("a.png", "", 0.5, True, None))
    assert stream.getvalue().splitlines()[1] == "a.png,,0.500000,true,,"


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
