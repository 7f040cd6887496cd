"""A promised precision holds as often as promised, however the threshold was searched."""

from __future__ import annotations

import itertools
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import precision_score, recall_score

from imagetag.proof import least_right
from imagetag.stats import contract
from imagetag.stats.contract import (
    Promise,
    looks,
    lower_bound,
    positives_needed,
    promise_precision,
    search_level,
)
from tests.benchmarks.contract import MIN_PRECISION, WORLDS, search, simulate


@pytest.fixture(autouse=True)
def levels_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many searches share a few levels."""

    @cache
    def known(numbers: tuple[int, ...], precision: float, confidence: float) -> float:
        return search_level(np.array(numbers), precision, confidence)

    monkeypatch.setattr(
        contract, "search_level", lambda numbers, *rest: known(tuple(numbers.tolist()), *rest)
    )


# ---- the bound


def test_the_bound_is_clopper_pearsons() -> None:
    # By the rule itself: with the bound as precision, so many right ones have a chance of 5 %.
    for right, called in ((1, 1), (5, 9), (59, 59), (95, 100), (999, 1000)):
        bound = lower_bound(right, called, 0.95)
        assert stats.binom.sf(right - 1, called, bound) == pytest.approx(0.05)
    assert lower_bound(59, 59, 0.95) > 0.95 > lower_bound(58, 58, 0.95)


def test_nothing_right_proves_nothing() -> None:
    assert lower_bound(0, 10, 0.95) == 0
    assert lower_bound([0, 3], [3, 3], 0.9).tolist() == [0, pytest.approx(0.1 ** (1 / 3))]


# ---- the search


def test_looks_are_fixed_beforehand_and_grow_by_two_percent() -> None:
    assert looks(0).tolist() == []
    assert looks(1).tolist() == [1]
    found = looks(5000)
    assert found[:60].tolist() == list(range(1, 61))
    assert found[-1] == 5000
    assert np.all(found[1:] > found[:-1])
    assert np.all(found[100:] <= np.ceil(found[99:-1] * 1.02))


def test_the_level_of_a_single_look_is_the_confidence_itself() -> None:
    # 59 of 59 are right with a chance of 4.85 % where the precision is 0.95.
    level = search_level(np.array([59]), 0.95, 0.95)
    assert lower_bound(59, 59, level) >= 0.95
    assert lower_bound(58, 59, level) < 0.95


@pytest.mark.parametrize(("precision", "confidence"), [(0.95, 0.95), (0.9, 0.8), (0.7, 0.9)])
def test_a_walk_at_the_least_precision_passes_as_seldom_as_promised(
    precision: float, confidence: float
) -> None:
    numbers = looks(300)
    level = search_level(numbers, precision, confidence)
    random = np.random.default_rng(0)
    right = np.cumsum(random.random((6_000, 300)) < precision, axis=1)[:, numbers - 1]
    passed = np.any(lower_bound(right, numbers, level) >= precision, axis=1).mean()
    # Tested at the confidence itself, some look would pass far more often.
    naive = np.any(lower_bound(right, numbers, confidence) >= precision, axis=1).mean()
    assert 0.6 * (1 - confidence) < passed < 1.05 * (1 - confidence) + 0.003
    assert naive > 1.5 * (1 - confidence)


# ---- the promise


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("pictures", "confidence"), [(200, 0.95), (800, 0.95), (800, 0.8)])
def test_a_promise_holds_as_often_as_promised(world: str, pictures: int, confidence: float) -> None:
    seeds = 2000
    made, broken, _ = simulate(world, pictures, confidence, seeds)
    # Three standard errors of what the seeds can tell.
    allowed = (1 - confidence) + 3 * math.sqrt(confidence * (1 - confidence) / seeds)
    assert broken <= allowed
    if world == "good":
        assert made > 0.85  # a contract that is never signed would hold too


@pytest.mark.parametrize("world", WORLDS)
def test_the_simulation_searches_as_the_product_does(world: str) -> None:
    draws = [WORLDS[world][0](np.random.default_rng(seed), 300) for seed in range(20)]
    labels, scores = (np.array(column) for column in zip(*draws, strict=True))
    for confidence in (0.2, 0.8):
        thresholds, recalls = search(labels, scores, confidence)
        for number in range(20):
            found = promise_precision(
                labels[number],
                scores[number],
                min_precision=MIN_PRECISION,
                confidence=confidence,
                share=0.5,
            )
            assert found.met == (not np.isnan(thresholds[number]))
            if found.met:
                assert found.threshold == pytest.approx(thresholds[number])
                assert found.right / found.positives == pytest.approx(recalls[number])


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
@pytest.mark.parametrize(
    ("pictures", "precision", "confidence"), [(8, 0.5, 0.8), (8, 0.7, 0.5), (10, 0.5, 0.9)]
)
def test_of_all_labels_there_can_be_no_more_get_a_false_promise_than_is_allowed(
    pictures: int, precision: float, confidence: float, share: float
) -> None:
    # Exactly, in the worst world: wherever it is cut, the precision is the least that is promised.
    # It is broken here as soon as the labels have a say in how often is looked.
    broken = 0.0
    for labels in itertools.product([0, 1], repeat=pictures):
        found = promise_precision(
            labels,
            -np.arange(pictures),
            min_precision=precision,
            confidence=confidence,
            share=share,
        )
        positives = sum(labels)
        chance = precision**positives * (1 - precision) ** (pictures - positives)
        broken += chance * found.met
    assert broken <= 1 - confidence + 1e-9


def test_a_promise_can_be_made_where_it_is_deserved() -> None:
    labels = np.repeat([1, 0], 200)
    scores = np.where(labels == 1, 2.0, -2.0) + np.random.default_rng(0).normal(size=400) * 0.1
    found = promise_precision(labels, scores, min_precision=0.95, confidence=0.95)
    assert found.met
    assert found.needed is None
    assert (found.called, found.right, found.positives, found.negatives) == (200, 200, 200, 200)
    assert found.bound >= 0.95
    assert found.level > found.confidence
    assert scores[labels == 0].max() < found.threshold <= scores[labels == 1].min()


def test_of_what_can_be_promised_the_most_recall_is_taken() -> None:
    # 150 right ones, then one wrong and ten more right ones, then only wrong ones: the last of
    # those called is right, wherever the looks are.
    labels = np.array([1] * 150 + [0] + [1] * 10 + [0] * 161)
    scores = -np.arange(labels.size, dtype=float)
    found = promise_precision(labels, scores, min_precision=0.95, confidence=0.95)
    assert found.met
    assert found.called == 161
    assert found.right == 160


def test_what_cannot_be_promised_says_what_it_would_take() -> None:
    labels = np.repeat([1, 0], 30)
    scores = np.where(labels == 1, 1.0, -1.0) + np.linspace(0, 0.1, 60)
    found = promise_precision(labels, scores, min_precision=0.95, confidence=0.95)
    assert not found.met
    assert found.called == found.right == 30  # what proves the most
    assert found.bound < 0.95
    assert found.needed is not None
    assert 60 < found.needed < 200
    assert f"{found.needed:,}" in found.advice
    # With so many of the same, it can be.
    times = math.ceil(found.needed / 30)
    many = promise_precision(
        np.tile(labels, times),
        np.concatenate([scores + step * 1e-4 for step in range(times)]),
        min_precision=0.95,
        confidence=0.95,
    )
    assert many.met


def test_a_few_that_are_all_right_are_told_how_many_it_takes() -> None:
    labels = [1, 1, 1, 1, 0, 1, 0, 0]
    found = promise_precision(labels, np.arange(8, 0, -1), min_precision=0.95, confidence=0.95)
    assert not found.met
    assert (found.called, found.right, found.needed) == (4, 4, None)
    least = int(found.advice.split("it takes ")[1].split(" ")[0])
    bounds = [lower_bound(number, number, found.level) for number in (least - 1, least)]
    assert bounds[0] < 0.95 <= bounds[1]
    assert "--limit" in found.advice


def test_too_few_positives_for_any_model_are_not_blamed_on_the_model() -> None:
    labels = np.tile([1, 0], 15)
    found = promise_precision(labels, np.arange(30.0), min_precision=0.95, confidence=0.95)
    assert not found.met
    assert found.needed is None
    assert found.advice.startswith("there are 15 positives to choose the threshold on")
    assert "better model" not in found.advice
    assert "--limit" in found.advice


def test_where_no_number_of_pictures_would_do_it_says_so() -> None:
    labels = np.tile([1, 0], 100)
    found = promise_precision(labels, np.arange(200.0), min_precision=0.95, confidence=0.95)
    assert not found.met
    assert found.needed is None
    assert "better model" in found.advice
    assert "--min-precision" in found.advice


def test_pictures_of_one_score_are_called_together() -> None:
    labels = np.array([1] * 100 + [0] * 100)
    scores = np.array([1.0] * 99 + [0.0] * 101)
    found = promise_precision(labels, scores, min_precision=0.9, confidence=0.9)
    assert found.called == 99
    assert 0.0 < found.threshold <= 1.0
    same = promise_precision(labels, np.zeros(200), min_precision=0.9, confidence=0.9)
    assert (same.called, same.threshold, same.met) == (200, 0.0, False)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.booleans(), st.floats(-5, 5, width=16)), min_size=1, max_size=60),
    st.sampled_from([0.5, 0.8, 0.95]),
)
def test_its_counts_are_those_of_its_threshold(
    pairs: list[tuple[bool, float]], precision: float
) -> None:
    labels, scores = (list(column) for column in zip(*pairs, strict=True))
    found = promise_precision(labels, scores, min_precision=precision, confidence=0.8)
    called = [score >= found.threshold for score in scores]
    assert found.called == sum(called) > 0
    assert found.right / found.called == pytest.approx(precision_score(labels, called))
    if any(labels):
        assert found.right / sum(labels) == pytest.approx(recall_score(labels, called))
    assert found.met == (found.bound >= precision)
    assert Promise.model_validate_json(found.model_dump_json()) == found


def test_more_confidence_or_more_precision_never_calls_more() -> None:
    labels, scores = WORLDS["fair"][0](np.random.default_rng(3), 800)
    called = [
        [
            promise_precision(labels, scores, min_precision=precision, confidence=confidence).called
            for confidence in (0.5, 0.8, 0.95, 0.99)
        ]
        for precision in (0.7, 0.8, 0.9)
    ]
    assert np.all(np.diff(called, axis=0) <= 0)
    assert np.all(np.diff(called, axis=1) <= 0)


def test_large_sets_are_quick_and_what_is_no_number_is_refused() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([1, 0], 50_000)
    scores = random.normal(size=100_000) + 3 * labels
    assert promise_precision(labels, scores, min_precision=0.95, confidence=0.95).met
    with pytest.raises(ValueError, match="not a number"):
        promise_precision([1, 0], [np.nan, 0], min_precision=0.9, confidence=0.9)
    with pytest.raises(ValueError, match="labels are"):
        promise_precision([], [], min_precision=0.9, confidence=0.9)


@pytest.mark.parametrize(
    ("precision", "confidence", "least"),
    [(0.8, 0.8, 8), (0.9, 0.95, 29), (0.95, 0.95, 59), (0.98, 0.95, 150)],
)
def test_positives_that_are_needed_are_the_fewest_that_can_promise(
    precision: float, confidence: float, least: int
) -> None:
    def promised(positives: int) -> bool:
        return promised_of([1] * positives + [0] * positives, precision, confidence)

    asked = {"min_precision": precision, "confidence": confidence}
    for few in (0, 5, least - 1):
        assert positives_needed(few, 2 * few, **asked) == least
    assert positives_needed(least, 2 * least, **asked) is None
    assert positives_needed(4 * least, 8 * least, **asked) is None
    assert promised(least)
    assert not promised(least - 1)
    # One threshold that is fixed beforehand takes no more.
    assert least_right(precision, confidence) in (least, least - 1)


def test_more_pictures_take_more_that_are_right_as_docs_say() -> None:
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
    table = {
        int(pictures): int(right) for pictures, right in re.findall(r"\| (\d+) \| (\d+) \|", text)
    }
    for pictures in (200, 400):
        for right, met in ((table[pictures], True), (table[pictures] - 1, False)):
            rest = [1] * (pictures // 2 - right)
            labels = [1] * right + [0] * (pictures // 2) + rest
            assert promised_of(labels, 0.95, 0.95) is met


def promised_of(labels: list[int], precision: float, confidence: float) -> bool:
    """Tell whether a precision is promised on pictures in the order of their scores."""
    found = promise_precision(
        labels,
        np.arange(len(labels), 0, -1),
        min_precision=precision,
        confidence=confidence,
        share=0.5,
    )
    return found.met
