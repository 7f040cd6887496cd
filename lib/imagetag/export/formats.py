"""One writer a format: from a Keras model to a file or folder that tells what is in it."""

from __future__ import annotations

import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from imagetag.errors import InputError, one_line
from imagetag.export.contents import (
    FOLDER_FILE,
    NAME,
    Contents,
    append_contents,
)
from imagetag.export.saved_model import write_saved_model
from imagetag.models import with_resizing
from imagetag.runs import least_logit


def write(model: keras.Model, path: Path, contents: Contents) -> None:
    """Write a model as its contents say.

    Args:
        model: as `joined.with_decisions` returns it.
        path: the file, or the folder of a SavedModel; is created.
        contents: of it.

    Raises:
        InputError: if the format has no place for something in the model.

    """
    _WRITERS[contents.format](model, path, contents)


def _write_keras(model: keras.Model, path: Path, contents: Contents) -> None:
    """Write a model that takes pictures of any size, as that of a run does."""
    if any(isinstance(layer, keras.layers.TFSMLayer) for layer in model._flatten_layers()):
        raise InputError(
            "a .keras file would name the SavedModel of the extractor, and not have it: let "
            "--output be FILE.onnx, FILE.tflite or a folder"
        )
    taken = contents.input
    with_resizing(model, taken.image_size, taken.resize, taken.bars).save(path)
    append_contents(path, contents)


def _write_saved_model(model: keras.Model, path: Path, contents: Contents) -> None:
    told = {
        "tag": np.array([tag.tag.encode() for tag in contents.tags], object),
        "logit_threshold": np.array([least_logit(tag.logit_threshold) for tag in contents.tags]),
    }
    taken = contents.input
    size, resize, bars = taken.image_size, taken.resize, taken.bars
    write_saved_model(model, path, size, resize, told, bars=bars)
    file = path / FOLDER_FILE
    file.parent.mkdir()
    file.write_text(contents.model_dump_json(indent=2), encoding="utf-8")


def _write_onnx(model: keras.Model, path: Path, contents: Contents) -> None:
    import onnx  # an extra

    _convert(model, path, "onnx")
    written = onnx.load(path)
    for value in (*written.graph.input, *written.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(written, {NAME: contents.model_dump_json()})
    onnx.save(written, path)


def _write_litert(model: keras.Model, path: Path, contents: Contents) -> None:
    # Of its own operations alone: those of TensorFlow, which Keras would let it use, are in no
    # interpreter that is not built for them.
    _convert(model, path, "litert", target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]})
    append_contents(path, contents)


def _convert(model: keras.Model, path: Path, kind: str, **how: object) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converters, about their own insides
            taken = tf.TensorSpec(model.input.shape, tf.float32, name="pixels")
            model.export(path, format=kind, verbose=False, input_signature=[taken], **how)
    except Exception as error:  # whatever a converter raises on what it does not know
        raise InputError(
            f"--format {kind} has no place for something in these models "
            f"({one_line(error, 200)}): take another --format"
        ) from error


_WRITERS = {
    "keras": _write_keras,
    "saved_model": _write_saved_model,
    "onnx": _write_onnx,
    "litert": _write_litert,
}
