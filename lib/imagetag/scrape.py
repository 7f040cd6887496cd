"""From a board into storage: the images of a tag and some without it, checked and recorded.

What is selected does not depend on timing: for each label it is the first posts of a fixed order
that can be had. So a run that is killed and started again ends with the same dataset.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from imagetag import __version__
from imagetag.boards import Board, Post
from imagetag.collect import Collector, How
from imagetag.errors import ImagetagError, InputError, TransientError
from imagetag.known import Known, key_at, place, stored_images
from imagetag.layout import LABELS, SPLITS, Label, Layout
from imagetag.log import get_logger
from imagetag.manifest import (
    Dataset,
    Failure,
    Repeat,
    Row,
    curated,
    distinct,
    is_dropped,
    load_dataset,
    part_keys,
    read_changes,
    read_parts,
    standing_curation,
    summarize,
    write_dataset,
    write_part,
)
from imagetag.negatives import SharedListing, Span, candidates
from imagetag.selection import Selection
from imagetag.storage import Storage

_LEAST_PAGE = 20  # posts


class Scraper:
    """Scrapes tags of one board into one storage.

    Args:
        storage: where to.
        board: where from.
        selection: what.
        how: in which manner.

    """

    def __init__(self, storage: Storage, board: Board, selection: Selection, how: How) -> None:
        self._storage, self._board = storage, board
        self._selection, self._how = selection, how
        self._sent = 0  # requests, before the tag under way
        self._background = SharedListing(board)  # what one tag has listed serves the next

    def scrape(self, tag: str) -> Dataset:
        """Store the images of a tag, and others that do not have it; return the complete dataset.

        What is in storage already is not fetched again. Positives are the newest posts; negatives
        are drawn evenly over the span of ids of the positives.

        Raises:
            InputError: if the board has no usable post of the tag, or none without it.
            UsageError: if images are there that were split in another way, or the board refuses us.
            TransientError: if the board or the storage is out of order.
            Terminated: after saving what was done.

        """
        log = get_logger()
        layout = Layout(tag)
        self._sent = self._board.client.sent
        previous = _previous(self._storage, tag)
        if previous is not None and previous.request == self._selection.model_dump(mode="json"):
            log.info("already complete", images=previous.images, failures=previous.failures)
            return previous
        known = self._known(layout)
        if known.rows or known.objects:
            log.info("going on", rows=dict(known.rows), unrecorded=len(known.objects))
        with self._collector(layout, known) as collector:
            # No longer a page than what is wanted; some boards would list a thousand.
            page = max(_LEAST_PAGE, self._selection.limit)
            listing = self._board.walk(self._selection.query((tag,)), limit=page)
            recent = self._selection.recent(self._board, listing)
            collector.collect("positive", recent, self._selection.limit)
            if not known.rows["positive"]:
                raise _nothing(self._board, tag, "positive", collector, known)
            negatives = candidates(
                self._board,
                self._background,
                tag,
                self._selection,
                self._negatives(known),
                Span(*known.span),
                known.tags,
            )
            collector.collect("negative", negatives, self._negatives(known))
            if not known.rows["negative"]:
                raise _nothing(self._board, tag, "negative", collector, known)
        return self._complete(layout, collector, known)

    def retry(self, tag: str) -> Dataset:
        """Try again the posts of a complete dataset that failed, and nothing else.

        Raises:
            InputError: if there is no complete dataset of the tag.
            UsageError, TransientError, Terminated: as `scrape`.

        """
        layout = Layout(tag)
        self._sent = self._board.client.sent
        dataset = load_dataset(self._storage, tag)
        if dataset.request.get("board") != self._selection.board:
            raise InputError(
                f"{self._storage.url}/{layout.dataset} is of {dataset.request.get('board')}, not "
                f"of --board {self._selection.board}: what failed there cannot be had here"
            )
        known = self._known(layout)
        get_logger().info("retrying", posts=len(known.failed))
        with self._collector(layout, known) as collector:
            for label in LABELS:
                ids = sorted((i for i, of in known.failed.items() if of == label), reverse=True)
                known.posts.difference_update(ids)
                collector.collect(label, self._posts(ids), known.rows[label] + len(ids))
        return self._complete(layout, collector, known, dataset)

    def _known(self, layout: Layout) -> Known:
        return Known.read(
            self._storage, layout, self._board.site.name, self._selection.test_fraction
        )

    def _collector(self, layout: Layout, known: Known) -> Collector:
        return Collector(self._storage, self._board, layout, self._selection, self._how, known)

    def _negatives(self, known: Known) -> int:
        # Less what a ratio such as 0.1 is more than it says.
        return math.ceil(known.rows["positive"] * self._selection.negative_ratio - 1e-9)

    def _posts(self, ids: list[int]) -> Iterator[Post]:
        for post_id in ids:
            yield from self._board.walk(
                self._selection.query(), below=post_id + 1, above=post_id - 1, limit=1
            )

    def _complete(
        self, layout: Layout, collector: Collector, known: Known, previous: Dataset | None = None
    ) -> Dataset:
        """Write the marker, from what is in storage rather than from memory.

        Raises:
            TransientError: if images are gone that were recorded.

        """
        storage = self._storage
        parts = tuple(part_keys(storage, layout, "part"))
        failed = read_parts(storage, part_keys(storage, layout, "failed"), Failure)
        lost = {(failure.board, failure.post_id): failure.reason for failure in failed}
        unrecorded = dict(known.objects)
        curation = standing_curation(storage, layout)
        changes = read_changes(storage, curation.parts) if curation else {}
        stored = stored_images(storage, layout)
        gone = 0
        left_out: list[Row] = []

        def rows() -> Iterator[Row]:
            nonlocal gone
            for row in distinct(read_parts(storage, parts, Row)):
                lost.pop((row.board, row.post_id), None)  # it was had later
                where = place(row.split, row.label, row.md5)
                if bytes.fromhex(row.md5) in known.left_out:
                    left_out.append(row)
                    unrecorded[where] = row.ext
                    continue
                unrecorded.pop(where, None)
                gone += where not in stored and not is_dropped(row.md5, changes)
                yield row

        counts, size, fingerprint = summarize(curated(rows(), changes))
        if gone:
            raise TransientError(
                f"{gone} images below {storage.url}/{layout.root} are gone: another run of the tag "
                "may have taken them for what a killed one left; run this again, one at a time"
            )
        kept = self._without(layout, parts, left_out)
        repeats = known.repeats()
        dataset = Dataset(
            tag=layout.tag,
            board=self._board.site.name,
            request=previous.request if previous else self._selection.model_dump(mode="json"),
            images=counts,
            bytes=size,
            failures=dict(Counter(lost.values())),
            skipped=previous.skipped if previous else dict(collector.skipped + repeats),
            parts=kept,
            repeats=tuple(part_keys(storage, layout, "repeat")),
            fingerprint=fingerprint,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            software=f"imagetag {__version__}",
            curation=curation,
        )
        write_dataset(storage, dataset)
        # A run that was killed stored them, and this one selects others; or they are left out.
        for key in set(parts) - set(kept):
            storage.delete(key)
        for where, ext in unrecorded.items():
            storage.delete(key_at(layout, where, ext))
        get_logger().info(
            "dataset complete",
            images=counts,
            bytes=size,
            copied=collector.copied,
            failures=dataset.failures,
            skipped=dataset.skipped,
            requests=self._board.client.sent - self._sent,
            storage=f"{storage.url}/{layout.root}",
        )
        if empty := [
            f"{split} {label}" for split in SPLITS for label in LABELS if not counts[split][label]
        ]:
            get_logger().warning("no image in a split: take more, or another tag", empty=empty)
        if repeats["placeholder"]:
            get_logger().warning(
                "left out: what posts of different files lead to is no picture of theirs, but what "
                "a host gives for files that it has no more",
                posts=repeats["placeholder"],
            )
        if repeats["conflicting"]:
            get_logger().warning(
                "posts of one picture differ in the tag: one of them is probably wrong",
                posts=repeats["conflicting"],
            )
        if dataset.failures:
            get_logger().warning(
                "posts failed: --retry-failed tries them again", failures=dataset.failures
            )
        return dataset

    def _without(
        self, layout: Layout, parts: tuple[str, ...], left_out: list[Row]
    ) -> tuple[str, ...]:
        """Record rows as what is left out, and return the parts, those of them written anew."""
        if not left_out:
            return parts
        repeats = [Repeat.model_validate(row.model_dump()) for row in left_out]
        write_part(self._storage, layout, "repeat", repeats)
        digests = {row.md5 for row in left_out}
        kept = []
        for part in parts:
            rows = list(read_parts(self._storage, (part,), Row))
            others = [row for row in rows if row.md5 not in digests]
            if len(others) == len(rows):
                kept.append(part)
            elif others:
                kept.append(write_part(self._storage, layout, "part", others))
        return tuple(kept)


def _previous(storage: Storage, tag: str) -> Dataset | None:
    if storage.stat(Layout(tag).dataset) is None:
        return None
    try:
        return load_dataset(storage, tag)
    except InputError as error:
        get_logger().warning("made anew", reason=str(error))
        return None


def _nothing(
    board: Board, tag: str, label: Label, collector: Collector, known: Known
) -> ImagetagError:
    """Return why there is no image of a label."""
    left_out = collector.skipped + collector.failed + known.repeats()
    reasons = ", ".join(f"{name} {count}" for name, count in left_out.most_common())
    if collector.lost[label]:
        return TransientError(
            f"{board.root} gives no picture for now ({reasons}); run this again later"
        )
    if label == "negative":
        return InputError(f"{board.root} has no usable post without the tag {tag!r} ({reasons})")
    if collector.skipped["tag_absent"]:
        common = ", ".join(name for name, _ in collector.tags_seen.most_common(5))
        return InputError(
            f"{board.root} finds posts for {tag!r}, but none of them carries it: it is probably "
            f"an alias; their most common tags are {common}"
        )
    if not left_out:
        return InputError(
            f"{board.root} has no posts with the tag {tag!r}; check its spelling on the board"
        )
    return InputError(f"{board.root} has no usable post with the tag {tag!r} (left out: {reasons})")
