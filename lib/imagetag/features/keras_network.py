"""Extractors that Keras runs: backbones by their names, `.keras` files, and what becomes a layer.

Each becomes a model that takes RGB pictures in 0..255, `(batch, height, width, 3)` float32, and
returns their features, `(batch, channels)` float32, so that a head can be put on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from numpy.typing import NDArray

from imagetag.errors import one_line
from imagetag.features.extractor import ExtractorRecord, Unusable
from imagetag.imaging import Size
from imagetag.models import CUSTOM_LAYERS, build_model, core_of, features_of
from imagetag.suggest import nearest_first


class KerasExtractor:
    """Runs a Keras model on all devices of a strategy.

    Args:
        record: of the extractor.
        network: as this module makes it, in the strategy's scope.
        batch_size: pictures that each device takes at once.
        strategy: the devices; by default one.

    """

    def __init__(
        self,
        record: ExtractorRecord,
        network: keras.Model,
        batch_size: int,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        self.record, self._network = record, network
        self._strategy = strategy or tf.distribute.get_strategy()
        self._share = batch_size
        self.batch_size = batch_size * int(self._strategy.num_replicas_in_sync)

        def forward(pixels: Any) -> Any:
            pictures = tf.cast(pixels, tf.float32)
            views = [pictures, tf.reverse(pictures, [2])][: record.views]
            return tf.stack([network(view, training=False) for view in views], axis=1)

        def on_all(pixels: Any) -> Any:
            return self._strategy.run(forward, (pixels,))

        # Of one shape, so that what a picture gets does not depend on how many there are.
        self._run = tf.function(on_all, autograph=False)

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features of some pictures, as `Extractor` says."""
        found = [
            self._of_batch(pixels[i : i + self.batch_size])
            for i in range(0, len(pixels), self.batch_size)
        ]
        shape = 0, self.record.views, self.record.channels
        return np.concatenate(found) if found else np.zeros(shape, np.float32)

    def _of_batch(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = np.zeros((self.batch_size, *self.record.image_size, 3), np.uint8)
        batch[: len(pixels)] = pixels

        def share(context: Any) -> Any:
            first = context.replica_id_in_sync_group * self._share
            return tf.convert_to_tensor(batch[first : first + self._share])

        given = self._strategy.experimental_distribute_values_from_function(share)
        outputs = self._strategy.experimental_local_results(self._run(given))
        return np.concatenate([np.asarray(output) for output in outputs])[: len(pixels)]


def save_application(
    name: str, size: Size, weights: Literal["imagenet"] | Path, path: Path
) -> keras.Model:
    """Save a backbone up to its features, and return it.

    Args:
        name: as `build_model` takes it.
        size: (height, width) of its input in pixels.
        weights: as `build_model` takes them.
        path: ends in `.keras`.

    Raises:
        UsageError, TransientError: as `build_model`.

    """
    # Built without weights, as with them it has a layer that is in no saved model.
    network = features_of(build_model(name, size, weights=None))
    network.set_weights(features_of(build_model(name, size, weights=weights)).get_weights())
    network.save(path)
    return network


def weights_digest(network: keras.Model) -> str:
    """Return a digest of a network's weights, whatever its layers are called."""
    digest = hashlib.sha256()
    for weight in network.weights:
        values = np.ascontiguousarray(ops.convert_to_numpy(weight))
        digest.update(f"{values.dtype} {values.shape} ".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def load_keras(path: Path, output: str = "") -> keras.Model:
    """Load the part of a model in a `.keras` file that gives features.

    Args:
        path: of the file.
        output: the layer whose output they are; by default its layer `features`, or its output if
            it has none.

    Raises:
        Unusable: if it cannot be loaded, or has no such part.

    """
    try:
        model = core_of(keras.models.load_model(path, custom_objects=CUSTOM_LAYERS, compile=False))
    except Exception as error:  # a damaged archive raises whatever its reader does
        raise Unusable(f"it cannot be loaded ({one_line(error, 200)})") from error
    names = [layer.name for layer in model.layers]
    layer = output or ("features" if "features" in names else "")
    there_are = f"it has {nearest_first(layer, names)}"
    if layer and layer not in names:
        raise Unusable(f"it has no layer {layer!r}; {there_are}")
    outputs = [model.get_layer(layer).output] if layer else model.outputs
    if len(model.inputs) != 1 or len(outputs) != 1:
        raise Unusable(
            f"it has {len(model.inputs)} inputs and {len(outputs)} outputs, not one of each: name "
            f"the layer whose output has the features by --output-name; {there_are}"
        )
    return keras.Model(model.inputs[0], outputs[0])


def as_network(record: ExtractorRecord, part: Callable[[Any], Any]) -> keras.Model:
    """Return what takes RGB pictures in 0..255 and returns features, whatever a part of it takes.

    Args:
        record: says how the part takes pictures.
        part: maps `(batch, height, width, 3)` to `(batch, channels)`, or to
            `(batch, rows, columns, channels)`, of which the mean is taken.

    Raises:
        Unusable: if it does not.

    """
    inputs = keras.Input((*record.image_size, 3), dtype="float32")
    x = inputs
    if record.pixel_range != "byte":
        factors, offsets = record.scale()
        x = layers.Rescaling(factors.tolist(), offsets.tolist(), dtype="float32")(x)
    if record.channel_order == "bgr":
        x = ops.flip(x, axis=-1)
    try:
        x = part(x)
        if len(x.shape) == 4:
            x = layers.GlobalAveragePooling2D(dtype="float32")(x)
        network = keras.Model(
            inputs, layers.Activation("linear", dtype="float32", name="features")(x)
        )
        found = network(np.zeros((1, *record.image_size, 3), np.float32)).shape
    except Exception as error:  # whatever its graph raises of another shape
        height, width = record.image_size
        raise Unusable(
            f"it takes no pictures of {height}x{width} pixels ({one_line(error, 200)})"
        ) from error
    if len(found) != 2:
        raise Unusable(f"its output has the shape {tuple(found)}, and not (pictures, channels)")
    return network
