"""`model.fit` and our own training see the same batches; a folder and a tag are all it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from structlog.testing import capture_logs

from imagetag.errors import InputError, UsageError
from imagetag.inputs.augment import RandomAffine
from imagetag.inputs.batches import Batches
from imagetag.train.losses import STATS
from imagetag.train.step import Objective, Stepper
from tests.builders.drawn import PICTURES, TAG, md5s, store
from tests.builders.rows import key_of

SIZE = (24, 20)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a dataset, to which nobody writes."""
    folder = tmp_path_factory.mktemp("data")
    store(folder, PICTURES)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def batches(storage: Path, cache: Path) -> Callable[..., Batches]:
    def make(part: Any = "train", **options: Any) -> Batches:
        given = {"size": SIZE, "seed": 3, "cache_folder": cache, **options}
        return Batches(given.pop("storage", storage), given.pop("tag", TAG), part, **given)

    return make


@keras.saving.register_keras_serializable("tests")
class Noting(keras.layers.Layer):  # type: ignore[misc]
    """Notes what a model is given, in order, and lets nothing through that depends on it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[Any] = []
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, inputs: Any) -> Any:
        tf.py_function(lambda values: self.seen.append(values.numpy()), [inputs], [])
        mean = tf.reduce_mean(tf.reshape(inputs, (tf.shape(inputs)[0], -1)), axis=1, keepdims=True)
        return self.scale * mean


def noting() -> tuple[keras.Model, Noting]:
    inputs = keras.Input((*SIZE, 3))
    layer = Noting(dtype="float32")
    return keras.Model(inputs, layer(inputs)), layer


def fitted(made: Batches, epochs: int, *, new: bool = True, **options: Any) -> list[Any]:
    """Return the inputs that a model is given by `fit`, batch by batch."""
    model, layer = noting()
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    if not new:
        model.evaluate(made[0][0], made[0][1], verbose=0)
    layer.seen.clear()
    model.fit(made, epochs=epochs, verbose=0, shuffle=False, **options)
    return layer.seen


def looped(made: Batches, epoch: int, steps: int) -> tuple[list[Any], list[Any]]:
    """Return what our own loop's model is given, from an epoch on, and the weights of each."""
    model, layer = noting()
    optimizer = keras.optimizers.SGD(0.0)
    optimizer.build(model.trainable_variables)
    augment = RandomAffine()
    stepper = Stepper(model, optimizer, tf.distribute.get_strategy(), Objective(), augment=augment)
    weights = []
    for batch in made.from_step(epoch, 0).take(steps):
        assert stepper.train(batch)[STATS.index("count")] == batch[2].numpy().sum()
        weights.append(batch[2].numpy())
    return layer.seen, weights


@pytest.mark.parametrize("new", [True, False])
def test_fit_gives_a_model_what_our_loop_gives_it(
    new: bool, batches: Callable[..., Batches]
) -> None:
    made = batches()
    ours, weights = looped(made, 0, 2 * len(made))
    theirs = fitted(made, 2, new=new)
    assert len(ours) == len(theirs) == 2 * len(made)
    assert weights[-1].sum() < 16  # the last batch of an epoch is filled up
    for our, weight, their in zip(ours, weights, theirs, strict=True):
        np.testing.assert_array_equal(our[weight > 0] * np.float32(1 / 255), their)
    assert made.epoch == 2


def test_threads_change_nothing(batches: Callable[..., Batches]) -> None:
    one, several = (fitted(batches(workers=workers), 2) for workers in (1, 4))
    for ours, theirs in zip(one, several, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_second_fit_goes_on_and_another_process_can(batches: Callable[..., Batches]) -> None:
    whole = fitted(batches(), 3)
    made = batches()
    parts = fitted(made, 1) + fitted(made, 1) + fitted(batches(epoch=2), 1)
    for ours, theirs in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_loop_of_ones_own_goes_on_at_the_end_of_an_epoch(
    batches: Callable[..., Batches],
) -> None:
    made, expected = batches(), fitted(batches(), 2)
    found = []
    for _ in range(2):
        found += [inputs for inputs, _ in made]
        made.on_epoch_end()
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_same_item_is_the_same_batch_and_other_epochs_and_seeds_are_others(
    batches: Callable[..., Batches],
) -> None:
    made, again = batches(), batches()
    first = made[1]
    assert all(values.dtype == np.float32 for values in first)
    assert (first[0].shape, first[1].shape) == ((16, *SIZE, 3), (16,))
    assert 0 <= first[0].min() < 0.2 < 0.8 < first[0].max() <= 1
    np.testing.assert_array_equal(again[1][0], first[0])
    made.epoch = 1
    for other in (made, batches(seed=4), batches(augment=False)):
        assert (other[1][0] != first[0]).any()


@pytest.mark.parametrize("part", ["train", "validation", "threshold", "test"])
def test_a_part_has_its_pictures_once_each(part: Any, batches: Callable[..., Batches]) -> None:
    rows = [
        picture.row
        for picture in PICTURES
        if (picture.row.split == "test" if part == "test" else picture.row.md5 in md5s(part))
    ]
    made = batches(part, augment=False)
    found = list(made)
    assert len(found) == len(made) == -(-len(rows) // 16)
    assert sum(len(inputs) for inputs, _ in found) == len(rows)
    assert sum(targets.sum() for _, targets in found) == sum(row.target for row in rows)
    assert len({image.tobytes() for inputs, _ in found for image in inputs}) == len(rows)
    made.on_epoch_end()
    same = all((a == b).all() for (a, _), (b, _) in zip(found, made, strict=True))
    assert same == (part != "train")


def test_a_model_of_ours_takes_pixels_as_they_are(batches: Callable[..., Batches]) -> None:
    scaled, plain = batches("test")[0][0], batches("test", rescale=1)[0][0]
    np.testing.assert_allclose(plain, scaled * 255, atol=1e-3)
    assert (plain == plain.round()).all()


def test_other_limits_of_the_augmentation(batches: Callable[..., Batches]) -> None:
    still = RandomAffine(0, 0, 0, 0, 0, horizontal_flip=False)
    np.testing.assert_allclose(batches(augment=still)[0][0], batches(augment=False)[0][0])


def test_the_augmentation_is_not_of_the_policy(batches: Callable[..., Batches]) -> None:
    expected = batches()[0][0]
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        np.testing.assert_array_equal(batches()[0][0], expected)
    finally:
        keras.config.set_dtype_policy(policy)


def test_what_cannot_be_read_is_not_in_a_batch(
    batches: Callable[..., Batches], tmp_path: Path
) -> None:
    store(tmp_path / "data", PICTURES)
    lost = {picture.row.md5 for picture in PICTURES if picture.row.split == "test"}
    kept = min(lost)
    for picture in PICTURES:
        if picture.row.md5 in lost - {kept}:
            (tmp_path / "data" / key_of(picture.row, TAG)).unlink()
    options = {"storage": tmp_path / "data", "cache_folder": tmp_path / "cache", "batch_size": 1}
    with capture_logs() as logs:
        made = batches("test", **options)
    assert len([line for line in logs if line["event"] == "left out"]) == len(lost) - 1
    # The one that can be read stands in, as Keras takes no empty batch.
    assert len({inputs.tobytes() for inputs, _ in made}) == 1
    (tmp_path / "data" / key_of(by_md5(kept), TAG)).unlink()
    with capture_logs():
        made = batches("test", **options | {"cache_folder": tmp_path / "other"})
    with pytest.raises(InputError, match="none of the pictures can be read"):
        made[0]


def by_md5(md5: str) -> Any:
    [row] = [picture.row for picture in PICTURES if picture.row.md5 == md5]
    return row


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"part": "tests"}, "part='tests': take train, validation, threshold, test"),
        ({"resize": "fill"}, "resize='fill': take letterbox, crop, stretch"),
        ({"size": (0, 20)}, r"size=\(0, 20\): take \(height, width\) in pixels"),
        ({"size": (20, 20, 3)}, r"size=\(20, 20, 3\): take \(height, width\) in pixels"),
        ({"size": 20}, r"size=20: take \(height, width\) in pixels"),
        ({"size": (20.0, 20)}, r"size=\(20.0, 20\): take \(height, width\) in pixels"),
        ({"batch_size": 0}, "batch_size=0: take a whole number, 1 or more"),
        ({"batch_size": "16"}, "batch_size='16': take a whole number"),
        ({"seed": -1}, "seed=-1: take a whole number, 0 or more"),
        ({"seed": None}, "seed=None: take a whole number"),
        ({"epoch": -1}, "epoch=-1: take a whole number, 0 or more"),
        ({"cache_memory": -1}, "cache_memory=-1: take a whole number, 0 or more"),
        ({"concurrency": 0}, "concurrency=0: take a whole number from 1 to 256"),
        ({"rescale": "1/255"}, "rescale='1/255': take a number"),
        ({"validation_fraction": 1.5}, "validation_fraction=1.5: take a number from 0 to below 1"),
        ({"threshold_fraction": "0"}, "threshold_fraction='0': take a number from 0 to below 1"),
        ({"augment": "no"}, "augment='no': take True, False or imagetag.inputs.RandomAffine"),
        ({"part": "test", "augment": True}, "only the part train is augmented"),
        ({"use_multiprocessing": True}, "take workers=4, which are threads"),
    ],
)
def test_a_wrong_argument_is_told(
    given: dict[str, Any], complaint: str, batches: Callable[..., Batches]
) -> None:
    with pytest.raises(ValueError, match=complaint):
        batches(**given)


def test_on_another_backend_the_layer_is_told_of(
    batches: Callable[..., Batches], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"on jax.*take augment=False, and .*RandomAffine"):
        batches()
    assert batches(augment=False)[0][0].shape == (16, *SIZE, 3)


def test_what_is_not_there_is_told(batches: Callable[..., Batches], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder"):
        batches(storage=tmp_path / "none")
    with pytest.raises(InputError, match="red/disk"):
        batches(tag="red/disk")
    with pytest.raises(UsageError, match="None is no tag"):
        batches(tag=None)
    with pytest.raises(UsageError, match="storage=None: take a folder or a URL"):
        batches(storage=None)
    with pytest.raises(InputError, match="imagetag explore"):
        batches(size=None)
    assert batches(size=np.array(SIZE), batch_size=np.int64(4))[0][0].shape == (4, *SIZE, 3)
    with pytest.raises(IndexError, match="batch 99"):
        batches("test")[99]
