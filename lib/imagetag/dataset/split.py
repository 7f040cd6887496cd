"""Which split an image is in, and which part of the train split: pure functions of the groups.

A group is what must stay together: a post with its parent and siblings, near-duplicates. Whether it
is in `test` depends on its name alone: every pod finds the same split, adding images later moves
nothing, and no group straddles two splits.

A training divides the train split further, again by group: what it learns from (`train`), what
tells it when to stop (`validation`), and what has no say before the threshold is chosen
(`threshold`). A promise of precision that was chosen on pictures which had also chosen the epoch
would be broken too often.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

from imagetag.layout import Label, PartName, Split

# Of the train split, by default.
VALIDATION_FRACTION, THRESHOLD_FRACTION = 0.15, 0.2


def fraction_of(purpose: str, group: str) -> float:
    """Return a number in [0, 1), uniform over groups and independent between purposes."""
    digest = hashlib.sha256(f"{purpose}\0{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(group: str, test_fraction: float) -> Split:
    """Return the split of a group; about `test_fraction` of all groups are in `test`."""
    return "test" if fraction_of("test", group) < test_fraction else "train"


def parts_of_groups(
    images: Iterable[tuple[str, Label]], validation_fraction: float, threshold_fraction: float
) -> dict[str, PartName]:
    """Return the part of each group of the train split.

    Both labels are divided alike, however few images they have: groups with a positive, and those
    without, are each brought into an order that their names decide, and that is cut where the
    fractions of its positives (or its negatives) are reached. It depends on all groups there are:
    a few near the cuts change sides when images are added, so a run stores what it has used.

    Args:
        images: the group and the label of each.
        validation_fraction: of the images, for validation.
        threshold_fraction: of the images, to choose the threshold on.

    """
    sizes: dict[Label, Counter[str]] = {"positive": Counter(), "negative": Counter()}
    for group, label in images:
        sizes[label][group] += 1
    for group in sizes["positive"]:
        del sizes["negative"][group]
    parts: dict[str, PartName] = {}
    for groups in sizes.values():
        total, before = groups.total(), 0
        for group in sorted(groups, key=lambda name: (fraction_of("validation", name), name)):
            middle = (before + groups[group] / 2) / total
            before += groups[group]
            if middle < validation_fraction:
                parts[group] = "validation"
            elif middle < validation_fraction + threshold_fraction:
                parts[group] = "threshold"
            else:
                parts[group] = "train"
    return parts
