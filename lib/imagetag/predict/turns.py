"""Many models in turn: no more of them are loaded at once than memory has room for."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:  # NumPy: not for --help
    from imagetag.runs import Run

_ROOM = 2 << 30  # bytes of the models that are loaded at once
_PARAMETER = 4  # bytes
_BESIDE = 32 << 20  # bytes of a model beside its parameters: measured were 5 to 50 million
_BATCHES = 8  # that each of several models takes in turn
_MOST_ROWS = 50_000  # that wait while one group of models follows the other

Loaded = TypeVar("Loaded")


def in_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs in their order, in groups whose models memory has room for at once."""
    groups: list[list[Run]] = []
    taken = _ROOM
    for run in runs:
        size = _PARAMETER * run.parameters + _BESIDE
        if taken + size > _ROOM:
            groups.append([])
            taken = 0
        groups[-1].append(run)
        taken += size
    return groups


def pictures_a_turn(groups: Sequence[Sequence[Run]], batch_size: int) -> int:
    """Return how many pictures each model takes before the next has its turn: whole batches.

    Loading a group takes seconds, so that there are the more of them the more groups there are.
    """
    models = sum(map(len, groups))
    if models == 1:
        return batch_size
    rows = _MOST_ROWS if len(groups) > 1 else 0
    return batch_size * max(_BATCHES, rows // (models * batch_size))


class InTurn(Collection[Loaded], Generic[Loaded]):
    """What is loaded of each run, in their order, every time that it is iterated over.

    It stays loaded where there is one group; else a group is let go before the next is loaded.

    Args:
        groups: as `in_groups` returns them.
        load: loads what there is of a run.

    """

    def __init__(self, groups: Sequence[Sequence[Run]], load: Callable[[Run], Loaded]) -> None:
        self._groups, self._load = groups, load
        self._now: list[Loaded] = []
        self._number = -1  # of the group that is loaded

    def __len__(self) -> int:
        """Return how many runs there are."""
        return sum(map(len, self._groups))

    def __iter__(self) -> Iterator[Loaded]:
        """Load what is not loaded, group by group."""
        for number, group in enumerate(self._groups):
            if number != self._number:
                self._now.clear()
                gc.collect()  # models refer to themselves
                self._now.extend(map(self._load, group))
                self._number = number
            yield from self._now

    def __contains__(self, item: object) -> bool:
        """Tell whether something is loaded now."""
        return item in self._now
