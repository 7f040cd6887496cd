"""Predictions as rows of a file: CSV, JSON Lines or Parquet."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from imagetag.csv_cells import quoted
from imagetag.errors import UsageError

Kind = Literal["csv", "jsonl", "parquet"]

_ROW_GROUP = 10_000  # rows, of Parquet


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of a picture: a probability and a decision, or an error.

    Attributes:
        file: the picture's key or URL.
        page_url: of the page that shows it, empty where there is none.
        probability: that the tag is in it, of 6 digits.
        decision: whether that is enough.
        error: why it cannot be told.
        tag: whose classifier says so.

    """

    file: str
    page_url: str
    probability: float | None
    decision: bool | None
    error: str | None
    tag: str = ""

    def as_json(self) -> str:
        """Return it as a line."""
        return json.dumps(dict(zip(COLUMNS, astuple(self), strict=True)), ensure_ascii=False)

    @staticmethod
    def from_json(line: str | bytes) -> Prediction:
        """Return what `as_json` made a line of.

        Raises:
            ValueError: if it is no such line.

        """
        try:
            return Prediction(**json.loads(line))
        except TypeError as error:
            raise ValueError(str(error)) from error


COLUMNS = tuple(field.name for field in fields(Prediction))


def kind_of(output: str) -> Kind:
    """Return the format that an output's name asks for.

    Raises:
        UsageError: if it is none, or what it needs is not installed.

    """
    if output == "-":
        return "csv"
    for kind in get_args(Kind):
        if re.search(rf"[^/]\.{kind}$", output, re.IGNORECASE):
            if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
                raise UsageError(
                    f"--output {output}: Parquet needs pyarrow; install "
                    "image-tag-classification[parquet], or write .csv or .jsonl"
                )
            return kind  # type: ignore[no-any-return]
    raise UsageError(f"--output {output!r}: the name must end in .csv, .jsonl or .parquet")


def shard_name(output: str, index: int, count: int) -> str:
    """Return the name of a shard's output: `a.csv` of the first of four is `a-00000-of-00004.csv`.

    Where there is one shard alone it is the output itself, and so is standard output.
    """
    if count == 1 or output == "-":
        return output
    stem, dot, ending = output.rpartition(".")
    return f"{stem}-{index:05}-of-{count:05}{dot}{ending}"


def write_file(path: Path, kind: Kind, rows: Iterable[Prediction]) -> None:
    """Write rows to a local file; the same rows are always the same bytes."""
    if kind == "parquet":
        _write_parquet(path, rows)
        return
    with path.open("w", encoding="utf-8", newline="") as stream:
        if kind == "csv":
            writer = CsvWriter(stream)
            for row in rows:
                writer.write(row)
        else:
            stream.writelines(row.as_json() + "\n" for row in rows)


class CsvWriter:
    """Writes a header, and then rows."""

    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream)
        self._writer.writerow(COLUMNS)

    def write(self, row: Prediction) -> None:
        """Write one row."""
        probability = "" if row.probability is None else f"{row.probability:.6f}"
        decision = "" if row.decision is None else str(row.decision).lower()
        texts = (row.file, row.page_url, row.error, row.tag)
        file, page_url, error, tag = (quoted(text or "") for text in texts)
        self._writer.writerow([file, page_url, probability, decision, error, tag])


def _write_parquet(path: Path, rows: Iterable[Prediction]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    text = pa.string()
    kinds: dict[str, Any] = {"probability": pa.float64(), "decision": pa.bool_()}
    schema = pa.schema([(name, kinds.get(name, text)) for name in COLUMNS])
    with ParquetWriter(path, schema) as writer:
        waiting = iter(rows)
        while group := list(islice(waiting, _ROW_GROUP)):
            columns = zip(*map(astuple, group), strict=True)
            arrays = [pa.array(column, schema.field(i).type) for i, column in enumerate(columns)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
