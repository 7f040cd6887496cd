"""Groups and near-duplicates, counted by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from imagetag.dataset.families import Families, GroupCounts, Grouping, Twins, find_families
from imagetag.dataset.manifest import Curated, Row
from tests.builders.rows import make_row


def families(rows: list[Row], verdicts: list[Curated] | None = None) -> Families:
    grouping = Grouping()
    for row in rows:
        grouping.add(row)
    return find_families(rows, grouping, Twins(verdicts or []))


def verdict(row: Row, twin: Row | None, **changes: Any) -> Curated:
    values: dict[str, Any] = {
        "md5": row.md5,
        "twin": twin and twin.md5,
        "dropped": False,
        "group": row.group,
        "conflicting": False,
    }
    return Curated(**{**values, **changes})


def grouped(sizes: list[int], **changes: Any) -> list[Row]:
    """Return rows in groups of some sizes."""
    groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    return [make_row(number, group=group, **changes) for number, group in enumerate(groups)]


def test_groups_are_counted_by_split() -> None:
    rows = [
        make_row(1, split="train", group="a", label="positive"),
        make_row(2, split="train", group="a", label="negative"),
        make_row(3, split="train", group="a", label="negative"),
        make_row(4, split="train", group="b", label="positive"),
        make_row(5, split="train", group="c", label="negative"),
        make_row(6, split="train", group="c", label="negative"),
        make_row(7, split="test", group="d", label="positive"),
    ]
    found = families(rows).splits
    assert found["train"] == GroupCounts(
        pictures=6, groups=3, several=2, in_several=5, largest=3, mixed=1
    )
    assert found["test"] == GroupCounts(
        pictures=1, groups=1, several=0, in_several=0, largest=1, mixed=0
    )


def test_an_empty_split_has_no_groups() -> None:
    found = families([make_row(1, split="train")]).splits["test"]
    assert found == GroupCounts(pictures=0, groups=0, several=0, in_several=0, largest=0, mixed=0)


def test_the_largest_groups_are_shown_with_some_of_their_pictures() -> None:
    rows = grouped([1, 9, 2, 3, 4, 1, 5, 6, 2], split="train")
    found = families(rows).largest
    assert [group.pictures for group in found] == [9, 6, 5, 4, 3, 2]
    assert [len(group.shown) for group in found] == [6, 6, 5, 4, 3, 2]
    of_largest = sorted(row.md5 for row in rows if row.group == "1")
    assert [picture.md5 for picture in found[0].shown] == of_largest[:6]


def test_what_is_shown_does_not_depend_on_the_order() -> None:
    rows = grouped([2] * 30, split="train")
    assert families(rows) == families(rows[::-1])


def test_without_groups_the_manifest_is_not_read_again() -> None:
    def never() -> Iterator[Row]:
        raise AssertionError("read again")
        yield

    grouping = Grouping()
    for row in grouped([1, 1, 1]):
        grouping.add(row)
    assert find_families(never(), grouping, Twins([])).largest == ()


def test_twins_are_counted_without_what_was_dropped_and_mere_relatives() -> None:
    a, b, c, d, e = grouped([2, 2, 1], split="train")
    gone = make_row(50, split="test")
    found = families(
        [a, b, c, d, e],
        [
            verdict(a, b),
            verdict(b, a),
            verdict(c, None),  # its group has been joined to another's
            verdict(gone, e, dropped=True),
        ],
    )
    assert (found.twins, found.twin_groups) == (2, 1)
    assert (found.conflicting, found.conflicts) == (0, ())


def test_twins_of_both_labels_are_listed_with_their_posts() -> None:
    a = make_row(1, split="train", group="g", label="positive")
    b = make_row(2, split="train", group="g", label="negative")
    c = make_row(3, split="train", group="g", label="negative")  # of the group, and no twin
    found = families([a, b, c], [verdict(a, b, conflicting=True), verdict(b, a, conflicting=True)])
    assert found.conflicting == 1
    [conflict] = found.conflicts
    assert [picture.page_url for picture in conflict.positive] == [a.page_url]
    assert [picture.page_url for picture in conflict.negative] == [b.page_url]


def test_conflicts_are_counted_where_they_are_too_many_to_list() -> None:
    rows, verdicts = [], []
    for number in range(60):
        pair = [
            make_row(2 * number + n, split="train", group=f"g{number}", label=label)
            for n, label in enumerate(("positive", "negative"))
        ]
        rows += pair
        verdicts += [
            verdict(pair[0], pair[1], conflicting=True),
            verdict(pair[1], pair[0], conflicting=True),
        ]
    found = families(rows, verdicts)
    assert found.conflicting == 60
    assert len(found.conflicts) == 50


@pytest.mark.parametrize("label", ["positive", "negative"])
def test_a_conflict_of_many_pictures_shows_two_of_each_label(label: str) -> None:
    rows = [make_row(n, split="train", group="g", label=label) for n in range(9)]
    found = families(rows, [verdict(row, rows[0], conflicting=True) for row in rows])
    assert len(getattr(found.conflicts[0], label)) == 2
