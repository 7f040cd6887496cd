"""Heads: linear classifiers of tags on a network's features, many of them as one matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import ArrayLike, NDArray

from imagetag.errors import InputError
from imagetag.imaging import Size

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Heads:
    """Some heads on the same features.

    They are applied in 64 bits, so that what one says does not depend on how many there are.

    Attributes:
        weights: `(channels, heads)`.
        bias: `(heads,)`.

    """

    weights: Floats
    bias: Floats

    def logits(self, features: ArrayLike) -> NDArray[np.float32]:
        """Return what each head says of pictures by their features, `(pictures, channels)`.

        Returns:
            `(pictures, heads)`.

        """
        values = np.asarray(features, np.float64) @ self.weights + self.bias
        return values.astype(np.float32)


def join_heads(several: Iterable[Heads]) -> Heads:
    """Return all heads as one matrix, in their order."""
    found = list(several)
    return Heads(
        np.concatenate([heads.weights for heads in found], axis=1),
        np.concatenate([heads.bias for heads in found]),
    )


def split_model(core: keras.Model, size: Size) -> tuple[keras.Model, Heads]:
    """Return a model up to its features, `(batch, channels)`, and its head.

    Args:
        core: as `core_of` returns it.
        size: (height, width) in pixels that its input should have.

    Raises:
        InputError: if it has no such layers as ours have, or another input.

    """
    names = [layer.name for layer in getattr(core, "layers", ())]
    try:
        body = keras.Model(core.input, core.get_layer("features").output)
        first, last = names.index("features"), names.index("logit")
        between, logit = core.layers[first + 1 : last], core.layers[last]
        if not isinstance(logit, layers.Dense) or not all(map(_does_nothing, between)):
            raise ValueError("its logit is not linear in its features")
        kernel, bias = logit.get_weights()
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"the model {core.name!r} has no part with the layers features and logit: it is none "
            "of this version's; train it again"
        ) from error
    shape = core.inputs[0].shape[1:3]
    if shape not in (size, (None, None)):
        raise InputError(
            f"the model {core.name!r} takes pictures of {shape[0]} x {shape[1]} pixels "
            f"(height x width), and its run says {size[0]} x {size[1]}: train it again"
        )
    return body, Heads(kernel.astype(np.float64), bias.astype(np.float64))


def _does_nothing(layer: Any) -> bool:
    """Tell whether a layer only passes on what comes in, but in training."""
    return isinstance(layer, layers.Dropout)
