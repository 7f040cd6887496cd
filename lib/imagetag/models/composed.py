"""A classifier of one tag, of a frozen network and a linear head: as any other that is loaded."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from imagetag.imaging import Size
from imagetag.models.architectures import probability_of, set_head


def classifier_on(
    network: keras.Model, size: Size, views: int, weights: NDArray[np.float64], bias: float
) -> keras.Model:
    """Return the classifier, with the layers `features`, `logit` and `probability`.

    As the head is linear, its logit of the mean of the views' features is the mean of its logits.

    Args:
        network: takes RGB pictures in 0..255, `(batch, height, width, 3)`, and returns features,
            `(batch, channels)`.
        size: (height, width) in pixels of its input.
        views: 1, or 2 with the mirror image.
        weights: of the head, `(channels,)`.
        bias: of the head.

    """
    inputs = keras.Input((*size, 3))
    pictures = [inputs, ops.flip(inputs, axis=2)][:views]
    found = [network(picture, training=False) for picture in pictures]
    if views == 1:
        features = layers.Activation("linear", dtype="float32", name="features")(found[0])
    else:
        features = layers.Average(dtype="float32", name="features")(found)
    model = keras.Model(inputs, probability_of(features), name=network.name)
    set_head(model, weights, bias)
    return model
