"""A fitted head is what a training starts from, and what it never ends below."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from imagetag.errors import InputError
from imagetag.inputs import Plan
from imagetag.models.architectures import features_of
from imagetag.storage.local import LocalStorage
from imagetag.train import fit
from imagetag.train.checkpoint import Checkpoints, State
from imagetag.train.cluster import Cluster
from imagetag.train.data import Images
from imagetag.train.fit import Fitting, Phase, Recipe
from imagetag.train.head import Features, Featurizer, fitted
from imagetag.train.step import Objective
from tests.builders.arrays import Arrays

_RANDOM = np.random.default_rng(1)
_LABELS = np.arange(40) % 2
_PICTURES = _RANDOM.uniform(0, 255, (40, 8, 8, 3)).astype("float32")
_PICTURES[_LABELS == 1, :, :4] *= 0.6  # on the left
_UNREADABLE = 7


def model() -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    backbone = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(6, 3, strides=2)])
    x = layers.GlobalAveragePooling2D(name="features")(backbone(inputs))
    x = layers.Dense(1, name="logit")(x)
    return keras.Model(inputs, layers.Activation("sigmoid", name="probability")(x))


def part(some: slice, batch: int = 8) -> Images:
    labels = _LABELS[some]
    readable = np.arange(len(labels)) != _UNREADABLE
    groups = [str(number // 2) for number in range(len(labels))]
    source = Arrays(_PICTURES[some], readable)
    return Images(source, labels, groups, Plan(labels, batch, 1, shuffle=False))


def cluster() -> Cluster:
    return Cluster(tf.distribute.get_strategy)


def run(folder: Path, made: keras.Model, *, rate: float = 0.01) -> State:
    phases = [Phase("head", 0, 1, 0.0, fitted=True), Phase("fine-tune", 1, 2, rate)]
    storage = LocalStorage(folder)
    fitting = Fitting(
        made,
        phases,
        Recipe(Objective()),
        part(slice(0, 24)),
        part(slice(24, 40)),
        cluster(),
        Checkpoints(storage, "fox", "some", folder / "local"),
        "identity",
        mirror=True,
    )
    return fitting.fit(resume=False)


@pytest.mark.parametrize("batch", [8, 5, 64])
@pytest.mark.parametrize("mirror", [False, True])
def test_features_are_those_of_the_model_each_picture_once(batch: int, mirror: bool) -> None:
    made = model()
    found = Featurizer(made, cluster(), mirror=mirror).features(
        part(slice(0, 24), batch), lambda: None
    )
    readable = np.arange(24) != _UNREADABLE
    body = features_of(made)
    views = [_PICTURES[:24], _PICTURES[:24, :, ::-1]][: 1 + mirror]
    expected = np.stack([body.predict_on_batch(view) for view in views], axis=1)[readable]
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-3)
    assert found.labels.tolist() == _LABELS[:24][readable].tolist()
    assert found.groups.tolist() == [str(n // 2) for n in range(24) if readable[n]]


def test_what_is_trained_after_a_head_is_kept_only_if_it_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = model().get_weights()
    kept = {}
    for gain in (0.4, 0.6):
        monkeypatch.setattr(fit, "calibrated_gain", lambda *_args, gain=gain: (gain, 0.5))
        made = model()
        state = run(tmp_path / str(gain), made)
        assert [row["epoch"] for row in state.history] == [1, 2, 3]
        assert state.history[0]["learning_rate"] == 0
        kept[gain] = state.best_epoch, made.get_weights()
    assert kept[0.4][0] == 1
    np.testing.assert_array_equal(kept[0.4][1][0], start[0])  # the backbone as it was
    assert kept[0.6][0] > 1
    assert np.abs(kept[0.6][1][0] - start[0]).max() > 1e-3


def test_a_training_that_spoils_the_head_is_given_up(tmp_path: Path) -> None:
    made = model()
    assert run(tmp_path, made, rate=100.0).best_epoch == 1
    # The head that is kept has learned from validation too.
    maker = Featurizer(made, cluster(), mirror=True)
    both = [maker.features(part(some), lambda: None) for some in (slice(0, 24), slice(24, 40))]
    kernel, bias, _ = fitted(both[0] + both[1], cluster(), balanced=False)
    for ours, expected in zip(made.get_layer("logit").get_weights(), (kernel, bias), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_features_that_are_not_finite_are_told() -> None:
    features = Features(
        np.full((4, 1, 2), np.nan, np.float32), np.arange(4) % 2, np.array([*"abcd"])
    )
    with pytest.raises(InputError, match="some are not finite"):
        fitted(features, cluster(), balanced=True)
