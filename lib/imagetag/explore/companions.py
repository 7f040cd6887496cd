"""Which other tags go with a tag, and which with the pictures that lack it."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable

from imagetag.layout import LABELS, Label
from imagetag.record import Record

_FREQUENT = 20
_TELLING = 10
_LEAST_SHARE = 0.05  # of a label's pictures that a telling tag is on
_LEAST_LIFT = 2.0  # how many times as frequent it is there as on the other label's
_MOST_TAGS = 200_000  # counted at once
_LONGEST_TAG = 240  # characters; no board has longer ones


class Companion(Record):
    """Another tag: on which share of the pictures of each label it is.

    `lift` is how many times as frequent it is on positives as on negatives, where one picture with
    it and one without is added to both: a tag that one label lacks is not infinitely typical.
    """

    tag: str
    positive: float
    negative: float
    lift: float


class Companions(Record):
    """The most frequent other tags of the positives, and those most telling for either label.

    A tag is telling that is on a twentieth of the label's pictures or more, and twice as frequent
    there as on the other's. They are ordered by p log(p / q), p and q being their shares: the part
    in the Kullback-Leibler divergence of one label from the other.
    """

    frequent: tuple[Companion, ...]
    positive: tuple[Companion, ...]
    negative: tuple[Companion, ...]


class TagCounts:
    """Counts tags by label, in bounded memory.

    Where there are too many different ones, the rarest are forgotten: of the tags that this is for,
    it may then miss a picture for each time that happened.
    """

    def __init__(self, most: int = _MOST_TAGS) -> None:
        self._most = most
        self._tags: dict[Label, Counter[str]] = {label: Counter() for label in LABELS}
        self.pictures: dict[Label, int] = dict.fromkeys(LABELS, 0)

    def add(self, label: Label, tags: Iterable[str]) -> None:
        """Count the tags of a picture."""
        self.pictures[label] += 1
        counts = self._tags[label]
        counts.update({tag for tag in tags if len(tag) <= _LONGEST_TAG})
        if len(counts) > self._most:
            self._tags[label] = _without_rare(counts, self._most // 2)

    def companions(self, tag: str) -> Companions:
        """Return what goes with `tag`, which is the label itself and no companion."""
        counts = self._tags["positive"]
        names = heapq.nsmallest(_FREQUENT + 1, counts, key=lambda name: (-counts[name], name))
        return Companions(
            frequent=tuple(self._companion(name) for name in names if name != tag)[:_FREQUENT],
            positive=self._telling(tag, "positive"),
            negative=self._telling(tag, "negative"),
        )

    def _telling(self, tag: str, label: Label) -> tuple[Companion, ...]:
        least = _LEAST_SHARE * self.pictures[label]
        scores = {}
        for name, count in self._tags[label].items():
            if name == tag or count < least:
                continue
            companion = self._companion(name)
            lift = companion.lift if label == "positive" else 1 / companion.lift
            if lift >= _LEAST_LIFT:
                scores[companion] = getattr(companion, label) * math.log(lift)
        best = sorted(scores, key=lambda companion: (-scores[companion], companion.tag))
        return tuple(best[:_TELLING])

    def _companion(self, tag: str) -> Companion:
        counts = [(self._tags[label][tag], self.pictures[label]) for label in LABELS]
        smoothed = [(count + 1) / (pictures + 2) for count, pictures in counts]
        shares = [count / pictures if pictures else 0.0 for count, pictures in counts]
        return Companion(
            tag=tag, positive=shares[0], negative=shares[1], lift=smoothed[0] / smoothed[1]
        )


def _without_rare(counts: Counter[str], most: int) -> Counter[str]:
    """Return at most `most` of the counts: without those of one, of two, and so on."""
    least = 1
    while len(counts) > most:
        least += 1
        counts = Counter({tag: count for tag, count in counts.items() if count >= least})
    return counts
