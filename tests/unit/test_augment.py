"""RandomAffine does what ImageDataGenerator does, and is right where that one is not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from imagetag.augment import RandomAffine, affine_transforms, apply_affine

_draws = np.random.default_rng(7)


def _smooth(height: int, width: int) -> Any:
    noise = _draws.uniform(0, 255, (1, 8, 8, 3)).astype("float32")
    return np.asarray(tf.image.resize(noise, (height, width), method="bicubic"))[0]


def _ours(image: Any, **parameters: float) -> Any:
    neutral = {"rotation": 0.0, "down": 0.0, "right": 0.0, "shear": 0.0, "zoom_y": 1.0}
    values = neutral | {"zoom_x": 1.0, "flip": 0.0} | parameters
    arrays = {name: np.array([value], "float32") for name, value in values.items()}
    transforms = affine_transforms(height=image.shape[0], width=image.shape[1], **arrays)
    return np.asarray(apply_affine(image[None], transforms))[0]


@pytest.mark.parametrize("draw", range(40))
def test_equals_keras_on_square_images(draw: int) -> None:
    random = np.random.default_rng(draw)
    image = _smooth(64, 64)
    rotation, shear = random.uniform(-20, 20), random.uniform(-6, 6)
    down, right = random.uniform(-0.1, 0.1, 2)
    zoom_y, zoom_x = random.uniform(0.9, 1.1, 2)
    flip = bool(draw % 2)
    theirs = tf.keras.preprocessing.image.apply_affine_transform(
        image,
        theta=rotation,
        tx=right * 64,
        ty=down * 64,
        shear=shear,
        zx=zoom_x,
        zy=zoom_y,
        row_axis=0,
        col_axis=1,
        channel_axis=2,
        fill_mode="nearest",
        order=1,
    )
    if flip:
        theirs = theirs[:, ::-1]
    ours = _ours(
        image,
        rotation=math.radians(rotation),
        down=down,
        right=right,
        shear=math.radians(shear),
        zoom_y=zoom_y,
        zoom_x=zoom_x,
        flip=float(flip),
    )
    np.testing.assert_allclose(ours, theirs, atol=0.05)  # of 255


def test_turns_about_the_true_centre_of_any_image() -> None:
    image = np.zeros((31, 61, 3), "float32")
    image[15, 30] = 255
    turned = _ours(image, rotation=math.radians(20))
    assert turned[15, 30, 0] == pytest.approx(255, abs=0.1)


def test_shifts_are_fractions_of_the_true_height_and_width() -> None:
    image = np.zeros((40, 100, 1), "float32")
    image[20, 50] = 255
    assert np.argwhere(_ours(image, down=0.1)[..., 0] > 200).tolist() == [[16, 50]]
    assert np.argwhere(_ours(image, right=0.1)[..., 0] > 200).tolist() == [[20, 40]]


def test_a_quarter_turn_and_a_flip_by_hand() -> None:
    image = _smooth(9, 9)
    np.testing.assert_allclose(_ours(image, rotation=math.pi / 2), np.rot90(image, 1), atol=0.01)
    np.testing.assert_allclose(_ours(image, flip=1.0), image[:, ::-1], atol=0.01)


def test_uncovered_pixels_repeat_the_nearest() -> None:
    image = np.full((20, 20, 3), 90, "float32")
    np.testing.assert_allclose(_ours(image, rotation=0.3, down=0.4, zoom_x=2.0), image, atol=0.01)


def test_off_at_inference_and_different_for_each_image_in_training() -> None:
    layer = RandomAffine(seed=3)
    images = np.repeat(_smooth(24, 32)[None], 4, axis=0)
    np.testing.assert_array_equal(layer(images, training=False), images)
    moved = np.asarray(layer(images, training=True))
    assert np.abs(moved[0] - moved[1]).max() > 1
    again = np.asarray(RandomAffine(seed=3)(images, training=True))
    np.testing.assert_allclose(again, moved)
    assert np.abs(np.asarray(layer(images, training=True)) - moved).max() > 1


def test_draws_stay_within_their_bounds() -> None:
    layer = RandomAffine(rotation=20, width_shift=0, height_shift=0, shear=0, zoom=0, seed=1)
    noise = np.random.default_rng(1).random((500, 7), dtype="float32")
    transforms = np.asarray(layer.transforms(noise, 32, 32))
    angles = np.degrees(np.arctan2(-transforms[:, 1], transforms[:, 4]))
    assert 18 < np.abs(angles).max() <= 20.001
    mirrored = (transforms[:, 0] < 0).mean()
    assert 0.4 < mirrored < 0.6


def test_survives_saving(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((16, 24, 3)), RandomAffine(rotation=5, seed=2)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].get_config() == model.layers[0].get_config()
