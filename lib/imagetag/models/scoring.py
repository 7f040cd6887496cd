"""What a trained model says of pictures: a logit each, and if wanted its features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from imagetag.dataset import Resize, load_pixels
from imagetag.errors import InputError
from imagetag.imaging import BadImage, Size
from imagetag.models.architectures import core_of
from imagetag.models.batches import run_in_batches

Item = TypeVar("Item")


@dataclass(frozen=True)
class Score:
    """What the model says of a picture.

    Attributes:
        logit: of the tag; the sigmoid of it is the model's probability.
        features: what the head builds on, `(channels,)`; None if they are not asked for.

    """

    logit: float
    features: NDArray[np.float32] | None = None


class Scorer:
    """Scores any number of pictures with one model, in batches of one shape.

    Args:
        model: as `runs.load_model` returns it.
        size: (height, width) in pixels of its input.
        resize: how pictures are fitted into it.
        batch_size: pictures at once.
        features: whether a score has them.
        threads: pictures read and decoded at once; by default as the processors can.

    Raises:
        InputError: if the model has no such layers as ours have, or another input.

    """

    def __init__(
        self,
        model: keras.Model,
        size: Size,
        resize: Resize,
        batch_size: int,
        *,
        features: bool = False,
        threads: int | None = None,
    ) -> None:
        self._size, self._resize, self._batch_size = size, resize, batch_size
        self._threads = threads
        # Pictures come at its size: what resizes them on the way is not needed.
        core = core_of(model)
        names = ("logit", "features") if features else ("logit",)
        try:
            part = keras.Model(core.input, {name: core.get_layer(name).output for name in names})
        except (AttributeError, ValueError) as error:
            raise InputError(
                f"the model {model.name!r} has no part with the layers {', '.join(names)}: it is "
                "none of this version's; train it again"
            ) from error
        shape = core.inputs[0].shape[1:3]
        if shape not in (size, (None, None)):
            raise InputError(
                f"the model {model.name!r} takes pictures of {shape[0]} x {shape[1]} pixels "
                f"(height x width), and its run says {size[0]} x {size[1]}: train it again"
            )

        def forward(pixels: Any) -> Any:
            return part(tf.cast(pixels, tf.float32), training=False)

        pictures = tf.TensorSpec((batch_size, *size, 3), tf.uint8)
        # Compiled here and for this shape alone.
        self._forward = tf.function(forward, autograph=False).get_concrete_function(pictures)

    def score(
        self, items: Iterable[Item], read: Callable[[Item], bytes | Path]
    ) -> Iterator[tuple[Item, Score | BadImage]]:
        """Yield each item with its score, or with why its picture cannot be decoded.

        Pictures are read and decoded in parallel, a few batches ahead of the model. What a picture
        gets does not depend on others, nor on how many there are.

        Args:
            items: in any number; they are taken as they are needed.
            read: returns an item's file, as bytes or as a path; may raise BadImage. It is called
                in threads.

        """

        def decode(item: Item) -> NDArray[np.uint8]:
            return load_pixels(read(item), self._size, self._resize)

        return run_in_batches(
            items, decode, self._run, batch_size=self._batch_size, threads=self._threads
        )

    def _run(self, pixels: NDArray[np.uint8]) -> list[Score]:
        batch = np.zeros((self._batch_size, *self._size, 3), np.uint8)
        batch[: len(pixels)] = pixels
        outputs = self._forward(tf.convert_to_tensor(batch))
        logits = np.asarray(outputs["logit"]).reshape(-1)[: len(pixels)]
        if "features" not in outputs:
            return [Score(float(logit)) for logit in logits]
        features = np.asarray(outputs["features"])
        # Copies of the rows: a view would keep the whole batch's in memory.
        return [
            Score(float(logit), row.astype(np.float32))
            for logit, row in zip(logits, features[: len(logits)], strict=True)
        ]
