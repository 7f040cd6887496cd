"""The models of several tags as one, in which what they have in common is there once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from imagetag.export.contents import ExportedTag
from imagetag.imaging import Size
from imagetag.models import Heads, join_heads
from imagetag.runs import least_logit
from imagetag.stats import Calibration

Floats = NDArray[np.float32]

_NARROW = 1e-30  # of a step: what is between its ends in 64 bits may be nothing in 32


@dataclass
class _Shared:
    """An extractor, the heads on it, and the places of their tags among all."""

    extractor: keras.Model
    heads: list[Heads] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


def joined(parts: Iterable[tuple[keras.Model, Heads]], size: Size) -> tuple[keras.Model, int]:
    """Return one model of the logits of several, `(batch, tags)`, and how many extractors it has.

    What comes before the features is there once where it is the same, and the heads on it are one
    matrix. They are taken one by one, and of those whose extractor is known only the head is
    kept.

    Args:
        parts: of each model, as `models.split_model` returns them, in the order of the outputs.
        size: (height, width) in pixels of their input.

    """
    found: dict[str, _Shared] = {}
    before: keras.Model | None = None
    digest = ""
    for place, (body, heads) in enumerate(parts):
        if body is not before:
            before, digest = body, _digest(body)
        if digest not in found:
            name = f"extractor_{len(found)}"
            found[digest] = _Shared(keras.Model(body.input, body.output, name=name))
        found[digest].heads.append(heads)
        found[digest].places.append(place)
    pixels = keras.Input((*size, 3), dtype="float32", name="pixels")
    logits = []
    for number, shared in enumerate(found.values()):
        heads = join_heads(shared.heads)
        dense = layers.Dense(len(heads.bias), dtype="float32", name=f"heads_{number}")
        logits.append(dense(shared.extractor(pixels, training=False)))
        dense.set_weights([heads.weights, heads.bias])
    logit = layers.Concatenate()(logits) if len(logits) > 1 else logits[0]
    order = [place for shared in found.values() for place in shared.places]
    if order != sorted(order):
        logit = ops.take(logit, np.argsort(order), axis=-1)
    return keras.Model(pixels, layers.Identity(name="logit")(logit)), len(found)


def with_decisions(model: keras.Model, tags: Sequence[ExportedTag]) -> keras.Model:
    """Return a model of logits with what is told of each: its probability, and yes or no.

    The outputs are `(batch, tags)`: `logit`, float32; `probability`, float32, calibrated; and
    `decision`, bool. They are of operations of Keras alone.

    Args:
        model: as `joined` returns it.
        tags: of its outputs.

    """
    logit = model.output
    least = np.array([least_logit(tag.logit_threshold) for tag in tags], np.float32)
    outputs = {
        "logit": logit,
        "probability": _probability(logit, [tag.calibration for tag in tags]),
        "decision": ops.greater_equal(logit, least),
    }
    return keras.Model(model.input, outputs, name="imagetag")


def _probability(logit: Any, calibrations: Sequence[Calibration]) -> Any:
    stepped = np.array([calibration.method == "isotonic" for calibration in calibrations])
    temperatures = np.array([calibration.temperature for calibration in calibrations], np.float32)
    smooth = ops.sigmoid(logit / temperatures)
    if not stepped.any():
        return smooth
    first, starts, slopes, rises = _steps(calibrations)
    # What `np.interp` does: of each step, the part that is below the logit.
    parts = ops.clip((ops.expand_dims(logit, -1) - starts) * slopes, 0.0, 1.0)
    return ops.where(stepped, ops.sum(parts * rises, axis=-1) + first, smooth)


def _steps(calibrations: Sequence[Calibration]) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the least probability of each tag, and its steps up from there.

    Returns:
        The least, `(tags,)`, and of each step, `(tags, steps)`, the logit it begins at, one over
        its width, and its height. Steps that a tag has not are of no height.

    """
    count = max(len(calibration.points) for calibration in calibrations) - 1
    first = np.zeros(len(calibrations), np.float32)
    starts, slopes, rises = np.zeros((3, len(calibrations), max(count, 1)), np.float32)
    for place, calibration in enumerate(calibrations):
        if calibration.method != "isotonic":
            continue
        logits, chances = np.array(calibration.points, np.float64).T
        rounded = logits.astype(np.float32)
        steps = len(logits) - 1
        first[place] = chances[0]
        starts[place, :steps] = rounded[:-1]
        slopes[place, :steps] = 1 / np.maximum(np.diff(rounded), np.float32(_NARROW))
        rises[place, :steps] = np.diff(chances)
    return first, starts, slopes, rises


def _digest(model: keras.Model) -> str:
    """Return a hash of what a model computes: its layers, by anything but their names, and weights.

    Names have numbers that depend on what was built before in the same process.
    """
    digest = hashlib.sha256()
    for layer in _layers(model):
        config = {
            name: value
            for name, value in layer.get_config().items()
            if name not in ("name", "trainable")
        }
        told = [type(layer).__name__, config]
        digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    for weight in model.weights:
        values = np.ascontiguousarray(ops.convert_to_numpy(weight))
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer
