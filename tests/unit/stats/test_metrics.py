"""Metrics agree with scikit-learn, their intervals hold, and what cannot be said is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binomtest
from sklearn import metrics as reference

from imagetag.errors import InputError
from imagetag.stats import comparison
from imagetag.stats.metrics import (
    BinaryMetrics,
    Confusion,
    Estimate,
    Predictions,
    at_prevalence,
    binary_metrics,
)

LOGIT = st.floats(-6, 6).map(lambda value: round(value, 1))
SCORED = st.lists(st.tuples(st.booleans(), LOGIT), min_size=2, max_size=60).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


def answers(
    labels: Sequence[object],
    logits: Sequence[float],
    cut: float = 0.0,
    groups: Sequence[str] | None = None,
) -> Predictions:
    scores = np.asarray(logits, np.float64)
    return Predictions(
        labels=np.asarray(labels).astype(bool),
        scores=scores,
        probabilities=expit(scores / 2),
        called=scores >= cut,
        groups=groups or [str(number) for number in range(len(labels))],
    )


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 50)


@pytest.mark.usefixtures("few_resamples")
@settings(max_examples=50)
@given(SCORED, LOGIT)
def test_metrics_agree_with_the_reference(pairs: list[tuple[bool, float]], cut: float) -> None:
    labels, logits = (list(column) for column in zip(*pairs, strict=True))
    given_answers = answers(labels, logits, cut)
    called = given_answers.called
    found = binary_metrics(given_answers, 0.7)
    at, counts = found.chosen, found.chosen.confusion

    assert at.threshold == 0.7
    assert [[counts.tn, counts.fp], [counts.fn, counts.tp]] == reference.confusion_matrix(
        labels, called, labels=[False, True]
    ).tolist()
    assert found.positives == sum(labels)
    assert found.negatives == len(labels) - sum(labels)
    assert at.accuracy.value == pytest.approx(reference.accuracy_score(labels, called))
    assert at.recall.value == pytest.approx(reference.recall_score(labels, called))
    assert at.f1.value == pytest.approx(reference.f1_score(labels, called))
    assert at.specificity.value == pytest.approx(
        reference.recall_score(labels, called, pos_label=0)
    )
    assert found.average_precision.value == pytest.approx(
        reference.average_precision_score(labels, logits)
    )
    assert found.roc_auc.value == pytest.approx(reference.roc_auc_score(labels, logits))
    assert found.brier.value == pytest.approx(
        reference.brier_score_loss(labels, given_answers.probabilities)
    )
    if called.any():
        assert at.precision.value == pytest.approx(reference.precision_score(labels, called))
        assert at.report["positive"]["precision"] == pytest.approx(at.precision.value)
    else:
        assert at.precision == Estimate(value=None, low=None, high=None)
    assert found.half.threshold == 0.5
    assert found.half.confusion.tp == sum(
        label and logit >= 0 for label, logit in zip(labels, logits, strict=True)
    )
    estimates = [
        *(getattr(part, name) for part in (found.chosen, found.half) for name in _SHARES),
        found.average_precision,
        found.roc_auc,
        found.brier,
    ]
    for estimate in estimates:
        if estimate.value is not None:
            assert estimate.low is not None
            assert estimate.high is not None
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1 + 1e-12
    assert BinaryMetrics.model_validate_json(found.model_dump_json()) == found


_SHARES = ("precision", "recall", "specificity", "accuracy", "f1")


def test_intervals_hold_what_they_say() -> None:
    """Nineteen of twenty intervals hold the value of the world the pictures are drawn from."""
    random = np.random.default_rng(0)
    world = random.normal(size=400_000) + 2 * (labels := np.arange(400_000) % 2 == 1)
    truth = {
        "auc": reference.roc_auc_score(labels, world),
        "recall": float(np.mean(world[labels] >= 1)),
        "precision": float(np.mean(labels[world >= 1])),
    }
    held = dict.fromkeys(truth, 0)
    for _ in range(60):
        drawn = random.integers(400_000, size=150)
        found = binary_metrics(answers(labels[drawn].tolist(), world[drawn].tolist(), cut=1), 0.5)
        estimates = {
            "auc": found.roc_auc,
            "recall": found.chosen.recall,
            "precision": found.chosen.precision,
        }
        for name, estimate in estimates.items():
            assert estimate.low is not None
            assert estimate.high is not None
            held[name] += estimate.low <= truth[name] <= estimate.high
    assert all(count >= 50 for count in held.values()), held  # 57 on average


def test_pictures_of_a_group_are_no_independent_proof() -> None:
    random = np.random.default_rng(0)
    labels, logits = random.random(100) < 0.5, random.normal(size=100)
    alone = binary_metrics(answers(labels.tolist(), logits.tolist()), 0.5).roc_auc
    times = np.repeat(np.arange(100), 5)
    groups = times.astype(str).tolist()
    repeated = answers(labels[times].tolist(), logits[times].tolist(), 0, groups)
    together = binary_metrics(repeated, 0.5)
    widths = [
        estimate.high - estimate.low  # type: ignore[operator]
        for estimate in (alone, together.roc_auc)
    ]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_the_same_seed_gives_the_same_intervals() -> None:
    given_answers = answers([1, 0, 1, 0, 1], [2.0, 1.0, 0.5, -1.0, -2.0])
    assert binary_metrics(given_answers, 0.5) == binary_metrics(given_answers, 0.5)


def test_by_example() -> None:
    labels = [1] * 63 + [0] * 82
    logits = [2.0] * 59 + [-2.0] * 4 + [2.0] * 2 + [-2.0] * 80
    found = binary_metrics(answers(labels, logits), 0.5)
    assert found.chosen.confusion == Confusion(tp=59, fp=2, fn=4, tn=80)
    assert found.chosen.precision.value == pytest.approx(59 / 61)
    assert found.chosen.recall.value == pytest.approx(59 / 63)
    assert found.chosen.report["positive"]["support"] == 63


def test_where_all_are_right_there_is_still_doubt() -> None:
    found = binary_metrics(answers([1] * 20 + [0] * 20, [2.0] * 20 + [-2.0] * 20), 0.5)
    assert found.chosen.precision.value == 1
    assert found.chosen.precision.interval == pytest.approx((0.025 ** (1 / 20), 1))
    for ranking in (found.average_precision, found.roc_auc):
        assert (ranking.value, ranking.high) == (1, 1)
        assert ranking.low == pytest.approx(0.025 ** (1 / 20))


def test_a_mistake_more_is_never_a_better_bound() -> None:
    lows = []
    for wrong in range(12):
        labels = [1] * (40 - wrong) + [0] * wrong + [1] * 10 + [0] * 40
        found = binary_metrics(answers(labels, [2.0] * 40 + [-2.0] * 50), 0.5).chosen
        assert found.confusion.fp == wrong
        assert found.precision.low is not None
        lows.append(found.precision.low)
    assert np.all(np.diff(lows) < 0)
    assert lows[0] == pytest.approx(0.025 ** (1 / 40))


def test_families_count_once_in_every_share() -> None:
    # Ten families of six that answer as one: as much is known as of ten pictures.
    once = answers([1] * 10 + [0] * 10, [2.0] * 9 + [-2.0] + [2.0] + [-2.0] * 9)
    times = np.repeat(np.arange(20), 6)
    six = answers(
        once.labels[times].tolist(), once.scores[times].tolist(), 0, times.astype(str).tolist()
    )
    alone, together = binary_metrics(once, 0.5), binary_metrics(six, 0.5)
    for name in _SHARES:
        expected = getattr(alone.chosen, name).interval
        assert getattr(together.chosen, name).interval == pytest.approx(expected), name
    for rate in (0.1, 0.001):
        expected = at_prevalence(once, rate).precision
        assert at_prevalence(six, rate).precision.interval == pytest.approx(expected.interval)


def test_nothing_called_positive_has_no_precision() -> None:
    found = binary_metrics(answers([1, 0, 1, 0], [0.1, 0.2, 0.3, 0.1], cut=1), 0.9)
    assert found.chosen.precision.value is None
    assert found.chosen.precision.interval is None
    assert found.chosen.recall.value == 0
    assert found.chosen.report["positive"]["precision"] is None


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0]])
def test_one_label_is_an_input_error(labels: list[int]) -> None:
    with pytest.raises(InputError, match=r"only (positive|negative) pictures"):
        binary_metrics(answers(labels, [0.1, 0.5, 0.9]), 0.5)


def test_no_pictures_are_an_input_error() -> None:
    with pytest.raises(InputError, match="no pictures"):
        binary_metrics(answers([], []), 0.5)


def test_a_diverged_model_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no number for 1 of 3 pictures"):
        binary_metrics(answers([1, 0, 1], [0.1, float("nan"), 0.2]), 0.5)


def test_other_numbers_of_labels_and_groups_are_a_defect() -> None:
    with pytest.raises(ValueError, match="labels"):
        binary_metrics(answers([1, 0], [0.5, 0.2], groups=["a"]), 0.5)


def test_five_pictures_are_measured_too() -> None:
    found = binary_metrics(answers([1, 0, 1, 0, 1], [2.0, 1.0, 0.5, -1.0, -2.0]), 0.5)
    assert found.chosen.precision.value == pytest.approx(2 / 3)
    assert found.chosen.precision.interval is not None


# ---- prevalence


def counted(tp: int, fn: int, fp: int, tn: int) -> Predictions:
    return answers(
        [1] * (tp + fn) + [0] * (fp + tn), [1.0] * tp + [-1.0] * fn + [1.0] * fp + [-1.0] * tn
    )


def test_precision_at_another_prevalence_is_bayes_rule() -> None:
    counts = counted(tp=90, fn=10, fp=5, tn=95)
    assert at_prevalence(counts, 0.5).precision.value == pytest.approx(90 / 95)
    found = at_prevalence(counts, 0.01).precision
    expected = 0.01 * 0.9 / (0.01 * 0.9 + 0.99 * 0.05)
    assert found.value == pytest.approx(expected)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < expected < found.high < 1


def test_at_another_prevalence_it_covers_and_wastes_less_than_both_intervals_together() -> None:
    random = np.random.default_rng(0)
    rate, hit, alarm, draws = 0.01, 0.9, 0.05, 400
    truth = rate * hit / (rate * hit + (1 - rate) * alarm)
    held, widths, naive = 0, 0.0, 0.0
    for _ in range(draws):
        tp, fp = random.binomial(100, hit), random.binomial(100, alarm)
        found = at_prevalence(counted(tp, 100 - tp, fp, 100 - fp), rate).precision
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
        hits, alarms = (binomtest(k, 100).proportion_ci(0.975, "exact") for k in (tp, fp))
        ends = [
            rate * h / (rate * h + (1 - rate) * a)
            for h, a in ((hits.low, alarms.high), (hits.high, alarms.low))
        ]
        widths, naive = widths + found.high - found.low, naive + ends[1] - ends[0]
    assert held / draws >= 0.95 - 3 * (0.05 * 0.95 / draws) ** 0.5
    assert widths < 0.9 * naive


def test_no_false_alarm_among_few_is_no_perfection_where_the_tag_is_rare() -> None:
    found = at_prevalence(counted(tp=90, fn=10, fp=0, tn=100), 0.001).precision
    assert (found.value, found.high) == (1, 1)
    assert found.low is not None
    assert found.low < 0.05


def test_nothing_called_positive_has_no_precision_anywhere() -> None:
    assert at_prevalence(counted(tp=0, fn=10, fp=0, tn=10), 0.1).precision.value is None


def test_only_false_alarms_are_no_precision_at_all() -> None:
    found = at_prevalence(counted(tp=0, fn=10, fp=2, tn=8), 0.1).precision
    assert (found.value, found.low) == (0, 0)
    assert found.high is not None
    assert 0 < found.high < 1
