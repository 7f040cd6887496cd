"""One pass over a dataset's manifest, which keeps numbers of all rows and a sample of the rows."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np

from imagetag.dataset import Grouping, Lowest, Picture, Row, bounded
from imagetag.explore.companions import TagCounts
from imagetag.explore.shortcuts import Facts
from imagetag.layout import LABELS, SPLITS, Label, Split

_CHECKED = 2000  # pictures of each label that shortcuts are sought in: the rest would add little
_FORMATS = 20  # that are told apart; a hostile manifest could make up thousands


class _Facts(NamedTuple):
    """A row of `Facts`."""

    width: int
    height: int
    bytes: int
    post_id: int
    ext: str
    group: int
    positive: bool


class Survey:
    """The numbers of a manifest's rows, without the rows.

    `width` and `height` in pixels, `bytes` and `positive` are arrays of the train split,
    (images,); `formats` and `ratings` count it by label, `tags` does so for tags, and `facts` are
    of an even sample of it. `images` counts both splits, `grouping` has their groups, and `shown`
    some pictures of each split and label.

    Args:
        rows: of the dataset.
        samples: how many pictures of each split and label to keep for `shown`.

    """

    def __init__(self, rows: Iterable[Row], samples: int) -> None:
        width, height, size, positive = array("d"), array("d"), array("d"), array("b")
        self.images: dict[Split, dict[Label, int]] = {
            split: dict.fromkeys(LABELS, 0) for split in SPLITS
        }
        self.grouping, self.tags = Grouping(), TagCounts()
        self.shown: dict[tuple[Split, Label], Lowest[Picture]] = {
            (split, label): Lowest(samples) for split in SPLITS for label in LABELS
        }
        checked: dict[Label, Lowest[_Facts]] = {label: Lowest(_CHECKED) for label in LABELS}
        formats: Counter[tuple[str, Label]] = Counter()
        ratings: Counter[tuple[str, Label]] = Counter()
        for row in rows:
            self.images[row.split][row.label] += 1
            self.shown[row.split, row.label].add(row.md5, partial(Picture.of, row))
            group = self.grouping.add(row)
            if row.split == "test":
                continue
            facts = _Facts(
                width=bounded(row.width),
                height=bounded(row.height),
                bytes=bounded(row.bytes),
                post_id=bounded(row.post_id),
                ext=row.ext,
                group=group,
                positive=row.label == "positive",
            )
            width.append(facts.width)
            height.append(facts.height)
            size.append(facts.bytes)
            positive.append(facts.positive)
            formats[row.ext, row.label] += 1
            ratings[row.rating, row.label] += 1
            self.tags.add(row.label, row.tags)
            checked[row.label].add(row.md5, partial(_Facts, *facts))
        self.width, self.height = np.array(width), np.array(height)
        self.bytes = np.array(size)
        self.positive = np.array(positive, dtype=bool)
        self.formats, self.ratings = _by_label(formats), _by_label(ratings)
        self.facts = _columns([facts for label in LABELS for facts in checked[label].items()])

    @property
    def count(self) -> int:
        """How many images there are in both splits."""
        return sum(count for labels in self.images.values() for count in labels.values())


def _columns(rows: list[_Facts]) -> Facts:
    width, height, size, post_id, ext, group, positive = (
        zip(*rows, strict=True) if rows else [()] * 7
    )
    return Facts(
        width=np.array(width, np.float64),
        height=np.array(height, np.float64),
        bytes=np.array(size, np.float64),
        post_id=np.array(post_id, np.float64),
        ext=np.array(ext, str),
        group=np.array(group, np.uint64),
        positive=np.array(positive, bool),
    )


def _by_label(counts: Counter[tuple[str, Label]]) -> dict[str, dict[Label, int]]:
    """Return counts by name and label, the most frequent name first; the rarest are `other`."""
    names = {name for name, _ in counts}
    table = {name: {label: counts[name, label] for label in LABELS} for name in names}
    ordered = sorted(table.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    rest = [by for _, by in ordered[_FORMATS:]]
    if not rest:
        return dict(ordered)
    other: dict[Label, int] = {label: sum(by[label] for by in rest) for label in LABELS}
    return {**dict(ordered[:_FORMATS]), "other": other}
