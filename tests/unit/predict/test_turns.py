"""Many networks in turn: never more at once than there is room for, and all of them each time."""

from __future__ import annotations

import gc
import weakref

import pytest

from imagetag.predict.turns import InTurn, in_groups, pictures_a_turn

VGG19 = 4 * 20_024_384  # bytes without the top


def test_groups_keep_the_order_and_fit_the_memory_of_a_pod() -> None:
    groups = in_groups([VGG19] * 100)
    assert [number for group in groups for number in group] == list(range(100))
    assert len(groups) > 1
    # A pod has 8 GiB, of which TensorFlow and a batch take some.
    assert all(VGG19 * len(group) <= 2 << 30 for group in groups)
    # What is larger than there is room for is alone, and not left out.
    assert in_groups([1, 4_000_000_000, 1, 1]) == [[0], [1], [2, 3]]
    assert in_groups([1, 1]) == [[0, 1]]


@pytest.mark.parametrize("batch_size", [1, 32, 1000])
@pytest.mark.parametrize("answers", [2, 100, 10_000])
@pytest.mark.parametrize("side", [160, 2000])
def test_a_turn_is_of_whole_batches_and_what_waits_is_bounded(
    answers: int, batch_size: int, side: int
) -> None:
    pixels = 3 * side**2
    pictures = pictures_a_turn(3, answers, pixels, batch_size)
    assert pictures % batch_size == 0
    assert pictures >= batch_size
    assert pictures * pixels <= 128 << 20 or pictures == batch_size
    assert pictures <= 8 * batch_size or pictures * answers <= 50_000
    assert pictures_a_turn(1, answers, pixels, batch_size) == batch_size


class Model:
    """What is loaded of a network."""

    def __init__(self, number: int, loaded: weakref.WeakSet[Model]) -> None:
        self.number = number
        self.itself = self  # as a model does
        loaded.add(self)


def test_a_group_is_let_go_before_the_next_is_loaded() -> None:
    loaded: weakref.WeakSet[Model] = weakref.WeakSet()
    most = calls = 0

    def load(number: int) -> Model:
        nonlocal most, calls
        calls += 1
        model = Model(number, loaded)
        most = max(most, len(loaded))
        return model

    for groups, expected in (([[0, 1], [2, 3], [4, 5]], 12), ([[*range(6)]], 6)):
        most = calls = 0
        models = InTurn(groups, load)
        for _ in range(2):
            assert [models[number].number for number in range(6) for _ in range(2)] == [
                number for number in range(6) for _ in range(2)
            ]
        assert calls == expected
        assert most <= max(map(len, groups))
        del models
        gc.collect()
