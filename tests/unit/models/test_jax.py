"""Models, augmentation and losses run on Keras's JAX backend too, and say the same there."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import keras
import numpy as np
import pytest

from imagetag.inputs.augment import RandomAffine
from imagetag.inputs.batch_plan import NOISE
from imagetag.models.architectures import build_model, logits_of
from imagetag.train.losses import losses_of, stats_of

if find_spec("jax") is None:
    pytest.skip("jax is not installed: pip install jax", allow_module_level=True)

SIZE = (67, 75)
COUNT, RATE, SMOOTHING = 6, 0.01, 0.1

# Keras has one backend a process: this runs in another one.
SCRIPT = """
import sys

import keras
import numpy as np
from keras import ops

from imagetag.inputs.augment import RandomAffine
from imagetag.train.losses import losses_of, stats_of
from imagetag.models.architectures import build_model, logits_of

folder = sys.argv[1]
given = dict(np.load(f"{folder}/given.npz"))
assert keras.backend.backend() == "jax"
model = build_model("alexnet-small", tuple(given["images"].shape[1:3]), weights=None, dropout=0.0)
model.load_weights(f"{folder}/model.weights.h5")
logits = logits_of(model)
loss = lambda targets, found: ops.mean(losses_of(targets, found, float(given["smoothing"])))
logits.compile(keras.optimizers.SGD(float(given["rate"])), loss=loss)
found = {"moved": RandomAffine()(given["images"], noise=given["noise"], training=True)}
found["logits"] = logits(given["images"])
found["losses"] = losses_of(given["targets"], found["logits"], float(given["smoothing"]))
found["stats"] = stats_of(
    given["targets"], found["logits"], np.ones(len(given["targets"])), found["losses"]
)
found["loss"] = logits.train_on_batch(given["images"], given["targets"][:, None])
found["logits_after"] = logits(given["images"])
# And all of it together, with the layer's own random numbers.
inputs = keras.Input(given["images"].shape[1:])
whole = keras.Model(inputs, logits(RandomAffine(seed=1)(inputs)))
whole.compile(keras.optimizers.SGD(float(given["rate"])), loss=loss)
found["loss_moved"] = whole.train_on_batch(given["images"], given["targets"][:, None])
np.savez(f"{folder}/found.npz", **{name: np.asarray(value) for name, value in found.items()})
print("tensorflow" in sys.modules)
"""


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    random = np.random.default_rng(2)
    return {
        "images": random.uniform(0, 255, (COUNT, *SIZE, 3)).astype("float32"),
        "targets": random.integers(0, 2, COUNT).astype("float32"),
        "noise": random.random((COUNT, NOISE), dtype="float32"),
        "smoothing": SMOOTHING,
        "rate": RATE,
    }


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(3)
    return build_model("alexnet-small", SIZE, weights=None, dropout=0.0)


@pytest.fixture(scope="module")
def on_jax(
    given: dict[str, Any], model: keras.Model, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the script finds, in a process of its own, for the same weights and inputs."""
    folder = tmp_path_factory.mktemp("jax")
    np.savez(folder / "given.npz", **given)
    model.save_weights(folder / "model.weights.h5")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        # To compile takes longer here than to compute.
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        },
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "False", "TensorFlow was imported along"
    return dict(np.load(folder / "found.npz"))


def test_images_are_moved_alike(given: dict[str, Any], on_jax: dict[str, Any]) -> None:
    moved = np.asarray(RandomAffine()(given["images"], noise=given["noise"], training=True))
    assert np.abs(moved - given["images"]).mean() > 10
    # A pixel that is read a rounding error beside is that part of its neighbour.
    np.testing.assert_allclose(on_jax["moved"], moved, atol=0.1)


def test_logits_losses_and_sums_are_alike(
    given: dict[str, Any], model: keras.Model, on_jax: dict[str, Any]
) -> None:
    logits = logits_of(model)(given["images"])
    losses = losses_of(given["targets"], logits, SMOOTHING)
    np.testing.assert_allclose(on_jax["logits"], logits, atol=1e-3)
    np.testing.assert_allclose(on_jax["losses"], losses, atol=1e-3)
    stats = stats_of(given["targets"], logits, np.ones(COUNT, "float32"), losses)
    np.testing.assert_allclose(on_jax["stats"], stats, atol=1e-3)


def test_a_training_step_is_alike(
    given: dict[str, Any], model: keras.Model, on_jax: dict[str, Any]
) -> None:
    before = model.get_weights()
    logits = logits_of(model)
    logits.compile(
        keras.optimizers.SGD(RATE),
        loss=lambda targets, found: keras.ops.mean(losses_of(targets, found, SMOOTHING)),
    )
    loss = float(logits.train_on_batch(given["images"], given["targets"][:, None]))
    after = np.asarray(logits(given["images"]))
    model.set_weights(before)
    assert np.isfinite(loss)
    assert float(on_jax["loss"]) == pytest.approx(loss, abs=1e-3)
    assert np.abs(after - np.asarray(logits(given["images"]))).max() > 1e-2
    np.testing.assert_allclose(on_jax["logits_after"], after, atol=1e-2)


def test_a_step_on_images_it_moves_itself_is_finite(on_jax: dict[str, Any]) -> None:
    assert np.isfinite(on_jax["loss_moved"])
    assert float(on_jax["loss_moved"]) != float(on_jax["loss"])
