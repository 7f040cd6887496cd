"""Which images are in which batch: a function of the seed and the epoch, and of nothing else.

Every worker computes the same plan alone, reads only its columns of it, and can begin at any step:
a resumed epoch goes on with the images, and the random numbers, that an undisturbed one has there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NOISE = 7
"""How many random numbers an image gets in each epoch; `augment` makes moves of them."""


@dataclass(frozen=True)
class Epoch:
    """The batches of one epoch; `(steps, batch)` arrays, in which a row is a batch.

    `images` are indices; `counted` is False where an image only fills up the last batch; `noise` is
    `(steps, batch, NOISE)` in [0, 1).
    """

    images: npt.NDArray[np.int64]
    counted: npt.NDArray[np.bool_]
    noise: npt.NDArray[np.float32]


class Plan:
    """How a set of images is dealt into batches, epoch after epoch.

    Each place of the batch has its own share of the images, with labels in equal parts, and works
    through it in another order each epoch. So a worker, which holds some places of the global
    batch, needs only their images; and what a batch is made of does not depend on how many workers
    or replicas there are.

    Args:
        targets: 0 or 1 of each image.
        batch: images a step, over all workers and replicas.
        seed: of the dealing, the orders and the noise.
        shuffle: whether epochs differ; without, all are the same and the noise is zero.

    """

    def __init__(
        self, targets: npt.NDArray[np.int64], batch: int, seed: int, *, shuffle: bool = True
    ) -> None:
        self.count, self.batch, self.seed, self.shuffle = len(targets), batch, seed, shuffle
        self.steps = max(1, math.ceil(self.count / batch))
        random = np.random.default_rng([seed, 0])
        # All of one label, then all of the other, each in a random order: dealt out in turn.
        order = np.lexsort((random.random(self.count), targets))
        # What is missing in the last row is filled from the place's own images, or, where there
        # are fewer images than places, from any.
        places = np.arange(self.steps * batch)
        dealt = order[np.where(places < self.count, places, places % min(batch, self.count))]
        self._images = dealt.reshape(self.steps, batch).astype(np.int64)
        self._counted = (places < self.count).reshape(self.steps, batch)

    def images_at(self, places: slice, *, counted: bool = False) -> npt.NDArray[np.int64]:
        """Return the sorted indices of all images that ever stand at some places of the batch.

        With `counted`, without those that only fill up there, and count at another place.
        """
        images = self._images[:, places]
        return np.unique(images[self._counted[:, places]] if counted else images)

    def epoch(self, number: int) -> Epoch:
        """Return the batches of an epoch, counted from 0."""
        shape = self._images.shape
        if not self.shuffle:
            return Epoch(self._images, self._counted, np.zeros((*shape, NOISE), np.float32))
        random = np.random.default_rng([self.seed, 1 + number])
        rank = np.where(self._counted, random.random(shape), 2.0)  # what fills up stays last
        images = np.take_along_axis(self._images, rank.argsort(axis=0), axis=0)
        noise = random.random((*shape, NOISE), dtype=np.float32)
        return Epoch(images, self._counted, noise)
