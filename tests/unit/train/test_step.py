"""A step is that of the whole batch, however it is split, and of the images that count alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from imagetag.inputs.augment import RandomAffine
from imagetag.inputs.batch_plan import NOISE
from imagetag.train.losses import STATS
from imagetag.train.step import Objective, Stepper, Sums

SHAPE = (6, 5, 3)
RATE = 0.1
_random = np.random.default_rng(8)


def make_batch(size: int, *, scale: float = 1.0, weights: Any = None) -> tuple[Any, ...]:
    """Inputs, targets, weights and noise, as a feed gives them."""
    return (
        (_random.normal(size=(size, *SHAPE)) * scale).astype("float32"),
        _random.integers(0, 2, size).astype("float32"),
        np.ones(size, "float32") if weights is None else np.array(weights, "float32"),
        _random.random((size, NOISE)).astype("float32"),
    )


def make_model(*, batch_norm: bool = False) -> keras.Model:
    """From inputs to logits, small, and the same each time."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(4, 3, activation="tanh")(inputs)
    if batch_norm:
        x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(1, dtype="float32", name="logit")(x))


class Trained:
    """A model after steps of SGD, and what the steps returned."""

    def __init__(
        self,
        *batches: tuple[Any, ...],
        objective: Objective | None = None,
        model: keras.Model | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        **options: Any,
    ) -> None:
        self.model = model or make_model()
        self.before = [np.array(value) for value in self.model.get_weights()]
        self.optimizer = optimizer or keras.optimizers.SGD(RATE)
        self.optimizer.build(self.model.trainable_variables)
        self.stepper = Stepper(
            self.model,
            self.optimizer,
            tf.distribute.get_strategy(),
            objective or Objective(),
            **options,
        )
        self.stats = [as_stats(self.stepper.train(as_tensors(batch))) for batch in batches]
        self.weights = self.model.get_weights()

    @property
    def gradients(self) -> list[Any]:
        """Those of the one step of SGD that was done."""
        assert len(self.stats) == 1
        return [(a - b) / RATE for a, b in zip(self.before, self.weights, strict=True)]


def as_tensors(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(map(tf.constant, batch))


def as_stats(found: Any) -> dict[str, float]:
    return dict(zip(STATS, found.numpy().tolist(), strict=True))


def reference(
    batch: tuple[Any, ...], loss: Callable[[Any, Any], Any], model: keras.Model | None = None
) -> list[Any]:
    """The gradients of a loss of targets and logits, in Keras's and TensorFlow's own words."""
    model = model or make_model()
    with tf.GradientTape() as tape:
        value = loss(tf.constant(batch[1][:, None]), model(batch[0], training=True))
    return [g.numpy() for g in tape.gradient(value, [v.value for v in model.trainable_variables])]


def assert_close(ours: list[Any], theirs: list[Any], tolerance: float = 1e-5) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


def norm(gradients: list[Any]) -> float:
    return float(np.sqrt(sum((gradient**2).sum() for gradient in gradients)))


def test_a_step_goes_down_the_mean_loss_of_the_batch() -> None:
    batch = make_batch(12)
    expected = reference(batch, keras.losses.BinaryCrossentropy(from_logits=True))
    trained = Trained(batch)
    assert norm(expected) > 0.1
    assert_close(trained.gradients, expected)
    # What it returns is of the model before the step.
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    logits = make_model()(batch[0])
    assert trained.stats[0]["count"] == 12
    assert trained.stats[0]["loss"] == pytest.approx(12 * float(loss(batch[1][:, None], logits)))
    called = (np.asarray(logits)[:, 0] > 0).astype(int)
    assert trained.stats[0]["tp"] == (called * batch[1]).sum()
    assert trained.stats[0]["fp"] == (called * (1 - batch[1])).sum()


# ---- micro-batches


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 6, 12])
def test_micro_batches_make_the_step_of_the_whole_batch(micro_batch: int) -> None:
    weights = [1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1]  # one micro-batch of three has none at all
    batches = [make_batch(12, weights=weights) for _ in range(3)]
    objective = Objective((0.7, 1.9), label_smoothing=0.1, clip_norm=0.2)
    whole = Trained(*batches, objective=objective)
    split = Trained(*batches, objective=objective, micro_batch=micro_batch)
    assert_close(split.weights, whole.weights)
    for ours, theirs in zip(split.stats, whole.stats, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_micro_batches_are_moved_as_the_whole_batch_is() -> None:
    batch = make_batch(8)
    whole = Trained(batch, augment=RandomAffine())
    assert_close(Trained(batch, augment=RandomAffine(), micro_batch=2).weights, whole.weights)
    assert norm([a - b for a, b in zip(whole.weights, Trained(batch).weights, strict=True)]) > 1e-3


def test_validation_takes_micro_batches_too() -> None:
    batch = make_batch(12, weights=[1] * 7 + [0] * 5)
    found = [
        as_stats(Trained(micro_batch=size).stepper.test(as_tensors(batch))) for size in (None, 3)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0]["count"] == 7


# ---- what counts, and how much


def test_class_weights_are_keras_sample_weights() -> None:
    batch = make_batch(12)
    weights = np.where(batch[1] > 0, 3.0, 0.5).astype("float32")
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    expected = reference(batch, lambda y, logits: loss(y, logits, sample_weight=weights[:, None]))
    trained = Trained(batch, objective=Objective((0.5, 3.0)))
    assert_close(trained.gradients, expected)
    # In counts, an image is an image.
    assert trained.stats[0]["count"] == 12


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_images_without_weight_change_nothing(micro_batch: int | None) -> None:
    batch = make_batch(8)
    batch[0][5:] *= 1e3
    batch[1][5:] = 1 - batch[1][5:]
    padded = (*batch[:2], np.array([1] * 5 + [0] * 3, "float32"), batch[3])
    alone: tuple[Any, ...] = tuple(values[:5] for values in batch)
    ours, theirs = Trained(padded, micro_batch=micro_batch), Trained(alone)
    assert_close(ours.weights, theirs.weights)
    assert ours.stats[0] == pytest.approx(theirs.stats[0], rel=1e-5)


def test_a_batch_of_nothing_that_counts_moves_nothing() -> None:
    trained = Trained(make_batch(4, weights=[0] * 4), objective=Objective(clip_norm=0.5))
    assert_close(trained.weights, trained.before, 0)
    assert trained.stats[0] == dict.fromkeys(STATS, 0)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_clipping_is_of_all_gradients_together(micro_batch: int | None) -> None:
    batch = make_batch(12, scale=30)
    free = Trained(batch).gradients
    assert norm(free) > 2
    clipped = Trained(batch, objective=Objective(clip_norm=0.5), micro_batch=micro_batch).gradients
    assert norm(clipped) == pytest.approx(0.5, rel=1e-3)
    assert_close(clipped, [gradient * 0.5 / norm(free) for gradient in free])
    # What is small enough stays.
    generous = Trained(batch, objective=Objective(clip_norm=2 * norm(free))).gradients
    assert_close(generous, free, 1e-4)


def test_validation_has_the_class_weights_of_training_and_no_smoothing() -> None:
    batch = make_batch(12)
    smooth = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2)
    sharp = keras.losses.BinaryCrossentropy(from_logits=True)
    trained = Trained(batch, objective=Objective((0.5, 3.0), label_smoothing=0.2))
    weights = np.where(batch[1] > 0, 3.0, 0.5).astype("float32")[:, None]
    expected = reference(batch, lambda y, logits: smooth(y, logits, sample_weight=weights))
    assert_close(trained.gradients, expected)
    # Early stopping minimizes what training does.
    loss = sharp(batch[1][:, None], trained.model(batch[0]), sample_weight=weights)
    found = as_stats(trained.stepper.test(as_tensors(batch)))
    assert found["loss"] == pytest.approx(12 * float(loss), rel=1e-5)
    assert found["count"] == 12


def test_validation_changes_nothing_and_sees_the_model_at_inference() -> None:
    model = make_model(batch_norm=True)
    trained = Trained(model=model)
    batch = make_batch(6, scale=20)
    expected = np.asarray(model(batch[0], training=False))[:, 0]
    found = as_stats(trained.stepper.test(as_tensors(batch)))
    assert found["tp"] + found["fp"] == (expected > 0).sum()
    assert_close(model.get_weights(), trained.before, 0)


def test_batch_normalization_learns_from_the_batch_in_training() -> None:
    batch, model = make_batch(6), make_model(batch_norm=True)
    before = keras.Model(model.inputs, model.layers[1].output)(batch[0]).numpy()
    norms = Trained(batch, model=model).model.layers[2]
    mean, variance = before.mean(axis=(0, 1, 2)), before.var(axis=(0, 1, 2))
    np.testing.assert_allclose(norms.moving_mean, 0.01 * mean, atol=1e-6)
    np.testing.assert_allclose(norms.moving_variance, 0.99 + 0.01 * variance, atol=1e-6)


def test_only_what_may_train_does() -> None:
    model = make_model()
    model.layers[1].trainable = False
    trained = Trained(make_batch(6), model=model)
    changed = [
        not np.array_equal(a, b) for a, b in zip(trained.before, trained.weights, strict=True)
    ]
    assert changed == [False, False, True, True]


def test_inputs_are_moved_in_training_by_their_noise_and_never_in_validation() -> None:
    layer = RandomAffine()
    batch = make_batch(6)
    moved = (np.asarray(layer(batch[0], noise=batch[3], training=True)), *batch[1:])
    ours, theirs = Trained(batch, augment=layer), Trained(moved)
    assert_close(ours.weights, theirs.weights)
    validated = as_stats(Trained(augment=layer).stepper.test(as_tensors(batch)))
    assert validated == pytest.approx(as_stats(Trained().stepper.test(as_tensors(batch))))


def test_pixels_may_be_bytes() -> None:
    batch = make_batch(4)
    pixels = _random.integers(0, 256, batch[0].shape, dtype=np.uint8)
    ours, theirs = (
        Trained((values, *batch[1:]), augment=RandomAffine())
        for values in (pixels, pixels.astype("float32"))
    )
    assert_close(ours.weights, theirs.weights)


# ---- how it is computed


@pytest.mark.parametrize("micro_batch", [None, 4])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_compiled_it_is_the_same_to_rounding(batch_norm: bool, micro_batch: int | None) -> None:
    batches = [make_batch(8, weights=[1] * 7 + [0]) for _ in range(2)]
    ours, theirs = (
        Trained(
            *batches,
            model=make_model(batch_norm=batch_norm),
            objective=Objective((0.7, 1.9), label_smoothing=0.1, clip_norm=0.5),
            augment=RandomAffine(),
            micro_batch=micro_batch,
            jit=jit,
        )
        for jit in (True, False)
    )
    assert_close(ours.weights, theirs.weights)
    for a, b in zip(ours.stats, theirs.stats, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.fixture
def half_precision() -> Any:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def scaled(**options: Any) -> Any:
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), **options)


@pytest.mark.usefixtures("half_precision")
@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("jit", [False, True])
def test_half_precision_does_the_same_steps_roughly(jit: bool, clip_norm: float | None) -> None:
    batches = [make_batch(8) for _ in range(3)]
    objective = Objective((0.7, 1.9), clip_norm=clip_norm)
    optimizer = scaled(initial_scale=2.0**10)
    ours = Trained(*batches, objective=objective, optimizer=optimizer, jit=jit, micro_batch=4)
    assert ours.model.layers[1].compute_dtype == "float16"
    assert {weight.dtype.name for weight in ours.weights} == {"float32"}
    keras.config.set_dtype_policy("float32")
    theirs = Trained(*batches, objective=objective)
    moved = norm([a - b for a, b in zip(theirs.weights, theirs.before, strict=True)])
    off = norm([a - b for a, b in zip(ours.weights, theirs.weights, strict=True)])
    assert 0 < off < 0.02 * moved
    # The loss is not scaled in what is reported.
    assert ours.stats[0]["loss"] == pytest.approx(theirs.stats[0]["loss"], rel=0.01)


@pytest.mark.usefixtures("half_precision")
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_step_that_overflows_is_left_out_and_the_scale_halved(clip_norm: float | None) -> None:
    optimizer = scaled(initial_scale=2.0**60)
    trained = Trained(
        make_batch(8, scale=10), objective=Objective(clip_norm=clip_norm), optimizer=optimizer
    )
    assert_close(trained.weights, trained.before, 0)
    assert float(optimizer.dynamic_scale) == 2.0**59
    assert np.isfinite(trained.stats[0]["loss"])


# ---- sums of steps


@pytest.mark.parametrize("count", [0, 1, 64, 65, 200])
def test_sums_of_any_number_of_steps_are_exact(count: int) -> None:
    sums = Sums()
    for number in range(count):
        sums.add(tf.fill((len(STATS),), float(number)))
    assert sums.values() == [count * (count - 1) / 2] * len(STATS)
    assert sums.values() == sums.values()


def test_sums_go_on_from_those_of_a_checkpoint() -> None:
    sums = Sums([1.5, 2, 3, 4, 5, 2.0**40])
    sums.add(np.ones(len(STATS), "float32"))
    assert sums.values() == [2.5, 3, 4, 5, 6, 2.0**40 + 1]
