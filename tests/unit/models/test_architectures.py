"""Every model takes RGB 0..255 and does the preprocessing its backbone was trained with."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
import pytest
from PIL import Image

from imagetag.dataset.local_copy import Resize, load_pixels
from imagetag.errors import UsageError
from imagetag.imaging.images import Size
from imagetag.models import architectures
from imagetag.models.architectures import (
    LocalResponseNormalization,
    backbone_of,
    build_model,
    features_of,
    logits_of,
    model_names,
    set_head,
    set_trainable,
    with_resizing,
)
from imagetag.models.weights import backbones
from imagetag.stats import fit_head
from tests.builders.pictures import encoded
from tests.forked import run_forked

_PIXELS = np.random.default_rng(5).uniform(0, 255, (2, 8, 8, 3)).astype("float32")


def head_of(model: keras.Model) -> keras.Model:
    """Return the model from its features to its logit; the layers, and weights, are the same."""
    position = model.layers.index(model.get_layer("features"))
    inputs = x = keras.Input(model.layers[position].output.shape[1:])
    for layer in model.layers[position + 1 :]:
        x = layer(x)
        if layer.name == "logit":
            break
    return keras.Model(inputs, x)


@pytest.mark.parametrize("name", [name for name in model_names() if "alexnet" not in name])
def test_preprocessing_is_that_of_keras(name: str) -> None:
    builder = backbones()[name]
    inputs = keras.Input((8, 8, 3))
    ours = keras.Model(inputs, architectures._preprocess(builder, inputs))(_PIXELS)
    theirs = sys.modules[builder.__module__].preprocess_input(
        _PIXELS.copy(), data_format="channels_last"
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_alexnet_has_the_layers_of_the_paper() -> None:
    model = build_model("alexnet", (227, 227), weights=None)
    shapes = [
        tuple(layer.output.shape[1:])
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.MaxPooling2D | keras.layers.Dense)
    ]
    assert shapes == [
        (55, 55, 96),
        (27, 27, 96),
        (27, 27, 256),
        (13, 13, 256),
        (13, 13, 384),
        (13, 13, 384),
        (13, 13, 256),
        (6, 6, 256),
        (4096,),
        (4096,),
        (1,),
    ]
    names = [type(layer).__name__ for layer in model.layers]
    assert names.count("LocalResponseNormalization") == 2
    assert names.count("Dropout") == 2


@pytest.mark.parametrize("name", ["alexnet", "alexnet-small"])
def test_alexnet_has_no_more_weights_at_a_larger_size(name: str) -> None:
    at_227, large = (build_model(name, size, weights=None) for size in ((227, 227), (1500, 1000)))
    # Its hidden layers alone would have 1.4 * 10^9.
    assert large.count_params() == at_227.count_params() < 60e6


@pytest.mark.parametrize(
    ("size", "grid"),
    [((67, 67), (1, 1)), ((99, 227), (2, 6)), ((227, 1000), (6, 6)), ((300, 99), (6, 2))],
)
def test_alexnets_hidden_layers_see_six_by_six_at_most(size: Size, grid: Size) -> None:
    model = build_model("alexnet-small", size, weights=None)
    flat = next(layer for layer in model.layers if isinstance(layer, keras.layers.Flatten))
    assert flat.input.shape[1:] == (*grid, 64)
    assert model(np.zeros((1, *size, 3))).shape == (1, 1)


def test_what_is_averaged_to_six_by_six_is_all_of_the_picture() -> None:
    model = build_model("alexnet-small", (420, 300), weights=None)
    flat = next(layer for layer in model.layers if isinstance(layer, keras.layers.Flatten))
    seen = keras.Model(model.inputs, flat.output)
    pixels = np.zeros((1, 420, 300, 3))
    black = seen(pixels)
    for y in (20, 210, 400):
        for x in (20, 150, 280):
            pixels[:] = 0
            pixels[0, y - 9 : y + 9, x - 9 : x + 9] = 255
            assert np.abs(seen(pixels) - black).max() > 1e-3


def test_local_response_normalization_is_the_formula_of_the_paper() -> None:
    values = np.random.default_rng(1).normal(0, 30, (1, 2, 3, 7)).astype("float32")
    expected = np.empty_like(values)
    for i in range(7):
        window = values[..., max(0, i - 2) : i + 3]
        expected[..., i] = values[..., i] / (2 + 1e-4 * (window**2).sum(axis=-1)) ** 0.75
    np.testing.assert_allclose(LocalResponseNormalization()(values), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["alexnet", "alexnet-small", "mobilenet", "vgg19"])
def test_a_saved_model_loads_in_safe_mode_and_says_the_same(name: str, tmp_path: Path) -> None:
    model = build_model(name, (72, 80), weights=None)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    pixels = np.random.default_rng(2).integers(0, 256, (3, 72, 80, 3), dtype=np.uint8)
    expected = model.predict_on_batch(pixels)
    assert expected.shape == (3, 1)
    np.testing.assert_allclose(loaded.predict_on_batch(pixels), expected, rtol=1e-5)


# ---- what trains


def trainable_in(model: keras.Model) -> list[str]:
    """The names of the backbone's layers that train, in its order."""
    backbone: Any = backbone_of(model)
    return [layer.name for layer in backbone.layers if layer.trainable_weights]


def test_with_no_blocks_the_head_trains_alone() -> None:
    model = build_model("mobilenet", (64, 64), weights=None)
    set_trainable(model, 0)
    assert [tuple(weight.shape) for weight in model.trainable_weights] == [(1024, 1), (1,)]
    before = [weight.numpy().copy() for weight in model.non_trainable_weights]
    model.compile("sgd", "binary_crossentropy")
    model.train_on_batch(np.full((4, 64, 64, 3), 9.0), np.ones((4, 1)))
    for was, weight in zip(before, model.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(was, weight.numpy())  # moving averages too


@pytest.mark.parametrize(
    ("name", "blocks", "starts"),
    [
        ("vgg19", 1, ("block5_",)),
        ("vgg19", 2, ("block4_", "block5_")),
        ("vgg19", 5, ("block",)),
        ("resnet50", 1, ("conv5_",)),
        ("resnet50", 2, ("conv4_", "conv5_")),
        ("mobilenet", 1, ("conv_dw_12", "conv_pw_12", "conv_dw_13", "conv_pw_13")),
        ("densenet121", 1, ("conv5_",)),
        ("efficientnetb0", 1, ("block6a", "block6b", "block6c", "block6d", "block7a", "top_conv")),
        ("mobilenetv3small", 1, ("expanded_conv_8", "expanded_conv_9", "expanded_conv_1", "conv_")),
    ],
)
@pytest.mark.parametrize("size", [(96, 96), (64, 160)])
def test_blocks_are_what_works_at_one_resolution(
    name: str, blocks: int, starts: tuple[str, ...], size: Size
) -> None:
    model = build_model(name, size, weights=None)
    set_trainable(model, "all")
    everything = trainable_in(model)
    set_trainable(model, blocks)
    found = trainable_in(model)
    backbone: Any = backbone_of(model)
    norms = {
        layer.name
        for layer in backbone.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    assert found
    assert all(name.startswith(starts) for name in found)
    # All from there on, in one piece, but for batch normalization.
    first = everything.index(found[0])
    assert found == [name for name in everything[first:] if name not in norms]
    assert all(layer.trainable_weights for layer in model.layers if layer.name == "logit")


def test_the_block_of_the_last_resolution_begins_where_that_does() -> None:
    model = build_model("efficientnetb0", (96, 96), weights=None)
    set_trainable(model, 1)
    # Its expansion works at the resolution before; squeeze and excitation at none.
    assert trainable_in(model)[:3] == ["block6a_dwconv", "block6a_se_reduce", "block6a_se_expand"]
    set_trainable(model, 2)
    assert trainable_in(model)[0] == "block4a_dwconv"


def test_more_blocks_than_there_are_train_all_but_batch_normalization() -> None:
    model = build_model("mobilenet", (64, 64), weights=None)
    set_trainable(model, 99)
    assert len(trainable_in(model)) == 27  # convolutions


@pytest.mark.parametrize("name", ["mobilenet", "alexnet-small"])
def test_all_trains_all_whatever_was_frozen_before(name: str) -> None:
    model = build_model(name, (96, 96), weights=None)
    before = len(model.trainable_weights)
    for blocks in (0, 2, "all"):
        set_trainable(model, blocks)
    assert len(model.trainable_weights) == before
    set_trainable(model, 0)
    # AlexNet has no backbone that could be frozen.
    assert len(model.trainable_weights) == (2 if name == "mobilenet" else before)


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """Weights of EfficientNetB0, which has both batch normalization and dropout in it."""
    path = tmp_path / "some.weights.h5"
    builder = keras.applications.EfficientNetB0
    builder(include_top=False, weights=None, input_shape=(64, 64, 3)).save_weights(path)
    return path


def test_a_pretrained_backbone_stays_as_at_inference_also_while_it_trains(pretrained: Path) -> None:
    model = build_model("efficientnetb0", (64, 64), weights=pretrained, dropout=0.0)
    set_trainable(model, "all")
    pixels = np.random.default_rng(1).uniform(0, 255, (4, 64, 64, 3))
    expected = np.asarray(features_of(model)(pixels, training=False))
    np.testing.assert_allclose(features_of(model)(pixels, training=True), expected, rtol=1e-5)
    # The moving averages have not moved, but the weights may.
    np.testing.assert_allclose(features_of(model)(pixels, training=False), expected, rtol=1e-5)
    assert len(model.trainable_weights) > 200


def test_one_that_learns_from_nothing_does_not() -> None:
    model = build_model("mobilenet", (64, 64), weights=None, dropout=0.0)
    pixels = np.random.default_rng(1).uniform(0, 255, (4, 64, 64, 3))
    found, expected = (np.asarray(model(pixels, training=now)) for now in (True, False))
    assert np.abs(found - expected).max() > 1e-3


def test_weights_go_over_to_the_model_that_is_saved(pretrained: Path, tmp_path: Path) -> None:
    trained = build_model("efficientnetb0", (64, 64), weights=pretrained)
    saved = build_model("efficientnetb0", (64, 64), weights=None)
    saved.set_weights(trained.get_weights())
    with_resizing(saved, (64, 64), "crop").save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    pixels = np.random.default_rng(1).uniform(0, 255, (4, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(loaded(pixels), trained(pixels), rtol=1e-4)


# ---- its parts, and how it is built


@pytest.mark.parametrize("name", ["alexnet", "alexnet-bn", "alexnet-small", "mobilenet", "vgg19"])
def test_logits_features_and_head_are_parts_of_the_model(name: str) -> None:
    model = build_model(name, (72, 80), weights=None)
    pixels = np.random.default_rng(2).uniform(0, 255, (3, 72, 80, 3)).astype("float32")
    probabilities = np.asarray(model(pixels))
    logits = np.asarray(logits_of(model)(pixels))
    features = features_of(model)(pixels)
    assert logits.shape == (3, 1)
    assert features.shape == (3, model.get_layer("logit").kernel.shape[0])
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), probabilities, rtol=1e-5)
    np.testing.assert_allclose(head_of(model)(features), logits, rtol=1e-5, atol=1e-6)
    # They share its weights.
    head_of(model).trainable_weights[0].assign(np.zeros((features.shape[1], 1)))
    np.testing.assert_allclose(model(pixels), 0.5)


@pytest.mark.parametrize("name", ["alexnet-small", "mobilenet"])
def test_the_head_drops_in_training_what_it_is_told(name: str) -> None:
    def dropped(model: keras.Model) -> list[float]:
        found = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
        return [layer.rate for layer in found]

    count = 2 if name == "alexnet-small" else 1
    for told, expected in ((None, 0.2), (0.0, 0.0), (0.7, 0.7)):
        model = build_model(name, (72, 72), weights=None, dropout=told)
        assert dropped(model) == [expected] * count
    assert dropped(build_model("alexnet", (72, 72), weights=None)) == [0.5, 0.5]
    # Also where the head trains on features.
    head, features = head_of(model), np.ones((500, model.get_layer("logit").kernel.shape[0]))
    varies = bool(np.ptp(head(features, training=True)) > 1e-3)
    assert varies == (name == "mobilenet")  # AlexNet's last dropout is its features'


@pytest.mark.parametrize("synchronized", [False, True])
def test_batch_normalization_is_over_all_replicas_if_asked(synchronized: bool) -> None:
    model = build_model("alexnet-bn", (67, 67), weights=None, synchronized=synchronized)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert [layer.synchronized for layer in norms] == [synchronized] * 5


# ---- as it is saved


MODES = get_args(Resize)


def scene(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(0)
    soft = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return soft.resize((width, height), Image.Resampling.BICUBIC)


def fitted(resize: Resize, size: Size) -> keras.Model:
    """A model that returns the pixels it sees."""
    inputs = keras.Input((*size, 3))
    return with_resizing(keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs)), size, resize)


@pytest.mark.parametrize("resize", MODES)
def test_images_of_the_models_own_size_pass_unchanged(resize: Resize) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (3, 72, 80, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fitted(resize, (72, 80))(pixels), pixels)
    model = build_model("alexnet-small", (72, 80), weights=None)
    expected = np.asarray(model(pixels, training=False))
    whole = with_resizing(model, (72, 80), resize)
    # However it is called: nothing is dropped, nothing is normalized by the batch.
    for found in (whole(pixels), whole(pixels, training=False), whole.predict_on_batch(pixels)):
        assert np.abs(np.asarray(found) - expected).max() < 1e-5


@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize("size", [(72, 80), (64, 20)])
@pytest.mark.parametrize(
    ("width", "height"), [(500, 400), (300, 700), (801, 333), (1000, 50), (3000, 9)]
)
def test_larger_images_are_fitted_as_in_training(
    width: int, height: int, size: Size, resize: Resize
) -> None:
    picture = scene(width, height)
    ours = np.asarray(fitted(resize, size)(np.asarray(picture)[None]))[0]
    difference = np.abs(ours - load_pixels(encoded(picture), size, resize))
    # Beside the bars, a part of a pixel more or less is picture.
    assert difference.mean() < (5 if resize == "letterbox" else 1.5)
    if resize != "letterbox":
        assert difference.max() < 12


@pytest.mark.parametrize("size", [(72, 80), (80, 72)])
def test_the_bars_of_a_letterbox_are_those_of_training(size: Size) -> None:
    picture = Image.new("RGB", (10 * size[1], 5 * size[0]), (255, 0, 255))
    ours = np.asarray(fitted("letterbox", size)(np.asarray(picture)[None]))[0]
    theirs = load_pixels(encoded(picture), size, "letterbox").astype(float)
    rows = np.abs(ours - theirs).max(axis=(1, 2))
    assert (theirs[:10] == 128).all()
    assert (rows > 1).sum() <= 4  # the two beside where the picture begins, and ends


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (72, 81), (150, 90)])
@pytest.mark.parametrize("resize", MODES)
def test_a_batch_of_any_size_is_taken(resize: Resize, shape: Size) -> None:
    model = with_resizing(build_model("alexnet-small", (72, 80), weights=None), (72, 80), resize)
    assert model.input_shape == (None, None, None, 3)
    found = model.predict_on_batch(np.full((2, *shape, 3), 99, np.uint8))
    assert found.shape == (2, 1)
    assert np.isfinite(found).all()


_LOADS = """
import sys
import keras
import numpy as np
{extra}
pixels = np.load(sys.argv[2])
model = keras.models.load_model(sys.argv[1], safe_mode=True)
np.save(sys.argv[3], model.predict_on_batch(pixels))
assert {named} or "imagetag" not in sys.modules
"""


@pytest.mark.parametrize(
    ("name", "extra"), [("alexnet", "import imagetag.models.architectures"), ("mobilenet", "")]
)
def test_it_loads_anywhere_in_safe_mode_and_says_the_same(
    name: str, extra: str, tmp_path: Path
) -> None:
    model = with_resizing(build_model(name, (72, 80), weights=None), (72, 80), "letterbox")
    pixels = np.random.default_rng(2).integers(0, 256, (3, 150, 90, 3), dtype=np.uint8)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "pixels.npy", pixels)
    script = _LOADS.format(extra=extra, named=bool(extra))
    files = [str(tmp_path / name) for name in ("model.keras", "pixels.npy", "found.npy")]
    run_forked(script, files)
    np.testing.assert_allclose(
        np.load(tmp_path / "found.npy"), model.predict_on_batch(pixels), rtol=1e-5
    )


# ---- weights from elsewhere


def test_backbone_weights_come_from_a_file(tmp_path: Path) -> None:
    source = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(64, 64, 3))
    source.save_weights(tmp_path / "some.weights.h5")
    model = build_model("mobilenet", (96, 96), weights=tmp_path / "some.weights.h5")
    backbone = backbone_of(model)
    assert backbone is not None
    for theirs, ours in zip(source.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(theirs.numpy(), ours.numpy())


@pytest.mark.parametrize(
    ("name", "size", "weights", "complaint"),
    [
        ("vgg20", (64, 64), None, "--model 'vgg20': there are alexnet,"),
        ("alexnet", (64, 227), None, "AlexNet needs 67 pixels"),
        ("alexnet", (96, 96), "imagenet", "no ImageNet weights"),
        ("vgg19", (16, 64), None, "--image-size 16x64 does not fit vgg19"),
    ],
)
def test_what_does_not_fit_is_one_line(
    name: str, size: tuple[int, int], weights: Literal["imagenet"] | None, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        build_model(name, size, weights=weights)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(path)
    for content in (path.read_bytes(), b"no weights at all"):
        path.write_bytes(content)
        for model in ("mobilenet", "alexnet-small"):
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                with pytest.raises(UsageError, match="--weights") as caught:
                    build_model(model, (96, 96), weights=path)
            # One for each layer would come before the line.
            assert not [str(warning.message) for warning in warned if "Skipping" in str(warning)]
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < len(str(path)) + 200


def test_a_head_that_was_fitted_to_features_is_the_models() -> None:
    model = build_model("mobilenet", (40, 40), weights=None)
    random = np.random.default_rng(4)
    features = features_of(model).predict_on_batch(random.uniform(0, 255, (20, 40, 40, 3)))
    head = fit_head(features[:, None], np.arange(20) % 2, [str(number) for number in range(20)])
    set_head(model, head.weights, head.bias)
    logits = head_of(model).predict_on_batch(features)[:, 0]
    np.testing.assert_allclose(logits, head.logits(features[:, None]), atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet", "vgg19"])
def test_a_mirrored_model_is_the_mean_over_the_picture_and_its_mirror_image(name: str) -> None:
    plain, mirrored = (
        build_model(name, (64, 96), weights=None, mirror=mirror) for mirror in (False, True)
    )
    mirrored.set_weights(plain.get_weights())
    pixels = np.random.default_rng(6).uniform(0, 255, (3, 64, 96, 3)).astype("float32")
    features, both = features_of(plain), features_of(mirrored)
    here, there = (features.predict_on_batch(x) for x in (pixels, pixels[:, :, ::-1]))
    scale = np.abs(here).max()
    assert np.abs(here - there).max() > 1e-4 * scale, "both are the same"
    found = both.predict_on_batch(pixels)
    np.testing.assert_allclose(found / scale, (here + there) / 2 / scale, atol=1e-5)
