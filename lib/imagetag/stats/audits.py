"""What some judged pictures, drawn at random, prove of the precision of all that were called.

Of the N pictures that were called the tag, n have it. They are drawn one after the other, none
twice, and judged. For each n that may be, the martingale

    M(n) = sum_m w(m) P(seen | m) / P(seen | n),    w over the m >= n, of sum 1

stays below 1 / alpha for ever with the probability 1 - alpha if n is the truth (Ville). So the
smallest n with a smaller M is a lower bound of the truth that holds however often one looks at it,
and whenever one stops; with the m <= n it is an upper one. P is exact (hypergeometric), and nothing
is simulated.

The weights are 1 / (1 + wrong + N / 500): about as much for each doubling of the share of pictures
that are wrong, so that a few wrong ones cost about as few verdicts as they can, whatever is proven.

Sources: I. Waudby-Smith and A. Ramdas, Confidence sequences for sampling without replacement,
NeurIPS 2020 (the prior-posterior ratio); J. Ville, Etude critique de la notion de collectif, 1939.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imagetag.record import Record

Outcome = Literal["open", "proven", "refuted", "undecided"]
"""What is known of a claim: `undecided` is what all verdicts together leave open."""

_SCALE = 1 / 500  # of all pictures: fewer wrong ones than that are alike in the weights
_ROUNDING = 1e-9  # of a logarithm

Floats = NDArray[np.float64]


class PrecisionBounds:
    """Bounds of the precision of a number of called pictures, from judged ones.

    Each bound holds with the probability `confidence` at all looks together; so both do with
    twice the probability of failure.

    Args:
        called: how many pictures were called the tag, 1 or more.
        confidence: in (0, 1).

    """

    def __init__(self, called: int, confidence: float) -> None:
        if called < 1 or not 0 < confidence < 1:
            raise ValueError(f"{called} called pictures, confidence {confidence}")
        self.called = called
        # Above 0, so that the likeliest number always stands.
        self._limit = max(_ROUNDING, -math.log1p(-confidence) - _ROUNDING)

    def lower(self, right: int, wrong: int) -> float:
        """Return the lower bound where so many of those judged have the tag, or have not.

        Raises:
            ValueError: if these are more than were called, or fewer than none.

        """
        seen = self._seen(right, wrong)
        return self._standing(seen, _from_above(self._shares(seen)), self._above)[0] / self.called

    def upper(self, right: int, wrong: int) -> float:
        """Return the upper bound, as `lower` does the lower one."""
        seen = self._seen(right, wrong)
        return self._standing(seen, np.cumsum(self._shares(seen)), self._below)[1] / self.called

    def _shares(self, seen: Floats) -> Floats:
        """Return w(n) P(seen | n), the highest P being 1. What is 0 for a float counts nowhere."""
        return np.asarray(self._weights * np.exp(seen - seen.max()))

    def _standing(self, seen: Floats, mixed: Floats, weights: Floats) -> tuple[int, int]:
        """Return the fewest and the most right pictures that are not rejected.

        Args:
            seen: ln P(seen | n), (called + 1,).
            mixed: the sum of w(m) P(seen | m) on one side of n, the highest P being 1.
            weights: the sum of w(m) there.

        """
        # Where the sum is 0 or P is, the highest P is on the other side, or n cannot be.
        there = (mixed > 0) & np.isfinite(seen)
        evidence = np.where(np.isfinite(seen), -np.inf, np.inf)
        evidence[there] = np.log(mixed[there]) - np.log(weights[there]) + seen.max() - seen[there]
        standing = np.flatnonzero(evidence < self._limit)
        return int(standing[0]), int(standing[-1])

    def _seen(self, right: int, wrong: int) -> Floats:
        """Return ln P(seen | n), but for a constant, for n = 0, ..., called."""
        if min(right, wrong) < 0 or right + wrong > self.called:
            raise ValueError(f"{right} right and {wrong} wrong of {self.called} pictures")
        found = np.full(self.called + 1, -np.inf)
        n = np.arange(right, self.called - wrong + 1)
        of, left = self._factorials, self.called - n
        found[n] = of[n] - of[n - right] + of[left] - of[left - wrong]
        return found

    @cached_property
    def _factorials(self) -> Floats:
        """Logarithms of 0!, ..., called!."""
        numbers = np.arange(1, self.called + 1, dtype=np.float64)
        return np.concatenate([[0.0], np.cumsum(np.log(numbers))])

    @cached_property
    def _weights(self) -> Floats:
        """The weights of n = 0, ..., called, whatever their sum."""
        wrong = self.called - np.arange(self.called + 1, dtype=np.float64)
        return np.asarray(1 / (1 + wrong + _SCALE * self.called))

    @cached_property
    def _above(self) -> Floats:
        return _from_above(self._weights)

    @cached_property
    def _below(self) -> Floats:
        return np.cumsum(self._weights)


class Audited(Record):
    """What judged pictures say of the claim that `target` of the called ones have the tag.

    `right`, `wrong` and `unclear` are the verdicts. The precision is `low` or more, and `high` or
    less, each with the probability `confidence`: they are the sharpest bounds so far, as all of
    them hold together. A picture that is `unclear` is taken for wrong in the one and for right in
    the other. What was proven or refuted first stays so, whatever comes after it.
    """

    called: int
    target: float
    confidence: float
    right: int
    wrong: int
    unclear: int
    low: float
    high: float
    outcome: Outcome

    @property
    def judged(self) -> int:
        """How many verdicts count."""
        return self.right + self.wrong + self.unclear


def audit(
    answers: Sequence[bool | None], called: int, *, target: float, confidence: float
) -> Audited:
    """Return what verdicts prove of the precision among the called pictures.

    Args:
        answers: on the pictures in the order in which they were drawn, without a gap: whether each
            has the tag, None where nobody can tell.
        called: how many pictures they were drawn from.
        target: the precision that is claimed, in (0, 1].
        confidence: with which a claim that does not hold is not proven, and one that holds is not
            refuted, in (0, 1).

    Raises:
        ValueError: if there are more answers than pictures.

    """
    if len(answers) > called:
        raise ValueError(f"{len(answers)} answers on {called} pictures")

    low, high = 0.0, 1.0
    outcome: Outcome = "open"
    counts = {True: 0, False: 0, None: 0}
    for number in range(len(answers) + 1):
        if number:
            counts[answers[number - 1]] += 1
        lower, upper = _bounds(called, confidence, counts[True], counts[False], counts[None])
        if max(low, lower) <= min(high, upper):  # else one has failed, and what was known stays
            low, high = max(low, lower), min(high, upper)
        if outcome == "open":
            outcome = _outcome(low, high, target, left=called - number)
    return Audited(
        called=called,
        target=target,
        confidence=confidence,
        right=counts[True],
        wrong=counts[False],
        unclear=counts[None],
        low=low,
        high=high,
        outcome=outcome,
    )


@functools.lru_cache(maxsize=4)  # a page asks every other second
def more_to_prove(found: Audited) -> int | None:
    """Return how many more verdicts prove the claim if all of them are right.

    None where not even those of all pictures that are left would.
    """
    bounds = _bounds_of(found.called, found.confidence)
    doubted = found.wrong + found.unclear

    def proves(more: int) -> bool:
        return bounds.lower(found.right + more, doubted) >= found.target

    low, high = -1, found.called - found.judged
    if not proves(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proves(middle) else (middle, high)
    return high


@functools.lru_cache(maxsize=1 << 14)  # one more answer leaves those after fewer as they were
def _bounds(
    called: int, confidence: float, right: int, wrong: int, unclear: int
) -> tuple[float, float]:
    bounds = _bounds_of(called, confidence)
    return bounds.lower(right, wrong + unclear), bounds.upper(right + unclear, wrong)


@functools.lru_cache(maxsize=4)
def _bounds_of(called: int, confidence: float) -> PrecisionBounds:
    return PrecisionBounds(called, confidence)


def _from_above(numbers: Floats) -> Floats:
    """Return the sum of each number and those behind it."""
    return np.cumsum(numbers[::-1])[::-1]


def _outcome(low: float, high: float, target: float, left: int) -> Outcome:
    if low >= target:
        return "proven"
    if high < target:
        return "refuted"
    return "open" if left else "undecided"
