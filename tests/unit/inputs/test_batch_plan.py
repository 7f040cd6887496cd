"""A plan is a function of the seed and the epoch: each image once, labels in equal parts."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagetag.inputs.batch_plan import NOISE, Plan

# How many images of each label, how large a batch, and a seed.
COUNTS = st.tuples(st.integers(0, 60), st.integers(0, 60)).filter(any)
BATCHES = st.integers(1, 40)
SEEDS = st.integers(0, 2**32 - 1)


def targets_of(counts: tuple[int, int]) -> Any:
    targets = np.repeat([0, 1], counts)
    return np.random.default_rng(counts).permutation(targets)


@given(COUNTS, BATCHES, SEEDS, st.integers(0, 1000), st.booleans())
def test_each_image_counts_once_an_epoch(
    counts: tuple[int, int], batch: int, seed: int, number: int, shuffle: bool
) -> None:
    targets = targets_of(counts)
    plan = Plan(targets, batch, seed, shuffle=shuffle)
    epoch = plan.epoch(number)
    assert plan.steps == -(-len(targets) // batch)
    assert epoch.images.shape == epoch.counted.shape == (plan.steps, batch)
    assert sorted(epoch.images[epoch.counted]) == list(range(len(targets)))
    # What fills up is an image too, and stands in the last batch alone.
    assert set(epoch.images.flat) <= set(range(len(targets)))
    assert epoch.counted[:-1].all()


@given(COUNTS, BATCHES, SEEDS)
def test_each_place_has_labels_in_equal_parts(
    counts: tuple[int, int], batch: int, seed: int
) -> None:
    targets = targets_of(counts)
    epoch = Plan(targets, batch, seed).epoch(3)
    for label in (0, 1):
        found = ((targets[epoch.images] == label) & epoch.counted).sum(axis=0)
        assert found.max() - found.min() <= 1


@given(COUNTS, BATCHES, SEEDS, st.integers(0, 1000), st.data())
def test_a_place_needs_only_its_own_images_in_every_epoch(
    counts: tuple[int, int], batch: int, seed: int, number: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, batch - 1))
    places = slice(start, data.draw(st.integers(start + 1, batch)))
    plan = Plan(targets_of(counts), batch, seed)
    epoch = plan.epoch(number)
    images, counted = epoch.images[:, places], epoch.counted[:, places]
    assert plan.images_at(places).tolist() == sorted(set(images.flat))
    assert plan.images_at(places, counted=True).tolist() == sorted(images[counted])


@given(COUNTS, BATCHES, SEEDS)
def test_the_shares_of_all_places_together_are_all_images(
    counts: tuple[int, int], batch: int, seed: int
) -> None:
    plan = Plan(targets_of(counts), batch, seed)
    shares = [
        plan.images_at(slice(place, place + 1), counted=True).tolist() for place in range(batch)
    ]
    assert sorted(chain.from_iterable(shares)) == list(range(sum(counts)))


@given(COUNTS, BATCHES, SEEDS, st.integers(0, 1000))
def test_the_same_plan_comes_out_anywhere_in_any_order(
    counts: tuple[int, int], batch: int, seed: int, number: int
) -> None:
    targets = targets_of(counts)
    np.random.seed(1)  # what must not matter
    first = Plan(targets, batch, seed).epoch(number)
    np.random.seed(2)
    plan = Plan(targets.copy(), batch, seed)
    plan.epoch(number + 1)
    for ours, theirs in zip(vars(plan.epoch(number)).values(), vars(first).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_numpys_global_state_is_left_as_it_is() -> None:
    before = np.random.get_state()
    Plan(targets_of((9, 5)), 4, 7).epoch(2)
    after = np.random.get_state()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_epochs_differ_in_order_and_noise_and_so_do_seeds() -> None:
    targets = targets_of((40, 24))
    epochs = [Plan(targets, 8, 5).epoch(number) for number in range(5)]
    epochs.append(Plan(targets, 8, 6).epoch(0))
    assert len({epoch.images.tobytes() for epoch in epochs}) == 6
    assert len({epoch.noise.tobytes() for epoch in epochs}) == 6
    dealt = {Plan(targets, 8, seed).images_at(slice(0, 1)).tobytes() for seed in range(5)}
    assert len(dealt) == 5


def test_without_shuffling_all_epochs_are_the_same_and_nothing_moves() -> None:
    plan = Plan(targets_of((11, 8)), 4, 5, shuffle=False)
    assert plan.epoch(0).images.tolist() == plan.epoch(9).images.tolist()
    assert not plan.epoch(9).noise.any()
    # The same images at the same places as with it.
    shuffled = Plan(targets_of((11, 8)), 4, 5)
    for place in range(4):
        places = slice(place, place + 1)
        assert plan.images_at(places).tolist() == shuffled.images_at(places).tolist()


def test_noise_is_even_in_0_to_1_and_another_for_each_image() -> None:
    noise = Plan(targets_of((900, 600)), 16, 5).epoch(4).noise
    assert noise.dtype == np.float32
    assert noise.shape == (94, 16, NOISE)
    assert 0 <= noise.min() < 0.01
    assert 0.99 < noise.max() < 1
    np.testing.assert_allclose(noise.mean(axis=(0, 1)), 0.5, atol=0.03)
    flat = noise.reshape(-1, NOISE)
    assert len(np.unique(flat, axis=0)) == len(flat)
    assert np.abs(np.corrcoef(flat.T) - np.eye(NOISE)).max() < 0.1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_images_than_places_make_one_batch(count: int) -> None:
    plan = Plan(targets_of((count, 0)), 8, 3)
    epoch = plan.epoch(0)
    assert plan.steps == 1
    assert epoch.counted.sum() == count
    assert set(epoch.images[0]) == set(range(count))
    # What fills up is taken in turn.
    assert max(np.bincount(epoch.images[0])) == -(-8 // count)


def test_each_order_of_a_places_images_is_as_likely() -> None:
    plan = Plan(np.zeros(3, int), 1, 3)
    orders = [tuple(plan.epoch(number).images[:, 0]) for number in range(600)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert min(counts) > 60
    assert max(counts) < 140
