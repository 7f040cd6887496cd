"""Many models in turn: never more at once than there is room for, and all of them each time."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from imagetag.predict.turns import InTurn, in_groups, pictures_a_turn
from imagetag.runs.runs import Run

VGG19 = 20_024_384  # parameters without the top


def runs(*parameters: int) -> list[Run]:
    fields: list[dict[str, Any]] = [
        {"tag": str(number), "parameters": count} for number, count in enumerate(parameters)
    ]
    return [Run.model_construct(**values) for values in fields]


def tags(groups: Sequence[Sequence[Run]]) -> list[list[str]]:
    return [[run.tag for run in group] for group in groups]


def test_groups_keep_the_order_and_fit_the_memory_of_a_pod() -> None:
    groups = in_groups(runs(*[VGG19] * 100))
    assert [run.tag for group in groups for run in group] == [str(number) for number in range(100)]
    assert len(groups) > 1
    # A pod has 8 GiB, of which TensorFlow and a batch take some.
    assert all(4 * VGG19 * len(group) < 2 << 30 for group in groups)
    # What is larger than there is room for is alone, and not left out.
    assert tags(in_groups(runs(1, 1_000_000_000, 1, 1))) == [["0"], ["1"], ["2", "3"]]
    assert tags(in_groups(runs(1, 1))) == [["0", "1"]]


@pytest.mark.parametrize("batch_size", [1, 32, 1000])
@pytest.mark.parametrize("count", [2, 100, 10_000])
def test_a_turn_is_of_whole_batches_and_its_rows_are_bounded(count: int, batch_size: int) -> None:
    several = in_groups(runs(*[VGG19] * count))
    pictures = pictures_a_turn(several, batch_size)
    assert pictures % batch_size == 0
    assert pictures >= 8 * batch_size
    assert pictures == 8 * batch_size or pictures * count <= 50_000
    assert pictures_a_turn(several[:1], batch_size) == 8 * batch_size
    assert pictures_a_turn([several[0][:1]], batch_size) == batch_size


class Model:
    """What is loaded of a run."""

    def __init__(self, run: Run, loaded: weakref.WeakSet[Model]) -> None:
        self.tag = run.tag
        self.itself = self  # as a model does
        loaded.add(self)


def test_a_group_is_let_go_before_the_next_is_loaded() -> None:
    loaded: weakref.WeakSet[Model] = weakref.WeakSet()
    most = calls = 0

    def load(run: Run) -> Model:
        nonlocal most, calls
        calls += 1
        model = Model(run, loaded)
        most = max(most, len(loaded))
        return model

    found = runs(*[1] * 6)
    for groups, expected in (([found[:2], found[2:4], found[4:]], 12), ([found], 6)):
        most = calls = 0
        models = InTurn(groups, load)
        assert len(models) == 6
        for _ in range(2):
            assert [model.tag for model in models] == [*"012345"]
        assert calls == expected
        # The last one that was asked may be held yet by who has asked it.
        assert most <= max(map(len, groups)) + 1
        del models
