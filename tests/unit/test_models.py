"""Every model takes RGB 0..255 and does the preprocessing its backbone was trained with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import pytest

from imagetag import models
from imagetag.errors import UsageError
from imagetag.models import LocalResponseNormalization, build_model, model_names

_PIXELS = np.random.default_rng(5).uniform(0, 255, (2, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("name", [name for name in model_names() if "alexnet" not in name])
def test_preprocessing_is_that_of_keras(name: str) -> None:
    builder = models._backbones()[name]
    inputs = keras.Input((8, 8, 3))
    ours = keras.Model(inputs, models._preprocess(builder, inputs))(_PIXELS)
    theirs = sys.modules[builder.__module__].preprocess_input(
        _PIXELS.copy(), data_format="channels_last"
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_alexnet_has_the_layers_of_the_paper() -> None:
    model = build_model("alexnet", (227, 227), weights=None, freeze=False)
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


def test_local_response_normalization_is_the_formula_of_the_paper() -> None:
    values = np.random.default_rng(1).normal(0, 30, (1, 2, 3, 7)).astype("float32")
    expected = np.empty_like(values)
    for i in range(7):
        window = values[..., max(0, i - 2) : i + 3]
        expected[..., i] = values[..., i] / (2 + 1e-4 * (window**2).sum(axis=-1)) ** 0.75
    np.testing.assert_allclose(LocalResponseNormalization()(values), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["alexnet", "alexnet-small", "mobilenet", "vgg19"])
def test_a_saved_model_loads_in_safe_mode_and_says_the_same(name: str, tmp_path: Path) -> None:
    model = build_model(name, (72, 80), weights=None, freeze=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    pixels = np.random.default_rng(2).integers(0, 256, (3, 72, 80, 3), dtype=np.uint8)
    expected = model.predict_on_batch(pixels)
    assert expected.shape == (3, 1)
    np.testing.assert_allclose(loaded.predict_on_batch(pixels), expected, rtol=1e-5)


def test_a_frozen_backbone_trains_its_head_alone() -> None:
    model = build_model("mobilenet", (64, 64), weights=None, freeze=True)
    assert [tuple(weight.shape) for weight in model.trainable_weights] == [(1024, 1), (1,)]
    before = [weight.numpy().copy() for weight in model.non_trainable_weights]
    model.compile("sgd", "binary_crossentropy")
    model.train_on_batch(np.full((4, 64, 64, 3), 9.0), np.ones((4, 1)))
    for was, weight in zip(before, model.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(was, weight.numpy())  # moving averages too


def test_backbone_weights_come_from_a_file(tmp_path: Path) -> None:
    source = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(64, 64, 3))
    source.save_weights(tmp_path / "some.weights.h5")
    model = build_model("mobilenet", (96, 96), weights=tmp_path / "some.weights.h5", freeze=True)
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
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
        build_model(name, size, weights=weights, freeze=False)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(path)
    for content in (path.read_bytes(), b"no weights at all"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="--weights") as caught:
            build_model("mobilenet", (64, 64), weights=path, freeze=True)
        assert "\n" not in str(caught.value)
