"""A head that is fitted to features, which all workers compute together and once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from imagetag.errors import InputError
from imagetag.inputs import Plan
from imagetag.log import Progress
from imagetag.models import features_of
from imagetag.stats import LinearHead, fit_head
from imagetag.train.cluster import Cluster
from imagetag.train.data import Images
from imagetag.train.losses import STATS, losses_of, metrics_of, stats_of

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Features:
    """What a model's head builds on, of the pictures of a part that can be read.

    Attributes:
        values: `(pictures, views, channels)`: of the picture, and of its mirror image.
        labels: 0 or 1, `(pictures,)`.
        groups: what belongs together, `(pictures,)`.

    """

    values: Floats
    labels: NDArray[np.int64]
    groups: NDArray[np.str_]

    def __add__(self, other: Features) -> Features:
        """Return the features of both parts."""
        return Features(
            np.concatenate([self.values, other.values]),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.groups, other.groups]),
        )

    def logits(self, kernel: Floats, bias: Floats) -> Floats:
        """Return the mean of the logits of a picture's views, `(pictures,)`."""
        return np.asarray(self.values.mean(axis=1) @ kernel.reshape(-1) + bias, np.float32)


class Featurizer:
    """Computes what a model's head builds on, as the model is when it is asked.

    Args:
        model: as `build_model` returns it; made in the scope of the cluster's strategy.
        cluster: the workers.
        mirror: of the mirror image too.

    """

    def __init__(self, model: keras.Model, cluster: Cluster, *, mirror: bool) -> None:
        body = features_of(model)
        self._cluster, self._views, self._channels = cluster, 1 + mirror, body.output.shape[-1]

        def compute(inputs: Any, weights: Any) -> tuple[Any, Any]:
            views = tf.concat([inputs, tf.reverse(inputs, [2])], 0) if mirror else inputs
            found = tf.reshape(body(views, training=False), (self._views, -1, self._channels))
            return tf.transpose(found, (1, 0, 2)), weights

        self._compute = tf.function(
            lambda batch: cluster.strategy.run(compute, (batch[0], batch[2])), autograph=False
        )

    def features(self, part: Images, after_batch: Callable[[], None]) -> Features:
        """Return the features of all pictures of a part, the same on all workers.

        Args:
            part: whose pictures; each worker computes those that it has.
            after_batch: is called after each batch, and may raise.

        """
        strategy = self._cluster.strategy
        # The same images at the same places as in training, once each.
        plan = Plan(part.targets, part.plan.batch, part.plan.seed, shuffle=False)
        feed = Images(part.source, part.targets, part.groups, plan).feed(self._cluster)
        epoch = plan.epoch(0)
        images, counted = (
            array[:, feed.places].reshape(-1, feed.each) for array in (epoch.images, epoch.counted)
        )
        values = np.zeros((part.count, self._views, self._channels), np.float32)
        readable = np.zeros(part.count, np.float32)
        batches = strategy.distribute_datasets_from_function(lambda _context: feed.one_pass())
        number = 0
        with feed.explained(), Progress("features", total=int(counted.sum())) as progress:
            for batch in batches:
                for found, weights in zip(
                    *map(strategy.experimental_local_results, self._compute(batch)), strict=True
                ):
                    # What fills up a batch has no weight there, and has one elsewhere.
                    there = weights.numpy() > 0
                    values[images[number][there]] = found.numpy()[there]
                    readable[images[number][there]] = 1
                    progress.advance(int(counted[number].sum()))
                    number += 1
                after_batch()
        values, known = self._cluster.sum(values), self._cluster.sum(readable) > 0
        return Features(values[known], part.targets[known], np.asarray(part.groups)[known])


def fitted(features: Features, cluster: Cluster, *, balanced: bool) -> tuple[Floats, Floats, float]:
    """Return the weights of the layer `logit`, (channels, 1) and (1,), and the head's strength.

    The chief fits, and the others get what it has: to the last bit, which machines differ in.

    Raises:
        InputError: if the features are not finite.

    """
    found = np.zeros(features.values.shape[-1] + 2, np.float32)
    problem = np.zeros(1, np.float32)
    if cluster.is_chief:
        try:
            head: LinearHead = fit_head(
                features.values, features.labels, features.groups.tolist(), balanced=balanced
            )
            found[:] = [*head.weights, head.bias, head.strength]
        except ValueError:
            problem[0] = 1
    if cluster.sum(problem)[0]:
        raise InputError(
            "no head can be fitted to the features of the backbone: some are not finite; take "
            "other --weights, or --mixed-precision no"
        )
    found = cluster.sum(found)
    return found[:-2, np.newaxis], found[-2:-1], float(found[-1])


def metrics_by_logits(
    labels: NDArray[np.int64], logits: Floats, class_weights: tuple[float, float]
) -> dict[str, float]:
    """Return the metrics of an epoch, from all logits at once."""
    targets = labels.astype(np.float32)
    losses = losses_of(targets, logits) * np.array(class_weights, np.float32)[labels]
    sums = np.asarray(stats_of(targets, logits, np.ones_like(targets), losses), np.float64)
    return metrics_of(dict(zip(STATS, sums.tolist(), strict=True)))
