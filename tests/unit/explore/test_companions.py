"""Companions: shares and lifts as counted by hand, and no more memory than is bounded."""

from __future__ import annotations

import itertools
import math

import pytest

from imagetag.explore.companions import TagCounts


def counted(positives: list[str], negatives: list[str], most: int = 1000) -> TagCounts:
    """Count pictures, each by its tags in one text."""
    counts = TagCounts(most)
    for tags in positives:
        counts.add("positive", tags.split())
    for tags in negatives:
        counts.add("negative", tags.split())
    return counts


def test_shares_and_lifts_by_hand() -> None:
    found = counted(
        ["asuka plugsuit solo", "asuka solo", "asuka plugsuit", "asuka"],
        ["solo", "solo rei", "rei", "rei", "rei solo", "sky"],
    ).companions("asuka")
    assert [item.tag for item in found.frequent] == ["plugsuit", "solo"]
    plugsuit, solo = found.frequent
    assert (plugsuit.positive, plugsuit.negative) == (0.5, 0)
    assert plugsuit.lift == pytest.approx((3 / 6) / (1 / 8))
    assert (solo.positive, solo.negative) == (0.5, 0.5)
    assert solo.lift == pytest.approx((3 / 6) / (4 / 8))
    assert [item.tag for item in found.positive] == ["plugsuit"]
    assert [item.tag for item in found.negative] == ["rei"]  # sky is not twice as frequent: 1.5
    assert found.negative[0].lift == pytest.approx((1 / 6) / (5 / 8))


def test_the_most_telling_come_first() -> None:
    positives = ["asuka often rare"] * 2 + ["asuka often"] * 8
    found = counted(positives, ["often"] * 3 + ["sea"] * 37).companions("asuka")
    scores = {item.tag: item.positive * math.log(item.lift) for item in found.positive}
    assert list(scores) == ["often", "rare"]
    assert scores["often"] > scores["rare"]


def test_there_are_no_more_than_can_be_read_and_ties_go_by_name() -> None:
    tags = [f"tag{number:03}" for number in range(100)]
    found = counted(["asuka " + " ".join(reversed(tags))] * 5, ["sea"] * 5).companions("asuka")
    assert [item.tag for item in found.frequent] == tags[:20]
    assert [item.tag for item in found.positive] == tags[:10]


def test_a_tag_on_few_pictures_marks_nothing() -> None:
    found = counted(["asuka"] * 39 + ["asuka odd"], ["sea"] * 40).companions("asuka")
    assert [item.tag for item in found.frequent] == ["odd"]
    assert found.positive == ()


def test_a_tag_counts_once_a_picture_and_none_is_endless() -> None:
    found = counted(["asuka solo solo solo " + "x" * 241], ["sea"]).companions("asuka")
    assert [(item.tag, item.positive) for item in found.frequent] == [("solo", 1)]


def test_where_one_label_has_no_pictures_nothing_marks_the_other() -> None:
    found = counted(["asuka solo"] * 5, []).companions("asuka")
    assert [(item.tag, item.positive, item.negative) for item in found.frequent] == [("solo", 1, 0)]
    assert found.positive == found.negative == ()
    found = counted([], ["asuka solo"] * 5).companions("asuka")
    assert found.frequent == found.positive == found.negative == ()


def test_memory_is_bounded_and_frequent_tags_outlast_made_up_ones() -> None:
    counts = TagCounts(most=100)
    made_up = itertools.count()
    for number in range(300):
        tags = ["asuka", "solo"] if number % 2 else ["asuka"]
        counts.add("positive", [*tags, *(f"x{next(made_up)}" for _ in range(20))])
        assert len(counts._tags["positive"]) <= 100
        counts.add("negative", ["sea"])
    [solo] = counts.companions("asuka").positive
    assert (solo.tag, solo.positive) == ("solo", 0.5)
