"""Which pictures of a tag a person is asked about, in which order, and why."""

from __future__ import annotations

import hashlib
import heapq
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from imagetag.dataset import Row
from imagetag.errors import InputError
from imagetag.layout import Label
from imagetag.runs import (
    Run,
    StoredScore,
    Suspect,
    load_decision,
    load_scores,
    load_suspects,
    one_of_each_group,
)
from imagetag.storage import Storage

QueueName = Literal["suspects", "mistakes", "uncertain", "promise", "test", "random"]
QUEUES: tuple[QueueName, ...] = get_args(QueueName)

_PARTS = {
    "train": "training",
    "validation": "validation",
    "threshold": "the threshold: verdicts count from the highest score down, without a gap",
    "test": "the test: verdicts count when all of it is judged",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A picture that a person is asked about.

    `why` says in a few words why it is in the queue, and `said` what the run's model says of it;
    each empty where there is nothing to say. `used` is what the run used it for. `chance` is the
    probability with which it was drawn, None where it was not drawn at random.
    """

    md5: str
    why: str = ""
    said: str = ""
    used: str = ""
    chance: float | None = None


def asked_by_run(storage: Storage, run: Run, name: QueueName) -> Iterator[Asked]:
    """Yield the pictures of a queue that stands on what evaluate found out about a run.

    `suspects` are labels that are probably wrong, of both kinds in turn, the most suspect first.
    `mistakes` are test pictures of which the model says other than the label, the surest first.
    `uncertain` are those of the threshold's and the test's pictures that are nearest to the
    threshold. `promise` are the threshold's pictures from the highest score down, one of each
    group: in that order evaluate counts their verdicts. `test` is all of the test split.

    Raises:
        InputError: if what it stands on is not stored, or cannot be read.

    """
    if name == "suspects":
        suspects = load_suspects(storage, run.tag, run.run).found
        yield from (
            _suspect(one) for one in sorted(suspects, key=lambda one: (one.rank, one.label))
        )
        return
    if name == "promise":
        found = list(load_scores(storage, run.tag, run.run, "threshold"))
        asked = {one.md5 for one in one_of_each_group(found)}
        yield from (_scored(one) for one in found if one.md5 in asked)
        return
    test = load_scores(storage, run.tag, run.run, "test")
    if name == "test":
        yield from map(_scored, test)
        return
    decision = load_decision(storage, run.tag, run.run, run.created)
    if decision is None:
        raise InputError(
            f"the run {run.run!r} of the tag {run.tag!r} in {storage.url} is not evaluated: run "
            f"imagetag evaluate --tags {shlex.quote(run.tag)} --run {run.run} first"
        )
    cut = decision.logit_threshold
    if name == "mistakes":
        test = [one for one in test if one.mistaken]
        test.sort(key=lambda one: (-abs(one.logit - cut), one.md5))
    else:
        test += load_scores(storage, run.tag, run.run, "threshold")
        test.sort(key=lambda one: (abs(one.logit - cut), one.md5))
    yield from map(_scored, test)


def drawn(rows: Iterable[Row], limit: int, seed: int) -> list[tuple[Row, float]]:
    """Draw rows at random without replacement, each with the same chance, and return that too.

    With the same seed a larger limit draws the same and more. Streams: only what is drawn is held.

    Args:
        rows: each once.
        limit: how many are drawn at the most.
        seed: of the draw, which depends on nothing else but the pictures' md5.

    """
    count = 0

    def counted() -> Iterator[Row]:
        nonlocal count
        for count, row in enumerate(rows, 1):  # noqa: B007 - it is read below
            yield row

    def place(row: Row) -> bytes:
        return hashlib.sha256(f"{seed} {row.md5}".encode()).digest()

    found = heapq.nsmallest(limit, counted(), key=place)
    return [(row, len(found) / count) for row in found]


def label_of(label: Label, tag: str) -> str:
    """Return a label as a person reads it."""
    return tag if label == "positive" else f"not {tag}"


def percent(share: float) -> str:
    """Return a share as a person reads it, and never as sure where it is not."""
    return f"{100 * min(max(share, 0.0005), 0.9995):.1f} %"


def _suspect(one: Suspect) -> Asked:
    return Asked(
        one.md5,
        why=f"a model that has not seen this label gives {percent(one.probability)}",
        said="" if one.said is None else percent(one.said),
        used=_PARTS[one.part],
    )


def _scored(one: StoredScore) -> Asked:
    return Asked(one.md5, said=percent(one.probability), used=_PARTS[one.part])
