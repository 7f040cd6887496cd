"""From a board into storage: the images of a tag and as many without it, checked and recorded.

What is selected does not depend on timing: for each label it is the first posts of a fixed order
that can be had. So a run that is killed and started again ends with the same dataset.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from imagetag import __version__
from imagetag.boards import Board, Post
from imagetag.collect import Collector, Known, Selection
from imagetag.errors import ImagetagError, InputError, TransientError
from imagetag.layout import Label, Layout
from imagetag.log import get_logger
from imagetag.manifest import (
    Dataset,
    Failure,
    Rating,
    Row,
    distinct,
    load_dataset,
    part_keys,
    read_parts,
    summarize,
)
from imagetag.storage import Storage

_STRATA = 20  # stretches of ids that negatives come from, at the least, and
_STRATUM_POSTS = 20  # how many each gives, at the most


def scrape_tag(
    storage: Storage, board: Board, tag: str, selection: Selection, concurrency: int
) -> Dataset:
    """Store the images of a tag, and as many that do not have it; return the complete dataset.

    What is in storage already is not fetched again. Positives are the newest posts; negatives
    are drawn evenly over the span of ids of the positives, so that their age does not tell the
    label.

    Raises:
        InputError: if the board has no usable post of the tag, or none without it.
        UsageError: if images are there that were split in another way.
        TransientError: if the board or the storage is out of order.
        Terminated: after saving what was done.

    """
    log = get_logger()
    layout = Layout(tag)
    previous = _previous(storage, tag)
    if previous is not None and previous.request == selection.model_dump(mode="json"):
        log.info("already complete", images=previous.images)
        return previous
    known = Known.read(storage, layout, board.site.name, selection.test_fraction)
    if known.rows or known.objects:
        log.info("going on", rows=dict(known.rows), unrecorded=len(known.objects))
    with Collector(storage, board, layout, selection, concurrency, known) as collector:
        collector.collect("positive", board.walk([tag, *_rating_terms(selection)]), selection.limit)
        positives = known.rows["positive"]
        if not positives:
            raise _nothing(board, tag, "positive", collector)
        candidates = _negatives(board, tag, selection, positives, *known.span)
        collector.collect("negative", candidates, positives)
        if not known.rows["negative"]:
            raise _nothing(board, tag, "negative", collector)
    return _complete(storage, layout, board, selection, collector.skipped, known)


def _previous(storage: Storage, tag: str) -> Dataset | None:
    if storage.stat(Layout(tag).dataset) is None:
        return None
    try:
        return load_dataset(storage, tag)
    except InputError as error:
        get_logger().warning("made anew", reason=str(error))
        return None


def _rating_terms(selection: Selection) -> list[str]:
    """Return search terms that spare listing what the rating filter would drop anyway."""
    unwanted: tuple[Rating, ...] = ("questionable", "explicit")
    return [f"-rating:{rating}" for rating in unwanted if rating not in selection.ratings]


def _negatives(
    board: Board, tag: str, selection: Selection, wanted: int, oldest: int, newest: int
) -> Iterator[Post]:
    """Yield posts without the tag, evenly over the span of ids, then from outside it."""
    terms = ["-" + tag, *_rating_terms(selection)]
    count = min(max(_STRATA, wanted // _STRATUM_POSTS), wanted, newest - oldest + 1)
    edges = [oldest - 1 + (newest + 1 - oldest) * i // count for i in range(count + 1)]
    strata = [
        board.walk(terms, above=low, below=high + 1, limit=_STRATUM_POSTS)
        for low, high in itertools.pairwise(edges)
    ]
    while strata:
        for stratum in list(strata):
            post = next(stratum, None)
            if post is None:
                strata.remove(stratum)
            else:
                yield post
    yield from board.walk(terms, below=oldest)
    yield from board.walk(terms, above=newest)


def _nothing(board: Board, tag: str, label: Label, collector: Collector) -> ImagetagError:
    """Return why there is no image of a label."""
    left_out = collector.skipped + collector.failed
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


def _complete(
    storage: Storage,
    layout: Layout,
    board: Board,
    selection: Selection,
    skipped: Counter[str],
    known: Known,
) -> Dataset:
    """Write the marker, from what is in storage rather than from memory."""
    parts = tuple(part_keys(storage, layout, "part"))
    failed = read_parts(storage, part_keys(storage, layout, "failed"), Failure)
    lost = {(failure.board, failure.post_id): failure.reason for failure in failed}
    unrecorded = set(known.objects.values())

    def rows() -> Iterator[Row]:
        for row in distinct(read_parts(storage, parts, Row)):
            lost.pop((row.board, row.post_id), None)  # it was had later
            unrecorded.discard(layout.image(row.split, row.label, row.md5, row.ext))
            yield row

    counts, size, fingerprint = summarize(rows())
    for key in unrecorded:  # a run that was killed stored it, and this one selects others
        storage.delete(key)
    dataset = Dataset(
        tag=layout.tag,
        board=board.site.name,
        request=selection.model_dump(mode="json"),
        images=counts,
        bytes=size,
        failures=dict(Counter(lost.values())),
        skipped=dict(skipped),
        parts=parts,
        fingerprint=fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        software=f"imagetag {__version__}",
    )
    storage.write(layout.dataset, dataset.model_dump_json(indent=2).encode() + b"\n")
    get_logger().info(
        "dataset complete",
        images=counts,
        bytes=size,
        failures=dataset.failures,
        skipped=dataset.skipped,
        storage=f"{storage.url}/{layout.root}",
    )
    return dataset
