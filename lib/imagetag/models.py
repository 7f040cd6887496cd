"""The models by name: AlexNet as its paper has it, and every backbone of keras.applications.

Each takes RGB images in 0..255 of shape `(batch, height, width, 3)`, does its own preprocessing,
and returns the probability of the tag, of shape `(batch, 1)`.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops

from imagetag.errors import TransientError, UsageError, one_line

Size = tuple[int, int]  # (height, width) in pixels


@keras.saving.register_keras_serializable("imagetag")
class LocalResponseNormalization(layers.Layer):
    """Normalizes each activation by those of the neighbouring channels.

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural
    Networks" (2012), section 3.3, with its constants k = 2, n = 5, alpha = 1e-4, beta = 0.75.
    """

    def call(self, inputs: Any) -> Any:
        """Return the normalized activations, of the same shape."""
        squares = ops.pad(ops.square(inputs), [[0, 0], [0, 0], [0, 0], [2, 2]])
        channels = inputs.shape[-1]
        total = sum(squares[..., i : i + channels] for i in range(5))
        return inputs / ops.power(2.0 + 1e-4 * total, 0.75)


CUSTOM_LAYERS = {"LocalResponseNormalization": LocalResponseNormalization}
"""What loading a saved model needs beside Keras itself."""


def alexnet(
    size: Size, *, width: float = 1.0, batch_norm: bool = False, dropout: float = 0.5
) -> keras.Model:
    """Return AlexNet with one output, untrained.

    Args:
        size: (height, width), at least 67 each; the paper has 227.
        width: factor of the numbers of filters and units.
        batch_norm: batch normalization instead of local response normalization: trains much
            faster on few images.
        dropout: share of the units of both hidden layers that is dropped.

    """
    if min(size) < 67:
        raise UsageError(f"--image-size {size[0]}x{size[1]}: AlexNet needs 67 pixels a side")

    def convolve(x: Any, filters: int, kernel: int, stride: int = 1, *, norm: bool = True) -> Any:
        x = layers.Conv2D(
            round(filters * width),
            kernel,
            stride,
            padding="valid" if stride > 1 else "same",
            use_bias=not batch_norm,
            kernel_initializer="he_normal",
        )(x)
        if batch_norm:
            return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.ReLU()(x)
        return LocalResponseNormalization()(x) if norm else x

    inputs = keras.Input((*size, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.MaxPooling2D(3, 2)(convolve(x, 96, 11, 4))
    x = layers.MaxPooling2D(3, 2)(convolve(x, 256, 5))
    x = convolve(x, 384, 3, norm=False)
    x = convolve(x, 384, 3, norm=False)
    x = layers.MaxPooling2D(3, 2)(convolve(x, 256, 3, norm=False))
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dense(round(4096 * width), "relu", kernel_initializer="he_normal")(x)
        x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, _probability(x), name="alexnet")


ALEXNETS: dict[str, Callable[[Size], keras.Model]] = {
    "alexnet": alexnet,
    "alexnet-bn": functools.partial(alexnet, batch_norm=True),
    "alexnet-small": functools.partial(alexnet, width=0.25, batch_norm=True, dropout=0.2),
}


def model_names() -> list[str]:
    """Return every name that `build_model` takes."""
    return [*ALEXNETS, *_backbones()]


def build_model(
    name: str, size: Size, *, weights: Literal["imagenet"] | Path | None, freeze: bool
) -> keras.Model:
    """Build a classifier of one tag.

    Args:
        name: one of `model_names()`.
        size: (height, width) of its input in pixels.
        weights: of the backbone (a file as `save_weights` writes it; of the whole model for
            AlexNet), or None for random ones.
        freeze: train the head alone. The backbone's batch normalization stays in inference mode.

    Raises:
        UsageError: if there is no such model, or the size or the weights do not fit it.
        TransientError: if the ImageNet weights cannot be fetched.

    """
    if name in ALEXNETS:
        return _build_alexnet(name, size, weights, freeze)
    builder = _backbones().get(name)
    if builder is None:
        raise UsageError(f"--model {name!r}: there are {', '.join(model_names())}")
    backbone = _pretrained(builder, name, size, weights)
    backbone.trainable = not freeze
    inputs = keras.Input((*size, 3))
    x = backbone(_preprocess(builder, inputs), **({"training": False} if freeze else {}))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    return keras.Model(inputs, _probability(x), name=name)


def can_be_pretrained(name: str) -> bool:
    """Tell whether there are ImageNet weights of this model."""
    return name not in ALEXNETS


def _probability(x: Any) -> Any:
    return layers.Dense(1, "sigmoid", dtype="float32", name="probability")(x)


def _build_alexnet(
    name: str, size: Size, weights: Literal["imagenet"] | Path | None, freeze: bool
) -> keras.Model:
    if weights == "imagenet" or freeze:
        raise UsageError(f"--model {name}: there are no ImageNet weights of it to build on")
    model = ALEXNETS[name](size)
    if weights is not None:
        try:
            model.load_weights(weights)
        except (ValueError, OSError) as error:
            raise UsageError(f"--weights {weights} do not fit {name}: {one_line(error)}") from error
    return model


@functools.cache
def _backbones() -> dict[str, Callable[..., keras.Model]]:
    """Return the builders of keras.applications by lower-case name."""
    found = {}
    for title, value in vars(keras.applications).items():
        if inspect.isfunction(value) and title[0].isupper():
            found[title.lower()] = value
    return dict(sorted(found.items()))


def _pretrained(
    builder: Callable[..., keras.Model],
    name: str,
    size: Size,
    weights: Literal["imagenet"] | Path | None,
) -> keras.Model:
    try:
        return builder(
            include_top=False,
            input_shape=(*size, 3),
            weights=str(weights) if weights is not None else None,
        )
    except ValueError as error:
        option = "--weights" if isinstance(weights, Path) else "--image-size"
        value = weights if isinstance(weights, Path) else f"{size[0]}x{size[1]}"
        raise UsageError(f"{option} {value} does not fit {name}: {one_line(error)}") from error
    except OSError as error:
        raise UsageError(f"--weights {weights} cannot be read: {one_line(error)}") from error
    except Exception as error:  # keras.utils.get_file raises a bare Exception
        if weights != "imagenet":
            raise
        raise TransientError(
            f"the ImageNet weights of {name} cannot be fetched ({one_line(error)}); give --weights "
            "FILE, or put them into $KERAS_HOME/models beforehand"
        ) from error


def _preprocess(builder: Callable[..., keras.Model], inputs: Any) -> Any:
    """Apply the backbone's own `preprocess_input`, as layers that are saved with the model.

    All of them are a factor and an offset a channel, some after turning RGB into BGR. Which, is
    read off the function itself rather than from a table that could go stale.
    """
    preprocess = sys.modules[builder.__module__].preprocess_input
    probes = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).reshape(4, 1, 1, 3)
    zero, *ones = preprocess(probes.astype("float32"), data_format="channels_last").reshape(4, 3)
    response = (np.stack(ones) - zero) / 255  # from RGB to the backbone's channels
    scale = response.sum(axis=0)
    if np.allclose(response, np.diag(scale)):
        x = inputs
    elif np.allclose(response[::-1], np.diag(scale)):
        x = ops.flip(inputs, axis=-1)
    else:
        raise UsageError(f"{builder.__name__} mixes channels in a way that is not supported")
    return layers.Rescaling(scale.tolist(), zero.tolist())(x)
