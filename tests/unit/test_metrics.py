"""Metrics agree with scikit-learn, and say so where there is nothing to say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from imagetag.errors import InputError
from imagetag.metrics import BinaryMetrics, Confusion, binary_metrics, wilson_interval

PROBABILITY = st.floats(0, 1).map(lambda value: round(value, 3))
SCORED = st.lists(st.tuples(st.booleans(), PROBABILITY), min_size=2, max_size=60).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


@settings(deadline=None, max_examples=50)  # a busy machine is no defect
@given(SCORED, PROBABILITY)
def test_metrics_agree_with_the_reference(
    pairs: list[tuple[bool, float]], threshold: float
) -> None:
    labels, chances = (list(column) for column in zip(*pairs, strict=True))
    called = [chance >= threshold for chance in chances]
    found = binary_metrics(labels, chances, threshold)

    counts = found.confusion
    assert [[counts.tn, counts.fp], [counts.fn, counts.tp]] == reference.confusion_matrix(
        labels, called, labels=[False, True]
    ).tolist()
    assert found.positives == sum(labels)
    assert found.negatives == len(labels) - sum(labels)
    assert found.accuracy == pytest.approx(reference.accuracy_score(labels, called))
    assert found.recall == pytest.approx(reference.recall_score(labels, called))
    assert found.f1 == pytest.approx(reference.f1_score(labels, called))
    assert found.specificity == pytest.approx(reference.recall_score(labels, called, pos_label=0))
    assert found.average_precision == reference.average_precision_score(labels, chances)
    assert found.roc_auc == reference.roc_auc_score(labels, chances)
    if any(called):
        assert found.precision == pytest.approx(reference.precision_score(labels, called))
        assert found.report["positive"]["precision"] == pytest.approx(found.precision)
    else:
        assert found.precision is None
    assert BinaryMetrics.model_validate_json(found.model_dump_json()) == found


def test_by_example() -> None:
    labels = [1] * 63 + [0] * 82
    chances = [0.9] * 59 + [0.1] * 4 + [0.9] * 2 + [0.1] * 80
    found = binary_metrics(labels, chances, 0.5)
    assert found.confusion == Confusion(tp=59, fp=2, fn=4, tn=80)
    assert found.precision == pytest.approx(59 / 61)
    assert found.recall == pytest.approx(59 / 63)
    assert found.report["positive"]["support"] == 63
    assert "positive" in found.report_text


def test_a_probability_at_the_threshold_is_called_positive() -> None:
    assert binary_metrics([1, 0], [0.5, 0.4], 0.5).confusion.tp == 1


def test_float32_probabilities_of_a_model_are_taken() -> None:
    chances = np.array([0.9, 0.2], dtype=np.float32)
    assert binary_metrics(np.array([1, 0]), chances, 0.5).accuracy == 1


@pytest.mark.filterwarnings("error")
def test_nothing_called_positive_has_no_precision() -> None:
    found = binary_metrics([1, 0, 0], [0.1, 0.2, 0.3], 0.5)
    assert found.precision is None
    assert found.precision_interval is None
    assert found.recall == 0
    assert found.report["positive"]["precision"] is None
    assert '"precision":null' in found.model_dump_json()
    assert "NaN" not in found.model_dump_json()


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0]])
def test_one_label_is_an_input_error(labels: list[int]) -> None:
    with pytest.raises(InputError, match="need both labels"):
        binary_metrics(labels, [0.1, 0.5, 0.9], 0.5)


def test_no_pictures_are_an_input_error() -> None:
    with pytest.raises(InputError, match="no pictures"):
        binary_metrics([], [], 0.5)


def test_a_diverged_model_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no number for 1 of 2"):
        binary_metrics([1, 0], [float("nan"), 0.5], 0.5)


def test_other_numbers_of_labels_and_probabilities_are_a_defect() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        binary_metrics([1, 0], [0.5], 0.5)


@settings(deadline=None)
@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share(counts: tuple[int, int]) -> None:
    low, high = wilson_interval(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1


def test_an_interval_narrows_with_more_pictures() -> None:
    assert wilson_interval(9, 10) == pytest.approx((0.596, 0.982), abs=0.001)
    assert wilson_interval(900, 1000) == pytest.approx((0.880, 0.917), abs=0.001)
