"""The loss and the metrics are those of Keras and scikit-learn, and no logit is too large."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, precision_score, recall_score

from imagetag.train.losses import STATS, losses_of, metrics_of, stats_of

_random = np.random.default_rng(4)
TARGETS = _random.integers(0, 2, 200).astype("float32")
LOGITS = _random.normal(0, 3, (200, 1)).astype("float32")


def sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def stats(targets: Any, logits: Any, weights: Any) -> dict[str, float]:
    sums = stats_of(targets, logits, weights, losses_of(targets, logits) * weights)
    assert sums.shape == (len(STATS),)
    return dict(zip(STATS, np.asarray(sums).astype(float).tolist(), strict=True))


def test_the_mean_loss_is_the_log_loss() -> None:
    losses = np.asarray(losses_of(TARGETS, LOGITS))
    assert losses.shape == (200,)
    assert losses.dtype == np.float32
    assert losses.mean() == pytest.approx(log_loss(TARGETS, sigmoid(LOGITS)[:, 0]), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 1.0])
def test_losses_are_those_of_keras(smoothing: float) -> None:
    theirs = keras.losses.BinaryCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction="none"
    )(TARGETS[:, None], LOGITS)
    np.testing.assert_allclose(losses_of(TARGETS, LOGITS, smoothing), theirs, rtol=1e-5)


def test_smoothing_takes_half_of_it_from_either_label() -> None:
    found = np.asarray(losses_of(np.array([1.0, 0.0]), np.array([0.7, 0.7]), 0.1))
    p = sigmoid(0.7)
    expected = [-0.95 * np.log(p) - 0.05 * np.log(1 - p), -0.05 * np.log(p) - 0.95 * np.log(1 - p)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["float32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_targets_and_logits_may_be_columns_and_of_any_kind(kind: str, shape: Any) -> None:
    targets = np.array([1, 0, 1, 0])
    logits = np.array([0.5, -2, -1, 3], "float32")
    found = losses_of(targets.astype(kind).reshape(shape), logits.reshape(shape))
    np.testing.assert_allclose(found, losses_of(targets, logits))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_logits_have_finite_losses_and_gradients(smoothing: float) -> None:
    import tensorflow as tf

    logits = tf.Variable([0.0, 90.0, -90.0, 1e4, -1e4, 1e30, -1e30])
    for target in (0.0, 1.0):
        with tf.GradientTape() as tape:
            losses = losses_of(tf.fill((7,), target), logits, smoothing)
        gradient = tape.gradient(losses, logits).numpy()
        assert np.isfinite(losses.numpy()).all()
        np.testing.assert_allclose(
            gradient, sigmoid(np.clip(logits.numpy(), -500, 500)) - target * (1 - smoothing)
            - smoothing / 2, atol=1e-6,
        )  # fmt: skip
    wrong_by_a_lot = np.asarray(losses_of(np.array([0.0, 1.0]), np.array([1e4, -1e4])))
    np.testing.assert_allclose(wrong_by_a_lot, 1e4)


def test_half_precision_logits_lose_nothing_in_the_loss() -> None:
    logits = LOGITS.astype("float16")
    exact = losses_of(TARGETS, logits.astype("float32"))
    assert np.asarray(losses_of(TARGETS, logits)).dtype == np.float32
    np.testing.assert_array_equal(losses_of(TARGETS, logits), exact)


def test_metrics_are_those_of_scikit_learn() -> None:
    found = metrics_of(stats(TARGETS, LOGITS, np.ones(200, "float32")))
    called = LOGITS[:, 0] > 0
    assert found == pytest.approx(
        {
            "loss": log_loss(TARGETS, sigmoid(LOGITS)[:, 0]),
            "accuracy": accuracy_score(TARGETS, called),
            "precision": precision_score(TARGETS, called),
            "recall": recall_score(TARGETS, called),
        },
        rel=1e-5,
    )


def test_what_has_no_weight_counts_nowhere() -> None:
    weights = _random.integers(0, 2, 200).astype("float32")
    there = weights > 0
    found = stats(TARGETS, LOGITS, weights)
    assert found == pytest.approx(
        stats(TARGETS[there], LOGITS[there], np.ones(there.sum(), "float32")), rel=1e-6
    )
    assert found["count"] == there.sum() == sum(found[key] for key in ("tp", "fp", "tn", "fn"))


def test_sums_of_parts_are_the_sums_of_the_whole() -> None:
    weights = np.ones(200, "float32")
    parts = [stats(TARGETS[i::3], LOGITS[i::3], weights[i::3]) for i in range(3)]
    whole = {name: sum(part[name] for part in parts) for name in STATS}
    assert whole == pytest.approx(stats(TARGETS, LOGITS, weights), rel=1e-6)


def test_a_logit_of_zero_is_not_called() -> None:
    assert stats(np.array([1.0, 0.0]), np.array([0.0, 0.0]), np.ones(2)) == pytest.approx(
        {"loss": 2 * np.log(2), "count": 2, "tp": 0, "fp": 0, "tn": 1, "fn": 1}
    )


def none_but(**found: float) -> dict[str, float]:
    return {**dict.fromkeys(STATS, 0.0), **found}


def test_a_share_of_nothing_is_zero() -> None:
    assert metrics_of(none_but()) == {"loss": 0, "accuracy": 0, "precision": 0, "recall": 0}
    none_called = metrics_of(none_but(loss=6.0, count=3, tn=2, fn=1))
    assert none_called == pytest.approx({"loss": 2, "accuracy": 2 / 3, "precision": 0, "recall": 0})
    none_there = metrics_of(none_but(count=4, fp=1, tn=3))
    assert none_there == {"loss": 0, "accuracy": 0.75, "precision": 0, "recall": 0}


def test_a_loss_that_is_no_number_stays_one() -> None:
    assert np.isnan(metrics_of(none_but(loss=float("nan"), count=2))["loss"])
