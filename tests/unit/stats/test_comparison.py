"""Comparing runs: real differences are found, and noise is not called one."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from sklearn import metrics

from imagetag.stats import comparison as module
from imagetag.stats.comparison import Answers, Exam, Metric, Standing, compare

METRICS: tuple[Metric, ...] = get_args(Metric)


def make_exam(positives: int, negatives: int, family: int = 1) -> Exam:
    count = positives + negatives
    return Exam(np.arange(count) < positives, np.arange(count) // family)


def make_answers(exam: Exam, skill: float, seed: int, digits: int = 9) -> Answers:
    """Return a run's answers: half of what makes a picture hard is so for all runs."""
    count = exam.labels.size
    hard = np.random.default_rng(0).normal(0, 1, count)
    own = np.random.default_rng([1, seed]).normal(0, 1, count)
    scores = np.round(np.where(exam.labels, skill, -skill) / 2 + hard + own, digits)
    return Answers(scores, 1 / (1 + np.exp(-scores)), scores >= 0)


def expected(metric: Metric, truth: Any, run: Answers, weights: Any = None) -> float:
    measure = {
        "average-precision": (metrics.average_precision_score, run.scores),
        "roc-auc": (metrics.roc_auc_score, run.scores),
        "precision": (metrics.precision_score, run.called),
        "recall": (metrics.recall_score, run.called),
        "f1": (metrics.f1_score, run.called),
        "accuracy": (metrics.accuracy_score, run.called),
        "brier": (metrics.brier_score_loss, run.probabilities),
    }[metric]
    return float(measure[0](truth, measure[1], sample_weight=weights))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("digits", [9, 0])  # whole numbers: many scores are equal
def test_values_are_those_of_scikit_learn(metric: Metric, digits: int) -> None:
    exam = make_exam(40, 60)
    runs = [make_answers(exam, skill, seed=1, digits=digits) for skill in (1, 3)]
    found = compare(exam, runs, metric)
    for standing, run in zip(found, runs, strict=True):
        assert standing.value is not None
        assert standing.value.value == pytest.approx(expected(metric, exam.labels, run))
        assert standing.value.low is not None
        assert standing.value.high is not None
        assert standing.value.low < standing.value.value <= standing.value.high


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("digits", [9, 0])
def test_a_resample_counts_a_picture_as_often_as_its_group_is_drawn(
    metric: Metric, digits: int
) -> None:
    exam = make_exam(30, 30, family=3)
    run = make_answers(exam, 1, seed=2, digits=digits)
    drawn = np.random.default_rng(3).integers(0, 4, (5, 20)).astype(float)
    measure = module._measure(metric, exam.labels, exam.groups, run)
    for weights, value in zip(drawn, measure(drawn), strict=True):
        assert value == pytest.approx(
            expected(metric, exam.labels, run, weights=weights[exam.groups])
        )


def test_resamples_draw_as_many_groups_as_there_are_and_are_the_same_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = np.concatenate(list(module._resamples(7, 21, 5)))
    assert whole.shape == (module.RESAMPLES, 7)
    assert (whole.sum(axis=1) == 7).all()
    assert whole.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)
    assert len(np.unique(whole, axis=0)) > 500
    monkeypatch.setattr(module, "_CHUNK", 21 * 300)
    parts = list(module._resamples(7, 21, 5))
    assert [len(part) for part in parts] == [300] * 6 + [200]
    assert (np.concatenate(parts) == whole).all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_planted_difference_is_found(metric: Metric) -> None:
    exam = make_exam(200, 200)
    better, worse = make_answers(exam, 4.5, seed=1), make_answers(exam, 2, seed=2)
    last, first = compare(exam, [worse, better], metric)
    assert (first.apart, last.apart) == (False, True)
    assert first.behind is not None
    assert first.behind.value == 0
    truth = abs(expected(metric, exam.labels, better) - expected(metric, exam.labels, worse))
    assert last.behind is not None
    assert last.behind.low is not None
    assert last.behind.high is not None
    assert last.behind.value == pytest.approx(truth)
    assert 0 < last.behind.low < truth < last.behind.high


@pytest.mark.parametrize(
    ("metric", "pictures", "trials"), [("accuracy", 60, 200), ("average-precision", 40, 40)]
)
def test_equal_runs_are_rarely_called_different(metric: Metric, pictures: int, trials: int) -> None:
    # Five runs that differ by chance alone: whichever looks best is compared with the four others.
    exam = make_exam(pictures, pictures)
    wrong = 0
    for trial in range(trials):
        runs = [make_answers(exam, 2.5, seed=1000 * trial + number) for number in range(5)]
        wrong += any(standing.apart for standing in compare(exam, runs, metric, seed=trial))
    assert wrong / trials <= 0.06


def test_a_family_of_pictures_is_one_piece_of_evidence() -> None:
    labels = np.arange(200) < 100
    scores = labels.astype(np.float64)
    right = Answers(scores, scores, labels.copy())
    called = labels.copy()
    called[:12] = False  # twelve mistakes, and all are of one post's pictures
    wrong = Answers(right.scores, right.probabilities, called)
    alone = Exam(labels, np.arange(200))
    family = Exam(labels, np.where(np.arange(200) < 12, 0, np.arange(200)))
    assert [standing.apart for standing in compare(alone, [right, wrong], "recall")] == [
        False,
        True,
    ]
    assert not any(standing.apart for standing in compare(family, [right, wrong], "recall"))


@pytest.mark.parametrize("metric", [metric for metric in METRICS if metric != "brier"])
def test_where_all_is_right_the_interval_is_that_of_as_many_families(metric: Metric) -> None:
    labels = np.arange(120) < 60
    exam = Exam(labels, np.arange(120) // 6)
    right = Answers(labels.astype(np.float64), labels.astype(np.float64), labels)
    [found] = compare(exam, [right], metric)
    trials = 20 if metric == "accuracy" else 10
    assert found.value is not None
    assert (found.value.value, found.value.high) == (1, 1)
    assert found.value.low == pytest.approx(0.025 ** (1 / trials))


def test_the_same_answers_are_tied_and_the_first_is_the_best() -> None:
    exam = make_exam(50, 50)
    run = make_answers(exam, 2, seed=1)
    for standing in compare(exam, [run, run], "f1"):
        assert standing.behind is not None
        assert (standing.behind.value, standing.behind.low, standing.behind.high) == (0, 0, 0)
        assert not standing.apart


def calling(exam: Exam, wanted: Any) -> Answers:
    called = np.zeros(exam.labels.size, np.bool_)
    called[wanted] = True
    return Answers(called.astype(np.float64), called.astype(np.float64), called)


def places(found: list[Standing]) -> list[tuple[bool, bool, bool]]:
    """Tell of each run: whether there is a value, an interval, and a difference."""
    return [
        (
            standing.value is not None,
            standing.behind is not None and standing.behind.low is not None,
            standing.apart,
        )
        for standing in found
    ]


def test_what_is_not_defined_has_no_value_and_hides_no_difference() -> None:
    exam = make_exam(100, 100)
    good, bad = calling(exam, slice(0, 90)), calling(exam, slice(60, 140))
    nothing = calling(exam, slice(0, 0))
    # In 7 of 1,000 resamples such a one calls nothing.
    few = [calling(exam, range(first, 195, 40)) for first in range(20)]
    found = compare(exam, [good, bad, nothing, *few], "precision")
    assert places(found) == [
        (True, True, False),
        (True, True, True),
        (False, False, False),
        *[(True, False, False)] * 20,
    ]


def test_where_the_best_is_too_uncertain_nothing_is_told_apart() -> None:
    exam = make_exam(100, 100)
    lucky, bad = calling(exam, [0, 1]), calling(exam, slice(60, 140))
    found = compare(exam, [lucky, bad], "precision")
    assert found[0].value is not None
    assert found[0].value.value == 1
    assert found[0].value.low == pytest.approx(0.025**0.5)  # Clopper and Pearson, two of two
    assert places(found) == [(True, True, False), (True, False, False)]


def test_no_value_at_all() -> None:
    exam = make_exam(20, 20)
    found = compare(exam, [calling(exam, slice(0, 0))] * 2, "precision")
    assert places(found) == [(False, False, False)] * 2


@pytest.mark.parametrize(("groups", "apart"), [(1, False), (9, False), (10, True)])
def test_a_few_groups_are_no_evidence(groups: int, apart: bool) -> None:
    exam = Exam(np.arange(40) < 20, np.arange(40) % groups)
    runs = [calling(exam, slice(0, 20)), calling(exam, slice(20, 40))]  # all right, all wrong
    assert compare(exam, runs, "accuracy")[1].apart is apart


def test_the_lowest_brier_score_is_the_best() -> None:
    exam = make_exam(100, 100)
    sharp, flat = make_answers(exam, 5, seed=1), make_answers(exam, 1, seed=2)
    first, last = compare(exam, [sharp, flat], "brier")
    assert first.value is not None
    assert last.value is not None
    assert first.value.value < last.value.value
    assert last.apart
