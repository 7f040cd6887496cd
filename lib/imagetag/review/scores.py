"""Scores of pictures as a review asks about them."""

from __future__ import annotations

from collections.abc import Iterable

from imagetag.runs import StoredScore


def one_of_each_group(scores: Iterable[StoredScore]) -> list[StoredScore]:
    """Return one picture of each group, the first by its md5, in the order that they have.

    Evaluate counts those alone where it chooses the threshold.
    """
    found = list(scores)
    first: dict[str, str] = {}
    for one in sorted(found, key=lambda one: one.md5):
        first.setdefault(one.group, one.md5)
    return [one for one in found if first[one.group] == one.md5]
