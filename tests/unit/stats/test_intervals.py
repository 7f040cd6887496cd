"""Intervals hold the truth as often as they say, whatever belongs together, and are monotone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from imagetag.stats.intervals import ratio_interval, share_interval


def singles(right: int, total: int) -> tuple[float, float]:
    return share_interval(np.arange(total) < right, np.ones(total), np.arange(total))


def families(right: Sequence[int], sizes: Sequence[int]) -> tuple[float, float]:
    """Return the interval where so many are right of the pictures of each family."""
    return share_interval(np.array(right), np.array(sizes), np.arange(len(sizes)))


@settings(deadline=None)
@given(st.integers(1, 400).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_of_pictures_that_stand_alone_it_is_clopper_pearsons(counts: tuple[int, int]) -> None:
    right, total = counts
    known = stats.binomtest(right, total).proportion_ci(0.95, "exact")
    assert singles(right, total) == pytest.approx((known.low, known.high))


@pytest.mark.parametrize("called", [30, 40, 60, 100])
def test_it_covers_what_it_says_at_the_sizes_of_a_test_split(called: int) -> None:
    # Exactly: how often each number of right ones occurs, where its interval holds the truth.
    right = np.arange(called + 1)
    low, high = np.array([singles(int(count), called) for count in right]).T
    for truth in np.linspace(0.8, 0.99, 39):
        held = (low <= truth) & (truth <= high)
        covered = stats.binom.pmf(right[held], called, truth).sum()
        assert 0.95 <= covered < 0.998  # discrete: near 1 no other is closer and never below
    assert singles(39, 40)[0] < singles(40, 40)[0] == pytest.approx(0.025 ** (1 / 40))


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sizes", [[6] * 10, [6] * 17, [6] * 5 + [1] * 70, [1, 2, 3, 4] * 10])
def test_it_covers_families_that_agree_in_part(sizes: list[int], shared: float) -> None:
    random = np.random.default_rng(1)
    draws, truth = 600, 0.9
    common = random.random((draws, len(sizes), 1)) < truth
    own = random.random((draws, len(sizes), max(sizes))) < truth
    alike = random.random((draws, len(sizes), 1)) < shared
    there = np.arange(max(sizes)) < np.array(sizes)[:, np.newaxis]
    right = (np.where(alike, common, own) & there).sum(axis=2)
    low, high = np.array([families(row.tolist(), sizes) for row in right]).T
    covered = float(np.mean((low <= truth) & (truth <= high)))
    assert covered >= 0.95 - 3 * (0.05 * 0.95 / draws) ** 0.5


def test_a_family_that_answers_as_one_counts_once() -> None:
    assert families([6] * 9 + [0], [6] * 10) == pytest.approx(singles(9, 10))
    assert families([6] * 10, [6] * 10) == pytest.approx(singles(10, 10))
    width = np.ptp(families([5, 6] * 5, [6] * 10))
    assert np.ptp(singles(55, 60)) < width < np.ptp(singles(9, 10))


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([1, 2, 6]), st.lists(st.booleans(), min_size=1, max_size=60))
def test_another_mistake_never_raises_a_limit(size: int, right: list[bool]) -> None:
    low, high = families([size * found for found in right], [size] * len(right))
    assert 0 <= low <= np.mean(right) <= high <= 1
    if any(right):
        right[right.index(True)] = False
        lower, higher = families([size * found for found in right], [size] * len(right))
        assert lower <= low
        assert higher <= high
        assert lower < low or low == 0


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 6), min_size=10, max_size=60), st.data())
def test_nor_does_one_within_a_family_but_for_a_trifle(
    sizes: list[int], data: st.DataObject
) -> None:
    right = [data.draw(st.integers(0, size)) for size in sizes]
    place = data.draw(st.integers(0, len(sizes) - 1))
    right[place] = max(1, right[place])
    low, high = families(right, sizes)
    right[place] -= 1
    lower, higher = families(right, sizes)
    assert lower <= low + 0.02
    assert higher <= high + 0.02


# ---- ratios


def test_the_interval_of_a_ratio() -> None:
    # Wide of a small share, and no wider than both intervals allow together.
    low, high = ratio_interval(0.05, (0.02, 0.11), 0.9, (0.82, 0.95))
    assert 0.02 / 0.95 < low < 0.05 / 0.9 < high < 0.11 / 0.82
    # With a sure divisor it is the interval of the first alone.
    assert ratio_interval(0.05, (0.02, 0.11), 0.5, (0.5, 0.5)) == pytest.approx((0.04, 0.22))
    # With a sure dividend that of the second, turned over.
    assert ratio_interval(1, (1, 1), 0.5, (0.4, 0.6)) == pytest.approx((1 / 0.6, 1 / 0.4), rel=0.08)


def test_the_ends_of_a_ratio() -> None:
    assert ratio_interval(0, (0, 0.1), 0.9, (0.8, 1))[0] == 0
    assert ratio_interval(0.1, (0.05, 0.2), 0, (0, 0.1))[1] == np.inf
    assert 0 < ratio_interval(0.1, (0.05, 0.2), 0, (0, 0.1))[0] < np.inf
