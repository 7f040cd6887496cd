"""Bounds from pictures drawn at random hold at all looks together, and prove what they can."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagetag.stats import Audited, PrecisionBounds, audit, more_to_prove
from tests.walks import walked


def ever_left_out(called: int, truth: int, confidence: float) -> tuple[float, float]:
    """Return how probable it is that the lower, and that the upper bound ever misses the truth.

    Exactly, over all orders in which the pictures may be drawn: the probability of each number of
    right ones among those seen so far that has missed nothing.
    """
    bounds = PrecisionBounds(called, confidence)
    share = truth / called
    return (
        walked(called, truth, lambda right, wrong: bounds.lower(right, wrong) > share),
        walked(called, truth, lambda right, wrong: bounds.upper(right, wrong) < share),
    )


@pytest.mark.parametrize(("called", "confidence"), [(1, 0.9), (2, 0.5), (25, 0.8), (60, 0.95)])
def test_bounds_hold_at_all_looks_together_whatever_the_truth(
    called: int, confidence: float
) -> None:
    missed = np.array([ever_left_out(called, n, confidence) for n in range(0, called + 1, 3)])
    assert missed.max() <= 1 - confidence
    if called >= 25:
        assert missed.max() > (1 - confidence) / 4  # and are not idle


def by_the_formula(called: int, right: int, wrong: int, alpha: float) -> tuple[float, float]:
    """Return the bounds by binomial coefficients, without a logarithm."""
    weights = [1 / (1 + called - n + called / 500) for n in range(called + 1)]
    seen = [math.comb(n, right) * math.comb(called - n, wrong) for n in range(called + 1)]

    def stands(n: int, side: range) -> bool:
        mixed = sum(weights[m] * seen[m] for m in side) / sum(weights[m] for m in side)
        return seen[n] > 0 and mixed < seen[n] / alpha

    numbers = range(called + 1)
    low = min(n for n in numbers if stands(n, range(n, called + 1)))
    return low / called, max(n for n in numbers if stands(n, range(n + 1))) / called


# P(seen | n) by sequence is comb(n, right) comb(N - n, wrong) over what does not depend on n.
@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 80).flatmap(
        lambda called: st.tuples(st.just(called), st.integers(0, called), st.integers(0, called))
    ),
    st.sampled_from([0.5, 0.2, 0.05, 0.001]),
)
def test_they_are_those_of_the_formula(counts: tuple[int, int, int], alpha: float) -> None:
    called, right, wrong = counts
    wrong = min(wrong, called - right)
    bounds = PrecisionBounds(called, 1 - alpha)
    found = bounds.lower(right, wrong), bounds.upper(right, wrong)
    assert found == by_the_formula(called, right, wrong, alpha)
    assert 0 <= found[0] <= right / max(1, right + wrong) <= found[1] <= 1


@pytest.mark.parametrize(("right", "wrong"), [(60, 0), (640, 3), (0, 500), (90_000, 9_000)])
def test_of_very_many_pictures_they_are_numbers(right: int, wrong: int) -> None:
    bounds = PrecisionBounds(100_000, 0.95)
    low, high = bounds.lower(right, wrong), bounds.upper(right, wrong)
    assert 0 <= low <= right / max(1, right + wrong) <= high <= 1
    assert low < high < low + (1 if right + wrong < 400 else 0.03)


def test_what_is_seen_cannot_be_otherwise() -> None:
    bounds = PrecisionBounds(10, 0.95)
    assert (bounds.lower(7, 3), bounds.upper(7, 3)) == (0.7, 0.7)
    assert (bounds.lower(0, 0), bounds.upper(0, 0)) == (0, 1)
    assert bounds.upper(0, 4) <= 0.6
    with pytest.raises(ValueError, match="8 right and 3 wrong of 10"):
        bounds.lower(8, 3)
    with pytest.raises(ValueError, match="0 called"):
        PrecisionBounds(0, 0.95)


def judged(answers: str, called: int, target: float = 0.95, confidence: float = 0.95) -> Audited:
    """Return what is proven by answers such as `yyn?`."""
    known = {"y": True, "n": False, "?": None}
    return audit([known[one] for one in answers], called, target=target, confidence=confidence)


@pytest.mark.parametrize(("called", "clicks"), [(100, 45), (300, 60), (1000, 67), (10_000, 71)])
def test_some_sixty_right_ones_prove_a_precision(called: int, clicks: int) -> None:
    assert judged("y" * (clicks - 1), called).outcome == "open"
    found = judged("y" * clicks, called)
    assert (found.outcome, found.judged) == ("proven", clicks)
    assert found.low >= 0.95
    assert more_to_prove(judged("y" * 20, called)) == clicks - 20
    assert more_to_prove(judged("", called)) == clicks


def test_what_was_proven_stays_so_whatever_comes_after() -> None:
    found = judged("y" * 80 + "n" * 20, 1000)
    assert (found.outcome, found.judged) == ("proven", 100)
    assert found.low == judged("y" * 80, 1000).low > 0.95
    assert found.low <= found.high


def test_a_lower_target_proves_no_less() -> None:
    low = judged("y" * 67, 1000, target=0.8)
    assert (low.outcome, low.low) == ("proven", judged("y" * 67, 1000).low)


@pytest.mark.parametrize("confidence", [1e-300, 1e-12, 1e-9, 1 - 1e-15])
def test_absurd_confidences_give_bounds_too(confidence: float) -> None:
    for right, wrong in ((0, 0), (3, 2), (0, 7), (7, 0)):
        bounds = PrecisionBounds(7, confidence) if right + wrong else PrecisionBounds(1, confidence)
        assert 0 <= bounds.lower(right, wrong) <= bounds.upper(right, wrong) <= 1


def test_many_wrong_ones_refute_it() -> None:
    found = judged("y" * 20 + "n" * 9, 1000)
    assert found.outcome == "refuted"
    assert found.high < 0.95
    assert more_to_prove(judged("nn", 20, confidence=0.999)) is None


def test_of_all_pictures_the_precision_is_known() -> None:
    assert judged("y" * 19 + "n", 20, confidence=0.9999).outcome == "proven"
    assert judged("n" * 2 + "y" * 18, 20, confidence=0.9999).outcome == "refuted"
    found = judged("?" * 2 + "y" * 18, 20, confidence=0.9999)
    assert (found.outcome, found.low, found.high) == ("undecided", 0.9, 1.0)


def test_what_nobody_can_tell_is_against_the_claim_and_against_its_refutation() -> None:
    right, doubted = judged("?" * 8 + "y" * 16, 500), judged("n" * 8 + "y" * 16, 500)
    assert right.low == PrecisionBounds(500, 0.95).lower(16, 8)
    assert right.high == PrecisionBounds(500, 0.95).upper(24, 0)
    assert (right.outcome, doubted.outcome) == ("open", "refuted")


def test_more_answers_than_pictures_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 answers on 2 pictures"):
        judged("yyy", 2)


def orders(random: np.random.Generator, called: int, wrong: int) -> Iterator[str]:
    while True:
        yield "".join(random.permutation(["n"] * wrong + ["y"] * (called - wrong)))


def test_a_claim_that_does_not_hold_is_seldom_proven() -> None:
    # 94 of 100 have the tag: each audit goes on until it is decided.
    random = np.random.default_rng(3)
    drawn = orders(random, 100, 6)
    ends = [judged(next(drawn), 100, confidence=0.8).outcome for _ in range(200)]
    assert ends.count("proven") <= 200 * 0.2 + 3 * (200 * 0.2 * 0.8) ** 0.5
    assert ends.count("refuted") == 200 - ends.count("proven")


def test_bounds_come_closer_with_what_is_seen() -> None:
    lows = [judged("y" * number, 300).low for number in range(0, 60, 5)]
    assert lows == list(accumulate(lows, max))
    assert lows[-1] > 0.93
