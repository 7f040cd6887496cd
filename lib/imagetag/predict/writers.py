"""Predictions as rows of a CSV, JSON Lines or Parquet: one a picture and tag, or a picture."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from pydantic import TypeAdapter

from imagetag.checks import shown_url
from imagetag.csv_cells import quoted
from imagetag.errors import UsageError

Kind = Literal["csv", "jsonl", "parquet"]
Shape = Literal["long", "wide"]
Cell = str | float | bool | None

NO_NUMBER = "no_number"
_NO_NUMBER = f"{NO_NUMBER}: the model gives none for this picture"
_ROW_GROUP = 10_000  # rows, of Parquet, at the most
_CELLS = 2_000_000  # of a row group: they are in memory at once


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model of a tag says of a picture: a probability and a decision, or an error.

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


@dataclass(frozen=True, slots=True)
class Answers:
    """What the models of some tags say of a picture.

    Attributes:
        file: the picture's key or URL.
        page_url: of the page that shows it, empty where there is none.
        error: why it cannot be read.
        probabilities: of each tag, of 6 digits; None where its model gives no number. Empty where
            the picture cannot be read.
        decisions: whether each is enough.

    """

    file: str
    page_url: str
    error: str | None
    probabilities: Sequence[float | None] = ()
    decisions: Sequence[bool | None] = ()

    @property
    def reason(self) -> str | None:
        """What went wrong, in a word; None if nothing did."""
        if self.error is not None:
            return self.error.partition(":")[0]
        return NO_NUMBER if None in self.probabilities else None

    def predictions(self, tags: Sequence[str]) -> Iterator[Prediction]:
        """Yield what is said of each tag."""
        if self.error is not None:
            for tag in tags:
                yield Prediction(self.file, self.page_url, None, None, self.error, tag)
            return
        for tag, found, decision in zip(tags, self.probabilities, self.decisions, strict=True):
            error = _NO_NUMBER if found is None else None
            yield Prediction(self.file, self.page_url, found, decision, error, tag)

    def as_json(self) -> str:
        """Return it as a line."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields, ensure_ascii=False)

    @staticmethod
    def from_json(line: str | bytes) -> Answers:
        """Return what `as_json` made a line of.

        Raises:
            ValueError: if it is no such line.

        """
        return _ANSWERS.validate_json(line)


_ANSWERS = TypeAdapter(Answers)

_LONG: dict[str, type] = {
    "file": str,
    "page_url": str,
    "probability": float,
    "decision": bool,
    "error": str,
    "tag": str,
}
_WIDE: dict[str, type] = {"file": str, "page_url": str, "error": str}


class Table:
    """What rows there are of pictures, and what columns they have.

    Args:
        shape: `long` is a row a picture and tag; `wide` is a row a picture, which has two columns
            a tag, `probability:TAG` and `decision:TAG`.
        tags: in their order.

    Attributes:
        tags: the same.
        columns: by name what is in them.

    """

    def __init__(self, shape: Shape, tags: Sequence[str]) -> None:
        self._shape, self.tags = shape, tuple(tags)
        self.columns = dict(_LONG)
        if shape == "wide":
            self.columns = dict(_WIDE)
            for tag in tags:
                self.columns |= {f"probability:{tag}": float, f"decision:{tag}": bool}

    @property
    def rows_a_picture(self) -> int:
        """How many there are."""
        return len(self.tags) if self._shape == "long" else 1

    def rows(self, answers: Answers) -> Iterator[Sequence[Cell]]:
        """Yield a picture's rows."""
        if self._shape == "long":
            for row in answers.predictions(self.tags):
                yield row.file, row.page_url, row.probability, row.decision, row.error, row.tag
            return
        said: Iterable[Cell] = [None] * (2 * len(self.tags))
        if answers.error is None:
            pairs = zip(answers.probabilities, answers.decisions, strict=True)
            said = chain.from_iterable(pairs)
        error = _NO_NUMBER if answers.reason == NO_NUMBER else answers.error
        yield answers.file, answers.page_url, error, *said


def kind_of(output: str) -> Kind:
    """Return the format that an output's name asks for.

    Raises:
        UsageError: if it is none, or what it needs is not installed.

    """
    return "csv" if output == "-" else row_kind(output, option="--output")


def row_kind(place: str, *, option: str) -> Kind:
    """Return the format that the name of a file of rows tells.

    Raises:
        UsageError: if it is none, or what it needs is not installed; it names the option.

    """
    for kind in get_args(Kind):
        if re.search(rf"[^/]\.{kind}$", place, re.IGNORECASE):
            if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
                raise UsageError(
                    f"{option} {shown_url(place)}: Parquet needs pyarrow; install "
                    "image-tag-classification[parquet], or take .csv or .jsonl"
                )
            return kind  # type: ignore[no-any-return]
    raise UsageError(
        f"{option} {shown_url(place)!r}: the name must end in .csv, .jsonl or .parquet"
    )


def shard_name(output: str, index: int, count: int) -> str:
    """Return the name of a shard's output: `a.csv` of the first of four is `a-00000-of-00004.csv`.

    Where there is one shard alone it is the output itself, and so is standard output.
    """
    if count == 1 or output == "-":
        return output
    stem, dot, ending = output.rpartition(".")
    return f"{stem}-{index:05}-of-{count:05}{dot}{ending}"


def write_file(path: Path, kind: Kind, table: Table, pictures: Iterable[Answers]) -> None:
    """Write the rows of pictures to a local file; the same rows are always the same bytes."""
    if kind == "parquet":
        _write_parquet(path, table, chain.from_iterable(map(table.rows, pictures)))
        return
    with path.open("w", encoding="utf-8", newline="") as stream:
        if kind == "csv":
            writer = CsvWriter(stream, table)
            for answers in pictures:
                writer.write(answers)
        else:
            for row in chain.from_iterable(map(table.rows, pictures)):
                line = dict(zip(table.columns, row, strict=True))
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")


class CsvWriter:
    """Writes a header, and then the rows of pictures."""

    def __init__(self, stream: TextIO, table: Table) -> None:
        self._writer, self._table = csv.writer(stream), table
        self._writer.writerow(map(quoted, table.columns))

    def write(self, answers: Answers) -> None:
        """Write a picture's rows."""
        for row in self._table.rows(answers):
            self._writer.writerow(map(_cell, row))


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return quoted(value)
    return str(value).lower() if isinstance(value, bool) else f"{value:.6f}"


def _write_parquet(path: Path, table: Table, rows: Iterator[Sequence[Cell]]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    kinds: dict[type, Any] = {str: pa.string(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in table.columns.items()])
    at_once = max(1, min(_ROW_GROUP, _CELLS // len(table.columns)))
    with ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, at_once)):
            columns = zip(*group, strict=True)
            arrays = [pa.array(column, schema.field(i).type) for i, column in enumerate(columns)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
