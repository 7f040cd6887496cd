"""Which of several runs are better on the same pictures, and which differences are noise.

The groups of pictures are drawn anew 2,000 times, each time the same ones for all runs (a paired
bootstrap): what makes a picture hard for all of them cancels out. The best run is picked by the
same numbers that it is compared by, and of many runs one looks best by chance. So the intervals of
all pairs are widened until they hold together, whichever run comes out as the best: by the greatest
of all studentized differences of a resample (the max-T method).

Sources: P. H. Westfall and S. S. Young, Resampling-based multiple testing (1993); J. P. Romano and
M. Wolf, Exact and approximate stepdown methods for multiple hypothesis testing, JASA 100 (2005).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imagetag.stats.intervals import Interval, share_interval

Metric = Literal["average-precision", "precision", "recall", "f1", "accuracy", "roc-auc", "brier"]

RESAMPLED: tuple[Metric, ...] = ("average-precision", "roc-auc", "brier")  # for their intervals
RESAMPLES = 2000
_CHUNK = 12_000  # weights that are held at once: what malloc gives without asking the system
_TAIL = 0.025  # on each side of a 95 % interval
_LEAST_GROUPS = 10  # fewer say too little of what others would

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Exam:
    """Pictures that all runs have answered, of both labels.

    Args:
        labels: (pictures,), True where the tag is in the picture.
        groups: what belongs together, as numbers, (pictures,).

    """

    labels: Bools
    groups: Ints


@dataclass(frozen=True)
class Answers:
    """What a run says of the pictures of an exam.

    Args:
        scores: by which they are ranked, (pictures,).
        probabilities: in [0, 1], (pictures,).
        called: which are called positive, (pictures,).

    """

    scores: Floats
    probabilities: Floats
    called: Bools


@dataclass(frozen=True)
class Span:
    """A number and its 95 % interval; no interval where the pictures are too few for one.

    Of a run's share, such as its precision, it is that of `share_interval`. Of the metrics of
    `RESAMPLED` it is percentiles of the resamples, which hold the true value less often.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Standing:
    """How one run does beside the others.

    `value` is of the metric, with the interval of this run alone; None where it is not defined.
    `behind` is by how much it is worse than the best, 0 or more, with an interval that holds
    together with all others of the exam; None where there is no value. `apart` tells whether that
    interval is above 0; else the difference may be noise.
    """

    value: Span | None
    behind: Span | None
    apart: bool


def compare(
    exam: Exam,
    runs: Sequence[Answers],
    metric: Metric,
    *,
    seed: int = 0,
    intervals: bool = True,
) -> list[Standing]:
    """Compare each run with the best of them; the first of equals is the best.

    Args:
        exam: the pictures.
        runs: what each run says of them; one or more.
        metric: by which; the Brier score is better where it is lower.
        seed: of the resamples.
        intervals: whether the intervals of each run's own value are wanted. One run of which none
            is asks for no resample.

    """
    _, members = np.unique(exam.groups, return_inverse=True)
    count = int(members.max()) + 1
    measures = [_measure(metric, exam.labels, members, run) for run in runs]
    values = np.array([float(measure(np.ones((1, count)))[0]) for measure in measures])
    if len(runs) == 1 and not intervals:
        return [_only(float(values[0]))]
    drawn = np.concatenate(
        [
            np.stack([measure(weights) for measure in measures], axis=1)
            for weights in _resamples(count, members.size, seed)
        ]
    )
    sign = -1.0 if metric == "brier" else 1.0
    losses, best = _losses(sign * values, sign * drawn, enough=count >= _LEAST_GROUPS)
    return [
        Standing(
            value=None
            if np.isnan(values[number])
            else Span(float(values[number]), None, None)
            if not intervals
            else _alone(float(values[number]), drawn[:, number], metric, exam.labels, members, run),
            behind=losses[number],
            apart=number != best and _above_zero(losses[number]),
        )
        for number, run in enumerate(runs)
    ]


def _only(value: float) -> Standing:
    if np.isnan(value):
        return Standing(None, None, apart=False)
    return Standing(Span(value, None, None), Span(0.0, 0.0, 0.0), apart=False)


def _losses(values: Floats, drawn: Floats, *, enough: bool) -> tuple[list[Span | None], int | None]:
    """Return by how much each run is behind the best, and which that is; greater is better.

    Args:
        values: (runs,); not a number where it is not defined.
        drawn: the same of each resample, (resamples, runs).
        enough: whether there are pictures enough for intervals.

    """
    defined = ~np.isnan(values)
    if not defined.any():
        return [None] * values.size, None
    best = int(np.nanargmax(values))
    # Those that are not defined in many resamples would hide the differences between all others.
    steady = defined & (np.isnan(drawn).mean(axis=0) <= _TAIL / values.size)
    limit = _limit(values[steady], drawn[:, steady])
    found: list[Span | None] = []
    for number in range(values.size):
        loss = float(values[best] - values[number])
        width = limit * _deviation(drawn[:, best] - drawn[:, number])
        if not defined[number]:
            found.append(None)
        elif number == best:
            found.append(Span(0.0, 0.0, 0.0))
        elif not (enough and steady[number] and steady[best]) or not np.isfinite(width):
            found.append(Span(loss, None, None))
        else:
            found.append(Span(loss, max(-1.0, loss - width), min(1.0, loss + width)))
    return found, best


def _limit(values: Floats, drawn: Floats) -> float:
    """Return how many standard deviations wide the intervals of all pairs must be, each way."""
    greatest = np.zeros(len(drawn))
    for one in range(values.size):
        for other in range(one):
            differences = drawn[:, one] - drawn[:, other]
            deviation = _deviation(differences)
            if deviation > 0:
                off = np.abs(differences - (values[one] - values[other])) / deviation
                # What is not defined may be anything.
                greatest = np.maximum(greatest, np.where(np.isnan(off), np.inf, off))
    return float(np.quantile(greatest, 1 - 2 * _TAIL, method="higher"))


def _deviation(differences: Floats) -> float:
    """Return the standard deviation of what is defined, 0 where that is nothing."""
    found = differences[~np.isnan(differences)]
    return float(found.std()) if found.size else 0.0


def _above_zero(loss: Span | None) -> bool:
    return loss is not None and loss.low is not None and loss.low > 0


def _alone(
    value: float, drawn: Floats, metric: Metric, labels: Bools, members: Ints, run: Answers
) -> Span:
    """Return a run's value with its interval."""
    if metric not in RESAMPLED:
        above, below = _sums(metric, labels, members, run)
        low, high = share_interval(above, below, np.arange(above.size))
    elif value in (0, 1):  # no resample can change it
        low, high = _without_variation(value, labels, members)
    else:
        # What is not defined may be anything from 0 to 1.
        low = float(np.quantile(np.where(np.isnan(drawn), 0, drawn), _TAIL))
        high = float(np.quantile(np.where(np.isnan(drawn), 1, drawn), 1 - _TAIL))
    return Span(value, min(value, low), max(value, high))


def _without_variation(value: float, labels: Bools, members: Ints) -> Interval:
    """Return the wider of the intervals that such a share of either label would have."""
    found = [share_interval(value * label, label, members) for label in (labels, ~labels)]
    return min(low for low, _ in found), max(high for _, high in found)


def _resamples(groups: int, pictures: int, seed: int) -> Iterator[Floats]:
    """Yield how often each group is drawn, (resamples, groups), some resamples at a time."""
    random = np.random.default_rng(seed)
    each = max(1, _CHUNK // pictures)
    for start in range(0, RESAMPLES, each):
        count = min(each, RESAMPLES - start)
        drawn = random.integers(groups, size=(count, groups))
        drawn += np.arange(count)[:, np.newaxis] * groups
        counts = np.bincount(drawn.ravel(), minlength=count * groups)
        yield np.asarray(counts.reshape(count, groups), np.float64)


Measure = Callable[[Floats], Floats]


def _measure(metric: Metric, labels: Bools, members: Ints, run: Answers) -> Measure:
    """Return a function from the weights of groups, (resamples, groups), to the metric of each.

    What is not defined is not a number.
    """
    if metric in ("average-precision", "roc-auc"):
        return _ranking(metric, labels, members, run.scores)

    above, below = _sums(metric, labels, members, run)

    def share(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Floats = (weights @ above) / (weights @ below)
        return found

    return share


def _sums(metric: Metric, labels: Bools, members: Ints, run: Answers) -> tuple[Floats, Floats]:
    """Return of what and by what a metric is the share, each by group, (groups,)."""

    def total(values: NDArray[np.generic]) -> Floats:
        return np.asarray(np.bincount(members, weights=values.astype(np.float64)), np.float64)

    everything, positives = total(np.ones(labels.size)), total(labels)
    called, right = total(run.called), total(run.called & labels)
    agreeing = total(run.called == labels)
    off = total((run.probabilities - labels) ** 2)
    return {
        "precision": (right, called),
        "recall": (right, positives),
        "f1": (2 * right, called + positives),
        "accuracy": (agreeing, everything),
        "brier": (off, everything),
    }[metric]


def _ranking(metric: Metric, labels: Bools, members: Ints, scores: Floats) -> Measure:
    order = np.argsort(-scores, kind="stable")
    ranked, truth, groups = scores[order], labels[order], members[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of equal scores

    def area(weights: Floats) -> Floats:
        drawn = weights[:, groups]
        gained = drawn * truth
        right, called = np.cumsum(gained, axis=1), np.cumsum(drawn, axis=1)
        if ends.size < ranked.size:
            right, called = right[:, ends], called[:, ends]
            gained = np.diff(right, axis=1, prepend=0)
        positives, everything = right[:, -1], called[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            if metric == "average-precision":
                precision = np.divide(right, called, out=np.zeros_like(right), where=called > 0)
                return np.asarray((gained * precision).sum(axis=1) / positives)
            wrong = np.diff(called - right, axis=1, prepend=0)
            pairs = positives * (everything - positives)
            return np.asarray((wrong * (right - gained / 2)).sum(axis=1) / pairs)

    return area
