"""The shortcut check: it finds what was planted, names it, and warns of nothing by chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from imagetag.explore.shortcuts import Facts, Shortcuts, auc_interval, check_shortcuts


def make_facts(count: int = 200, seed: int = 0, **changes: Any) -> Facts:
    """Return facts in which nothing but chance tells the labels apart."""
    rng = np.random.default_rng(seed)
    width = np.exp(rng.normal(6.9, 0.45, count)).round()
    height = (width * np.exp(rng.normal(0.3, 0.25, count))).round()
    values: dict[str, Any] = {
        "width": width,
        "height": height,
        "bytes": (width * height * np.exp(rng.normal(-1.5, 0.5, count))).round(),
        "post_id": rng.integers(0, 10**6, count).astype(np.float64),
        "ext": rng.choice(["jpg", "png", "webp"], size=count, p=[0.7, 0.27, 0.03]),
        "group": np.arange(count, dtype=np.uint64),
        "positive": np.arange(count) % 2 == 0,
    }
    return Facts(**{**values, **changes})


def named(found: Shortcuts) -> dict[str, float]:
    return {check.name: check.auc for check in found.checks if check.gives_away}


def test_nothing_is_found_where_nothing_is() -> None:
    for seed in range(2):
        found = check_shortcuts(make_facts(200, seed))
        assert found.note == ""
        assert (found.positives, found.negatives) == (100, 100)
        assert [check.name for check in found.checks] == [
            *("size", "format", "file size", "post id", "all together"),
        ]
        assert found.found == []
        assert all(0.35 < check.auc < 0.65 for check in found.checks)
        assert all(check.low <= check.auc <= check.high for check in found.checks)


def test_what_chance_does_with_few_pictures_is_no_warning() -> None:
    facts = make_facts(44, seed=40)
    found = check_shortcuts(facts)
    worst = max(found.checks, key=lambda check: check.auc)
    assert worst.auc > 0.7
    assert worst.low < 0.5
    assert found.found == []


def planted(name: str, count: int = 200) -> Facts:
    """Return facts where one thing tells the labels apart, for nine pictures of ten."""
    facts = make_facts(count)
    rng = np.random.default_rng(1)
    positive = facts.positive ^ (rng.random(count) < 0.1)
    changes: dict[str, Any] = {
        "size": {"width": facts.height * np.where(positive, 1, 2)},
        "format": {"ext": np.where(positive, "png", "jpg")},
        "file size": {"bytes": facts.bytes * np.where(positive, 20, 1)},
        "post id": {"post_id": facts.post_id + 10**6 * positive},
    }[name]
    return make_facts(count, **changes)


@pytest.mark.parametrize("count", [60, 200])
@pytest.mark.parametrize("name", ["size", "format", "file size", "post id"])
def test_what_is_planted_is_found_and_named(name: str, count: int) -> None:
    found = check_shortcuts(planted(name, count))
    [check] = [check for check in found.found if check.name == name]
    assert check == found.found[0]  # the worst
    assert check.auc > 0.8
    assert check.low > 0.5
    # Another size is also another number of bytes a pixel; nothing else may be found.
    assert {check.name for check in found.found} <= {name, "file size"}
    assert check.how
    assert check.advice


def test_how_it_is_given_away_has_the_numbers() -> None:
    half = np.arange(200) % 2 == 0
    hows = {
        check.name: check.how
        for check in check_shortcuts(
            make_facts(
                width=np.where(half, 100.0, 200.0),
                height=np.where(half, 300.0, 400.0),
                bytes=np.where(half, 15_000.0, 40_000.0),
                post_id=np.where(half, 5.0, 9.0),
                ext=np.where(half, "png", "jpg"),
            )
        ).checks
    }
    assert hows == {
        "size": (
            "the median positive is 100 x 300 pixels (width x height), the median negative "
            "200 x 400"
        ),
        "format": "0 % of the positives are jpg, and 100 % of the negatives",
        "file size": (
            "the median positive has 15 kB (0.5 bytes a pixel), the median negative 40 kB "
            "(0.5 bytes a pixel)"
        ),
        "post id": "half of the positives are posts 5 to 5, half of the negatives 9 to 9",
        "all together": "",
    }


def test_a_stretch_of_ids_in_the_middle_is_found() -> None:
    ids = np.random.default_rng(0).permutation(200).astype(np.float64)
    found = check_shortcuts(make_facts(post_id=ids, positive=(ids >= 50) & (ids < 150)))
    assert [check.name for check in found.found] == ["post id"]
    assert found.found[0].auc > 0.9


def test_what_only_tells_together_is_named_so() -> None:
    facts = make_facts(400)
    # The one alone is noise, as it is flipped by the other.
    odd, positive = facts.ext == "jpg", facts.positive
    late = odd ^ positive
    found = check_shortcuts(make_facts(400, post_id=facts.post_id + 10**6 * late))
    assert [check.name for check in found.found] == ["all together"]


def test_pictures_of_a_group_do_not_give_each_other_away() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 10)
    # Each group has its own id and its own label, and the two have nothing to do with each other.
    facts = make_facts(
        600,
        group=group.astype(np.uint64),
        post_id=rng.integers(0, 10**6, 60).astype(np.float64)[group],
        positive=(rng.permutation(60) < 30)[group],
    )
    [alone] = [check for check in check_shortcuts(facts).checks if check.name == "post id"]
    assert not alone.gives_away
    assert alone.high - alone.low > 0.4  # 60 groups, not 600 pictures
    apart = make_facts(600, post_id=facts.post_id, positive=facts.positive)
    [taken_apart] = [check for check in check_shortcuts(apart).checks if check.name == "post id"]
    assert taken_apart.gives_away


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 30},
        {"positive": np.arange(200) < 19},
        {"group": (np.arange(200) % 38).astype(np.uint64)},  # many pictures, few groups
        {"positive": np.ones(200, dtype=bool)},
        {"count": 0},
    ],
)
def test_of_few_nothing_is_told(changes: dict[str, Any]) -> None:
    found = check_shortcuts(make_facts(**changes))
    assert found.checks == ()
    assert found.found == []
    assert "fewer than 20" in found.note


def test_what_is_the_same_of_all_is_guessing() -> None:
    found = check_shortcuts(
        make_facts(ext=np.full(200, "jpg"), post_id=np.zeros(200), positive=np.arange(200) % 3 == 0)
    )
    same = [check for check in found.checks if check.name in ("format", "post id")]
    assert [(check.auc, check.low, check.high) for check in same] == [(0.5, 0.5, 0.5)] * 2


def test_that_folds_differ_in_their_share_of_positives_is_nothing_learned() -> None:
    # One group of mostly positives is a fold of its own: the others then expect negatives.
    position = np.arange(200)
    group = np.where(position < 60, 0, position).astype(np.uint64)
    positive = np.where(position < 60, position % 10 != 0, position % 5 == 0)
    ext = np.where(position == 150, "png", "jpg")
    [found] = [
        check
        for check in check_shortcuts(make_facts(group=group, positive=positive, ext=ext)).checks
        if check.name == "format"
    ]
    assert found.auc == pytest.approx(0.5, abs=0.02)


def test_a_group_with_nearly_everything_is_no_error() -> None:
    group = np.where(np.arange(200) < 150, 0, np.arange(200)).astype(np.uint64)
    found = check_shortcuts(make_facts(group=group))
    assert len(found.checks) == 5
    assert found.found == []


def test_the_same_facts_give_the_same_numbers() -> None:
    assert check_shortcuts(planted("post id")) == check_shortcuts(planted("post id"))


def test_the_area_is_that_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.3
    scores = (rng.normal(positive * 1.0) * 2).round() / 2
    auc, low, high = auc_interval(scores, positive, np.arange(300, dtype=np.uint64))
    assert auc == pytest.approx(roc_auc_score(positive, scores))
    assert low < auc < high


@pytest.mark.parametrize("size", [1, 4])
def test_the_interval_is_as_wide_as_resampled_groups_say(size: int) -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(100), size)
    positive = (np.arange(100) % 2 == 0)[group]
    scores = (rng.normal(size=100))[group] + positive
    _, low, high = auc_interval(scores, positive, group.astype(np.uint64))
    areas = []
    for _ in range(400):
        picked = np.concatenate(
            [np.flatnonzero(group == drawn) for drawn in rng.integers(0, 100, 100)]
        )
        areas.append(roc_auc_score(positive[picked], scores[picked]))
    # Half as wide again as for scores that are not from cross-validation.
    expected = 2 * 2.576 * float(np.std(areas)) * 1.5
    assert high - low == pytest.approx(expected, rel=0.15)
