"""Extractors that are TensorFlow SavedModels, of whatever made them.

A SavedModel is a program: what one of others does here is what they wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from imagetag.errors import one_line
from imagetag.features.extractor import ExtractorRecord, Unusable

_USUAL = ("serving_default", "serve")


def find_signature(
    path: Path, signature: str = "", output: str = ""
) -> tuple[str, str, tuple[int | None, int | None]]:
    """Return the signature and the output to take, and (height, width) where they are fixed.

    Args:
        path: of the SavedModel's folder.
        signature: its name; by default the usual one, or the only one.
        output: its name; by default the only one that can be features.

    Raises:
        Unusable: if there is none that takes one picture and gives numbers.

    """
    try:
        signatures = tf.saved_model.load(str(path)).signatures
    except Exception as error:  # whatever TensorFlow says of a folder that is none
        raise Unusable(f"it is no SavedModel ({one_line(error, 200)})") from error
    there = ", ".join(sorted(signatures)) or "none"
    only = next(iter(signatures)) if len(signatures) == 1 else _USUAL[0]
    name = signature or next(filter(signatures.__contains__, _USUAL), only)
    if name not in signatures:
        raise Unusable(f"it has no signature {name!r}, but {there}: name one by --signature")
    inputs = list(signatures[name].structured_input_signature[1].values())
    if len(inputs) != 1 or not _takes_pictures(inputs[0]):
        takes = ", ".join(f"{one.dtype.name} {one.shape}" for one in inputs) or "nothing"
        raise Unusable(
            f"its signature {name!r} takes {takes}, and not one batch of pictures (batch, height, "
            f"width, 3) as numbers; it has {there}: name another by --signature"
        )
    outputs = signatures[name].structured_outputs
    usable = sorted(key for key, one in outputs.items() if _is_features(one))
    if (output and output not in usable) or (not output and len(usable) != 1):
        gives = ", ".join(f"{key} {one.dtype.name} {one.shape}" for key, one in outputs.items())
        wanted = f"the output {output!r}" if output else "one output"
        raise Unusable(
            f"its signature {name!r} gives {gives}, and {wanted} of floating-point numbers (batch, "
            "channels) or (batch, rows, columns, channels) is wanted: name it by --output-name"
        )
    height, width = inputs[0].shape[1:3]
    return name, output or usable[0], (height, width)


def layer_of(record: ExtractorRecord, path: Path) -> Callable[[Any], Any]:
    """Return the SavedModel as a layer, from pictures as it takes them to its output."""
    layer = keras.layers.TFSMLayer(str(path), call_endpoint=record.signature)
    (spec,) = layer.call_endpoint_fn.structured_input_signature[1].values()
    record.check_input(spec.dtype.name)

    def call(pictures: Any) -> Any:
        return layer(keras.ops.cast(pictures, spec.dtype.name))[record.output]

    return call


def _takes_pictures(spec: tf.TensorSpec) -> bool:
    numeric = spec.dtype.is_floating or spec.dtype == tf.uint8
    return bool(
        numeric and spec.shape.rank == 4 and spec.shape[0] is None and spec.shape[3] in (3, None)
    )


def _is_features(spec: tf.TensorSpec) -> bool:
    return bool(spec.dtype.is_floating and spec.shape.rank in (2, 4))
