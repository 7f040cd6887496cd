"""What a run's model says of pictures, as evaluate stored it in tables beside the run."""

from __future__ import annotations

import csv
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from imagetag.csv_cells import bounded_lines, unquoted
from imagetag.errors import InputError, one_line
from imagetag.layout import Label, Layout
from imagetag.storage import ObjectNotFound, Storage

ScoredPart = Literal["threshold", "test"]

_MAX_BYTES = 256 << 20  # of a table
_MD5 = re.compile(r"[0-9a-f]{32}")
_LABELS: dict[str, Label] = {"positive": "positive", "negative": "negative"}
_DECISIONS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class StoredScore:
    """A picture, its label, and what the run's model says of it."""

    md5: str
    part: ScoredPart
    label: Label
    group: str
    logit: float
    probability: float
    called: bool

    @property
    def mistaken(self) -> bool:
        """Whether the decision is not what the label says."""
        return self.called != (self.label == "positive")


def load_scores(storage: Storage, tag: str, run: str, part: ScoredPart) -> list[StoredScore]:
    """Return what evaluate stored of a part's pictures, the most probable first.

    Raises:
        InputError: if nothing is stored, or it cannot be read; it names the line.

    """
    key = Layout(tag).run(run, f"{part}_predictions.csv")
    again = f"run imagetag evaluate --tags {shlex.quote(tag)} --run {run}"
    try:
        with storage.open(key) as stream:
            return list(_read(stream, part))
    except ObjectNotFound as error:
        raise InputError(f"{storage.url}/{key} is missing: {again} first") from error
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{storage.url}/{key}: {one_line(error, 200)}; delete evaluation.json beside it and "
            f"{again}"
        ) from error


def _read(stream: BinaryIO, part: ScoredPart) -> Iterator[StoredScore]:
    reader = csv.DictReader(bounded_lines(stream, _MAX_BYTES), strict=True)
    for row in reader:
        try:
            found = StoredScore(
                md5=row["md5"],
                part=part,
                label=_LABELS[row["label"]],
                group=unquoted(row["group"]),
                logit=float(row["logit"]),
                probability=float(row["probability"]),
                called=_DECISIONS[row["decision"]],
            )
            numbers = math.isfinite(found.logit) and 0 <= found.probability <= 1
            if not (_MD5.fullmatch(found.md5) and numbers):
                raise ValueError(f"{found.md5[:40]!r}, {found.logit}, {found.probability}")
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"line {reader.line_num} cannot be read: {error}") from error
        yield found
