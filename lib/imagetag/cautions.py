"""What makes numbers of a dataset's models better than they are, told wherever such numbers are."""

from __future__ import annotations

from collections.abc import Sequence

from imagetag.errors import InputError
from imagetag.exploration import load_shortcuts
from imagetag.manifest import Dataset, Mark
from imagetag.shortcuts import Shortcuts
from imagetag.storage import Storage


def cautions(marked_by: Sequence[Mark], shortcuts: Shortcuts | None) -> tuple[str, ...]:
    """Return a sentence for each tag that marks negatives, and for each shortcut that was found."""
    found = shortcuts.found if shortcuts else ()
    return (*(mark.caution for mark in marked_by), *(check.caution for check in found))


def read_cautions(storage: Storage, dataset: Dataset) -> tuple[str, ...]:
    """Return the sentences of `cautions`, with the shortcuts that `explore` stored, if it did."""
    try:
        shortcuts = load_shortcuts(storage, dataset.tag)
    except InputError:  # not explored, or by another version
        shortcuts = None
    return cautions(dataset.negatives_marked_by, shortcuts)
