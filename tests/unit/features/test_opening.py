"""Extractors of every kind do what they are asked for, and what they cannot is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from onnx import TensorProto, helper

from imagetag.errors import InputError, UsageError
from imagetag.features import opening
from imagetag.features.asked import Asked
from imagetag.features.extraction import extract
from imagetag.features.extractor import Extractor
from imagetag.features.keras_network import KerasExtractor, weights_digest
from imagetag.features.opening import (
    load_extractor,
    load_network,
    open_extractor,
    prepare_extractor,
)
from imagetag.features.stored_extractors import store_extractor
from imagetag.imaging.images import BadImage
from imagetag.models.architectures import build_model, features_of, with_resizing
from imagetag.storage.local import LocalStorage
from tests.predicting import SIZE, make_model, noise

PIXELS = np.random.default_rng(1).integers(0, 256, (5, *SIZE, 3), np.uint8)
_FIRST = keras.initializers.Constant(np.arange(12).reshape(1, 1, 3, 4) / 10)


def expected(pixels: NDArray[Any]) -> NDArray[Any]:
    """What `mean_of_mix` and its like say of pictures as they take them, (n, 4)."""
    means: NDArray[Any] = pixels.astype(np.float64).mean(axis=(1, 2))
    return means @ (np.arange(12).reshape(3, 4) / 10)


def mix(size: tuple[int | None, int | None] = (None, None), dtype: str = "float32") -> keras.Model:
    """A network whose features mix the means of its channels; its mirror's are the same."""
    inputs = keras.Input((*size, 3), dtype=dtype)
    x = keras.ops.cast(inputs, "float32")
    return keras.Model(inputs, keras.layers.Conv2D(4, 1, kernel_initializer=_FIRST)(x))


def exported(path: Path, model: keras.Model) -> Path:
    model.export(path, verbose=False)
    return path


def onnx_file(path: Path, shape: list[Any], dtype: int = TensorProto.FLOAT) -> Path:
    """As `mix`, of pictures of a shape with its channels first or last."""
    first = shape[1] == 3
    kernel = (np.arange(12).reshape(3, 4) / 10).astype(np.float32)
    nodes = [helper.make_node("Cast", ["pictures"], ["numbers"], to=TensorProto.FLOAT)]
    if not first:
        nodes += [helper.make_node("Transpose", ["numbers"], ["first"], perm=[0, 3, 1, 2])]
    nodes += [
        helper.make_node("GlobalAveragePool", ["numbers" if first else "first"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "kernel"], ["mixed"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mix",
        [helper.make_tensor_value_info("pictures", dtype, shape)],
        [helper.make_tensor_value_info("mixed", TensorProto.FLOAT, [shape[0], 4])],
        [onnx.numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "keras": lambda folder: _saved(folder / "a.keras", mix()),
    "saved_model": lambda folder: exported(folder / "tagger", mix()),
    "onnx": lambda folder: onnx_file(folder / "a.onnx", ["n", 3, "h", "w"]),
    "onnx-last": lambda folder: onnx_file(folder / "a.onnx", ["n", None, None, 3]),
}


def _saved(path: Path, model: keras.Model) -> Path:
    model.save(path)
    return path


@pytest.fixture(scope="module", params=MAKERS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("network"))


def opened(path: Path, batch_size: int = 2, **asked: Any) -> Extractor:
    record, found = prepare_extractor(
        str(path), Asked(**{"image_size": SIZE, **asked}), path.parent / "scratch"
    )
    return open_extractor(record, found, batch_size=batch_size)


def test_every_kind_gives_the_features_of_pictures_in_any_number(network: Path) -> None:
    extractor = opened(network)
    assert extractor.record.channels == 4
    found = extractor.features(PIXELS)
    assert found.shape == (5, 2, 4)
    assert found.dtype == np.float32
    assert np.allclose(found[:, 0], expected(PIXELS), rtol=1e-4)
    assert np.allclose(found[:, 1], found[:, 0], rtol=1e-4)
    assert extractor.features(PIXELS[:0]).shape == (0, 2, 4)


def test_every_kind_takes_pixels_as_it_is_told(network: Path) -> None:
    extractor = opened(network, pixel_range="imagenet", channel_order="bgr", views=1)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = ((PIXELS / 255 - mean) / deviation)[..., ::-1]
    assert np.allclose(extractor.features(PIXELS), expected(pixels)[:, None], atol=1e-4)


def test_what_is_stored_is_what_was_prepared(network: Path, tmp_path: Path) -> None:
    extractor = opened(network)
    storage = LocalStorage(tmp_path / "storage")
    record = store_extractor(storage, extractor.record, network)
    loaded = load_extractor(storage, record, tmp_path / "copy", batch_size=3)
    assert np.allclose(loaded.features(PIXELS), extractor.features(PIXELS), rtol=1e-4)


def test_one_whose_files_changed_is_not_used(network: Path, tmp_path: Path) -> None:
    extractor = opened(network)
    storage = LocalStorage(tmp_path / "storage")
    record = store_extractor(storage, extractor.record, network)
    key = f".features/{record.name}/{record.file}"
    key += "/saved_model.pb" if record.kind == "saved_model" else ""
    storage.write(key, storage.read(key) + b"\n")
    with pytest.raises(InputError, match=r"changed under its name, or is damaged: .*embed again"):
        load_extractor(storage, record, tmp_path / "copy")


def test_a_network_becomes_a_model_that_a_head_can_be_put_on(network: Path, tmp_path: Path) -> None:
    record = opened(network, pixel_range="unit").record
    storage = LocalStorage(tmp_path / "storage")
    store_extractor(storage, record, network)
    if record.kind == "onnx":
        with pytest.raises(InputError, match="is an ONNX file"):
            load_network(storage, record, tmp_path / "copy")
        return
    model = load_network(storage, record, tmp_path / "copy")
    assert model.layers[-1].name == "features"
    assert model.output_shape == (None, 4)
    found = np.asarray(model(PIXELS.astype(np.float32)))
    assert np.allclose(found, expected(PIXELS / 255), rtol=1e-4)


def test_the_second_view_is_the_mirror_image(tmp_path: Path) -> None:
    model = make_model()
    path = _saved(tmp_path / "run.keras", model)
    found = opened(path).features(PIXELS)
    mirrored = opened(path).features(PIXELS[:, :, ::-1])
    assert np.allclose(found[:, ::-1], mirrored, rtol=1e-5)
    assert not np.allclose(found[:, 0], found[:, 1], rtol=1e-2)


def test_of_a_run_the_features_are_taken_and_its_own_size(tmp_path: Path) -> None:
    """What train stores: resizing, then a core with a layer `features`."""
    model = make_model()
    path = _saved(tmp_path / "run.keras", model)
    extractor = opened(path, image_size=None, views=1)
    assert extractor.record.image_size == SIZE
    core = model.layers[-1]
    theirs = np.asarray(features_of(core)(PIXELS.astype(np.float32)))
    assert np.allclose(extractor.features(PIXELS)[:, 0], theirs, rtol=1e-5)
    assert with_resizing(core, SIZE, "letterbox").output_shape[-1] != theirs.shape[-1]


def test_a_layer_can_be_named_whose_output_is_taken(tmp_path: Path) -> None:
    model = make_model()
    path = _saved(tmp_path / "run.keras", model)
    extractor = opened(path, output="logit")
    assert extractor.record.channels == 1
    with pytest.raises(UsageError, match=r"--extractor .*run\.keras: it has no layer 'lögit'"):
        opened(path, output="lögit")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small backbone."""
    keras.utils.set_random_seed(3)
    path = tmp_path_factory.mktemp("weights") / "some.weights.h5"
    backbone = keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    backbone.save_weights(path)
    return path


def test_a_backbone_by_name_is_what_train_builds_on(weights: Path, tmp_path: Path) -> None:
    asked = Asked(image_size=(32, 32), weights=weights)
    record, path = prepare_extractor("mobilenet", asked, tmp_path / "a")
    pixels = np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), np.uint8)
    found = open_extractor(record, path, batch_size=2).features(pixels)
    model = build_model("mobilenet", (32, 32), weights=weights)
    theirs = np.asarray(features_of(model)(pixels.astype(np.float32)))
    assert np.allclose(found[:, 0], theirs, rtol=1e-4, atol=1e-5)
    assert weights_digest(features_of(model)) == record.content, "it depends on layers' names"

    storage = LocalStorage(tmp_path / "storage")
    store_extractor(storage, record, path)
    other = keras.models.load_model(path)
    other.set_weights([values + 1 for values in other.get_weights()])
    other.save(tmp_path / "other.keras")
    storage.upload(tmp_path / "other.keras", f".features/{record.name}/model.keras")
    with pytest.raises(InputError, match="its weights are not those it had"):
        load_extractor(storage, record, tmp_path / "copy")


@pytest.mark.parametrize(
    ("what", "asked", "why"),
    [
        ("mobilnet", {}, "there is no backbone of that name"),
        ("mobilenet", {"pixel_range": "unit"}, "knows its pixels and its output"),
        ("nothing.keras", {}, "there is no backbone of that name"),
    ],
)
def test_what_there_is_not_is_told(
    what: str, asked: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"--extractor .*{what}.*{why}"):
        prepare_extractor(what, Asked(**asked), tmp_path)


def _signature(path: Path, shape: list[int | None], outputs: Any, name: str = "serve") -> Path:
    """Save a function of pictures of a shape."""
    module = tf.Module()
    module.run = tf.function(outputs, input_signature=[tf.TensorSpec(shape, tf.float32)])
    tf.saved_model.save(module, str(path), {name: module.run.get_concrete_function()})
    return path


def _vector(x: Any) -> Any:
    return tf.reduce_mean(x, [1, 2])


BAD: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "not a SavedModel": (
        lambda path: _file(path / "saved_model.pb", b"no"), {}, "it is no SavedModel",
    ),
    "no .keras": (lambda path: _file(path / "a.keras", b"no"), {}, "it cannot be loaded"),
    "no .onnx": (lambda path: _file(path / "a.onnx", b"no"), {}, "it is no ONNX file"),
    "no signature": (
        lambda path: exported(path / "m", mix()), {"signature": "x"}, "no signature 'x', but serve",
    ),
    "no pictures": (
        lambda path: _signature(path / "m", [None, 7], lambda x: {"a": x}),
        {}, r"takes float32 \(None, 7\), and not one batch of pictures",
    ),
    "several outputs": (
        lambda path: _signature(
            path / "m", [None, 24, 32, 3], lambda x: {"a": _vector(x), "b": _vector(x)}
        ),
        {}, "one output of floating-point numbers .* is wanted: name it by --output-name",
    ),
    "no such output": (
        lambda path: exported(path / "m", mix()), {"output": "x"}, "the output 'x' of floating",
    ),
    "another size": (
        lambda path: onnx_file(path / "a.onnx", ["n", 3, 10, 10]),
        {}, "takes pictures of 10x10 pixels, and --image-size says 24x32",
    ),
    "no size": (
        lambda path: _saved(path / "a.keras", mix()),
        {"image_size": None}, "say which by --image-size",
    ),
    "no picture for ONNX": (
        lambda path: onnx_file(path / "a.onnx", ["n", 5, "h", "w"]), {}, "and not one batch of",
    ),
    "usual signature of several": (
        lambda path: _two_signatures(path / "m"),
        {}, "no signature 'serving_default', but one, two: name one by --signature",
    ),
    "bytes for a SavedModel": (
        lambda path: exported(path / "m", mix(dtype="uint8")),
        {"pixel_range": "unit"}, "takes pixels as bytes, and --pixel-range unit has other",
    ),
    "bytes for a .keras": (
        lambda path: _saved(path / "a.keras", mix(dtype="uint8")),
        {"pixel_range": "signed"}, "takes pixels as bytes",
    ),
    "bytes for ONNX": (
        lambda path: onnx_file(path / "a.onnx", [1, 24, 32, 3], TensorProto.UINT8),
        {"pixel_range": "imagenet"}, "takes pixels as bytes",
    ),
    "weights beside ONNX": (
        lambda path: _weights_beside(onnx_file(path / "a.onnx", ["n", 3, "h", "w"])),
        {}, "it is no ONNX file that can be loaded by itself",
    ),
    "signature of ONNX": (
        lambda path: onnx_file(path / "a.onnx", ["n", 3, "h", "w"]),
        {"signature": "x"}, "--signature is of a SavedModel",
    ),
}  # fmt: skip


def _two_signatures(path: Path) -> Path:
    module = tf.Module()
    spec = tf.TensorSpec([None, 24, 32, 3], tf.float32)
    module.run = tf.function(lambda x: {"a": _vector(x)}, input_signature=[spec])
    run = module.run.get_concrete_function()
    tf.saved_model.save(module, str(path), {"one": run, "two": run})
    return path


def _weights_beside(path: Path) -> Path:
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    return path


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path.parent if path.name == "saved_model.pb" else path


@pytest.mark.parametrize("case", BAD)
def test_a_network_that_cannot_be_used_is_told_of_in_a_line(case: str, tmp_path: Path) -> None:
    make, asked, why = BAD[case]
    with pytest.raises(UsageError, match=f"--extractor .*: .*{why}") as told:
        opened(make(tmp_path), **asked)
    assert "\n" not in str(told.value)


def test_an_output_and_a_signature_can_be_named(tmp_path: Path) -> None:
    path = _signature(
        tmp_path / "m", [None, 24, 32, 3], lambda x: {"a": _vector(x), "b": 2 * _vector(x)}, "tags"
    )
    extractor = opened(path, signature="tags", output="b", image_size=None, views=1)
    assert extractor.record.image_size == SIZE
    means = PIXELS.astype(np.float64).mean(axis=(1, 2))
    assert np.allclose(extractor.features(PIXELS)[:, 0], 2 * means, rtol=1e-4)


def test_uint8_inputs_and_batches_of_one_are_fed_as_they_want(tmp_path: Path) -> None:
    for path in (
        exported(tmp_path / "m", mix(dtype="uint8")),
        onnx_file(tmp_path / "a.onnx", [1, 24, 32, 3], TensorProto.UINT8),
    ):
        found = opened(path).features(PIXELS)
        assert np.allclose(found[:, 0], expected(PIXELS), rtol=1e-4)


def test_onnx_runs_on_several_devices_as_on_one(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "a.onnx", ["n", 3, "h", "w"])
    one = opened(path)
    strategy = _Replicas(3)
    several = open_extractor(one.record, path, batch_size=1, strategy=strategy)
    assert several.batch_size == 3
    assert np.allclose(several.features(PIXELS), one.features(PIXELS))


def test_onnx_without_its_gpus_is_told_of_and_runs_once_on_all_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That GPUs are there is TensorFlow's word; what is installed here has none."""
    path = onnx_file(tmp_path / "a.onnx", ["n", 3, "h", "w"])
    one = opened(path)
    assert open_extractor(one.record, path, strategy=_Replicas(2)).batch_size == 64
    assert "no GPU" not in capsys.readouterr().out
    monkeypatch.setattr(opening, "device_names", lambda: ["GPU:0", "GPU:1"])
    found = open_extractor(one.record, path, batch_size=1, strategy=_Replicas(2))
    assert found.batch_size == 1
    assert "install onnxruntime-gpu" in capsys.readouterr().out


class _Replicas:
    def __init__(self, count: int) -> None:
        self.num_replicas_in_sync = count


def test_pictures_that_cannot_be_decoded_are_told_in_their_places(tmp_path: Path) -> None:
    extractor = opened(_saved(tmp_path / "run.keras", make_model()))

    def read(number: int) -> bytes:
        return b"no picture" if number % 3 == 1 else noise(number)

    found = dict(extract(extractor, range(7), read))
    assert list(found) == list(range(7))
    for number, one in found.items():
        if number % 3 == 1:
            assert isinstance(one, BadImage)
            continue
        assert not isinstance(one, BadImage)
        assert one.dtype == np.float16
        pixels = extractor.record.pixels_of(noise(number))[None]
        assert np.allclose(one, extractor.features(pixels)[0], rtol=1e-3)


def test_features_do_not_depend_on_the_company(tmp_path: Path) -> None:
    extractor = opened(_saved(tmp_path / "run.keras", make_model()), batch_size=4)
    assert isinstance(extractor, KerasExtractor)
    whole = extractor.features(PIXELS)
    assert np.array_equal(extractor.features(PIXELS[4:]), whole[4:])
    assert np.array_equal(extractor.features(PIXELS[:2]), whole[:2])
