"""The models by name: AlexNet as its paper has it, every backbone of keras.applications, and ours.

Each takes RGB images in 0..255 of shape `(batch, height, width, 3)`, does its own preprocessing,
and returns the probability of the tag, of shape `(batch, 1)`. Two of its layers are known by name:
`features`, `(batch, channels)`, and `logit`, `(batch, 1)`, before and after the head.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import ArrayLike

from imagetag.checks import no_imagenet
from imagetag.dataset import GREY, Resize
from imagetag.errors import TransientError, UsageError, one_line
from imagetag.imaging import Size
from imagetag.models.weights import backbones, link_into_cache


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
    size: Size,
    *,
    width: float = 1.0,
    batch_norm: bool = False,
    dropout: float = 0.5,
    synchronized: bool = False,
) -> keras.Model:
    """Return AlexNet with one output, untrained.

    Larger pictures than the paper's are averaged to its 6 x 6 before the hidden layers: at 1500 x
    1000 those would have 1.4 billion weights otherwise.

    Args:
        size: (height, width), at least 67 each; the paper has 227.
        width: factor of the numbers of filters and units.
        batch_norm: batch normalization instead of local response normalization: trains much
            faster on few images.
        dropout: share of the units of both hidden layers that is dropped.
        synchronized: normalize over the batches of all replicas together.

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
            x = layers.BatchNormalization(momentum=0.9, synchronized=synchronized)(x)
            return layers.ReLU()(x)
        x = layers.ReLU()(x)
        return LocalResponseNormalization()(x) if norm else x

    inputs = keras.Input((*size, 3))
    x = layers.Rescaling(1 / 255, dtype="float32")(inputs)
    x = layers.MaxPooling2D(3, 2)(convolve(x, 96, 11, 4))
    x = layers.MaxPooling2D(3, 2)(convolve(x, 256, 5))
    x = convolve(x, 384, 3, norm=False)
    x = convolve(x, 384, 3, norm=False)
    x = layers.MaxPooling2D(3, 2)(convolve(x, 256, 3, norm=False))
    if x.shape[1] > 6 or x.shape[2] > 6:
        x = layers.AdaptiveAveragePooling2D((min(6, x.shape[1]), min(6, x.shape[2])))(x)
    x = layers.Flatten()(x)
    for last in (False, True):
        x = layers.Dense(round(4096 * width), "relu", kernel_initializer="he_normal")(x)
        x = layers.Dropout(dropout, name="features" if last else None)(x)
    return keras.Model(inputs, probability_of(x), name="alexnet")


ALEXNETS: dict[str, tuple[Callable[..., keras.Model], float]] = {
    "alexnet": (alexnet, 0.5),
    "alexnet-bn": (functools.partial(alexnet, batch_norm=True), 0.5),
    "alexnet-small": (functools.partial(alexnet, width=0.25, batch_norm=True), 0.2),
}
"""Their builders, and how much of the units they drop unless told."""


def model_names() -> list[str]:
    """Return every name that `build_model` takes."""
    return [*ALEXNETS, *backbones()]


def build_model(
    name: str,
    size: Size,
    *,
    weights: Literal["imagenet"] | Path | None,
    dropout: float | None = None,
    synchronized: bool = False,
    mirror: bool = False,
) -> keras.Model:
    """Build a classifier of one tag.

    A backbone with weights runs as at inference, also in training: it normalizes by what it has
    learned, not by the batch, and drops nothing.

    With `mirror` the features are the mean of the picture's and of its mirror image's. As the head
    is linear, so is the logit. The weights are the same, in the same order.

    Args:
        name: one of `model_names()`.
        size: (height, width) of its input in pixels.
        weights: of the backbone (a file as `save_weights` writes it; of the whole model for
            AlexNet), or None for random ones.
        dropout: share of the head's units that is dropped in training; None is the model's own.
        synchronized: let AlexNet's batch normalization count over all replicas' batches together.
        mirror: see the mirror image too, which AlexNet does not.

    Raises:
        UsageError: if there is no such model, or the size or the weights do not fit it.
        TransientError: if the ImageNet weights cannot be fetched.

    """
    if name in ALEXNETS:
        return _build_alexnet(name, size, weights, dropout, synchronized)
    builder = backbones().get(name)
    if builder is None:
        raise UsageError(f"--model {name!r}: there are {', '.join(model_names())}")
    backbone = _pretrained(builder, name, size, weights)
    inputs = keras.Input((*size, 3))
    x = _preprocess(builder, inputs)
    see = backbone if weights is None else _AtInference(backbone)
    # The mirror image's map is turned back before the mean, so that there is still one map, which
    # tells where the model looks; pooled over all of its places, it does not matter.
    x = see(x) if not mirror else layers.Average()([see(x), _mirrored(see(_mirrored(x)))])
    x = layers.GlobalAveragePooling2D(name="features", dtype="float32")(x)
    x = layers.Dropout(0.2 if dropout is None else dropout)(x)
    return keras.Model(inputs, probability_of(x), name=name)


def logits_of(model: keras.Model) -> keras.Model:
    """Return the model up to its logit, `(batch, 1)` float32: for a loss that cannot overflow."""
    return keras.Model(model.inputs, model.get_layer("logit").output)


def features_of(model: keras.Model) -> keras.Model:
    """Return the model up to its features, `(batch, channels)`: what the head builds on."""
    return keras.Model(model.inputs, model.get_layer("features").output)


def set_head(model: keras.Model, weights: ArrayLike, bias: float) -> None:
    """Let the model's logit be `features @ weights + bias`.

    Args:
        model: as `build_model` returns it.
        weights: `(channels,)`.
        bias: added to their sum.

    """
    kernel = np.asarray(weights, np.float32).reshape(-1, 1)
    model.get_layer("logit").set_weights([kernel, np.array([bias], np.float32)])


def set_trainable(model: keras.Model, blocks: int | Literal["all"]) -> None:
    """Let the head train, and of the backbone its top blocks, all of it, or nothing.

    What works at one resolution is a block: `block5` of VGG19, `conv5` of a ResNet. Batch
    normalization of a partly trained backbone stays as it is, as the small batches of fine-tuning
    would spoil it.
    """
    backbone = backbone_of(model)
    if backbone is None:
        return
    free: set[int] = set()
    if blocks != "all":
        free = {id(layer) for block in _blocks(backbone)[:blocks] for layer in block}
    # One by one: to set what is set already on a whole model does not reach its layers.
    for layer in backbone.layers:
        layer.trainable = blocks == "all" or (
            id(layer) in free and not isinstance(layer, layers.BatchNormalization)
        )


def backbone_of(model: keras.Model) -> keras.Model | None:
    """Return the part of a model that keras.applications gave, None for AlexNet."""
    parts = (getattr(layer, "backbone", layer) for layer in model.layers)
    return next((part for part in parts if isinstance(part, keras.Model)), None)


def _blocks(backbone: keras.Model) -> list[list[keras.layers.Layer]]:
    """Return the layers with weights by the resolution they work at, the coarsest first."""
    least = backbone.output.shape[1]
    current: float = math.inf
    blocks: list[list[keras.layers.Layer]] = []
    for layer in backbone.layers:
        shape = layer.output.shape
        # What is smaller than the end is on a side path, such as squeeze and excitation.
        if len(shape) == 4 and least <= shape[1] < current:
            current = shape[1]
            blocks.append([])
        if layer.weights and blocks:
            blocks[-1].append(layer)
    return [block for block in reversed(blocks) if block]


def with_resizing(model: keras.Model, size: Size, resize: Resize, fill: int = GREY) -> keras.Model:
    """Return the model as it is saved: it takes images of any size, `(batch, height, width, 3)`.

    Those of the model's own size pass unchanged; others are fitted into it as in training, but
    without the decoder's share in it.
    """
    inputs = keras.Input((None, None, 3), dtype="float32")
    fitted = layers.Resizing(
        *size,
        crop_to_aspect_ratio=resize == "crop",
        pad_to_aspect_ratio=resize == "letterbox",
        fill_mode="constant",
        fill_value=float(fill),
        antialias=True,
        dtype="float32",
    )(inputs)
    # A Resizing layer says to what follows that this is training, unless that is told otherwise.
    return keras.Model(inputs, model(fitted, training=False), name=model.name)


def core_of(model: keras.Model) -> keras.Model:
    """Return the model without what `with_resizing` has put before it."""
    last = model.layers[-1]
    return last if isinstance(last, keras.Model) else model


class _AtInference(layers.Layer):
    """Runs a backbone as it is at inference, also in training.

    To call it with `training=False` is not enough: a model that is called with True passes that on.
    It is in no saved model.
    """

    def __init__(self, backbone: keras.Model) -> None:
        super().__init__(name=backbone.name)
        self.backbone = backbone

    def call(self, inputs: Any) -> Any:
        """Return what the backbone does."""
        return self.backbone(inputs, training=False)


def _mirrored(maps: Any) -> Any:
    return ops.flip(maps, axis=2)


def probability_of(x: Any) -> Any:
    """Put a new head on features, `(batch, channels)`: the layers `logit` and `probability`."""
    logit = layers.Dense(1, dtype="float32", name="logit")(x)
    return layers.Activation("sigmoid", dtype="float32", name="probability")(logit)


def _build_alexnet(
    name: str,
    size: Size,
    weights: Literal["imagenet"] | Path | None,
    dropout: float | None,
    synchronized: bool,
) -> keras.Model:
    if weights == "imagenet":
        raise UsageError(f"--model {name}: there are no ImageNet weights of it to build on")
    build, usual = ALEXNETS[name]
    model = build(size, dropout=usual if dropout is None else dropout, synchronized=synchronized)
    if weights is not None:
        try:
            with _without_warnings():
                model.load_weights(weights)
        except (ValueError, OSError) as error:
            raise UsageError(f"--weights {weights} do not fit {name}: {_misfit(error)}") from error
    return model


def _pretrained(
    builder: Callable[..., keras.Model],
    name: str,
    size: Size,
    weights: Literal["imagenet"] | Path | None,
) -> keras.Model:
    if weights == "imagenet":
        link_into_cache()
    try:
        with _without_warnings():
            return builder(
                include_top=False,
                input_shape=(*size, 3),
                weights=str(weights) if weights is not None else None,
            )
    except UsageError:
        raise  # what a backbone of ours says
    except ValueError as error:
        option = "--weights" if isinstance(weights, Path) else "--image-size"
        value = weights if isinstance(weights, Path) else f"{size[0]}x{size[1]}"
        raise UsageError(f"{option} {value} does not fit {name}: {_misfit(error)}") from error
    except OSError as error:
        raise UsageError(f"--weights {weights} cannot be read: {one_line(error)}") from error
    except Exception as error:  # keras.utils.get_file raises a bare Exception
        if weights != "imagenet":
            raise
        raise TransientError(no_imagenet(name, one_line(error))) from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep Keras from telling each layer that it has no weights for: the error tells of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _misfit(error: Exception) -> str:
    """Return what Keras says of weights that do not fit, without the list of all layers."""
    return one_line(one_line(error, None).partition(" Example error message")[0])


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
    return layers.Rescaling(scale.tolist(), zero.tolist(), dtype="float32")(x)
