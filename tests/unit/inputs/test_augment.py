"""RandomAffine does what ImageDataGenerator does, and is right where that one is not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from imagetag.inputs import augment
from imagetag.inputs.augment import RandomAffine, affine_transforms, apply_affine
from imagetag.inputs.batch_plan import NOISE

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


# ---- as training uses it


def random_noise(count: int, seed: int = 3) -> Any:
    return np.random.default_rng(seed).random((count, NOISE), dtype="float32")


@pytest.mark.parametrize("shape", [(24, 24), (31, 67), (50, 20)])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_moves_are_those_of_keras_own_affine_transform(shape: tuple[int, int], kind: str) -> None:
    layer = RandomAffine(rotation=40, width_shift=0.3, height_shift=0.3, shear=25, zoom=0.4)
    images = np.stack([_smooth(*shape) for _ in range(16)]).clip(0, 255).astype(kind)
    transforms = layer.transforms(random_noise(16), *shape)
    theirs = keras.ops.image.affine_transform(
        images.astype("float32"),
        keras.ops.pad(transforms, [[0, 0], [0, 2]]),
        interpolation="bilinear",
        fill_mode="nearest",
    )
    ours = apply_affine(images, transforms)
    assert keras.backend.standardize_dtype(ours.dtype) == "float32"
    np.testing.assert_allclose(ours, theirs, atol=0.255)  # a thousandth


def test_the_moves_are_a_function_of_the_noise_of_each_image_alone() -> None:
    layer, noise = RandomAffine(seed=1), random_noise(6)
    images = np.stack([_smooth(20, 30) for _ in range(6)])
    moved = np.asarray(layer(images, noise=noise, training=True))
    np.testing.assert_array_equal(RandomAffine(seed=2)(images, noise=noise, training=True), moved)
    order = [3, 1, 5]
    parts = layer(images[order], noise=noise[order], training=True)
    np.testing.assert_allclose(parts, moved[order], atol=1e-3)
    assert all(np.abs(a - b).max() > 1 for a, b in zip(moved, images, strict=True))
    np.testing.assert_array_equal(layer(images, noise=noise, training=False), images)


def test_noise_in_the_middle_moves_nothing() -> None:
    images = np.stack([_smooth(20, 30) for _ in range(2)])
    noise = np.full((2, NOISE), 0.5, "float32")
    np.testing.assert_allclose(
        RandomAffine()(images, noise=noise, training=True), images, atol=0.01
    )
    noise[1, 6] = 0.49  # below the middle, it is mirrored
    moved = np.asarray(RandomAffine()(images, noise=noise, training=True))
    np.testing.assert_allclose(moved[0], images[0], atol=0.01)
    np.testing.assert_allclose(moved[1], images[1, :, ::-1], atol=0.01)
    never = RandomAffine(horizontal_flip=False)(images, noise=noise, training=True)
    np.testing.assert_allclose(never, images, atol=0.01)


def moves_of(layer: RandomAffine, noise: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the transforms are made of, by name."""
    found: dict[str, Any] = {}

    def noting(**moves: Any) -> Any:
        found.update({name: np.asarray(value) for name, value in moves.items()})
        return affine_transforms(**moves)

    monkeypatch.setattr(augment, "affine_transforms", noting)
    if noise is None:
        layer(np.zeros((4000, 2, 3, 1), "float32"), training=True)
    else:
        layer.transforms(noise, 2, 3)
    return found


# What each move may be at least and at most.
BOUNDS = {
    "rotation": (-math.radians(20), math.radians(20)),
    "down": (-0.1, 0.1),
    "right": (-0.2, 0.2),
    "shear": (-math.radians(6), math.radians(6)),
    "zoom_y": (0.7, 1.3),
    "zoom_x": (0.7, 1.3),
    "flip": (0, 1),
}


@pytest.mark.parametrize("noise", [random_noise(4000), None], ids=["noise", "own generator"])
def test_each_move_is_even_between_its_bounds_and_alone(
    noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = RandomAffine(width_shift=0.2, height_shift=0.1, shear=6, zoom=0.3, seed=4)
    moves = moves_of(layer, noise, monkeypatch)
    draws = np.stack([(moves[name] - low) / (high - low) for name, (low, high) in BOUNDS.items()])
    assert draws.shape == (NOISE, 4000)
    assert -1e-6 < draws.min() < draws.max() < 1 + 1e-6
    np.testing.assert_allclose(draws.mean(axis=1), 0.5, atol=0.03)
    # An even spread, of all but the flip.
    for quantile in (0.01, 0.25, 0.75, 0.99):
        np.testing.assert_allclose(np.quantile(draws[:-1], quantile, axis=1), quantile, atol=0.03)
    assert set(draws[-1]) == {0, 1}
    assert np.abs(np.corrcoef(draws) - np.eye(NOISE)).max() < 0.06


def test_the_ends_of_the_noise_are_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = RandomAffine(width_shift=0.2, height_shift=0.1, shear=6, zoom=0.3)
    ends = np.array([[0.0] * NOISE, [1 - 2**-24] * NOISE], "float32")
    moves = moves_of(layer, ends, monkeypatch)
    for name, bounds in BOUNDS.items():
        expected = bounds[::-1] if name == "flip" else bounds
        np.testing.assert_allclose(moves[name], expected, atol=1e-6)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_compiled_or_as_a_graph_it_is_the_same_within_the_bounds_of_the_pixels(
    kind: str, compiled: bool
) -> None:
    layer, noise = RandomAffine(shear=40, zoom=0.5), random_noise(8)
    images = np.stack([_smooth(31, 67) for _ in range(8)]).clip(20, 230).astype(kind)
    call = tf.function(
        lambda images, noise: layer(images, noise=noise, training=True), jit_compile=compiled
    )
    found = call(tf.constant(images), tf.constant(noise))
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, layer(images, noise=noise, training=True), atol=0.05)
    assert found.numpy().min() > images.min() - 1e-3
    assert found.numpy().max() < images.max() + 1e-3


def test_batches_whose_number_is_not_known_ahead_are_moved_too() -> None:
    layer = RandomAffine()
    call = tf.function(
        lambda images, noise: layer(images, noise=noise, training=True),
        input_signature=[tf.TensorSpec((None, 20, 30, 3)), tf.TensorSpec((None, NOISE))],
    )
    for count in (1, 5):
        images, noise = np.stack([_smooth(20, 30) for _ in range(count)]), random_noise(count)
        np.testing.assert_allclose(
            call(images, noise), layer(images, noise=noise, training=True), atol=0.05
        )
