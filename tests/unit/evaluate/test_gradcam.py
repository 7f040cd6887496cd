"""A heatmap is high where the evidence is, and lies on the picture where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray
from PIL import Image

from imagetag.dataset.local_copy import Resize, load_pixels
from imagetag.errors import InputError
from imagetag.evaluate.gradcam import GradCam, on_picture, overlay
from imagetag.imaging.images import Size
from imagetag.models.architectures import alexnet, backbone_of, build_model, with_resizing
from tests.builders.pictures import encoded

Pixels = NDArray[np.uint8]
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def _the_same_weights_each_time() -> None:
    keras.utils.set_random_seed(1)


def model_of(
    body: Callable[[Any], Any], size: Size = (24, 32), *, nested: bool = False
) -> keras.Model:
    """Return a model as it is saved, of layers up to its features: linear in them."""
    inputs = keras.Input((*size, 3))
    if nested:
        inner = keras.Input((*size, 3))
        features = keras.Model(inner, body(inner))(inputs)
    else:
        features = body(inputs)
    logit = layers.Dense(1, name="logit")(features)
    core = keras.Model(inputs, layers.Activation("sigmoid")(logit))
    return with_resizing(core, size, "letterbox")


def core_of(model: keras.Model) -> keras.Model:
    return model.layers[-1]


def sees_red(**changes: Any) -> layers.Layer:
    """Return a convolution whose first channel fires on red, and its second on blue."""
    layer = layers.Conv2D(2, 1, activation="relu", **changes)
    layer.build((None, None, None, 3))
    kernel = np.zeros((1, 1, 3, 2), "float32")
    kernel[0, 0, :, 0], kernel[0, 0, :, 1] = (1, -1, -1), (-1, -1, 1)
    layer.set_weights([kernel, np.zeros(2)])
    return layer


def red_model(*, nested: bool = False, weights: tuple[float, float] = (1, 0)) -> keras.Model:
    model = model_of(
        lambda x: layers.GlobalAveragePooling2D()(sees_red()(x)),
        nested=nested,
    )
    core_of(model).get_layer("logit").set_weights([np.array([[w] for w in weights]), np.zeros(1)])
    return model


def on_blue(top: int, left: int, size: Size = (24, 32), side: int = 8) -> Pixels:
    """Return a blue picture with a red square."""
    pixels = np.full((*size, 3), BLUE, np.uint8)
    pixels[top : top + side, left : left + side] = RED
    return pixels


def noise(count: int, size: Size) -> Pixels:
    return np.random.default_rng(3).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def shown_map(model: keras.Model, maps: Any, weights: Any) -> NDArray[np.float32]:
    """Return what the paper's second equation makes of feature maps and the channels' weights."""
    evidence = np.maximum(np.einsum("bhwc,bc->bhw", maps, weights), 0)
    large = tf.image.resize(evidence[..., None], core_of(model).inputs[0].shape[1:3]).numpy()[
        ..., 0
    ]
    most = large.max(axis=(1, 2), keepdims=True)
    return np.where(most > 0, large / np.maximum(most, 1e-30), 0).astype(np.float32)


# ---- where the evidence is


@pytest.mark.parametrize("nested", [False, True])
def test_the_map_is_high_where_the_evidence_is(nested: bool) -> None:
    camera = GradCam(red_model(nested=nested))
    assert camera.size == (24, 32)
    places = [(0, 0), (0, 24), (16, 0), (16, 24), (8, 12)]
    heatmaps = camera.heatmaps(np.stack([on_blue(*place) for place in places]))
    assert heatmaps.shape == (5, 24, 32)
    assert heatmaps.dtype == np.float32
    for (top, left), heatmap in zip(places, heatmaps, strict=True):
        expected = np.zeros((24, 32))
        expected[top : top + 8, left : left + 8] = 1
        np.testing.assert_allclose(heatmap, expected, atol=1e-6)


def test_evidence_against_the_tag_is_none() -> None:
    camera = GradCam(red_model(weights=(1, -1)))
    heatmap = camera.heatmaps(on_blue(4, 4)[np.newaxis])[0]
    assert heatmap[4:12, 4:12].min() == 1
    assert heatmap.sum() == 64


@pytest.mark.parametrize(
    "weights",
    [(-1, -1), (0, 0), (float("nan"), 1), (float("inf"), 1)],
    ids=["against", "nothing", "nan", "infinite"],
)
def test_no_evidence_is_a_map_of_zeros(weights: tuple[float, float]) -> None:
    camera = GradCam(red_model(weights=weights))
    heatmaps = camera.heatmaps(np.stack([on_blue(4, 4), np.zeros((24, 32, 3), np.uint8)]))
    np.testing.assert_array_equal(heatmaps, np.zeros((2, 24, 32)))


def test_a_map_that_is_not_finite_everywhere_is_none() -> None:
    convolution = layers.Conv2D(1, 1)
    model = model_of(lambda x: layers.GlobalAveragePooling2D()(convolution(x)))
    # Yellow is infinity less infinity, and blue is 255.
    convolution.set_weights([np.array([3e38, -3e38, 1]).reshape(1, 1, 3, 1), np.zeros(1)])
    core_of(model).get_layer("logit").set_weights([np.ones((1, 1)), np.zeros(1)])
    pixels = np.stack([np.full((24, 32, 3), BLUE, np.uint8)] * 2)
    pixels[1, 4:12, 4:12] = (255, 255, 0)
    heatmaps = GradCam(model).heatmaps(pixels)
    assert heatmaps[0].min() == 1
    assert not heatmaps[1].any()


def test_what_is_left_of_terms_that_cancel_out_is_no_evidence() -> None:
    def body(x: Any) -> Any:
        convolution = layers.Conv2D(600, 1)
        x = convolution(x)
        kernel = np.random.default_rng(1).normal(0, 1, (1, 1, 3, 300)).astype("float32")
        convolution.set_weights([np.concatenate([kernel, kernel], axis=3), np.zeros(600)])
        return layers.GlobalAveragePooling2D()(x)

    model = model_of(body)
    weights = np.random.default_rng(2).normal(0, 1, (300, 1)).astype("float32")
    logit = core_of(model).get_layer("logit")
    pixels = noise(3, (24, 32))
    logit.set_weights([np.concatenate([weights, -weights]), np.zeros(1)])
    assert not GradCam(model).heatmaps(pixels).any()
    logit.set_weights([np.concatenate([weights, -0.99 * weights]), np.zeros(1)])
    assert (GradCam(model).heatmaps(pixels).max(axis=(1, 2)) == 1).all()


def test_a_hidden_layer_turns_the_gradient_round() -> None:
    # The logit falls with the hidden unit, which red switches off: red is evidence.
    def body(x: Any) -> Any:
        hidden = layers.Dense(1, "relu")
        x = hidden(layers.Flatten()(layers.MaxPooling2D(4)(sees_red()(x))))
        count = 6 * 8
        kernel = np.tile([[-1.0], [0.0]], (count, 1))
        hidden.set_weights([kernel / 255, np.full(1, count)])
        return x

    model = model_of(body)
    core_of(model).get_layer("logit").set_weights([np.array([[-1.0]]), np.zeros(1)])
    heatmap = GradCam(model).heatmaps(on_blue(8, 16)[np.newaxis])[0]
    # Of the map before pooling, which would blur it.
    expected = np.zeros((24, 32))
    expected[8:16, 16:24] = 1
    np.testing.assert_allclose(heatmap, expected, atol=1e-6)


# ---- the models there are


@pytest.mark.parametrize("name", ["mobilenet", "mobilenetv3small"])
@pytest.mark.parametrize("size", [(64, 96)])
def test_it_is_the_class_activation_map_where_the_head_is_linear(name: str, size: Size) -> None:
    model = with_resizing(build_model(name, size, weights=None), size, "letterbox")
    core = core_of(model)
    kernel = np.random.default_rng(1).normal(0.2, 1, core.get_layer("logit").kernel.shape)
    core.get_layer("logit").set_weights([kernel, np.zeros(1)])
    pixels = noise(2, size)
    maps = keras.Model(core.inputs[0], core.get_layer("features").input)(pixels.astype("float32"))
    expected = shown_map(model, maps.numpy(), np.tile(kernel.T, (2, 1)))
    assert expected.any()
    np.testing.assert_allclose(GradCam(model).heatmaps(pixels), expected, atol=1e-4)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_of_alexnet_it_is_the_map_before_the_last_pooling(batch_norm: bool) -> None:
    size = (131, 99)
    model = with_resizing(alexnet(size, width=0.1, batch_norm=batch_norm), size, "letterbox")
    core = core_of(model)
    pixels = noise(2, size)
    last = [layer for layer in core.layers if isinstance(layer, layers.ReLU)][-1]
    both = keras.Model(core.inputs, [last.output, core.get_layer("logit").output])
    with tf.GradientTape() as tape:
        inputs = tf.constant(pixels, tf.float32)
        tape.watch(inputs)
        maps, logits = both(inputs, training=False)
    weights = tf.reduce_mean(tape.gradient(logits, maps), (1, 2)).numpy()
    expected = shown_map(model, maps.numpy(), weights)
    assert maps.shape[1:3] == (7, 5)
    assert expected.any()
    np.testing.assert_allclose(GradCam(model).heatmaps(pixels), expected, atol=1e-4)


def test_of_vgg_it_is_the_map_of_the_last_convolution() -> None:
    size = (64, 96)
    model = with_resizing(build_model("vgg19", size, weights=None), size, "letterbox")
    core, backbone = core_of(model), backbone_of(core_of(model))
    assert backbone is not None
    kernel = np.random.default_rng(1).normal(0.2, 1, core.get_layer("logit").kernel.shape)
    core.get_layer("logit").set_weights([kernel, np.zeros(1)])
    pixels = noise(1, size)
    prepared = keras.applications.vgg19.preprocess_input(pixels.astype("float32"))
    both = keras.Model(
        backbone.inputs, [backbone.get_layer("block5_conv4").output, backbone.output]
    )
    with tf.GradientTape() as tape:
        inputs = tf.constant(prepared)
        tape.watch(inputs)
        maps, pooled = both(inputs, training=False)
        logits = tf.reduce_mean(pooled, (1, 2)) @ tf.constant(kernel, tf.float32)
    weights = tf.reduce_mean(tape.gradient(logits, maps), (1, 2)).numpy()
    assert maps.shape[1:3] == (4, 6)
    expected = shown_map(model, maps.numpy(), weights)
    assert expected.any()
    np.testing.assert_allclose(GradCam(model).heatmaps(pixels), expected, atol=1e-4)


def test_a_model_that_computes_in_float16_sees_the_same() -> None:
    # A cell's share of the gradient is 1e-3 / 65536: less than float16 has.
    def body(x: Any) -> Any:
        return layers.GlobalAveragePooling2D(dtype="float32")(sees_red(dtype="mixed_float16")(x))

    model = model_of(body, (256, 256))
    core_of(model).get_layer("logit").set_weights([np.array([[1e-3], [0]]), np.zeros(1)])
    heatmap = GradCam(model).heatmaps(on_blue(40, 80, (256, 256))[np.newaxis])[0]
    assert heatmap[40:48, 80:88].min() == 1
    assert heatmap.sum() == 64


def test_one_that_was_saved_and_loaded_sees_the_same(tmp_path: Path) -> None:
    model = red_model(nested=True)
    model.save(tmp_path / "model.keras")
    keras.utils.clear_session()
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    pixels = on_blue(8, 16)[np.newaxis]
    found, expected = (GradCam(each).heatmaps(pixels) for each in (loaded, model))
    assert expected.any()
    np.testing.assert_array_equal(found, expected)


def test_the_model_says_the_same_as_before() -> None:
    model = red_model()
    pixels = noise(3, (24, 32)).astype("float32")
    before = model.predict_on_batch(pixels)
    GradCam(model).heatmaps(noise(2, (24, 32)))
    np.testing.assert_array_equal(model.predict_on_batch(pixels), before)


# ---- models it cannot look into


def test_one_cell_has_no_place_so_the_map_before_it_is_taken() -> None:
    def body(x: Any) -> Any:
        last = layers.Conv2D(1, (24, 32))
        x = last(sees_red()(x))
        assert x.shape == (None, 1, 1, 1)
        kernel = np.zeros((24, 32, 2, 1))
        kernel[:, :, 0] = 1  # of red
        last.set_weights([kernel, np.zeros(1)])
        return layers.GlobalAveragePooling2D()(x)

    model = model_of(body)
    core_of(model).get_layer("logit").set_weights([np.ones((1, 1)), np.zeros(1)])
    heatmap = GradCam(model).heatmaps(on_blue(8, 16)[np.newaxis])[0]
    assert heatmap[8:16, 16:24].min() == 1
    assert heatmap.sum() == 64


@pytest.mark.parametrize(
    "body",
    [
        lambda x: layers.Dense(3)(layers.Flatten()(x)),
        lambda x: layers.Flatten()(layers.Rescaling(1 / 255)(x)),
        lambda x: layers.Flatten()(layers.Conv2D(3, (24, 32))(x)),
        lambda x: layers.concatenate(
            [layers.GlobalAveragePooling2D()(sees_red()(x)), layers.GlobalMaxPooling2D()(x)]
        ),
    ],
    ids=["dense", "pixels", "one cell", "two ways"],
)
def test_a_model_without_a_feature_map_is_refused_in_one_line(body: Callable[[Any], Any]) -> None:
    with pytest.raises(InputError, match="no convolutional feature map before its logit") as error:
        GradCam(model_of(body))
    assert "\n" not in str(error.value)


def test_a_model_without_a_logit_is_refused() -> None:
    inputs = keras.Input((24, 32, 3))
    outputs = layers.Dense(1)(layers.GlobalAveragePooling2D()(sees_red()(inputs)))
    with pytest.raises(InputError, match="no convolutional feature map"):
        GradCam(keras.Model(inputs, outputs))


def test_pictures_of_another_size_are_a_defect() -> None:
    with pytest.raises(ValueError, match="the model takes pictures of"):
        GradCam(red_model()).heatmaps(noise(1, (32, 24)))


# ---- many pictures


def test_any_number_of_pictures_is_taken_a_few_at_once() -> None:
    camera = GradCam(red_model())
    pixels = np.stack([on_blue(i % 16, i % 24) for i in range(19)])
    heatmaps = camera.heatmaps(pixels)
    for i in (0, 7, 8, 18):
        np.testing.assert_array_equal(heatmaps[i], camera.heatmaps(pixels[i : i + 1])[0])
    assert camera.heatmaps(pixels[:0]).shape == (0, 24, 32)
    assert camera._to_maps.experimental_get_tracing_count() == 1
    assert camera._to_heat.experimental_get_tracing_count() <= 2


@pytest.mark.parametrize(
    ("size", "batches"),
    [((24, 32), [8, 3]), ((500, 500), [2] * 5 + [1]), ((1500, 1000), [1] * 11)],
)
def test_of_large_pictures_there_are_fewer_at_once(
    size: Size, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = GradCam(model_of(lambda x: layers.GlobalMaxPooling2D()(sees_red()(x)), size))
    seen = []

    def compute(pixels: Any) -> Any:
        seen.append(len(pixels))
        return tf.zeros(pixels.shape[:3])

    monkeypatch.setattr(camera, "_to_maps", compute)
    monkeypatch.setattr(camera, "_to_heat", lambda maps: maps)
    camera.heatmaps(np.zeros((11, *size, 3), np.uint8))
    assert seen == batches


# ---- on the picture


@pytest.mark.parametrize("resize", get_args(Resize))
@pytest.mark.parametrize("shape", [(300, 120), (120, 300), (200, 200), (137, 400), (40, 30)])
def test_what_is_in_the_input_lies_where_it_is_in_the_picture(shape: Size, resize: Resize) -> None:
    # A map that is 1 where the input is red must be 1 where the picture is red.
    height, width = shape
    top, left = height // 3, width // 2
    whole = np.full((height, width, 3), BLUE, np.uint8)
    whole[top : top + height // 4, left : left + width // 8] = RED
    inputs = load_pixels(encoded(Image.fromarray(whole)), (192, 160), resize)
    heatmap = (inputs[..., 0] / 255 * (inputs[..., 1] == 0)).astype("float32")
    assert heatmap.max() > 0.9
    found = on_picture(heatmap, shape, resize)
    assert found.shape == shape
    assert found.dtype == np.float32
    red = whole[..., 0] == 255
    assert found[red].mean() > 0.8
    # But for a pixel or two around it.
    grown = np.asarray(Image.fromarray(red).convert("L").resize((width, height)))
    around = np.zeros(shape, bool)
    rows, columns = np.nonzero(grown)
    margin = 3
    around[
        max(0, rows.min() - margin) : rows.max() + margin + 1,
        max(0, columns.min() - margin) : columns.max() + margin + 1,
    ] = True
    assert found[~around].max() < 0.05


def test_grey_bars_are_left_out() -> None:
    heatmap = np.ones((100, 100), np.float32)
    heatmap[25:75] = 0  # where a picture twice as wide as high is
    assert not on_picture(heatmap, (50, 100), "letterbox").any()
    assert on_picture(1 - heatmap, (50, 100), "letterbox").min() == 1


def test_what_was_cut_off_has_no_evidence() -> None:
    found = on_picture(np.ones((100, 100), np.float32), (60, 100), "crop")
    assert found[:, 20:80].min() == 1
    assert not found[:, :20].any()
    assert not found[:, 80:].any()


@pytest.mark.parametrize("resize", get_args(Resize))
@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1)])
def test_a_picture_of_a_line_has_a_map_too(shape: Size, resize: Resize) -> None:
    found = on_picture(np.ones((96, 64), np.float32), shape, resize)
    assert found.shape == shape
    assert found.max() == 1


# ---- overlays


def test_without_evidence_the_picture_is_as_it_was() -> None:
    [pixels] = noise(1, (40, 60))
    heatmap = np.zeros((40, 60), np.float32)
    np.testing.assert_array_equal(np.asarray(overlay(pixels, heatmap)), pixels)
    heatmap[10:20, 10:20] = 1
    changed = (np.asarray(overlay(pixels, heatmap)) != pixels).any(axis=2)
    expected = np.zeros((40, 60), bool)
    expected[10:20, 10:20] = True
    assert not changed[~expected].any()
    assert changed[expected].mean() > 0.95


def test_the_more_evidence_the_brighter_and_the_picture_shows_through() -> None:
    grey = np.full((1, 256, 3), 60, np.uint8)
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[np.newaxis]
    shown = np.asarray(overlay(grey, ramp).convert("L"), int)[0]
    assert (np.diff(shown) >= -1).all()
    assert shown[255] > 150
    # Black and white can be told apart even below the most of it.
    stripes = np.zeros((1, 2, 3), np.uint8)
    stripes[0, 1] = 255
    dark, light = np.asarray(overlay(stripes, np.ones((1, 2), np.float32)).convert("L"), int)[0]
    assert light - dark > 40


def test_the_colors_are_those_of_the_map_whatever_the_picture_has() -> None:
    # Below the most of it, red and blue pictures of the same lightness look the same.
    pixels = np.zeros((1, 2, 3), np.uint8)
    pixels[0, 0], pixels[0, 1] = (255, 0, 0), (0, 78, 255)
    red, blue = np.asarray(overlay(pixels, np.ones((1, 2), np.float32)), int)[0]
    assert np.abs(red - blue).max() < 5


def test_a_map_of_another_size_is_made_to_fit() -> None:
    [pixels] = noise(1, (50, 80))
    heatmap = np.zeros((5, 8), np.float32)
    heatmap[2, 4] = 1
    shown = overlay(pixels, heatmap)
    assert (shown.mode, shown.size) == ("RGB", (80, 50))
    changed = (np.asarray(shown) != pixels).any(axis=2)
    assert changed[20:30, 40:50].mean() > 0.9
    assert not changed[:10].any()
    assert not changed[:, :30].any()
