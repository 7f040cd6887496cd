"""What trains, under names of larger models: of few layers, as TensorFlow takes seconds to begin
with those.

`alexnet-small` has what a checkpoint must hold, and workers share, of any model: weights, the
averages of a batch normalization, and the random numbers of a dropout. `alexnet` is without that
normalization, which is sensitive to rounding. `mobilenet` has two blocks.
"""

from __future__ import annotations

import functools
from typing import Any

import keras

from imagetag.models import architectures


def alexnet(
    size: tuple[int, int], *, dropout: float, synchronized: bool = False, normalized: bool = True
) -> keras.Model:
    layers = keras.layers
    inputs = keras.Input((*size, 3))
    x = layers.Conv2D(4, 11, 8)(layers.Rescaling(1 / 255)(inputs))
    if normalized:
        x = layers.BatchNormalization(momentum=0.9, synchronized=synchronized)(x)
    x = layers.Flatten()(layers.ReLU()(x))
    x = layers.Dropout(dropout, name="features")(x)
    x = layers.Dense(1, name="logit")(x)
    return keras.Model(inputs, layers.Activation("sigmoid")(x))


def mobilenet(include_top: bool, input_shape: Any, weights: Any) -> keras.Model:
    layers = keras.layers
    x = inputs = keras.Input(input_shape)
    for filters in (4, 8):
        x = layers.BatchNormalization()(layers.Conv2D(filters, 3, 2, padding="same")(x))
        x = layers.ReLU()(x)
    return keras.Model(inputs, x)


mobilenet.__module__ = keras.applications.MobileNet.__module__  # for its preprocessing
ALEXNET = (alexnet, 0.2)


def replace_models() -> None:
    """In this process, for as long as it lasts."""
    architectures.ALEXNETS["alexnet-small"] = ALEXNET
    architectures.ALEXNETS["alexnet"] = (functools.partial(alexnet, normalized=False), 0.2)
    keras.applications.MobileNet = mobilenet
