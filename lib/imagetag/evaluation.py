"""What evaluate finds out about a run, as it is stored: `evaluation.json`, and tables beside it."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from imagetag.breakdown import Slice
from imagetag.calibration import Reliability
from imagetag.decision import Decision
from imagetag.layout import Label
from imagetag.manifest import Dataset, Rating, Row
from imagetag.metrics import AtPrevalence, BinaryMetrics
from imagetag.settings import option_name


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Request(_Record):
    """What an evaluation was asked for; the options of `imagetag evaluate` say what each is."""

    min_precision: float = 0.95
    confidence: float = 0.95
    threshold: float | None = None
    calibration: Literal["auto", "none", "temperature", "isotonic"] = "auto"
    prevalence: float | None = None
    suspects: bool = True


@dataclass(frozen=True)
class Scored:
    """A picture with what the model says of it: a logit, a calibrated probability, a decision."""

    row: Row
    logit: float
    probability: float
    called: bool

    @property
    def positive(self) -> bool:
        """Whether the picture has the tag, by its label."""
        return self.row.label == "positive"


class Shown(_Record):
    """A picture of a gallery."""

    md5: str
    post_id: int
    board: str
    page_url: str
    label: Label
    rating: Rating
    probability: float


class Evaluation(_Record):
    """A run's results on the test split, with what led to them.

    `settings` is what the run was trained with, as names and values; `reliability` is of the test
    split, with and without calibration; `validation` counts the pictures the threshold was chosen
    on; `command` repeats the training; `history` is a row an epoch.
    """

    version: Literal[2] = 2
    tag: str
    run: str
    request: Request
    settings: dict[str, Any]
    command: str
    dataset: Dataset
    decision: Decision
    validation: dict[Label, int]
    metrics: BinaryMetrics
    prevalences: tuple[AtPrevalence, ...]
    reliability: dict[Literal["raw", "calibrated"], Reliability]
    slices: tuple[Slice, ...]
    galleries: dict[Literal["false_positives", "false_negatives", "hits", "suspects"], list[Shown]]
    suspects: int | None
    left_out: int = Field(0, description="pictures that are missing or cannot be decoded")
    history: list[dict[str, float]]
    created: str
    software: str


def predictions_table(scored: Iterable[Scored]) -> bytes:
    """Return pictures as CSV, the most probable first."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["md5", "page_url", "label", "group", "logit", "probability", "decision"])
    for item in sorted(scored, key=lambda item: (-item.logit, item.row.md5)):
        row = item.row
        numbers = [f"{item.logit:.6f}", f"{item.probability:.6f}"]
        decision = str(item.called).lower()
        writer.writerow([row.md5, row.page_url, row.label, row.group, *numbers, decision])
    return table.getvalue().encode()


def one_of_each_group(scored: Sequence[Scored]) -> list[Scored]:
    """Return one picture a group, whichever comes first by its md5.

    Those of a group are no independent trials: a parent and its child often succeed together.
    """
    first: dict[str, Scored] = {}
    for item in sorted(scored, key=lambda item: item.row.md5):
        first.setdefault(item.row.group, item)
    return list(first.values())


def shown(scored: Iterable[Scored]) -> list[Shown]:
    """Return pictures as a gallery has them."""
    return [shown_row(item.row, item.probability) for item in scored]


def shown_row(row: Row, probability: float) -> Shown:
    """Return a picture as a gallery has it, with some probability of the tag."""
    return Shown(
        md5=row.md5,
        post_id=row.post_id,
        board=row.board,
        page_url=row.page_url,
        label=row.label,
        rating=row.rating,
        probability=probability,
    )


def train_command(tag: str, settings: Mapping[str, Any], image_size: tuple[int, int]) -> str:
    """Return the command that trains the same model again, for a shell.

    Args:
        tag: of what.
        settings: of the training, as the run has them.
        image_size: (height, width) in pixels.

    """
    values = dict(settings) | {"image_size": f"{image_size[0]}x{image_size[1]}"}
    if "mixed_precision" in values:  # which of them, the machine decides
        values["mixed_precision"] = "no" if values["mixed_precision"] == "float32" else "yes"
    words = ["imagetag", "train", "--tags", shlex.quote(tag)]
    for name, value in values.items():
        option = option_name(name)
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif value is not None:
            words += [option, shlex.quote(str(value))]
    return " ".join(words)
