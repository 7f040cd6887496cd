"""What networks say of pictures: a logit of each head, and if wanted the features.

Each picture is read once, decoded once for each kind of input that the networks take, and goes
through each network once, however many heads that has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from imagetag.dataset import GREY, Resize, load_pixels
from imagetag.imaging import BadImage, Size
from imagetag.models.architectures import core_of
from imagetag.models.batches import run_in_batches
from imagetag.models.heads import Heads, split_model

Item = TypeVar("Item")
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Input:
    """What a network takes.

    Attributes:
        size: (height, width) in pixels.
        resize: how pictures are fitted into it.
        fill: the colour of the bars beside a picture of another aspect, in each channel, 0..255.

    """

    size: Size
    resize: Resize
    fill: int = GREY

    def load(self, source: bytes | Path) -> Pixels:
        """Return a picture as the network takes it, `(height, width, 3)`, RGB.

        Raises:
            BadImage: if it cannot be decoded.

        """
        return load_pixels(source, self.size, self.resize, self.fill)


@dataclass(frozen=True)
class Network:
    """A network with heads on its features.

    Attributes:
        input: what it takes.
        heads: how many.
        forward: returns of pictures, `(batch, height, width, 3)`, their `logits`, `(batch, heads)`
            float32, and if it is to their `features`, `(batch, channels)`.

    """

    input: Input
    heads: int
    forward: Callable[[Pixels], Mapping[str, Any]]


@dataclass(frozen=True)
class Score:
    """What the networks say of a picture.

    Attributes:
        logits: of all heads, `(heads,)`; the sigmoid of one is the model's probability of its tag.
        features: what the heads build on, `(channels,)`; None if they are not asked for.

    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32] | None = None

    @property
    def logit(self) -> float:
        """The logit of the first head, which may be the only one."""
        return float(self.logits[0])


def network_of(
    model: keras.Model,
    wanted: Input,
    batch_size: int,
    *,
    heads: Heads | None = None,
    features: bool = False,
) -> Network:
    """Return a model, ready to take pictures in batches of one shape.

    Args:
        model: as `runs.load_model` returns it.
        wanted: what it takes.
        batch_size: pictures at once.
        heads: others that are on the model's features, instead of its own.
        features: whether it gives them.

    Raises:
        InputError: if the model has no such layers as ours have, or another input.

    """
    # Pictures come at its size: what resizes them on the way is not needed.
    body, own = split_model(core_of(model), wanted.size)
    heads = own if heads is None else heads
    weights, bias = tf.constant(heads.weights), tf.constant(heads.bias)

    def forward(pixels: Any) -> Any:
        found = body(tf.cast(pixels, tf.float32), training=False)
        logits = tf.cast(tf.cast(found, tf.float64) @ weights + bias, tf.float32)
        return {"logits": logits} | ({"features": found} if features else {})

    # Compiled here and for this shape alone.
    pictures = tf.TensorSpec((batch_size, *wanted.size, 3), tf.uint8)
    compiled = tf.function(forward, autograph=False).get_concrete_function(pictures)

    def run(pixels: Pixels) -> Mapping[str, Any]:
        found: Mapping[str, Any] = compiled(tf.convert_to_tensor(pixels))
        return found

    return Network(wanted, len(heads.bias), run)


_Decoded = Mapping[Input, Pixels]


class Scorer:
    """Scores any number of pictures with networks, in batches of one shape.

    Args:
        networks: one or more; features are those of the first.
        batch_size: pictures at once.
        threads: pictures read and decoded at once; by default as the processors can.
        turn: pictures that a network takes before the next has its turn, a multiple of the batch
            size; by default one batch.

    """

    def __init__(
        self,
        networks: Sequence[Network],
        batch_size: int,
        *,
        threads: int | None = None,
        turn: int | None = None,
    ) -> None:
        self._networks, self._batch_size = networks, batch_size
        self._inputs = list(dict.fromkeys(network.input for network in networks))
        self._threads, self._turn = threads, turn or batch_size

    def score(
        self, items: Iterable[Item], read: Callable[[Item], bytes | Path]
    ) -> Iterator[tuple[Item, Score | BadImage]]:
        """Yield each item with its score, or with why its picture cannot be decoded.

        Pictures are read and decoded in parallel, a few batches ahead of the networks. What a
        picture gets does not depend on others, nor on how many there are.

        Args:
            items: in any number; they are taken as they are needed.
            read: returns an item's file, as bytes or as a path; may raise BadImage. It is called
                in threads, once an item.

        """

        def decode(item: Item) -> _Decoded:
            source = read(item)
            return {wanted: wanted.load(source) for wanted in self._inputs}

        return run_in_batches(
            items, decode, self._run, batch_size=self._turn, threads=self._threads
        )

    def _run(self, pictures: Sequence[_Decoded]) -> list[Score]:
        starts = range(0, len(pictures), self._batch_size)
        shares = [pictures[start : start + self._batch_size] for start in starts]
        batches: dict[Input, list[Pixels]] = {}
        if len(shares) == 1:  # which all networks that take the same have in common
            batches = {wanted: [self._batch(shares[0], wanted)] for wanted in self._inputs}
        outputs = [
            [
                network.forward(batch)
                for batch in batches.get(network.input)
                or (self._batch(share, network.input) for share in shares)
            ]
            for network in self._networks
        ]
        logits = np.concatenate([_column(found, "logits") for found in outputs], axis=1)
        features: Iterable[NDArray[np.float32] | None] = repeat(None)
        if "features" in outputs[0][0]:
            features = _column(outputs[0], "features")
        # Copies of the rows: a view would keep the whole batch's in memory.
        return [
            Score(row.copy(), None if values is None else values.copy())
            for _, row, values in zip(pictures, logits, features, strict=False)
        ]

    def _batch(self, share: Sequence[_Decoded], wanted: Input) -> Pixels:
        batch = np.zeros((self._batch_size, *wanted.size, 3), np.uint8)
        for place, pixels in enumerate(share):
            batch[place] = pixels[wanted]
        return batch


def _column(batches: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float32]:
    """Return one of the outputs, of all batches."""
    found = np.concatenate([np.asarray(batch[name]) for batch in batches])
    return found.astype(np.float32, copy=False)
