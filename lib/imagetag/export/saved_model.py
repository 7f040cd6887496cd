"""A trained model as a SavedModel that TF Serving takes: a picture's bytes in, its logit out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import ops
from numpy.typing import ArrayLike

from imagetag.dataset import GREY, Resize
from imagetag.export.decoding import load_pixels
from imagetag.imaging import Size
from imagetag.layout import Layout
from imagetag.models import core_of, split_model
from imagetag.runs import EXPORT_FOLDER, EXPORT_MARKER
from imagetag.storage import Storage


def export_model(model: keras.Model, folder: Path, size: Size, resize: Resize) -> None:
    """Write a model as a SavedModel, which plain TensorFlow can load.

    It has two signatures, each with two outputs, `(batch,)` float32: `logit`, to be compared with
    the `logit_threshold` of `decision.json`; and `probability`, its sigmoid, which is 1 from a
    logit of 16.64 on, and no number to decide by. The signatures are:

    - `serving_default` takes `image_bytes`, `(batch,)` strings: JPEG, PNG, WebP or BMP files. One
      that cannot be decoded fails the whole batch with InvalidArgumentError.
    - `pixels` takes `pixels`, `(batch, height, width, 3)` float32, RGB in 0..255 of the input
      size.

    Args:
        model: takes `(batch, height, width, 3)` in 0..255 and returns `(batch, 1)`; has a layer
            `logit`.
        folder: is created.
        size: (height, width) in pixels of the input.
        resize: how pictures are fitted into it, as `dataset.load_pixels` does.

    """
    core = core_of(model)
    split_model(core, size)  # it is one of ours
    values = {"logit": core.get_layer("logit").output, "probability": core.output}
    outputs = {name: ops.squeeze(value, axis=-1) for name, value in values.items()}
    write_saved_model(keras.Model(core.input, outputs), folder, size, resize)


def write_saved_model(
    model: keras.Model,
    folder: Path,
    size: Size,
    resize: Resize,
    told: Mapping[str, ArrayLike] | None = None,
    *,
    bars: int = GREY,
) -> None:
    """Write a model as a SavedModel of two signatures, of files and of pixels.

    Args:
        model: takes `(batch, height, width, 3)` in 0..255; its outputs have names.
        folder: is created.
        size: (height, width) in pixels of the input.
        resize: how pictures are fitted into it, as `dataset.load_pixels` does.
        told: further outputs by name, which are the same for every picture.
        bars: the colour beside a picture of another aspect, in each channel, 0..255.

    """
    constants = {name: tf.constant(values)[tf.newaxis] for name, values in (told or {}).items()}

    def from_pixels(pixels: Any) -> dict[str, Any]:
        count = tf.shape(pixels)[0]
        same = {name: tf.repeat(values, count, axis=0) for name, values in constants.items()}
        return {**model(pixels, training=False), **same}

    def from_bytes(image_bytes: Any) -> dict[str, Any]:
        pixels = tf.map_fn(
            lambda data: load_pixels(data, size, resize, bars),
            image_bytes,
            fn_output_signature=tf.TensorSpec((*size, 3), tf.float32),
        )
        return from_pixels(pixels)

    # What Keras exports by itself has every weight in it twice.
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    pictures = tf.TensorSpec([None, *size, 3], tf.float32, name="pixels")
    files = tf.TensorSpec([None], tf.string, name="image_bytes")
    signatures = {
        "serving_default": tf.function(from_bytes, input_signature=[files], autograph=False),
        "pixels": tf.function(from_pixels, input_signature=[pictures], autograph=False),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)


def store_export(
    storage: Storage,
    tag: str,
    run: str,
    model: keras.Model,
    scratch: Path,
    *,
    size: Size,
    resize: Resize,
) -> None:
    """Export a run's model into storage; the file that makes it a SavedModel comes last.

    Args:
        storage: gets the files.
        tag: of the run.
        run: its name.
        model: as `export_model` takes it.
        scratch: a folder for the files until they are uploaded.
        size: (height, width) in pixels of the model's input.
        resize: how pictures are fitted into it.

    """
    folder = scratch / EXPORT_FOLDER
    export_model(model, folder, size, resize)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == EXPORT_MARKER):
        name = path.relative_to(scratch).as_posix()
        storage.upload(path, Layout(tag).run(run, name))
