"""What a classifier's scores and decisions are worth, as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    classification_report,
    roc_auc_score,
)

from imagetag.errors import InputError

Interval = tuple[float, float]

_RESAMPLES = 2000
_CHUNK = 4_000_000  # weights that are held at once
_TAIL = 2.5  # percent on each side of a 95 % interval

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Confusion(_Record):
    """How many pictures were called what: true and false positives and negatives."""

    tp: int
    fp: int
    fn: int
    tn: int


class Estimate(_Record):
    """A number, and its 95 % confidence interval. None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def interval(self) -> Interval | None:
        """The interval, None where there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class AtThreshold(_Record):
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
    report_text: str


class BinaryMetrics(_Record):
    """How good probabilities are: at the threshold that was chosen, at 0.5, and at all of them.

    Intervals are percentiles of 2,000 bootstrap resamples of the groups of pictures that belong
    together. Where a share is 0 or 1, which no resample can change, they are Clopper-Pearson's.
    """

    positives: int
    negatives: int
    chosen: AtThreshold
    half: AtThreshold
    average_precision: Estimate
    roc_auc: Estimate
    brier: Estimate


class AtPrevalence(_Record):
    """The precision to expect where a share `prevalence` of all pictures has the tag."""

    prevalence: float
    precision: Estimate


@dataclass(frozen=True)
class Answers:
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


def binary_metrics(answers: Answers, threshold: float, *, seed: int = 0) -> BinaryMetrics:
    """Measure a model's answers.

    Args:
        answers: of some pictures.
        threshold: the probability from which on they are called positive: it is only told.
        seed: of the resamples.

    Raises:
        InputError: if all pictures are of one label, or a score is not a number.

    """
    _check(answers)
    truth, halves = answers.labels, answers.probabilities >= 0.5
    found: dict[str, list[Floats]] = {}
    for weights in _resamples(answers.groups, seed):
        for name, values in _weighed(weights, answers, halves).items():
            found.setdefault(name, []).append(values)
    resampled = {name: np.concatenate(values) for name, values in found.items()}

    def estimate(name: str, value: float | None) -> Estimate:
        values = resampled[name][np.isfinite(resampled[name])]
        if value is None or not values.size:
            return Estimate(value=value, low=None, high=None)
        low, high = np.percentile(values, (_TAIL, 100 - _TAIL))
        return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))

    def at(prefix: str, called: Bools, level: float) -> AtThreshold:
        return _at_threshold(truth, called, level, lambda name, v: estimate(prefix + name, v))

    return BinaryMetrics(
        positives=int(truth.sum()),
        negatives=int((~truth).sum()),
        chosen=at("chosen ", answers.called, threshold),
        half=at("half ", halves, 0.5),
        average_precision=estimate(
            "average precision", float(average_precision_score(truth, answers.scores))
        ),
        roc_auc=estimate("roc auc", float(roc_auc_score(truth, answers.scores))),
        brier=estimate("brier", float(brier_score_loss(truth, answers.probabilities))),
    )


def at_prevalence(counts: Confusion, prevalence: float) -> AtPrevalence:
    """Return the precision to expect at a rate of positives other than the test split's.

    By Bayes' rule from the shares of positives and of negatives that are called positive. The
    interval is made of both shares' Clopper-Pearson intervals at 97.5 %, so it is a wide one.

    Args:
        counts: of the test split.
        prevalence: the share of pictures with the tag, in (0, 1).

    """
    positives, negatives = counts.tp + counts.fn, counts.fp + counts.tn
    hits, alarms = counts.tp / positives, counts.fp / negatives

    def precision(hit: float, alarm: float) -> float:
        right, wrong = prevalence * hit, (1 - prevalence) * alarm
        return right / (right + wrong)

    if counts.tp + counts.fp == 0:
        return AtPrevalence(
            prevalence=prevalence, precision=Estimate(value=None, low=None, high=None)
        )
    hit = exact_interval(counts.tp, positives, 0.975)
    alarm = exact_interval(counts.fp, negatives, 0.975)
    return AtPrevalence(
        prevalence=prevalence,
        precision=Estimate(
            value=precision(hits, alarms),
            low=precision(hit[0], alarm[1]),
            high=precision(hit[1], alarm[0]),
        ),
    )


def exact_interval(successes: int, total: int, confidence: float = 0.95) -> Interval:
    """Return the two-sided Clopper-Pearson interval of a share; `total` is 1 or more."""
    tail = (1 - confidence) / 2
    failures = total - successes
    low = stats.beta.ppf(tail, successes, failures + 1) if successes else 0.0
    high = stats.beta.ppf(1 - tail, successes + 1, failures) if failures else 1.0
    return float(low), float(high)


def _at_threshold(truth: Bools, called: Bools, threshold: float, estimate: Any) -> AtThreshold:
    tp, fp = int(np.sum(called & truth)), int(np.sum(called & ~truth))
    fn, tn = int(np.sum(~called & truth)), int(np.sum(~called & ~truth))

    def share(name: str, part: int, whole: int) -> Estimate:
        if not whole:
            return Estimate(value=None, low=None, high=None)
        if part in (0, whole):
            low, high = exact_interval(part, whole)
            return Estimate(value=part / whole, low=low, high=high)
        found: Estimate = estimate(name, part / whole)
        return found

    report: dict[str, Any] = {
        "y_true": truth,
        "y_pred": called,
        "labels": [False, True],
        "target_names": ["negative", "positive"],
        "zero_division": np.nan,
    }
    return AtThreshold(
        threshold=threshold,
        confusion=Confusion(tp=tp, fp=fp, fn=fn, tn=tn),
        precision=share("precision", tp, tp + fp),
        recall=share("recall", tp, tp + fn),
        specificity=share("specificity", tn, tn + fp),
        accuracy=share("accuracy", tp + tn, truth.size),
        f1=estimate("f1", 2 * tp / (2 * tp + fp + fn)),
        report=_plain(classification_report(**report, output_dict=True)),
        report_text=classification_report(**report, digits=3),
    )


def _resamples(groups: Sequence[str], seed: int) -> Iterator[Floats]:
    """Yield how often each picture is drawn, (resamples, pictures), some resamples at a time."""
    names, members = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    random = np.random.default_rng(seed)
    each = max(1, _CHUNK // len(members))
    for start in range(0, _RESAMPLES, each):
        count = min(each, _RESAMPLES - start)
        drawn = random.integers(len(names), size=(count, len(names)))
        weights = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])
        yield weights[:, members].astype(np.float64)


def _weighed(weights: Floats, answers: Answers, halves: Bools) -> dict[str, Floats]:
    """Return each metric of each resample, (resamples,); what is not defined is not a number."""
    truth = answers.labels
    found: dict[str, Floats] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        total, positives = weights.sum(axis=1), weights @ truth
        negatives = total - positives
        for name, called in (("chosen", answers.called), ("half", halves)):
            tp, fp = weights @ (called & truth), weights @ (called & ~truth)
            found |= {
                f"{name} precision": tp / (tp + fp),
                f"{name} recall": tp / positives,
                f"{name} specificity": 1 - fp / negatives,
                f"{name} accuracy": (tp + negatives - fp) / total,
                f"{name} f1": 2 * tp / (tp + fp + positives),
            }
        found["brier"] = weights @ (answers.probabilities - truth) ** 2 / total
        order = np.argsort(-answers.scores, kind="stable")
        ranked = answers.scores[order]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of equal scores
        right = np.cumsum(weights[:, order] * truth[order], axis=1)[:, ends]
        wrong = np.cumsum(weights[:, order] * ~truth[order], axis=1)[:, ends]
        gained = np.diff(right, axis=1, prepend=0)
        precision = np.nan_to_num(right / (right + wrong))  # of nothing drawn yet: not gained from
        found["average precision"] = (gained * precision).sum(axis=1) / positives
        before = np.diff(wrong, axis=1, prepend=0)
        found["roc auc"] = (before * (right - gained / 2)).sum(axis=1) / (positives * negatives)
    return found


def _check(answers: Answers) -> None:
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
