"""What belongs together in a dataset: posts of one family, and near-duplicates."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from imagetag.dataset.manifest import Curated, Dataset, Row, read_parts
from imagetag.dataset.thumbnails import Lowest, Picture
from imagetag.layout import LABELS, SPLITS, Label, Split
from imagetag.record import Record
from imagetag.storage import Storage

_LARGEST = 6  # groups that are shown, and
_MEMBERS = 6  # how many pictures of each
_CONFLICTS = 50  # that are listed, and
_OF_A_LABEL = 2  # how many pictures of each label of one


class GroupCounts(Record):
    """How the pictures of a split are grouped.

    Attributes:
        pictures: of the split.
        groups: that they are in; of one or several pictures.
        several: groups of several pictures.
        in_several: pictures in those.
        largest: pictures in the largest group.
        mixed: groups with pictures of both labels.

    """

    pictures: int
    groups: int
    several: int
    in_several: int
    largest: int
    mixed: int


class Group(Record):
    """A group of several pictures, and some of them."""

    pictures: int
    shown: tuple[Picture, ...]


class Conflict(Record):
    """Near-duplicates of different labels, one of which is probably wrong; some of each.

    Of one file that has both labels there is no negative: it is stored as a positive.
    """

    positive: tuple[Picture, ...]
    negative: tuple[Picture, ...]


class Families(Record):
    """What belongs together.

    `twins` are pictures of the train split that curation found near-duplicates of, `twin_groups`
    their groups. `conflicting` counts the groups in which near-duplicates differ in their label, or
    posts of one file do, of which `conflicts` has 50 at the most.
    """

    splits: dict[Split, GroupCounts]
    largest: tuple[Group, ...]
    twins: int
    twin_groups: int
    conflicting: int
    conflicts: tuple[Conflict, ...]


class Twins:
    """What curation says of the near-duplicates that are still in the dataset."""

    def __init__(self, verdicts: Iterable[Curated]) -> None:
        groups: set[int] = set()
        conflicting: dict[str, list[bytes]] = {}
        self.count = 0
        for verdict in verdicts:
            if verdict.dropped or verdict.group is None:
                continue
            if verdict.twin is not None:
                self.count += 1
                groups.add(group_number(verdict.group))
            if verdict.conflicting:
                conflicting.setdefault(verdict.group, []).append(bytes.fromhex(verdict.md5))
        self.groups = len(groups)
        self.conflicting = len(conflicting)
        listed = sorted(conflicting)[:_CONFLICTS]
        self.conflicts = {digest: group for group in listed for digest in conflicting[group]}

    @classmethod
    def of(cls, storage: Storage, dataset: Dataset) -> Twins:
        """Read what is stored of a dataset's curation.

        Raises:
            InputError: if a part of it is missing or cannot be read.

        """
        parts = dataset.curation.parts if dataset.curation else ()
        return cls(read_parts(storage, parts, Curated))


class Grouping:
    """Counts pictures by group, in eight bytes each."""

    def __init__(self) -> None:
        self._numbers: dict[Split, array[int]] = {split: array("Q") for split in SPLITS}
        self._positive: dict[Split, array[int]] = {split: array("b") for split in SPLITS}

    def add(self, row: Row) -> int:
        """Count a picture; return the number of its group."""
        number = group_number(row.group)
        self._numbers[row.split].append(number)
        self._positive[row.split].append(row.label == "positive")
        return number

    def counts(self, split: Split) -> GroupCounts:
        """Return how the pictures of a split are grouped."""
        _, member, sizes = self._groups(split)
        positive = np.array(self._positive[split], dtype=bool)
        ups = np.bincount(member[positive], minlength=len(sizes))
        several = sizes > 1
        return GroupCounts(
            pictures=len(member),
            groups=len(sizes),
            several=int(several.sum()),
            in_several=int(sizes[several].sum()),
            largest=int(sizes.max(initial=0)),
            mixed=int(np.count_nonzero((ups > 0) & (ups < sizes))),
        )

    def largest(self) -> dict[int, int]:
        """Return how many pictures the largest groups of several have, by the groups' numbers."""
        found = []
        for split in SPLITS:
            numbers, _, sizes = self._groups(split)
            first = np.argsort(-sizes, kind="stable")[:_LARGEST]
            found += [(int(sizes[at]), int(numbers[at])) for at in first if sizes[at] > 1]
        found.sort(key=lambda item: (-item[0], item[1]))
        return {number: size for size, number in found[:_LARGEST]}

    def _groups(
        self, split: Split
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the groups' numbers, which of them each picture is in, and their sizes."""
        return np.unique(
            np.array(self._numbers[split], dtype=np.uint64),
            return_inverse=True,
            return_counts=True,
        )


def group_number(group: str) -> int:
    """Return 64 bits that stand for a group."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "big")


def find_families(rows: Iterable[Row], grouping: Grouping, twins: Twins) -> Families:
    """Return what belongs together.

    Args:
        rows: of the dataset once more, as only now it is known which of them are to be shown.
        grouping: of the same rows.
        twins: what curation says of them.

    """
    sizes = grouping.largest()
    members: dict[int, Lowest[Picture]] = {number: Lowest(_MEMBERS) for number in sizes}
    conflicts: dict[str, dict[Label, Lowest[Picture]]] = {}
    if sizes or twins.conflicts:
        for row in rows:
            make = partial(Picture.of, row)
            kept = members.get(group_number(row.group))
            if kept is not None:
                kept.add(row.md5, make)
            name = twins.conflicts.get(bytes.fromhex(row.md5))
            if name is not None:
                of_labels = conflicts.setdefault(
                    name, {label: Lowest(_OF_A_LABEL) for label in LABELS}
                )
                of_labels[row.label].add(row.md5, make)
    return Families(
        splits={split: grouping.counts(split) for split in SPLITS},
        largest=tuple(
            Group(pictures=sizes[number], shown=kept.items()) for number, kept in members.items()
        ),
        twins=twins.count,
        twin_groups=twins.groups,
        conflicting=twins.conflicting,
        conflicts=tuple(
            Conflict(
                positive=of_labels["positive"].items(),
                negative=of_labels["negative"].items(),
            )
            for _, of_labels in sorted(conflicts.items())
        ),
    )
