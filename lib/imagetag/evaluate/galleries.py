"""Pictures with what the model says of them, and which of them a page shows."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from imagetag.dataset import Row, caption
from imagetag.runs import Shown

_MISTAKES = 24  # pictures a gallery; more are counted, not shown
_HITS = 12


@dataclass(frozen=True)
class Scored:
    """A picture with what the model says of it: a logit, a calibrated probability, a decision."""

    row: Row
    logit: float
    probability: float
    called: bool

    @property
    def md5(self) -> str:
        """The digest of the picture's content."""
        return self.row.md5

    @property
    def group(self) -> str:
        """What must stay in one split with it."""
        return self.row.group

    @property
    def positive(self) -> bool:
        """Whether the picture has the tag, by its label."""
        return self.row.label == "positive"


@dataclass(frozen=True)
class Galleries:
    """Pictures worth looking at, the most telling first."""

    false_positives: list[Scored]
    false_negatives: list[Scored]
    hits: list[Scored]

    def all(self) -> Iterable[Scored]:
        """Yield every picture of them."""
        yield from (*self.false_positives, *self.false_negatives, *self.hits)


def pick_galleries(predictions: Iterable[Scored]) -> Galleries:
    """Pick what a page shows of some predictions: 24 mistakes of each kind and 12 hits at most.

    False positives come with the most confident first, false negatives with the least probable
    first, hits with the hardest first. Streams: only what is picked is held.
    """
    false_positives: list[tuple[float, str, Scored]] = []
    false_negatives: list[tuple[float, str, Scored]] = []
    hits: list[tuple[float, str, Scored]] = []
    for scored in predictions:
        if scored.called and scored.positive:
            _keep(hits, _HITS, -scored.logit, scored)
        elif scored.called:
            _keep(false_positives, _MISTAKES, scored.logit, scored)
        elif scored.positive:
            _keep(false_negatives, _MISTAKES, -scored.logit, scored)
    return Galleries(*(_best_first(heap) for heap in (false_positives, false_negatives, hits)))


def shown(scored: Iterable[Scored]) -> list[Shown]:
    """Return pictures as a gallery has them."""
    return [shown_row(item.row, item.probability) for item in scored]


def shown_row(row: Row, probability: float) -> Shown:
    """Return a picture as a gallery has it, with some probability of the tag."""
    return Shown(
        md5=row.md5,
        post_id=row.post_id,
        board=row.board,
        page_url=row.page_url,
        label=row.label,
        rating=row.rating,
        probability=probability,
        name=caption(row),
        split=row.split,
        ext=row.ext,
        stored_label=row.stored_label,
    )


def _keep(heap: list[tuple[float, str, Scored]], limit: int, weight: float, scored: Scored) -> None:
    # Heaps compare the md5 next: the same predictions give the same page in any order.
    entry = (weight, scored.row.md5, scored)
    if len(heap) < limit:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


def _best_first(heap: list[tuple[float, str, Scored]]) -> list[Scored]:
    return [scored for *_, scored in sorted(heap, key=lambda entry: entry[:2], reverse=True)]
