"""From what an extractor is asked for by, or from storage, to one that runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imagetag import layout
from imagetag.checks import LEAST_SIDES
from imagetag.errors import InputError, UsageError, one_line
from imagetag.features import keras_network, onnx_network, saved_model
from imagetag.features.asked import Asked, files_digest, kind_of
from imagetag.features.extractor import Extractor, ExtractorRecord, Kind, Unusable
from imagetag.features.stored_extractors import fetch_network
from imagetag.imaging import Size
from imagetag.log import get_logger
from imagetag.models import device_names
from imagetag.storage import Storage

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_USUAL_SIZE: Size = (224, 224)


def prepare_extractor(what: str, asked: Asked, folder: Path) -> tuple[ExtractorRecord, Path]:
    """Return the record of an extractor, and the file or folder of its network.

    Args:
        what: the name of a backbone, or the path of a `.keras` file, an ONNX file or the folder of
            a SavedModel.
        asked: how it takes pictures.
        folder: gets the network of one by name, and a copy of an ONNX file while it is tried.

    Raises:
        UsageError: if there is no such network, or it is none that features can be had of.
        TransientError: if the ImageNet weights cannot be fetched.

    """
    if what in LEAST_SIDES:
        record, path = _prepare_application(what, asked, folder)
    else:
        path = Path(what)
        kind = kind_of(path)
        try:
            record = _prepare_file(kind, path, asked, folder)
        except Unusable as error:
            raise UsageError(f"--extractor {what}: {error}") from error
    return record.model_copy(update={"asked": asked.digest(what)}), path


def load_extractor(
    storage: Storage,
    record: ExtractorRecord,
    folder: Path,
    *,
    batch_size: int = 32,
    strategy: tf.distribute.Strategy | None = None,
) -> Extractor:
    """Fetch an extractor into a folder, and make it ready to run.

    Args:
        storage: has it.
        record: of it.
        folder: gets its network.
        batch_size: pictures that each device takes at once.
        strategy: the devices; by default one.

    Raises:
        InputError: if it is missing, damaged, or another than its record says.

    """
    path = fetch_network(storage, record, folder)
    try:
        return open_extractor(record, path, batch_size=batch_size, strategy=strategy)
    except Unusable as error:
        raise _unlike(storage, record, str(error)) from error


def load_network(storage: Storage, record: ExtractorRecord, folder: Path) -> keras.Model:
    """Fetch an extractor, and return it as a Keras model that a head can be put on.

    Returns:
        From RGB pictures in 0..255, `(batch, height, width, 3)` float32, to features,
        `(batch, channels)` float32, of one view; its last layer is called `features`.

    Raises:
        InputError: as `load_extractor`, and if it is an ONNX file, which is no Keras model.

    """
    if record.kind == "onnx":
        raise InputError(
            f"the extractor {record.name!r} is an ONNX file, and cannot become a Keras model"
        )
    path = fetch_network(storage, record, folder)
    try:
        return _network(record, path)
    except Unusable as error:
        raise _unlike(storage, record, str(error)) from error


def open_extractor(
    record: ExtractorRecord,
    path: Path,
    *,
    batch_size: int = 32,
    strategy: tf.distribute.Strategy | None = None,
) -> Extractor:
    """Make an extractor ready to run whose network is on this machine.

    Raises:
        Unusable: if it is damaged, or another than its record says.

    """
    if record.kind == "onnx":
        _check_files(record, path)
        devices = int(strategy.num_replicas_in_sync) if strategy else 1
        gpus = strategy is not None and any("GPU" in device for device in device_names())
        if gpus and not onnx_network.uses_gpus():
            get_logger().warning(
                "ONNX Runtime uses no GPU: install onnxruntime-gpu", extractor=record.name
            )
            devices = 1  # which uses all processors
        return onnx_network.OnnxExtractor(record, path, batch_size, devices)
    if strategy is None:
        return keras_network.KerasExtractor(record, _network(record, path), batch_size)
    with strategy.scope():
        network = _network(record, path)
    return keras_network.KerasExtractor(record, network, batch_size, strategy)


def _prepare_application(name: str, asked: Asked, folder: Path) -> tuple[ExtractorRecord, Path]:
    foreign = asked.pixel_range != "byte" or asked.channel_order != "rgb"
    if foreign or asked.signature or asked.output:
        raise UsageError(
            f"--extractor {name}: a backbone by name knows its pixels and its output; "
            "--pixel-range, --channel-order, --signature and --output-name are of files"
        )
    size = asked.image_size or _USUAL_SIZE
    path = folder / "model.keras"
    folder.mkdir(parents=True, exist_ok=True)
    network = keras_network.save_application(name, size, asked.weights, path)
    content = keras_network.weights_digest(network)
    channels = int(network.output_shape[-1])
    return _record("application", name, content, size, asked, channels), path


def _prepare_file(kind: Kind, path: Path, asked: Asked, folder: Path) -> ExtractorRecord:
    signature, output = asked.signature, asked.output
    if signature and kind != "saved_model":
        raise Unusable("--signature is of a SavedModel, and this is none")
    fixed: tuple[int | None, int | None]
    if kind == "keras":
        fixed = keras_network.load_keras(path, output).input_shape[1:3]
    elif kind == "saved_model":
        signature, output, fixed = saved_model.find_signature(path, signature, output)
    else:
        # As it is stored: what it has in files beside it would not be there.
        (folder / "alone").mkdir(parents=True, exist_ok=True)
        alone = Path(shutil.copyfile(path, folder / "alone" / path.name))
        found, output = onnx_network.describe(onnx_network.open_session(alone), output)
        alone.unlink()
        fixed = found.size
    size = _settled_size(asked.image_size, fixed)
    record = _record(kind, path.stem, files_digest(path), size, asked, 1)
    record = record.model_copy(update={"signature": signature, "output": output})
    black = np.zeros((1, *size, 3), np.uint8)
    try:
        channels = open_extractor(record, path, batch_size=1).features(black).shape[-1]
    except Unusable:
        raise
    except Exception as error:  # whatever its runtime raises of what it cannot take
        raise Unusable(
            f"it takes no pictures of {size[0]}x{size[1]} pixels ({one_line(error, 200)})"
        ) from error
    return record.model_copy(update={"channels": channels})


def _record(
    kind: Kind, model: str, content: str, size: Size, asked: Asked, channels: int
) -> ExtractorRecord:
    return ExtractorRecord(
        kind=kind,
        model=model,
        content=content,
        image_size=size,
        resize=asked.resize,
        padding=asked.padding,
        pixel_range=asked.pixel_range,
        channel_order=asked.channel_order,
        views=1 if asked.views == 1 else 2,
        channels=channels,
    )


def _network(record: ExtractorRecord, path: Path) -> keras.Model:
    if record.kind == "application":
        part = keras_network.load_keras(path)
        if keras_network.weights_digest(part) != record.content:
            raise Unusable("its weights are not those it had")
        return keras_network.as_network(record, part)
    _check_files(record, path)
    if record.kind == "keras":
        part = keras_network.load_keras(path, record.output)
        record.check_input(str(part.inputs[0].dtype))
        return keras_network.as_network(record, part)
    return keras_network.as_network(record, saved_model.layer_of(record, path))


def _check_files(record: ExtractorRecord, path: Path) -> None:
    if files_digest(path) != record.content:
        raise Unusable("its files are not those it had")


def _settled_size(asked: Size | None, fixed: tuple[int | None, int | None]) -> Size:
    height, width = fixed
    if asked is not None:
        if height not in (None, asked[0]) or width not in (None, asked[1]):
            raise Unusable(
                f"it takes pictures of {height}x{width} pixels, and --image-size says "
                f"{asked[0]}x{asked[1]}"
            )
        return asked
    if height is None or width is None:
        raise Unusable("it takes pictures of several sizes: say which by --image-size")
    return height, width


def _unlike(storage: Storage, record: ExtractorRecord, why: str) -> InputError:
    key = layout.features(record.name, record.file)
    return InputError(
        f"{storage.url}/{key}: this extractor changed under its name, or is damaged: {why}; delete "
        f"{layout.features(record.name, 'extractor.json')} and run imagetag embed again"
    )
