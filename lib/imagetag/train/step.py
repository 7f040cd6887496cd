"""One training step over all replicas and workers, and one of validation.

A loop of our own rather than `Model.fit`: that one does not run under MultiWorkerMirroredStrategy
(keras-team/keras issue 20585), nor splits a batch, nor goes on in the middle of an epoch. Only
public interfaces are used. The loss is the sum over the global batch divided by its images, so
that any number of workers, replicas and micro-batches makes the same step, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from imagetag.inputs import RandomAffine, compiled
from imagetag.train.losses import STATS, losses_of, stats_of

_COUNT = STATS.index("count")


@dataclass(frozen=True)
class Objective:
    """What a step minimizes, and how.

    `class_weights` are of (negatives, positives). `clip_norm` bounds the norm of all gradients
    together (Pascanu et al., "On the difficulty of training recurrent neural networks", 2013).
    """

    class_weights: tuple[float, float] = (1.0, 1.0)
    label_smoothing: float = 0.0
    clip_norm: float | None = None


class Stepper:
    """Steps of a model under a strategy; each returns the sums of STATS over the global batch.

    Args:
        model: from inputs to logits, `(batch, 1)`; made in the strategy's scope.
        optimizer: built on the model's trainable variables, in the same scope.
        strategy: on which devices.
        objective: what is minimized.
        augment: moves the inputs before the model sees them in training; None for not at all.
        micro_batch: images that a replica takes at once; the gradients of its batch add up. None
            for all of them.
        jit: compile the model's part of a step with XLA. Augmentation is compiled on CPUs anyway.

    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy,
        objective: Objective,
        *,
        augment: RandomAffine | None = None,
        micro_batch: int | None = None,
        jit: bool = False,
    ) -> None:
        self._model, self._optimizer, self._strategy = model, optimizer, strategy
        self._objective, self._micro_batch = objective, micro_batch
        self._augment: Callable[[Any, Any], Any] | None = None
        if augment is not None:
            on_cpu = not tf.config.list_logical_devices("GPU")
            self._augment = compiled(augment, jit=jit or on_cpu)
        self._compute = self._gradients
        if jit:
            self._compute = tf.function(self._gradients, jit_compile=True, autograph=False)
        self._train = tf.function(
            lambda batch: strategy.run(self._train_replica, args=batch), autograph=False
        )
        self._test = tf.function(
            lambda batch: strategy.run(self._test_replica, args=batch), autograph=False
        )

    def train(self, batch: Any) -> Any:
        """Do a step; returns `(6,)`, a tensor that may still be in the making."""
        return self._strategy.experimental_local_results(self._train(batch))[0]

    def test(self, batch: Any) -> Any:
        """Return the sums of a batch as the model is at inference.

        The loss has the class weights of training, so that early stopping minimizes what training
        does, and no label smoothing.
        """
        return self._strategy.experimental_local_results(self._test(batch))[0]

    def _train_replica(self, inputs: Any, targets: Any, weights: Any, noise: Any) -> Any:
        context = tf.distribute.get_replica_context()
        gradients, stats = self._accumulated(inputs, targets, weights, noise)
        stats = context.all_reduce(tf.distribute.ReduceOp.SUM, stats)
        count = tf.maximum(stats[_COUNT], 1)
        gradients = [gradient / tf.cast(count, gradient.dtype) for gradient in gradients]
        if self._objective.clip_norm is not None:
            gradients = self._clipped(gradients)
        self._optimizer.apply_gradients(
            zip(gradients, self._model.trainable_variables, strict=True)
        )
        return stats

    def _accumulated(self, *batch: Any) -> tuple[list[Any], Any]:
        """Return gradients and stats of a replica's batch, summed over its micro-batches."""
        size = batch[0].shape[0]
        parts = size // (self._micro_batch or size)
        gradients: list[Any] = []
        stats = tf.zeros((len(STATS),))
        for part in zip(*(tf.split(values, parts) for values in batch), strict=True):
            # One after the other, as their activations do not fit into memory together.
            with tf.control_dependencies([*gradients, stats]):
                inputs, targets, weights, noise = (tf.identity(values) for values in part)
                if self._augment is not None:
                    inputs = self._augment(inputs, noise)
                more, sums = self._compute(inputs, targets, weights)
            stats = stats + sums
            gradients = [a + b for a, b in zip(gradients, more, strict=True)] if gradients else more
        return gradients, stats

    def _gradients(self, inputs: Any, targets: Any, weights: Any) -> tuple[list[Any], Any]:
        variables = [variable.value for variable in self._model.trainable_variables]
        with tf.GradientTape() as tape:
            logits = self._model(inputs, training=True)
            losses = losses_of(targets, logits, self._objective.label_smoothing)
            losses = losses * weights * self._balance(targets)
            loss = self._optimizer.scale_loss(tf.reduce_sum(losses))
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        return gradients, stats_of(targets, logits, weights, losses)

    def _balance(self, targets: Any) -> Any:
        negative, positive = self._objective.class_weights
        return tf.where(targets > 0, positive, negative)

    def _clipped(self, gradients: list[Any]) -> list[Any]:
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        scale = self._optimizer.scale_loss(tf.constant(1.0))
        whole = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        clipped, _ = tf.clip_by_global_norm(whole, self._objective.clip_norm * scale)
        # The optimizer sums over the replicas once more.
        return [gradient / replicas for gradient in clipped]

    def _test_replica(self, inputs: Any, targets: Any, weights: Any, _noise: Any) -> Any:
        size = inputs.shape[0]
        parts = size // (self._micro_batch or size)
        stats = tf.zeros((len(STATS),))
        batch = (tf.split(values, parts) for values in (inputs, targets, weights))
        for part in zip(*batch, strict=True):
            with tf.control_dependencies([stats]):
                images, labels, shares = (tf.identity(values) for values in part)
                logits = self._model(images, training=False)
                losses = losses_of(labels, logits) * shares * self._balance(labels)
                stats = stats + stats_of(labels, logits, shares, losses)
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, stats)


class Sums:
    """Adds up what steps return; looks at it now and then, as that waits for the device."""

    _EVERY = 64

    def __init__(self, values: list[float] | None = None) -> None:
        self._values = np.array(values or np.zeros(len(STATS)), np.float64)
        self._pending: list[Any] = []

    def add(self, stats: Any) -> None:
        """Add what a step returned."""
        self._pending.append(stats)
        if len(self._pending) >= self._EVERY:
            self._settle()

    def values(self) -> list[float]:
        """Return the sums so far, in the order of STATS."""
        self._settle()
        return [float(value) for value in self._values]

    def _settle(self) -> None:
        for stats in self._pending:
            self._values += np.asarray(stats, np.float64)
        self._pending = []
