"""From a board into storage: the images of a tag and some without it, checked and recorded.

What is selected does not depend on timing: for each label it is the first posts of a fixed order
that can be had. So a run that is killed and started again ends with the same dataset.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, Le
from pydantic import ValidationError

from imagetag import __version__
from imagetag.arguments import Concurrency, check_numbers
from imagetag.boards import Board, Post, open_board
from imagetag.dataset import (
    Dataset,
    Failure,
    Row,
    curated,
    is_dropped,
    load_dataset,
    missing_parts,
    part_keys,
    read_changes,
    read_parts,
    standing_curation,
    summarize,
    write_dataset,
)
from imagetag.errors import InputError, TransientError, complaint
from imagetag.job import measured
from imagetag.layout import LABELS, SPLITS, Label, Layout
from imagetag.log import get_logger
from imagetag.scrape.choice import Choice
from imagetag.scrape.collect import Collector, How
from imagetag.scrape.inventory import Known, StoredImages, key_at
from imagetag.scrape.negatives import (
    SharedListing,
    Span,
    candidates,
    marks,
    prepare,
    sample_board,
)
from imagetag.scrape.nothing import nothing_found
from imagetag.scrape.selection import DEFAULTS, Selection
from imagetag.storage import ObjectNotFound, Place, Storage, opened
from imagetag.web import Client

_LEAST_PAGE = 20  # posts


@check_numbers
def scrape_tag(
    storage: Place,
    tag: str,
    board: str | Path = "safebooru",
    *,
    contact: str = "",
    max_rate: Annotated[float, Gt(0), Le(1_000_000)] = 5.0,
    concurrency: Concurrency = 16,
    allow_private_hosts: bool = False,
    **wanted: Any,
) -> Dataset:
    """Store the images of one tag, and others that do not have it; return the complete dataset.

    Args:
        storage: where to; open, or a folder or URL.
        tag: which.
        board: by its name, ENGINE+URL, `folder+PATH` or `links+FILE`, as `--board` takes it.
        contact: an address or URL for the user agent.
        max_rate: requests a second.
        concurrency: downloads under way at once.
        allow_private_hosts: also connect to private addresses, such as those of your own board.
        **wanted: fields of `Selection`, such as `limit`, in place of those of `DEFAULTS`.

    Raises:
        ValueError: if the selection has no such field, or it is none of its values, or a number is
            out of its option's bounds.
        InputError, UsageError, TransientError: as `Scraper.scrape`, or of a wrong board.

    """
    if unknown := wanted.keys() - Selection.model_fields:
        raise ValueError(
            f"{min(unknown)!r} is no field of a selection: there are "
            + ", ".join(sorted(Selection.model_fields))
        )
    if not isinstance(board, str | Path):
        raise ValueError(f"board={board!r}: take a board's name, ENGINE+URL or folder+PATH")
    if not (isinstance(contact, str) and contact.isascii() and contact.isprintable()):
        raise ValueError(f"contact={contact!r}: take ASCII, as it goes into a header")
    selection = Selection(**{"board": "", **DEFAULTS, **wanted})  # before anyone is asked
    with Client(
        rate=max_rate,
        concurrency=concurrency + 1,  # the downloads, and the listing
        contact=contact,
        allow_private_hosts=allow_private_hosts,
    ) as client:
        source = open_board(str(board), client)
        target = opened(storage, concurrency, existing=False)
        selection = selection.model_copy(update={"board": source.root})
        return Scraper(target, source, selection, How(concurrency)).scrape(tag)


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
        are drawn evenly over the span of ids of the positives. What is recorded and does not meet
        the selection stays in storage, and is left out of the dataset.

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
        lost = missing_parts(self._storage, previous) if previous else []
        if lost:
            log.warning("parts of the manifest are gone: made anew", parts=lost)
        elif previous and previous.request == self._selection.model_dump(mode="json"):
            log.info("already complete", images=previous.images, failures=previous.failures)
            return previous
        known = self._known(layout, self._selection, previous)
        known.keep("positive", self._selection.limit)
        before = known.total
        if known.rows or known.objects:
            log.info("going on", rows=dict(known.rows), unrecorded=len(known.objects))
        with self._collector(layout, known) as collector:
            # No longer a page than what is wanted; some boards would list a thousand.
            page = max(_LEAST_PAGE, self._selection.limit)
            query = self._selection.query((tag,))
            listing = self._board.walk(query, limit=page)
            recent = self._selection.recent(self._board, listing)
            collector.collect(
                "positive",
                recent,
                self._selection.limit,
                partial(self._prepare, known),
                self._board.count(query) if self._board.at_hand else None,
            )
            if not known.rows["positive"]:
                raise nothing_found(self._board, tag, "positive", collector, known)
            known.keep("negative", self._negatives(known))
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
                raise nothing_found(self._board, tag, "negative", collector, known)
        dataset = self._complete(layout, collector, known, mended=bool(lost))
        measured(
            images=known.total - before,
            copied=collector.copied,
            requests=self._board.client.sent - self._sent,
            bytes_per_image=dataset.bytes / max(1, dataset.total),
        )
        return dataset

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
        selection = _asked_for(self._storage, dataset)
        known = self._known(layout, selection, dataset)
        rows = read_parts(self._storage, dataset.parts, Row)
        known.keep_only({bytes.fromhex(row.md5) for row in rows})
        if selection != self._selection:
            get_logger().info("what failed is tried by the settings of the dataset, not by these")
        get_logger().info("retrying", posts=len(known.failed))
        with self._collector(layout, known) as collector:
            for label in LABELS:
                ids = sorted((i for i, of in known.failed.items() if of == label), reverse=True)
                known.posts.difference_update(ids)
                posts = self._posts(selection, ids)
                collector.collect(label, posts, known.rows[label] + len(ids))
        return self._complete(layout, collector, known, previous=dataset)

    def _known(self, layout: Layout, selection: Selection, previous: Dataset | None) -> Known:
        return Known.read(self._storage, layout, self._board.site.name, selection, previous)

    def _collector(self, layout: Layout, known: Known) -> Collector:
        return Collector(self._storage, self._board, layout, known.selection, self._how, known)

    def _prepare(self, known: Known, under_way: list[int]) -> None:
        """Have listed what comes after the positives, of which these posts are the last."""
        wanted = self._negatives(known, len(under_way))
        ids = [*known.span, *under_way]
        missing = known.rows["negative"] < wanted
        prepare(self._background, self._selection, wanted, missing, Span(min(ids), max(ids)))

    def _negatives(self, known: Known, under_way: int = 0) -> int:
        positives = known.rows["positive"] + under_way
        # Less what a ratio such as 0.1 is more than it says.
        return math.ceil(positives * self._selection.negative_ratio - 1e-9)

    def _posts(self, selection: Selection, ids: list[int]) -> Iterator[Post]:
        for post_id in ids:
            found = self._board.walk(
                selection.query(), below=post_id + 1, above=post_id - 1, limit=1
            )
            yield from itertools.islice(found, 1)  # to walk on would ask for another page

    def _complete(
        self,
        layout: Layout,
        collector: Collector,
        known: Known,
        *,
        previous: Dataset | None = None,
        mended: bool = False,
    ) -> Dataset:
        """Write the marker, from what is in storage rather than from memory.

        Raises:
            TransientError: if less is there than this run has found or stored.

        """
        storage = self._storage
        failed_parts = part_keys(
            storage, layout, "failed", [*known.failed_parts, *collector.written]
        )
        # A post may have failed in several runs. What this one wrote is the newest; the names of
        # other parts tell no order.
        in_time = sorted(failed_parts, key=lambda key: key in collector.written)
        lost: dict[int, Failure] = {}
        for failure in read_parts(storage, in_time, Failure, strict=False):
            if known.of_board(failure):
                before = lost.get(failure.post_id)
                # What is for good is what keeps it from being tried by the next run.
                if before is None or failure.permanent >= before.permanent:
                    lost[failure.post_id] = failure
        curation = standing_curation(storage, layout)
        changes = read_changes(storage, curation)
        stored = StoredImages(storage, layout)
        choice = Choice(storage, layout, known, collector.written)
        gone = 0
        tags: dict[Label, Counter[str]] = {label: Counter() for label in LABELS}

        def rows() -> Iterator[Row]:
            nonlocal gone
            for row in choice.rows():
                gone += not is_dropped(row.md5, changes) and not stored.has(row)
                yield row

        def counted() -> Iterator[Row]:
            for row in curated(rows(), changes):
                tags[row.label].update(set(row.tags))
                yield row

        counts, size, fingerprint = summarize(counted())
        if gone:
            raise TransientError(
                f"{gone} images below {storage.url}/{layout.root} are gone: another run of the tag "
                "may have taken them for what a killed one left; run this again, one at a time"
            )
        if missing := known.total - choice.images:
            raise TransientError(
                f"{missing} images that were recorded are in no part below "
                f"{storage.url}/{layout.manifest}: the storage is late, or another run of the tag "
                "is at work; run this again, one at a time"
            )
        images: dict[Label, int] = {
            label: sum(counts[split][label] for split in SPLITS) for label in LABELS
        }
        sample = sample_board(self._background, self._selection)
        marked_by = marks(layout.tag, sample, tags, images)
        repeats = known.repeats()
        repeat_parts = part_keys(
            storage, layout, "repeat", [*known.repeat_parts, *collector.written, *choice.repeated()]
        )
        dataset = Dataset(
            tag=layout.tag,
            board=self._board.site.name,
            request=known.selection.model_dump(mode="json"),
            images=counts,
            bytes=size,
            failures=dict(
                Counter(each.reason for post, each in lost.items() if post not in choice.posts)
            ),
            skipped=previous.skipped if previous else dict(collector.skipped + repeats),
            parts=tuple(choice.parts),
            failed_parts=tuple(failed_parts),
            repeats=tuple(key for key in repeat_parts if storage.stat(key) is not None),
            fingerprint=fingerprint,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            software=f"imagetag {__version__}",
            curation=curation,
            negatives_marked_by=marked_by,
        )
        write_dataset(storage, dataset)
        # A run that was killed stored them, and this one selects others; or they are left out. What
        # a part told that was lost may be told no more by the board: that stays.
        for key in set(choice.replaced) - set(choice.parts):
            storage.delete(key)
        for where, ext in {} if mended else choice.unrecorded.items():
            storage.delete(key_at(layout, where, ext))
        self._tell(layout, collector, choice, dataset, repeats)
        self._tell_failed([each for post, each in lost.items() if post not in choice.posts])
        return dataset

    def _tell(
        self,
        layout: Layout,
        collector: Collector,
        choice: Choice,
        dataset: Dataset,
        repeats: Counter[str],
    ) -> None:
        """Tell what a dataset has, and what is to be minded of it."""
        if choice.left_out:
            get_logger().info(
                "images in storage that these settings leave out",
                images=dict(Counter(choice.left_out.values())),
            )
        counts = dataset.images
        get_logger().info(
            "dataset complete",
            images=counts,
            bytes=dataset.bytes,
            copied=collector.copied,
            failures=dataset.failures,
            skipped=dataset.skipped,
            requests=self._board.client.sent - self._sent,
            storage=f"{self._storage.url}/{layout.root}",
        )
        if empty := [
            f"{split} {label}" for split in SPLITS for label in LABELS if not counts[split][label]
        ]:
            get_logger().warning("no image in a split: take more, or another tag", empty=empty)
        posts = self._board.posts_called
        for mark in dataset.negatives_marked_by:
            get_logger().warning(mark.caution)
        if repeats["placeholder"]:
            get_logger().warning(
                f"left out: what {posts} of different files lead to is no picture of theirs, but "
                "what a host gives for files that it has no more",
                posts=repeats["placeholder"],
            )
        if repeats["conflicting"]:
            get_logger().warning(
                f"{posts} of one picture differ in the tag: one of them is probably wrong",
                posts=repeats["conflicting"],
            )

    def _tell_failed(self, failures: list[Failure]) -> None:
        """Tell which posts failed, and of which there is hope."""
        posts = self._board.posts_called
        if passing := Counter(each.reason for each in failures if not each.permanent):
            get_logger().warning(
                f"{posts} failed: --retry-failed tries them again", failures=dict(passing)
            )
        if lasting := Counter(each.reason for each in failures if each.permanent):
            get_logger().warning(f"{posts} failed for good", failures=dict(lasting))


def _previous(storage: Storage, tag: str) -> Dataset | None:
    try:
        return load_dataset(storage, tag)
    except InputError as error:
        if not isinstance(error.__cause__, ObjectNotFound):
            get_logger().warning("made anew", reason=str(error))
        return None


def _asked_for(storage: Storage, dataset: Dataset) -> Selection:
    """Return what a dataset was asked for: what had failed is tried again by the same settings."""
    try:
        return Selection.model_validate(dataset.request)
    except ValidationError as error:
        raise InputError(
            f"{storage.url}/{Layout(dataset.tag).dataset} does not tell how it was asked for: "
            f"{complaint(error)}; scrape the tag again without --retry-failed"
        ) from error
