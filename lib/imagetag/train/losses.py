"""What training minimizes, in `keras.ops`, so that any backend of Keras runs it."""

from __future__ import annotations

from typing import Any

from keras import ops


def losses_of(targets: Any, logits: Any, label_smoothing: float = 0.0) -> Any:
    """Return the binary cross-entropy of each image, `(batch,)` float32, in nats.

    Args:
        targets: 0 or 1, `(batch,)`.
        logits: `(batch,)` or `(batch, 1)`.
        label_smoothing: how much of the certainty of a label is given up: 0.1 makes of 1 a 0.95.

    """
    targets = ops.cast(ops.reshape(targets, (-1,)), "float32")
    logits = ops.cast(ops.reshape(logits, (-1,)), "float32")
    targets = targets * (1 - label_smoothing) + label_smoothing / 2
    return ops.binary_crossentropy(targets, logits, from_logits=True)


STATS = ("loss", "count", "tp", "fp", "tn", "fn")
"""The sums that `stats_of` gives, of which all metrics of an epoch are made."""


def stats_of(targets: Any, logits: Any, weights: Any, losses: Any) -> Any:
    """Return sums over a batch, `(6,)` float32, in the order of STATS; at the threshold 0.5.

    Args:
        targets: 0 or 1, `(batch,)`.
        logits: `(batch,)` or `(batch, 1)`.
        weights: 1, or 0 where an image does not count, `(batch,)`.
        losses: of each image, `(batch,)`, weighted already.

    """
    called = ops.cast(ops.reshape(logits, (-1,)) > 0, "float32")
    hit, miss = targets * weights, (1 - targets) * weights
    sums = [losses, weights, called * hit, called * miss, (1 - called) * miss, (1 - called) * hit]
    return ops.stack([ops.sum(ops.cast(values, "float32")) for values in sums])


def metrics_of(stats: dict[str, float]) -> dict[str, float]:
    """Return loss, accuracy, precision and recall; a share of nothing is 0, as Keras has it."""
    tp, fp, tn, fn = (stats[name] for name in ("tp", "fp", "tn", "fn"))
    return {
        "loss": stats["loss"] / max(stats["count"], 1),
        "accuracy": (tp + tn) / max(stats["count"], 1),
        "precision": tp / max(tp + fp, 1),
        "recall": tp / max(tp + fn, 1),
    }
