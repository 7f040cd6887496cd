"""How far to trust numbers of a dataset's models, told wherever such numbers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from imagetag.errors import InputError
from imagetag.exploration import load_shortcuts
from imagetag.layout import Label
from imagetag.manifest import Dataset, Mark
from imagetag.shortcuts import Shortcuts
from imagetag.storage import Storage

FEW_TO_VALIDATE = 20  # images of a label, below which an epoch is chosen by chance as much
FEW_TO_PROMISE = 59  # positives, below which no precision of 0.95 can be proven

# Of the train split, as options of `train` have it by default.
_TO_VALIDATE, _TO_PROMISE = 0.15, 0.2


def cautions(
    marked_by: Sequence[Mark],
    shortcuts: Shortcuts | None,
    images: Mapping[Label, int] | None = None,
) -> tuple[str, ...]:
    """Return what to be cautious of, a sentence each.

    Args:
        marked_by: tags that mark the negatives.
        shortcuts: those that were found, if they were sought.
        images: of the train split, by label; None says nothing of their number.

    """
    found = shortcuts.found if shortcuts else ()
    return (
        *(mark.caution for mark in marked_by),
        *(check.caution for check in found),
        *(_few(images) if images is not None else ()),
    )


def read_cautions(storage: Storage, dataset: Dataset) -> tuple[str, ...]:
    """Return the sentences of `cautions`, with the shortcuts that `explore` stored, if it did."""
    try:
        shortcuts = load_shortcuts(storage, dataset.tag)
    except InputError:  # not explored, or by another version
        shortcuts = None
    return cautions(dataset.negatives_marked_by, shortcuts, dataset.images.get("train", {}))


def _few(images: Mapping[Label, int]) -> list[str]:
    positives, least = images.get("positive", 0), min(images.values(), default=0)
    found = []
    if round(_TO_VALIDATE * least) < FEW_TO_VALIDATE:
        found.append(
            f"The train split has {least:,} pictures of a label, by default about "
            f"{_TO_VALIDATE * least:.0f} of them to validate on: of fewer than "
            f"{FEW_TO_VALIDATE}, chance decides as well which epoch is the best."
        )
    if round(_TO_PROMISE * positives) < FEW_TO_PROMISE:
        found.append(
            f"The train split has {positives:,} positives, by default about "
            f"{_TO_PROMISE * positives:.0f} of them to choose the threshold on: fewer than "
            f"{FEW_TO_PROMISE} cannot prove a precision of 0.95, were they all right."
        )
    return found
