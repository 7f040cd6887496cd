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
from imagetag.errors import InputError, UsageError
from imagetag.layout import Layout
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

_STRATUM_POSTS = 20  # negatives listed at once from one stretch of ids


def scrape_tag(
    storage: Storage, board: Board, tag: str, selection: Selection, concurrency: int
) -> Dataset:
    """Store the images of a tag, and as many that do not have it; return the complete dataset.

    What is in storage already is not fetched again. Positives are the newest posts; negatives
    are drawn evenly over the span of ids of the positives, so that their age does not tell the
    label.

    Raises:
        InputError: if the board has no usable post of the tag, or none without it.
        UsageError: if a dataset is there that was split in another way.
        TransientError: if the board or the storage is out of order.
        Terminated: after saving what was done.

    """
    log = get_logger()
    layout = Layout(tag)
    previous = _previous(storage, tag)
    if previous is not None:
        if previous.request == selection.model_dump(mode="json"):
            log.info("already complete", images=previous.images)
            return previous
        _check_same_split(previous, selection, storage.url)
    known = Known.read(storage, layout, board.site.name)
    if known.rows or known.objects:
        log.info("going on", rows=dict(known.rows), unrecorded=len(known.objects))
    with Collector(storage, board, layout, selection, concurrency, known) as collector:
        collector.collect("positive", board.walk([tag, *_rating_terms(selection)]), selection.limit)
        positives = known.rows["positive"]
        if not positives:
            raise InputError(_nothing(tag, board, collector.skipped, collector.tags_seen))
        candidates = _negatives(board, tag, selection, *known.span)
        collector.collect("negative", candidates, positives)
        if not known.rows["negative"]:
            raise InputError(f"{board.root} has no usable post without the tag {tag!r}")
    return _complete(storage, layout, board, selection, collector.skipped)


def _previous(storage: Storage, tag: str) -> Dataset | None:
    if storage.stat(Layout(tag).dataset) is None:
        return None
    return load_dataset(storage, tag)


def _check_same_split(previous: Dataset, selection: Selection, url: str) -> None:
    fraction = previous.request.get("test_fraction")
    if fraction != selection.test_fraction:
        raise UsageError(
            f"{url} has a dataset of {previous.tag!r} made with --test-fraction {fraction}; "
            f"{selection.test_fraction} would move images between train and test: use another "
            "--storage or the same fraction"
        )


def _rating_terms(selection: Selection) -> list[str]:
    """Return search terms that spare listing what the rating filter would drop anyway."""
    unwanted: tuple[Rating, ...] = ("questionable", "explicit")
    return [f"-rating:{rating}" for rating in unwanted if rating not in selection.ratings]


def _negatives(
    board: Board, tag: str, selection: Selection, oldest: int, newest: int
) -> Iterator[Post]:
    """Yield posts without the tag, evenly over the span of ids, then from outside it."""
    terms = ["-" + tag, *_rating_terms(selection)]
    count = max(1, min(selection.limit // _STRATUM_POSTS, newest - oldest))
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


def _nothing(tag: str, board: Board, skipped: Counter[str], tags_seen: Counter[str]) -> str:
    if skipped["tag_absent"]:
        common = ", ".join(name for name, _ in tags_seen.most_common(5))
        return (
            f"{board.root} finds posts for {tag!r}, but none of them carries it: it is probably "
            f"an alias; their most common tags are {common}"
        )
    if not skipped:
        return f"{board.root} has no posts with the tag {tag!r}; check its spelling on the board"
    reasons = ", ".join(f"{name} {count}" for name, count in skipped.most_common())
    return f"{board.root} has no usable post with the tag {tag!r} (left out: {reasons})"


def _complete(
    storage: Storage,
    layout: Layout,
    board: Board,
    selection: Selection,
    skipped: Counter[str],
) -> Dataset:
    """Write the marker, from what is in storage rather than from memory."""
    parts = tuple(part_keys(storage, layout, "part"))
    counts, size, fingerprint = summarize(distinct(read_parts(storage, parts, Row)))
    failed = read_parts(storage, part_keys(storage, layout, "failed"), Failure)
    last = {(failure.board, failure.post_id): failure.reason for failure in failed}
    dataset = Dataset(
        tag=layout.tag,
        board=board.site.name,
        request=selection.model_dump(mode="json"),
        images=counts,
        bytes=size,
        failures=dict(Counter(last.values())),
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
