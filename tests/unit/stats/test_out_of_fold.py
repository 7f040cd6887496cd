"""The simulated worlds in which thresholds from out-of-fold scores are judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.benchmarks.out_of_fold import WORLDS, World, capped, judged

_WORLD = World(40_000, 1, 0.3, 2.0, 3, 0.95, wrong=0.05)


def test_the_true_precision_and_recall_are_those_of_a_large_sample() -> None:
    features, labels, _ = _WORLD.draw(np.random.default_rng(1))
    weights, bias, threshold = np.array([1.5, -0.5, 0.2]), -1.0, 0.7
    called = features[:, 0] @ weights + bias >= threshold
    precision, recall = labels[called].mean(), called[labels].mean()
    assert _WORLD.truth(weights, bias, threshold) == pytest.approx(precision, abs=0.02)
    assert _WORLD.recall(weights, bias, threshold) == pytest.approx(recall, abs=0.02)


def test_wrong_labels_keep_the_precision_below_a_level_at_any_threshold() -> None:
    world = replace(_WORLD, wrong=capped(0.3, 0.9))
    found = [world.truth(np.array([1.0, 0, 0]), 0.0, cut) for cut in (0, 2, 5)]
    assert found == sorted(found)
    assert 0.89 < found[-1] < 0.9


def test_more_pictures_for_the_threshold_promise_what_a_fifth_of_them_cannot() -> None:
    world = replace(WORLDS["few"], distance=6.0, channels=4)
    [held_out, _], [out_of_fold, _] = judged(world, 1)
    assert not held_out.made
    assert out_of_fold.made
    assert not out_of_fold.broken
    assert out_of_fold.recall > 0.9
