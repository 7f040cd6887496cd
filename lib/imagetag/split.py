"""Which split an image is in: a pure function of its group, so that every pod finds the same.

A group is what must stay together (a post with its parent and siblings). A group's place is
fixed by its name alone: adding images later moves nothing, and no group straddles two splits.
"""

from __future__ import annotations

import hashlib

from imagetag.layout import Split


def fraction_of(purpose: str, group: str) -> float:
    """Return a number in [0, 1), uniform over groups and independent between purposes."""
    digest = hashlib.sha256(f"{purpose}\0{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(group: str, test_fraction: float) -> Split:
    """Return the split of a group; about `test_fraction` of all groups are in `test`."""
    return "test" if fraction_of("test", group) < test_fraction else "train"


def in_validation(group: str, validation_fraction: float) -> bool:
    """Tell whether a group of the train split is held out for validation."""
    return fraction_of("validation", group) < validation_fraction
