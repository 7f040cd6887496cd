"""Many networks in turn: no more of them are loaded at once than memory has room for."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

ROOM = 2 << 30  # bytes of the networks that are loaded at once
_BATCHES = 8  # that each of several groups of networks takes in turn, at the least
_MOST_ANSWERS = 50_000  # that wait while one group follows the other
_MOST_BYTES = 128 << 20  # of the pixels of a turn, of which a few are under way

Loaded = TypeVar("Loaded")


def in_groups(sizes: Sequence[int]) -> list[list[int]]:
    """Return networks by their numbers, in groups that memory has room for at once.

    Args:
        sizes: of each network, in bytes.

    """
    groups: list[list[int]] = []
    taken = ROOM
    for number, size in enumerate(sizes):
        if taken + size > ROOM:
            groups.append([])
            taken = 0
        groups[-1].append(number)
        taken += size
    return groups


def pictures_a_turn(groups: int, answers: int, pixels: int, batch_size: int) -> int:
    """Return how many pictures each network takes before the next has its turn: whole batches.

    Loading a group takes seconds, so that there are the more of them the more groups there are.

    Args:
        groups: of networks.
        answers: a picture.
        pixels: bytes of all inputs that a picture is made into.
        batch_size: pictures of a batch.

    """
    if groups == 1:
        return batch_size
    least = _BATCHES * batch_size
    most = min(_MOST_ANSWERS // answers, _MOST_BYTES // pixels)
    return max(batch_size, min(max(least, most), _MOST_BYTES // pixels)) // batch_size * batch_size


class InTurn(Generic[Loaded]):
    """What is loaded of networks, by their numbers, each when it is asked for.

    What is of another group is let go first; it stays loaded where there is one group.

    Args:
        groups: as `in_groups` returns them.
        load: loads what there is of a network.

    """

    def __init__(self, groups: Sequence[Sequence[int]], load: Callable[[int], Loaded]) -> None:
        self._group: Mapping[int, int] = {
            number: place for place, group in enumerate(groups) for number in group
        }
        self._load = load
        self._now: dict[int, Loaded] = {}

    def __getitem__(self, number: int) -> Loaded:
        """Return what is loaded, or load it."""
        if number not in self._now:
            if any(self._group[other] != self._group[number] for other in self._now):
                self._now.clear()
                gc.collect()  # models refer to themselves
            self._now[number] = self._load(number)
        return self._now[number]
