"""What new pictures without labels tell: in worlds where the truth is known, seeded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from imagetag.stats import shift as shift_module
from imagetag.stats.shift import Shift, Tried, estimate_shift

Floats = NDArray[np.float64]
DISTANCE, THRESHOLD = 4.0, 2.5


def scores_of(count: int, share: float, seed: int, moved: float = 0.0) -> Floats:
    random = np.random.default_rng(seed)
    centres = np.where(np.arange(count) < round(share * count), DISTANCE, moved)
    return np.asarray(expit(random.normal(centres, 1)))


def tried_of(count: int = 1000, *, copies: int = 1, **changes: Any) -> Tried:
    """Pictures that chose the threshold and as many that did not, half of both with the tag."""
    scores = np.concatenate([scores_of(count, 0.5, seed) for seed in (1, 2)])
    labels = np.tile(np.arange(count) < count // 2, 2)
    parts: dict[str, Any] = {
        "labels": np.repeat(labels, copies),
        "scores": np.repeat(scores, copies),
        "called": np.repeat(scores >= expit(THRESHOLD), copies),
        "groups": [f"g{number // copies}" for number in range(copies * labels.size)],
        "chose": np.repeat(np.arange(labels.size) < count, copies),
    }
    return Tried(**{**parts, **changes})


def inside(shift: Shift, share: float) -> bool:
    assert shift.share.interval is not None
    low, high = shift.share.interval
    return low <= share <= high


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01, 0.0])
def test_the_share_is_in_its_interval(share: float) -> None:
    found = estimate_shift(tried_of(), scores_of(4000, share, 3), 0.95)
    assert inside(found, share)
    assert found.share.value == pytest.approx(share, abs=0.015)
    assert found.share.high - found.share.low < 0.05  # type: ignore[operator]
    assert found.alike
    assert found.images == 4000


def test_the_precision_falls_with_the_share_and_so_does_the_advice() -> None:
    # By Bayes' rule from the rates of the two normal distributions at the threshold.
    for share, precision, advice in ((0.5, 0.993, "keep"), (0.1, 0.94, "tighten")):
        found = estimate_shift(tried_of(), scores_of(4000, share, 3), 0.95)
        assert found.precision.low <= precision <= found.precision.high  # type: ignore[operator]
        assert found.advice == advice
        assert (found.threshold is not None) == (advice == "tighten")
    assert found.threshold is not None
    assert expit(THRESHOLD) < found.threshold < 1
    # One in a hundred, and 500 negatives tell nothing of so few false alarms.
    rare = estimate_shift(tried_of(), scores_of(4000, 0.01, 3), 0.95)
    assert (rare.advice, rare.alike, rare.threshold) == ("distrust", True, None)
    assert rare.precision.value < 0.8  # type: ignore[operator]


def test_pictures_of_another_kind_are_told() -> None:
    found = estimate_shift(tried_of(), scores_of(1000, 0.3, 3, moved=1.0), 0.95)
    assert (found.alike, found.advice, found.threshold) == (False, "distrust", None)
    assert found.fit < 0.01
    assert estimate_shift(tried_of(), scores_of(1000, 0.3, 3, moved=1.0), None).advice == "distrust"


def test_where_nothing_was_promised_there_is_no_advice() -> None:
    found = estimate_shift(tried_of(), scores_of(1000, 0.3, 3), None)
    assert (found.advice, found.wanted, found.alike) == (None, None, True)


def test_it_is_the_same_again() -> None:
    new = scores_of(500, 0.3, 3)
    assert estimate_shift(tried_of(200), new, 0.95) == estimate_shift(tried_of(200), new, 0.95)


def test_pictures_of_a_group_are_no_more_than_one() -> None:
    new = scores_of(100_000, 0.3, 3)
    one, four = (estimate_shift(tried_of(200, copies=copies), new, 0.95) for copies in (1, 4))
    for name in ("share", "precision"):
        narrow, wide = (
            np.subtract(*reversed(getattr(found, name).interval)) for found in (one, four)
        )
        assert wide == pytest.approx(narrow, rel=0.35)


def test_many_groups_are_a_sample_of_both_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift_module, "_MOST_GROUPS", 400)
    known = tried_of()
    small = shift_module._bounded(known, np.random.default_rng(0))
    assert 390 <= small.labels.size <= 400
    assert 90 <= (small.labels & ~small.chose).sum() <= 110
    assert 90 <= (~small.labels & ~small.chose).sum() <= 110
    assert inside(estimate_shift(known, scores_of(4000, 0.1, 3), 0.95), 0.1)


def test_the_threshold_that_is_told_is_one_that_can_be_given() -> None:
    # So sure a model that its probabilities of 6 digits are 1 has no stricter threshold.
    known = tried_of()
    sure = np.where(known.scores > 0.5, 1.0, known.scores)
    known = tried_of(scores=sure, called=sure >= 1)
    new = scores_of(4000, 0.02, 3)
    found = estimate_shift(known, np.where(new > 0.5, 1.0, new), 0.99)
    assert (found.advice, found.threshold) == ("distrust", None)


def test_a_threshold_that_nothing_reaches_tells_the_share_alone() -> None:
    known = tried_of()
    found = estimate_shift(tried_of(called=known.scores > 2), scores_of(4000, 0.1, 3), 0.95)
    assert inside(found, 0.1)
    assert found.advice == "distrust"


@pytest.mark.parametrize(
    ("changes", "new", "reason"),
    [
        ({"labels": np.tile(np.arange(1000) < 500, 2) & (np.arange(2000) < 1000)}, 0.5, "labels"),
        ({"scores": np.full(2000, 0.5)}, 0.5, "the same score"),
        ({}, np.nan, "not a number"),
    ],
)
def test_what_cannot_be_told_is_an_error(changes: dict[str, Any], new: float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        estimate_shift(tried_of(**changes), np.full(200, new), 0.95)
