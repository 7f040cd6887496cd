"""What a classifier meets where it is used, told from its scores of pictures without labels.

Where the tag is rarer than among the pictures a threshold was chosen on, less of what is called it
has it. If pictures with the tag score as they did there, and those without it too, the new scores
are a mixture of both, and the weight that makes them most likely is the share of pictures that have
the tag (maximum likelihood under label shift). Scores are told apart by a few bins: some ten
labelled pictures a bin make shares that look surer than they are.

What is uncertain is drawn again and again: a weight of each group of labelled pictures (Rubin's
Bayesian bootstrap), beside which stands half a group of each label that may be anywhere, and how
many new pictures are in each bin. Each draw has a share, and a precision that follows from it by
Bayes' rule. The rates of calls in it are those of pictures that have not chosen the threshold; half
a group more of each label is called and half is not (Jeffreys' prior), so that no threshold is
free of false alarms for want of pictures.

Whether the scores are such a mixture at all is judged by the greatest distance between the
distributions (Kolmogorov and Smirnov), beside those of as many scores that are drawn from the
mixture, and fitted again. Scores cannot tell everything: pictures without the tag that score like
it, where there were none before, pass for pictures with it.

Sources: M. Saerens, P. Latinne and C. Decaestecker, Adjusting the outputs of a classifier to new a
priori probabilities, Neural Computation 14 (2002); D. B. Rubin, The Bayesian bootstrap, Annals of
Statistics 9 (1981); W. Stute, W. Gonzalez Manteiga and M. Presedo Quindimil, Bootstrap based
goodness-of-fit tests, Metrika 40 (1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imagetag.record import Record
from imagetag.stats.metrics import Estimate, numbered

_DRAWS = 400
_A_BIN = 50  # groups of labelled pictures of each label, about
_LEAST_BINS, _MOST_BINS = 2, 10
_FINE = 40  # bins in which distributions are compared
_HALVINGS = 30  # of the span in which a share lies
_MOST_HIGHER = 50  # thresholds above the one in use
_MOST_GROUPS = 5000  # of labelled pictures: more are drawn from
_UNLIKELY = 0.01  # so seldom do scores of the same kind pass for others
# How probable it must be that the precision is kept: by the threshold as it is, and by a stricter
# one, which is the best of many.
_KEEPS, _STRICTER_KEEPS = 0.7, 0.8

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Advice = Literal["keep", "tighten", "distrust"]


@dataclass(frozen=True)
class Tried:
    """Pictures whose labels are known, and what a classifier says of them.

    Args:
        labels: (pictures,), True where the tag is in the picture; of both labels some.
        scores: (pictures,), the probabilities, rounded as those of the new pictures are.
        called: (pictures,), which are called the tag.
        groups: what belongs together, (pictures,).
        chose: (pictures,), True where the threshold was chosen on them.

    """

    labels: Bools
    scores: Floats
    called: Bools
    groups: Sequence[str]
    chose: Bools

    def only(self, which: NDArray[Any]) -> Tried:
        """Return some of the pictures, of a mask or positions."""
        return Tried(
            self.labels[which],
            self.scores[which],
            self.called[which],
            np.asarray(self.groups)[which].tolist(),
            self.chose[which],
        )


class Shift(Record):
    """What a classifier is estimated to meet among new pictures; nothing of it is promised.

    `share` of the `images` have the tag, and `precision` is that of what is called it, both with
    95 % intervals. `fit` is how often scores of such a mixture are as far from it as these; where
    that is seldom they are not `alike`, and the other numbers mean little. `wanted` is the
    precision to keep, None where none was asked for. The advice: `keep` the threshold; `tighten`
    it to `threshold`, a score; or `distrust` what is called the tag, as the scores are not alike,
    or no threshold is known to keep the precision. None where nothing was wanted, if all is alike.
    """

    images: int
    share: Estimate
    precision: Estimate
    wanted: float | None
    fit: float
    alike: bool
    advice: Advice | None
    threshold: float | None = None


def estimate_shift(tried: Tried, scores: Floats, wanted: float | None, *, seed: int = 0) -> Shift:
    """Estimate the share of new pictures that have the tag, and the precision of what is called it.

    Args:
        tried: pictures whose labels are known. Some must not have chosen the threshold.
        scores: of the new pictures, (new pictures,), probabilities in [0, 1].
        wanted: the precision to keep, in (0, 1); None gives no advice for it.
        seed: of what is drawn.

    Raises:
        ValueError: if the pictures that did not choose the threshold are not of both labels, all
            labelled scores are equal, there are no new pictures, or a score is no number.

    """
    tested = tried.labels[~tried.chose]
    if not tested.any() or tested.all():
        raise ValueError("the test pictures are not of both labels")
    if not scores.size or not (np.isfinite(scores).all() and np.isfinite(tried.scores).all()):
        raise ValueError("there is no score, or one is not a number")
    random = np.random.default_rng(seed)
    tried = _bounded(tried, random)
    members = numbered(tried.groups)
    weights = random.standard_exponential((_DRAWS, int(members.max()) + 1))

    least = min(np.unique(members[label]).size for label in (tried.labels, ~tried.labels))
    bins = _Bins(tried, members, int(np.clip(least // _A_BIN, _LEAST_BINS, _MOST_BINS)))
    # What is added to them is of groups as large as that of a picture drawn at random.
    sizes = np.bincount(members)
    size = float(sizes @ sizes) / members.size
    counts = bins.counts(scores)
    again = random.multinomial(scores.size, counts / scores.size, _DRAWS)
    prior = size * random.standard_gamma(0.5 / counts.size, (2, _DRAWS, counts.size))
    shares = _fitted(again, *bins.distributions(weights, prior))

    higher = _higher(tried)
    added = size * random.standard_gamma(0.5, (2, 2, _DRAWS, 1))
    found, alarms = _rates(tried, members, weights, higher, added)
    right = shares[:, None] * found
    precisions = right / (right + (1 - shares[:, None]) * alarms)

    fit = _fit(_Bins(tried, members, _FINE), weights, scores, random)
    shift = Shift(
        images=scores.size,
        share=_estimate(shares),
        precision=_estimate(precisions[:, 0]),
        wanted=wanted,
        fit=fit,
        alike=fit >= _UNLIKELY,
        advice=None,
    )
    if not shift.alike:
        return shift.model_copy(update={"advice": "distrust"})
    if wanted is None:
        return shift
    kept = (precisions >= wanted).mean(axis=0)
    if kept[0] >= _KEEPS:
        return shift.model_copy(update={"advice": "keep"})
    keeping = np.flatnonzero(kept[1:] >= _STRICTER_KEEPS)
    if not keeping.size:
        return shift.model_copy(update={"advice": "distrust"})
    stricter = float(higher[keeping[0]])
    return shift.model_copy(update={"advice": "tighten", "threshold": stricter})


class _Bins:
    """Bins of scores, between quantiles of the labelled ones, of which either label is half.

    Args:
        tried: labelled pictures.
        members: the number of each one's group.
        bins: how many at the most.

    """

    def __init__(self, tried: Tried, members: Ints, bins: int) -> None:
        order = np.argsort(tried.scores, kind="stable")
        halves = np.where(tried.labels, 0.5 / tried.labels.sum(), 0.5 / (~tried.labels).sum())
        reached = np.cumsum(halves[order])
        places = np.searchsorted(reached, np.arange(1, bins) / bins)
        edges = np.unique(tried.scores[order][np.minimum(places, order.size - 1)])
        self._edges = edges[edges > tried.scores.min()]
        if not self._edges.size:
            raise ValueError("all labelled pictures have the same score")
        self._size = self._edges.size + 1
        self._groups = int(members.max()) + 1
        inside = np.searchsorted(self._edges, tried.scores, side="right")
        self._inside = [
            np.bincount(
                members[label] * self._size + inside[label], minlength=self._groups * self._size
            ).reshape(self._groups, self._size)
            for label in (tried.labels, ~tried.labels)
        ]

    def counts(self, scores: Floats) -> Ints:
        """Return how many scores are in each bin, (bins,)."""
        places = np.searchsorted(self._edges, scores, side="right")
        return np.bincount(places, minlength=self._size)

    def distributions(self, weights: Floats, prior: Floats | float) -> tuple[Floats, Floats]:
        """Return which parts of the positives and of the negatives are in each bin.

        Args:
            weights: of the groups, (draws, groups).
            prior: pictures that are added, (labels, draws, bins) or a number.

        Returns:
            Of each label (draws, bins).

        """
        found = np.stack([weights @ inside for inside in self._inside]) + prior
        positives, negatives = found / found.sum(axis=2, keepdims=True)
        return positives, negatives


def _bounded(tried: Tried, random: np.random.Generator) -> Tried:
    """Return no more groups than can be weighed in a moment; of both labels there stay some."""
    members = numbered(tried.groups)
    groups = int(members.max()) + 1
    if groups <= _MOST_GROUPS:
        return tried
    kept = np.zeros(groups, np.bool_)
    for mask in (tried.labels & ~tried.chose, ~tried.labels & ~tried.chose, tried.chose):
        there = np.unique(members[mask])
        share = max(1, _MOST_GROUPS * there.size // groups)
        kept[random.permutation(there)[:share]] = True
    return tried.only(kept[members])


def _fitted(counts: Ints, positives: Floats, negatives: Floats) -> Floats:
    """Return the most likely share of positives of each draw, (draws,).

    The log likelihood is concave in the share, and its slope is halved in on.

    Args:
        counts: of scores in bins, (draws, bins).
        positives: which part of the positives is in each bin, (draws, bins).
        negatives: the same of negatives.

    """
    low, high = np.zeros(len(counts)), np.ones(len(counts))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        mixed = negatives + middle[:, None] * (positives - negatives)
        slope = (counts * (positives - negatives) / np.maximum(mixed, 1e-12)).sum(axis=1)
        low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
    found = np.where(low == 0, 0.0, np.where(high == 1, 1.0, (low + high) / 2))
    return np.asarray(found, np.float64)


def _higher(tried: Tried) -> Floats:
    """Return stricter thresholds that some positives reach, the lowest first.

    1 is none: with numbers of few digits it is more than what it stands for.
    """
    called = tried.scores[tried.called]
    if not called.size:
        return np.zeros(0)
    values = np.unique(tried.scores[tried.labels])
    values = values[(values > called.min()) & (values < 1)]
    places = np.linspace(0, values.size - 1, min(values.size, _MOST_HIGHER)).astype(int)
    return np.asarray(values[places], np.float64)


def _rates(
    tried: Tried, members: Ints, weights: Floats, higher: Floats, added: Floats
) -> tuple[Floats, Floats]:
    """Return which part of positives, and of negatives, is called, each (draws, 1 + thresholds).

    First as it is called now, then at each of the higher thresholds. `added` are pictures of each
    label that are called, and that are not, (labels, 2, draws, 1).
    """
    called = np.column_stack([tried.called, tried.scores[:, None] >= higher])
    rates = []
    for label, (yes, no) in zip((tried.labels, ~tried.labels), added, strict=True):
        asked = label & ~tried.chose
        parts = np.zeros((weights.shape[1], called.shape[1]))
        np.add.at(parts, members[asked], called[asked])
        whole = np.bincount(members[asked], minlength=len(parts))
        rates.append((weights @ parts + yes) / ((weights @ whole)[:, None] + yes + no))
    return rates[0], rates[1]


def _fit(bins: _Bins, weights: Floats, scores: Floats, random: np.random.Generator) -> float:
    """Return how often scores of the best mixture are as far from theirs as these are."""
    counts = bins.counts(scores)[None]
    prior = 0.5 / counts.size
    positives, negatives = bins.distributions(np.ones((1, weights.shape[1])), prior)
    share = _fitted(counts, positives, negatives)
    mixed = share * positives[0] + (1 - share) * negatives[0]
    again = random.multinomial(scores.size, mixed / mixed.sum(), len(weights))
    drawn = bins.distributions(weights, prior)
    far = _distance(again, _fitted(again, *drawn), *drawn)
    near = far < _distance(counts, share, positives, negatives)
    return float((1 + (~near).sum()) / (1 + far.size))


def _distance(counts: Ints, shares: Floats, positives: Floats, negatives: Floats) -> Floats:
    mixed = negatives + shares[:, None] * (positives - negatives)
    gaps = np.cumsum(counts / counts.sum(axis=1, keepdims=True) - mixed, axis=1)
    return np.asarray(np.abs(gaps).max(axis=1), np.float64)


def _estimate(draws: Floats) -> Estimate:
    low, value, high = (float(found) for found in np.quantile(draws, (0.025, 0.5, 0.975)))
    return Estimate(value=value, low=low, high=high)
