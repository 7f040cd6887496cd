"""Plots of an evaluation are drawn however bad the model is."""

from __future__ import annotations

import numpy as np
import pytest

from imagetag.evaluate import plots

pytestmark = pytest.mark.filterwarnings("error")

HISTORY = [
    {"loss": 1 / n, "accuracy": 1 - 0.4 / n, "val_loss": 1 / n + n / 50, "val_accuracy": 0.8}
    for n in range(1, 12)
]


def test_matrices_and_curves_of_useless_models_are_drawn() -> None:
    labels, never = np.array([True, False] * 5), np.full(10, 0.2)
    assert plots.confusion_matrix(0, 0, 5, 5)
    assert plots.precision_recall(labels, never, never >= 0.5)
    assert plots.roc(labels, never, never >= 0.5)
    assert plots.probability_histogram(labels, never, 0.5)


@pytest.mark.parametrize(
    "history",
    [
        [{"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}],
        [{"loss": 1.0, "accuracy": 0.5}, {"loss": 0.5, "accuracy": 0.6}],
        [{"loss": float("nan"), "val_loss": float("inf")}] * 2,
        HISTORY * 20,
    ],
    ids=["one epoch", "no validation", "diverged", "many epochs"],
)
def test_odd_histories_are_drawn(history: list[dict[str, float]]) -> None:
    assert plots.learning_curves(history)


def test_the_best_epoch_is_that_of_the_lowest_validation_loss() -> None:
    assert plots.best_epoch([{"val_loss": loss} for loss in (0.9, float("nan"), 0.3, 0.4)]) == 3
    assert plots.best_epoch([{"loss": 0.1}]) is None
    assert plots.best_epoch([]) is None
