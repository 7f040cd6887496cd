"""What `imagetag evaluate` stored of a run, read to be compared: bounded, checked, and tolerant.

Other versions wrote some of it and will write more: only what is needed is looked at.
"""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, StringConstraints

from imagetag.csv_cells import bounded_lines, unquoted
from imagetag.errors import InputError, one_line
from imagetag.explore import HeldOut
from imagetag.layout import Label, Layout, PartName
from imagetag.record import Record
from imagetag.stats import Answers, Exam, Ints, Metric
from imagetag.storage import ObjectNotFound, Storage, load_record

MAX_TABLE_BYTES = 256 << 20  # of `test_predictions.csv`
_MD5 = re.compile(r"[0-9a-f]{32}")
_COLUMNS = ("md5", "label", "group", "logit", "probability", "decision")
_LABELS = {"positive": 1, "negative": 0}
_DECISIONS = {"true": 1, "false": 0}
_VERSION = 3  # of `evaluation.json`

Share = Annotated[float, Field(ge=0, le=1)]
Short = Annotated[str, StringConstraints(max_length=200)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class _Record(Record):
    model_config = ConfigDict(allow_inf_nan=False)


class Training(_Record):
    """What `metrics.json` tells of a run.

    `images` are by part and label, `image_size` is (height, width); `seconds` it took. Of a head on
    features there is the name of their `extractor`.
    """

    tag: str
    run: str
    model: Short
    extractor: Short = ""
    created: Short
    images: dict[PartName, dict[Label, Count]] = Field(default_factory=dict)
    image_size: tuple[Count, Count] | None = None
    parameters: Count | None = None
    seconds: Annotated[float, Field(ge=0)] | None = None


class Estimate(_Record):
    """A number, and its 95 % confidence interval. None where it is not defined."""

    value: Share | None
    low: Share | None
    high: Share | None


class Confusion(_Record):
    """How many pictures were called what."""

    tp: Count
    fp: Count
    fn: Count
    tn: Count


class AtThreshold(_Record):
    """How good the decisions at the chosen threshold are."""

    threshold: Share
    confusion: Confusion
    precision: Estimate
    recall: Estimate
    accuracy: Estimate
    f1: Estimate


class Metrics(_Record):
    """How good a run is on its test pictures."""

    positives: Count
    negatives: Count
    chosen: AtThreshold
    average_precision: Estimate
    roc_auc: Estimate
    brier: Estimate

    def estimate(self, metric: Metric) -> Estimate:
        """Return one of the metrics."""
        at_threshold = metric in ("precision", "recall", "f1", "accuracy")
        found: Estimate = getattr(self.chosen if at_threshold else self, metric.replace("-", "_"))
        return found


class Promise(_Record):
    """The precision that was promised when the threshold was chosen; `met` if one was found."""

    min_precision: Share
    confidence: Share
    met: bool


class Decision(_Record):
    """How the threshold was chosen; `promise` is None where it was given."""

    trained: str
    promise: Promise | None = None


class Dataset(_Record):
    """Which pictures there were."""

    fingerprint: Short


class Evaluation(_Record):
    """What `evaluation.json` tells of a run."""

    version: Literal[3]  # that is _VERSION
    tag: str
    run: str
    dataset: Dataset
    decision: Decision
    metrics: Metrics
    created: Short


class _Versioned(_Record):
    version: int = 1


@dataclass(frozen=True)
class Result:
    """A complete run: how it was trained, and how it was evaluated, or why it counts as not."""

    training: Training
    evaluation: Evaluation | None
    reason: str = ""

    @property
    def held_out(self) -> HeldOut | None:
        """What the run has kept for validation and for the promise that was asked for."""
        held_out = HeldOut.by(self.training)
        if held_out is None or self.evaluation is None:
            return held_out
        promise = self.evaluation.decision.promise
        if promise is None or not all(
            0 < share < 1 for share in (promise.min_precision, promise.confidence)
        ):
            return held_out.for_promise(None)
        return held_out.for_promise(promise.min_precision, promise.confidence)


@dataclass(frozen=True)
class Table:
    """A run's test pictures, each once, in the order of their md5.

    Args:
        pictures: their md5 digests, (pictures,).
        exam: labels and groups.
        answers: what the run says of them.

    """

    pictures: NDArray[np.bytes_]
    exam: Exam
    answers: Answers

    def only(self, wanted: Ints) -> Table:
        """Return the pictures of some positions."""
        exam, answers = self.exam, self.answers
        return Table(
            self.pictures[wanted],
            Exam(exam.labels[wanted], exam.groups[wanted]),
            Answers(answers.scores[wanted], answers.probabilities[wanted], answers.called[wanted]),
        )


def load_result(storage: Storage, tag: str, run: str) -> Result:
    """Return what is known of a complete run.

    Raises:
        InputError: if a file of it cannot be read; it names the file.

    """
    layout = Layout(tag)
    training = load_record(storage, layout.run(run, "metrics.json"), Training, run=run, tag=tag)
    key = layout.run(run, "evaluation.json")
    try:
        evaluation = load_record(storage, key, Evaluation, run=run, tag=tag)
    except ObjectNotFound:
        return Result(training, None, "not evaluated")
    except InputError:
        if load_record(storage, key, _Versioned).version < _VERSION:
            return Result(training, None, "evaluated by an older version")
        raise
    if evaluation.decision.trained != training.created:
        return Result(training, None, "trained again since it was evaluated")
    return Result(training, evaluation)


def load_table(storage: Storage, evaluation: Evaluation) -> Table:
    """Return what a run says of each test picture.

    Raises:
        InputError: if the table is missing, damaged, or not that of the evaluation.

    """
    key = Layout(evaluation.tag).run(evaluation.run, "test_predictions.csv")
    where = f"{storage.url}/{key}"
    try:
        with storage.open(key) as stream:
            table = _table(bounded_lines(stream, MAX_TABLE_BYTES))
    except ObjectNotFound as error:
        raise InputError(f"{where} is missing") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{where}: {one_line(error, 200)}") from error
    labels, called = table.exam.labels, table.answers.called
    counts = {
        "tp": called & labels,
        "fp": called & ~labels,
        "fn": ~called & labels,
        "tn": ~called & ~labels,
    }
    told = evaluation.metrics.chosen.confusion.model_dump()
    if {name: int(found.sum()) for name, found in counts.items()} != told:
        raise InputError(f"{where} and evaluation.json are not of the same evaluation")
    return table


def _table(lines: Iterator[str]) -> Table:
    """Return what the lines of a table of predictions say.

    Raises:
        ValueError: if a line is not as it must be; it names the line.

    """
    reader = csv.reader(lines, strict=True)  # a quotation mark left open is damage
    header = next(reader, [])
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise ValueError(f"it has no column {missing[0]}")
    places = [header.index(name) for name in _COLUMNS]
    pictures, labels, groups = bytearray(), array("b"), array("q")
    scores, probabilities, called = array("d"), array("d"), array("b")
    for row in reader:
        try:
            md5, label, group, logit, probability, decision = (row[place] for place in places)
            score, chance = float(logit), float(probability)
            if not (_MD5.fullmatch(md5) and math.isfinite(score) and 0 <= chance <= 1):
                raise ValueError(f"{md5[:40]!r}, {logit[:40]!r}, {probability[:40]!r}")
            labels.append(_LABELS[label])
            called.append(_DECISIONS[decision])
        except (LookupError, ValueError) as error:
            raise ValueError(f"line {reader.line_num} cannot be read: {error}") from error
        pictures += bytes.fromhex(md5)
        digest = blake2b(unquoted(group).encode(), digest_size=8).digest()
        groups.append(int.from_bytes(digest, "big", signed=True))
        scores.append(score)
        probabilities.append(chance)
    names = np.frombuffer(bytes(pictures), dtype="S16")
    order = np.argsort(names)
    if names.size == 0 or (names[order][1:] == names[order][:-1]).any():
        raise ValueError("it has no picture, or one twice")
    if len(set(labels)) < 2:
        raise ValueError("all its pictures are of one label")
    return Table(
        names,
        Exam(np.array(labels, np.bool_), np.array(groups, np.int64)),
        Answers(np.array(scores), np.array(probabilities), np.array(called, np.bool_)),
    ).only(order)
