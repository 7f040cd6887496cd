"""Which parts of a picture speak for the tag, as a model sees it: Grad-CAM, and how it is shown.

Source: R. R. Selvaraju et al., "Grad-CAM: Visual explanations from deep networks via gradient-based
localization", ICCV 2017, equations 1 and 2. Each channel of the last feature map is weighted by the
mean of the logit's gradient over it; where the sum of the channels is positive, there is evidence.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import keras
import matplotlib as mpl
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from imagetag.dataset import Resize, frame_of
from imagetag.errors import InputError
from imagetag.imaging import Size

_BATCH = 8  # pictures at once, or fewer if they are large:
_PIXELS = _BATCH * 256 * 256  # of a batch, as what the model computes on the way takes memory
# What is left of a sum of terms that cancel out is rounding, not evidence.
_ROUNDING = 1e-5
_COLORS = "plasma"  # its lightness rises evenly, for every kind of colour blindness
_VEIL = 0.75  # opacity where the evidence is strongest: the picture shows through
_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow turns them into grey


class GradCam:
    """Makes heatmaps of what a model looks at.

    Args:
        model: as `runs.load_model` returns it.

    Attributes:
        size: (height, width) in pixels of the pictures it takes.

    Raises:
        InputError: if the model has no feature map that its logit is made of.

    """

    def __init__(self, model: keras.Model) -> None:
        # Pictures come at its size: what resizes them on the way is not needed.
        core = next(filter(_has_logit, [*model.layers[::-1], model]), None)
        parts = None
        if core is not None and len(core.inputs) == 1 and None not in core.inputs[0].shape[1:]:
            parts = _cut(core.inputs[0], core.get_layer("logit").output)
        if core is None or parts is None:
            raise InputError(
                f"the model {model.name!r} has no convolutional feature map before its logit, so "
                "there is no telling where it looks: train it again with a larger --image-size, or "
                "with another --model"
            )
        self._below, self._above = parts
        self.size: Size = core.inputs[0].shape[1:3]
        self._batch = max(1, min(_BATCH, _PIXELS // math.prod(self.size)))
        pixels = tf.TensorSpec((None, *self.size, 3), tf.uint8)
        self._to_maps = tf.function(self._see, input_signature=[pixels], autograph=False)
        self._to_heat = tf.function(self._look, autograph=False, reduce_retracing=True)

    def heatmaps(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return where the evidence for the tag is, from 0 for none to 1 for each picture's most.

        All of it is 0 for a picture without any. A few pictures are computed at once, whatever
        their number.

        Args:
            pixels: `(pictures, height, width, 3)`, RGB at the model's size, as
                `dataset.load_pixels` returns it.

        Returns:
            `(pictures, height, width)`.

        """
        if pixels.shape[1:] != (*self.size, 3):
            raise ValueError(f"the model takes pictures of {self.size}, and these {pixels.shape}")
        heatmaps = np.zeros(pixels.shape[:3], np.float32)
        for start in range(0, len(pixels), self._batch):
            some = slice(start, start + self._batch)
            heatmaps[some] = self.heatmaps_of(self.maps(pixels[some]))
        return heatmaps

    def maps(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the last feature maps of a few pictures, which no head changes.

        Args:
            pixels: as `heatmaps` takes them.

        Returns:
            `(pictures, rows, columns, channels)`.

        """
        return np.asarray(self._to_maps(tf.constant(pixels)))

    def heatmaps_of(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what `heatmaps` does, of a few pictures' feature maps."""
        return np.asarray(self._to_heat(tf.constant(maps)))

    def _see(self, pixels: Any) -> Any:
        return tf.cast(_run(self._below, tf.cast(pixels, tf.float32)), tf.float32)

    def _look(self, maps: Any) -> Any:
        cells = maps.shape[1] * maps.shape[2]
        with tf.GradientTape() as tape:
            tape.watch(maps)
            # Times the cells, as a share of each may be too small a number for float16.
            total = cells * tf.reduce_sum(tf.cast(_run(self._above, maps), tf.float32))
        terms = maps * tf.reduce_mean(tape.gradient(total, maps), axis=(1, 2), keepdims=True)
        evidence = tf.reduce_sum(terms, axis=3, keepdims=True)
        least = _ROUNDING * tf.reduce_max(tf.reduce_sum(tf.abs(terms), 3), (1, 2))
        evidence = tf.image.resize(tf.nn.relu(evidence), self.size)[..., 0]
        most = tf.reduce_max(evidence, (1, 2))
        # What the largest is where one is not a number, devices do not agree on.
        found = (most > least) & tf.reduce_all(tf.math.is_finite(evidence), (1, 2))
        scale = tf.where(found, most, 1)[:, tf.newaxis, tf.newaxis]
        return tf.where(found[:, tf.newaxis, tf.newaxis], evidence / scale, 0)


def on_picture(heatmap: NDArray[np.float32], shape: Size, resize: Resize) -> NDArray[np.float32]:
    """Return a heatmap of the model's input as one of the whole picture.

    Grey bars beside the picture are left out; what was cut off the picture has no evidence.

    Args:
        heatmap: `(height, width)` of the input.
        shape: (height, width) in pixels of the picture, or of a smaller copy of it.
        resize: how the picture was fitted into the input.

    Returns:
        An array of the shape that is asked for.

    """
    frame = frame_of(shape, (heatmap.shape[0], heatmap.shape[1]), resize)
    top, left = (
        (all_of - part) // 2 for all_of, part in zip(heatmap.shape, frame.size, strict=True)
    )
    shown = heatmap[top : top + frame.size[0], left : left + frame.size[1]]
    x0, y0, x1, y1 = (round(edge) for edge in frame.box(shape[1], shape[0]))
    # Of a picture of few pixels, at least one.
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    whole = np.zeros(shape, np.float32)
    whole[y0:y1, x0:x1] = _resized(shown, (y1 - y0, x1 - x0))
    return whole


def overlay(pixels: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> Image.Image:
    """Lay a heatmap over a picture: from purple for little evidence to yellow for the most.

    The more there is, the greyer the picture below, so that its own colours are not taken for the
    map's. Where there is none, the picture is as it was.

    Args:
        pixels: `(height, width, 3)`, RGB.
        heatmap: in 0..1, over all of the picture; of any size, it is made to fit.

    Returns:
        An image of mode RGB and of the picture's size.

    """
    heat = _resized(heatmap, (pixels.shape[0], pixels.shape[1]))[..., np.newaxis]
    grey = pixels @ np.array(_LUMINANCE, np.float32)[:, np.newaxis]
    colors = _palette()[np.rint(heat[..., 0] * 255).astype(np.uint8)]
    faded = pixels * (1 - heat) + grey * heat
    mixed = faded * (1 - _VEIL * heat) + colors * (_VEIL * heat)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


@functools.cache
def _palette() -> NDArray[np.float32]:
    """Return the colours of 0..255, `(256, 3)`."""
    return np.asarray(255 * mpl.colormaps[_COLORS](np.arange(256))[:, :3], np.float32)


def _resized(heatmap: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    picture = Image.fromarray(heatmap.astype(np.float32))
    resized = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(resized, np.float32), 0, 1)


# ---- a model in two halves

_Half = list[keras.Model]


def _has_logit(model: Any) -> bool:
    return any(layer.name == "logit" for layer in getattr(model, "layers", ()))


def _cut(start: Any, end: Any) -> tuple[_Half, _Half] | None:
    """Cut a graph in two at the last feature map that all of its end is made of.

    Pooling behind it only makes it coarser, and one cell has no place. Each half is models to be
    called one after the other; None if there is no such map, or no convolution before it.
    """
    tensor = end
    while True:
        maker, sources, index = _origin(tensor)
        parts: tuple[_Half, _Half] | None = None
        if getattr(maker, "outputs", None) and len(sources) == 1:  # a model of layers again
            inner = _cut(maker.inputs[0], maker.outputs[index])
            if inner is not None:
                parts = [*_between(start, sources[0]), *inner[0]], inner[1]
        elif _cells(tensor) > 1 and not _is_pooling(maker, sources, tensor):
            below = _between(start, tensor)
            if any(len(weight.shape) == 4 for model in below for weight in model.weights):
                parts = below, []
        if parts is not None:
            return parts[0], [*parts[1], *_between(tensor, end)]
        if len(sources) != 1:
            return None
        tensor = sources[0]


def _between(start: Any, end: Any) -> _Half:
    """Return the model from a tensor to another; none if they are the same."""
    return [] if start is end else [keras.Model(start, end)]


def _origin(tensor: Any) -> tuple[Any, list[Any], int]:
    """Return what made a symbolic tensor, of which tensors, and which of its outputs it is."""
    # Keras has no public way to ask where one comes from; all of its graphs stand on this one.
    maker, node, index = tensor._keras_history
    return maker, maker._inbound_nodes[node].input_tensors, index


def _is_pooling(maker: Any, sources: list[Any], tensor: Any) -> bool:
    """Tell whether an operation has learned nothing, and leaves fewer cells."""
    learned = getattr(maker, "weights", ())
    return len(sources) == 1 and not learned and _cells(sources[0]) > _cells(tensor)


def _cells(tensor: Any) -> int:
    """Return how many places a feature map has; 0 if it is none."""
    return math.prod(tensor.shape[1:3]) if len(tensor.shape) == 4 else 0


def _run(half: Iterable[keras.Model], values: Any) -> Any:
    for model in half:
        values = model(values, training=False)
    return values
