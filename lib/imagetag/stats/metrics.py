"""What a classifier's scores and decisions are worth, as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagetag.errors import InputError
from imagetag.record import Record
from imagetag.stats import comparison
from imagetag.stats.intervals import Interval, ratio_interval, share_interval

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Confusion(Record):
    """How many pictures were called what: true and false positives and negatives."""

    tp: int
    fp: int
    fn: int
    tn: int


class Estimate(Record):
    """A number, and its 95 % confidence interval. None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def interval(self) -> Interval | None:
        """The interval, None where there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class AtThreshold(Record):
    """How good the decisions at a threshold are.

    `precision` has no value where nothing was called positive. `report` is scikit-learn's
    classification report, with None where a number is not defined.
    """

    threshold: float
    confusion: Confusion
    precision: Estimate
    recall: Estimate
    specificity: Estimate
    accuracy: Estimate
    f1: Estimate
    report: dict[str, Any]


class BinaryMetrics(Record):
    """How good probabilities are: at the threshold that was chosen, at 0.5, and at all of them.

    The unit of the intervals are groups of pictures that belong together. Those of shares, at a
    threshold, are Clopper-Pearson's (`intervals.share_interval`), the others percentiles of 2,000
    bootstrap resamples (`compare`).
    """

    positives: int
    negatives: int
    chosen: AtThreshold
    half: AtThreshold
    average_precision: Estimate
    roc_auc: Estimate
    brier: Estimate


class AtPrevalence(Record):
    """The precision to expect where a share `prevalence` of all pictures has the tag."""

    prevalence: float
    precision: Estimate


@dataclass(frozen=True)
class Predictions:
    """What a model says of pictures whose labels are known.

    Args:
        labels: (pictures,), True where the tag is in the picture.
        scores: (pictures,), by which they are ranked: the logits.
        probabilities: (pictures,), calibrated, in [0, 1].
        called: (pictures,), which are called positive at the threshold that was chosen.
        groups: what belongs together, such as a post and its parent, (pictures,).

    """

    labels: Bools
    scores: Floats
    probabilities: Floats
    called: Bools
    groups: Sequence[str]


def binary_metrics(answers: Predictions, threshold: float, *, seed: int = 0) -> BinaryMetrics:
    """Measure a model's answers.

    Args:
        answers: of some pictures.
        threshold: the probability from which on they are called positive: it is only told.
        seed: of the resamples.

    Raises:
        InputError: if all pictures are of one label, or a score is not a number.

    """
    _check(answers)
    truth, members = answers.labels, numbered(answers.groups)
    exam = comparison.Exam(truth, members)
    run = comparison.Answers(answers.scores, answers.probabilities, answers.called)

    def resampled(metric: comparison.Metric) -> Estimate:
        span = comparison.compare(exam, [run], metric, seed=seed)[0].value
        return Estimate(value=None, low=None, high=None) if span is None else Estimate(**vars(span))

    return BinaryMetrics(
        positives=int(truth.sum()),
        negatives=int((~truth).sum()),
        chosen=_at_threshold(truth, answers.called, threshold, members),
        half=_at_threshold(truth, answers.probabilities >= 0.5, 0.5, members),
        average_precision=resampled("average-precision"),
        roc_auc=resampled("roc-auc"),
        brier=resampled("brier"),
    )


def at_prevalence(answers: Predictions, prevalence: float) -> AtPrevalence:
    """Return the precision to expect at a rate of positives other than the test split's.

    By Bayes' rule from the shares of positives and of negatives that are called positive. The
    interval is that of the ratio of both, from an interval of each by group.

    Args:
        answers: of the test split, which has both labels.
        prevalence: the share of pictures with the tag, in (0, 1).

    """
    truth, called, members = answers.labels, answers.called, numbered(answers.groups)
    if not called.any():
        return AtPrevalence(
            prevalence=prevalence, precision=Estimate(value=None, low=None, high=None)
        )
    part, rest = (
        (float(np.mean(called[label])), share_interval(called & label, label, members))
        for label in (truth, ~truth)
    )
    alarms = ratio_interval(*rest, *part)  # of one negative, for a positive that is found

    def precision(ratio: float) -> float:
        return prevalence / (prevalence + (1 - prevalence) * ratio)

    return AtPrevalence(
        prevalence=prevalence,
        precision=Estimate(
            value=precision(rest[0] / part[0] if part[0] else math.inf),
            low=precision(alarms[1]),
            high=precision(alarms[0]),
        ),
    )


def numbered(groups: Sequence[str]) -> Ints:
    """Return each picture's group as a number from 0 on, (pictures,)."""
    return np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1].astype(np.int64)


def share_of(part: NDArray[Any], whole: NDArray[Any], members: Ints) -> Estimate:
    """Return the share that a part has of a whole, with its interval; of nothing there is none.

    Args:
        part: what each picture counts in the part, (pictures,), bool or number.
        whole: the same in the whole; no less.
        members: the number of each picture's group.

    """
    if not whole.any():
        return Estimate(value=None, low=None, high=None)
    low, high = share_interval(part, whole, members)
    return Estimate(value=float(part.sum() / whole.sum()), low=low, high=high)


def _at_threshold(truth: Bools, called: Bools, threshold: float, members: Ints) -> AtThreshold:
    from sklearn.metrics import (
        classification_report,
    )  # slow, and whoever reads what was found does without

    right, agreeing = called & truth, called == truth
    report: dict[str, Any] = {
        "y_true": truth,
        "y_pred": called,
        "labels": [False, True],
        "target_names": ["negative", "positive"],
        "zero_division": np.nan,
    }
    return AtThreshold(
        threshold=threshold,
        confusion=Confusion(
            tp=int(right.sum()),
            fp=int((called & ~truth).sum()),
            fn=int((~called & truth).sum()),
            tn=int((~called & ~truth).sum()),
        ),
        precision=share_of(right, called, members),
        recall=share_of(right, truth, members),
        specificity=share_of(~called & ~truth, ~truth, members),
        accuracy=share_of(agreeing, np.ones(truth.size), members),
        f1=share_of(2 * right, called.astype(int) + truth, members),
        report=_plain(classification_report(**report, output_dict=True)),
    )


def _check(answers: Predictions) -> None:
    truth, scores = answers.labels, answers.scores
    shapes = {item.shape for item in (truth, scores, answers.probabilities, answers.called)}
    if len(shapes) > 1 or truth.ndim != 1 or len(answers.groups) != truth.size:
        raise ValueError(f"labels, scores, probabilities and decisions are {shapes}")
    broken = int(np.count_nonzero(~np.isfinite(scores)))
    if broken:
        raise InputError(
            f"the model gives no number for {broken} of {scores.size} pictures: its training "
            "diverged; train again with a lower learning rate"
        )
    if truth.all() or not truth.any():
        kind = "no pictures" if not truth.size else f"only {'positive' if truth[0] else 'negative'}"
        raise InputError(
            f"the test split has {kind if not truth.size else kind + ' pictures'}, and metrics "
            "need both labels: scrape more images of the tag"
        )


def _plain(value: Any) -> Any:
    """Return numbers that JSON can hold: what is not a number becomes None."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    number = float(value)
    return None if math.isnan(number) else number
