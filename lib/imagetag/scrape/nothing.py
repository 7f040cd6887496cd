"""Why a board has no image of a label, and what to do about it."""

from __future__ import annotations

import contextlib

from imagetag.boards import Board
from imagetag.errors import ImagetagError, InputError, TransientError, UsageError
from imagetag.layout import Label
from imagetag.scrape.collect import Collector
from imagetag.scrape.inventory import Known
from imagetag.suggest import nearest

# What to do where a board of one's own has nothing of a tag.
_NO_SUCH_TAG = {
    "folder": "put them into a sub-folder of that name, or name tags in a file beside each",
    "links": "no row of the list has that tag",
}


def nothing_found(
    board: Board, tag: str, label: Label, collector: Collector, known: Known
) -> ImagetagError:
    """Return why there is no image of a label."""
    one = board.posts_called.removesuffix("s")
    left_out = collector.skipped + collector.failed + known.repeats()
    reasons = ", ".join(f"{name} {count}" for name, count in left_out.most_common())
    told = f" (left out: {reasons})" if reasons else ""
    # A list's files lie at any number of hosts: too few for an outage may be all of them.
    if 0 < collector.lost[label] == collector.refused[label]:
        return UsageError(
            f"{board.root} gives no picture ({reasons}), and waiting changes nothing: "
            f"{collector.refusal}"
        )
    if collector.lost[label]:
        return TransientError(
            f"{board.root} gives no picture for now ({reasons}); run this again later"
        )
    if label == "negative":
        return InputError(f"{board.root} has no usable {one} without the tag {tag!r}{told}")
    if collector.skipped["tag_absent"]:
        common = ", ".join(name for name, _ in collector.tags_seen.most_common(5))
        return InputError(
            f"{board.root} finds {board.posts_called} for {tag!r}, but none of them carries it: "
            f"it is probably an alias; their most common tags are {common}"
        )
    if not left_out:
        return InputError(
            f"{board.root} has no {board.posts_called} with the tag {tag!r}; {_meant(board, tag)}"
        )
    return InputError(f"{board.root} has no usable {one} with the tag {tag!r}{told}")


def _meant(board: Board, tag: str) -> str:
    """Return what to do about a tag that a board does not have."""
    similar: list[str] = []
    with contextlib.suppress(TransientError, InputError):  # only the advice is lost
        similar = nearest(tag, board.similar(tag), count=3)
    if similar:
        return f"did you mean {' or '.join(similar)}?"
    return _NO_SUCH_TAG.get(board.site.engine, "check its spelling on the board")
