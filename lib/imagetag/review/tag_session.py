"""The pictures of a tag's dataset that a person is asked about; answers become verdicts."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from imagetag.dataset import Row, bounded, caption, load_dataset, read_rows
from imagetag.errors import InputError
from imagetag.layout import Label, Layout, Split
from imagetag.log import get_logger, working
from imagetag.pages import web_link
from imagetag.review.neighbours import Neighbours, open_neighbours
from imagetag.review.outlook import Outlook
from imagetag.review.pictures import Pictures, read_bounded
from imagetag.review.queues import QUEUES, Asked, QueueName, asked_by_run, drawn, label_of
from imagetag.review.session import About, Facts, Given, Neighbour, Progress, Session
from imagetag.runs import load_decision, load_run, load_scores
from imagetag.storage import Storage
from imagetag.verdicts import (
    Verdict,
    Verdicts,
    load_verdicts,
    merge_verdicts,
    store_verdicts,
)

_NEIGHBOURS: Final = 12
_MOST_TAGS = 200  # that are told of a picture
_LONGEST_TAG = 200  # characters
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a picture of the dataset is."""

    split: Split
    label: Label
    ext: str


class TagSession(Session):
    """A queue of pictures of a tag's dataset.

    Args:
        storage: has them, and gets the verdicts.
        tag: what is asked for.
        queue: the queue's name, as verdicts have it.
        asked: the queue.
        rows: of the pictures in the queue, by their md5.
        stored: where each picture of the dataset is, by its md5.
        verdicts: what was said of them before.
        by: the reviewer's name, empty if none is given.
        outlook: tells how many more verdicts a promise takes, if anything is known of it.
        neighbours: opens what finds pictures that are alike; it is asked for once, when they are
            first wanted. None where there are no features.

    """

    def __init__(
        self,
        storage: Storage,
        tag: str,
        queue: str,
        asked: Sequence[Asked],
        rows: dict[str, Row],
        stored: dict[str, _Stored],
        verdicts: Verdicts,
        *,
        by: str = "",
        outlook: Outlook | None = None,
        neighbours: Callable[[], Neighbours | None] | None = None,
    ) -> None:
        self._storage, self._tag, self._queue, self._by = storage, tag, queue, by
        self._asked = {one.md5: one for one in asked}
        self._rows, self._stored, self._verdicts = rows, stored, verdicts
        self._outlook = outlook
        self._open_neighbours = neighbours
        self._neighbours: Neighbours | None = None
        self._opening = threading.Lock()
        self._pictures = Pictures(self._read)
        key = hashlib.sha256(f"{storage.url}\n{tag}\n{queue}\n{by}".encode()).hexdigest()[:_DIGITS]
        super().__init__(
            About(
                key=key,
                tag=tag,
                title=_TITLES.get(queue, queue),
                neighbours=neighbours is not None,
            ),
            tuple(self._asked),
            verdicts.newest,
        )

    def has(self, item: str) -> bool:
        """Tell whether a picture is in the dataset: answers are taken from older pages too."""
        return item in self._stored

    def facts(self, item: str) -> Facts:
        """Return what is told of a picture of the queue."""
        asked, row = self._asked[item], self._rows[item]
        notes = [
            ("label", label_of(row.label, self._tag)),
            ("the model says", asked.said),
            ("asked because", asked.why),
            ("used for", asked.used or f"the {row.split} split"),
            ("rating", row.rating),
            ("size", f"{bounded(row.width)} by {bounded(row.height)} pixels"),
            ("board", row.board[:_LONGEST_TAG]),
        ]
        before = self._verdicts.standing.get(item)
        if before is not None:
            who = f" by {before.by}" if before.by else ""
            notes.append(("judged before", f"{before.answer}{who}, {before.at:%Y-%m-%d}"))
        tags = [tag[:_LONGEST_TAG] for tag in row.tags if tag != self._tag]
        return Facts(
            caption=caption(row),
            link=web_link(row.page_url),
            notes=tuple((name, text) for name, text in notes if text),
            tags=tuple(tags[:_MOST_TAGS]),
        )

    def picture(self, item: str, side: int) -> bytes:
        """Return a picture of the dataset."""
        if item not in self._stored:
            raise KeyError(item)
        return self._pictures.get(item, side)

    def neighbours(self, item: str) -> list[Neighbour]:
        """Return the pictures of the dataset that are the most alike."""
        with self._opening:
            if self._open_neighbours is not None:
                self._neighbours, self._open_neighbours = self._open_neighbours(), None
        if self._neighbours is None:
            return []
        answers = self.answers
        found = []
        for md5, cosine in self._neighbours.of(item, _NEIGHBOURS):
            stored = self._stored.get(md5)
            if stored is None:  # dropped since it was embedded
                continue
            said = {"yes": self._tag, "no": f"not {self._tag}", "unclear": "can't tell"}
            note = said.get(answers.get(md5, ""), label_of(stored.label, self._tag))
            found.append(Neighbour(item=md5, caption=f"{note}, {cosine:.2f} alike", note=note))
        return found

    def progress(self) -> Progress:
        """Return how far the queue has come, and what a promise takes."""
        found = super().progress()
        if self._outlook is None:
            return found
        return found.model_copy(update={"outlook": self._outlook.sentence(self.answers)})

    def _store(self, given: Sequence[Given]) -> None:
        store_verdicts(self._storage, self._tag, [self._verdict(one) for one in given])

    def _tidy(self) -> None:
        merge_verdicts(self._storage, self._tag)

    def _verdict(self, given: Given) -> Verdict:
        asked = self._asked.get(given.item)
        return Verdict(
            md5=given.item,
            answer=given.answer,
            queue=self._queue,
            chance=None if asked is None else asked.chance,
            at=given.at,
            by=self._by,
            id=given.id,
        )

    def _read(self, md5: str) -> bytes:
        stored = self._stored[md5]
        key = Layout(self._tag).image(stored.split, stored.label, md5, stored.ext)
        return read_bounded(self._storage, key)


_TITLES = {
    "suspects": "labels that are probably wrong",
    "uncertain": "pictures near the threshold",
    "random": "pictures drawn at random",
    "mistakes": "test pictures that the model and their label disagree on",
    "promise": "the pictures that a promise stands on, the most probable first",
    "test": "all pictures of the test, the most probable first",
}


def open_tag_session(
    storage: Storage,
    tag: str,
    queue: QueueName,
    *,
    run: str = "latest",
    limit: int = 10_000,
    seed: int = 0,
    by: str = "",
    cache_folder: Path | None = None,
) -> TagSession:
    """Open a queue of a tag's pictures, as it is in storage now.

    Args:
        storage: has the dataset, the run and the verdicts.
        tag: what is asked for.
        queue: which pictures.
        run: whose model says what is asked, a name or `latest`.
        limit: the most pictures of the queue.
        seed: of the queue `random`.
        by: the reviewer's name, stored with each verdict.
        cache_folder: on a disk with room for the tag's features, to show neighbours where there are
            features; None shows none.

    Raises:
        InputError: if what the queue stands on is not in storage or cannot be read, or there is
            nothing in the queue.

    """
    dataset = load_dataset(storage, tag)
    asked: list[Asked] = []
    if queue != "random":
        asked = list(islice(asked_by_run(storage, load_run(storage, tag, run), queue), limit))
    wanted = {one.md5 for one in asked}
    stored: dict[str, _Stored] = {}
    rows: dict[str, Row] = {}

    def every() -> Iterator[Row]:
        for row in read_rows(storage, dataset):
            stored[row.md5] = _Stored(row.split, row.label, row.ext)
            if row.md5 in wanted:
                rows[row.md5] = row
            yield row

    with working("reading the verdicts"):
        merge_verdicts(storage, tag)  # of sessions that were killed
        verdicts = load_verdicts(storage, tag)
    with working("reading the manifest"):
        if queue == "random":
            found = drawn(every(), limit, seed)
            rows = {row.md5: row for row, _ in found}
            asked = [Asked(row.md5, chance=chance) for row, chance in found]
        else:
            deque(every(), maxlen=0)
    gone = len(wanted - rows.keys())
    if gone:
        get_logger().warning("left out", images=gone, detail="they are no longer in the dataset")
    asked = [one for one in asked if one.md5 in rows]
    if not asked:
        raise InputError(
            f"the queue {queue!r} of the tag {tag!r} in {storage.url} has no picture: take another "
            f"of {', '.join(QUEUES)}"
        )
    return TagSession(
        storage,
        tag,
        queue,
        asked,
        rows,
        stored,
        verdicts,
        by=by,
        outlook=_outlook(storage, tag, run),
        neighbours=None
        if cache_folder is None
        else partial(open_neighbours, storage, tag, cache_folder),
    )


def _outlook(storage: Storage, tag: str, run: str) -> Outlook | None:
    """Return what tells about a run's promise; None where it is not evaluated, or gives none."""
    try:
        found = load_run(storage, tag, run)
        decision = load_decision(storage, tag, found.run, found.created)
        if decision is None or decision.promise is None:
            return None
        return Outlook(load_scores(storage, tag, found.run, "threshold"), decision.promise)
    except InputError:  # the pictures can be judged without
        return None
