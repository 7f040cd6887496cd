"""Heads are at the optimum, of a strength that holds on what they have not seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from imagetag.stats.logistic import LinearHead, fit_head

Drawn = tuple[NDArray[np.float32], NDArray[np.bool_], list[str]]


def draw(count: int, channels: int, *, signal: float = 1.0, seed: int = 0) -> Drawn:
    """Features of two views, of which some channels tell the label; one is always the same."""
    random = np.random.default_rng(seed)
    labels = random.random(count) < 0.3
    features = np.exp(random.normal(size=(count, 1, channels)))
    features[:, :, : channels // 4] += signal * labels[:, None, None]
    features = features + 0.3 * random.normal(size=(count, 2, channels))
    features[:, :, -1] = 7
    return features.astype(np.float32), labels, [str(number) for number in range(count)]


def by_scikit_learn(
    features: NDArray[np.float32], labels: NDArray[np.bool_], strength: float, balanced: bool
) -> NDArray[np.float64]:
    rows = features.reshape(-1, features.shape[2]).astype(np.float64)
    variances = rows.var(axis=0)
    usual = np.median(variances[variances > 0])
    drawn = (len(features) * variances + usual) / (len(features) + 1)
    scaled = (rows - rows.mean(axis=0)) / np.sqrt(drawn)
    weight = "balanced" if balanced else None
    model = LogisticRegression(C=strength, class_weight=weight, tol=1e-10, max_iter=100_000)
    model.fit(scaled, np.repeat(labels, features.shape[1]))
    logits = model.decision_function(scaled)
    return np.asarray(logits.reshape(labels.size, -1).mean(axis=1))


@pytest.mark.parametrize("channels", [30, 200], ids=["few channels", "more than rows"])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
def test_it_is_the_optimum_that_scikit_learn_finds(
    channels: int, balanced: bool, strength: float
) -> None:
    features, labels, groups = draw(60, channels)
    head = fit_head(features, labels, groups, strengths=[strength], balanced=balanced)
    theirs = by_scikit_learn(features, labels, strength, balanced)
    assert head.logits(features) == pytest.approx(theirs, abs=1e-3)
    assert head.strength == strength


def test_the_logits_of_a_fold_are_by_a_head_that_has_not_seen_it() -> None:
    """Labels without any sense are learned by heart, and foretold no better than by chance."""
    features, labels, groups = draw(300, 200, signal=0.0)
    head = fit_head(features, labels, groups, strengths=[1.0])
    assert ((head.logits(features) > 0) == labels).all()
    right = (head.out_of_fold > 0) == labels
    assert right.mean() < 0.75


def test_no_group_is_on_both_sides() -> None:
    """Copies of a picture in one group help no head with their own."""
    features, labels, groups = draw(60, 100, signal=0.0)
    twice = np.concatenate([features, features]), np.concatenate([labels, labels])
    together = fit_head(*twice, groups + groups, strengths=[1.0])
    apart = fit_head(*twice, [str(number) for number in range(120)], strengths=[1.0])

    def right(head: LinearHead) -> float:
        return float(((head.out_of_fold > 0) == twice[1]).mean())

    assert right(together) < 0.8 < 0.95 < right(apart)


@pytest.mark.parametrize("sizes", [[(4, 3), (6, 0), (0, 5)], [(1, 6), (9, 2), (0, 6)]])
def test_each_fold_is_judged_by_a_head_that_knows_both_labels(sizes: list[tuple[int, int]]) -> None:
    """Folds of equal shares would have all of a label in one of them."""
    labels = np.array([label for some in sizes for label in (1, 0) for _ in range(some[1 - label])])
    members = np.repeat(np.arange(len(sizes)), [sum(some) for some in sizes])
    features = draw(len(labels), 8)[0]
    head = fit_head(features, labels, [f"g{member}" for member in members], strengths=[1e-2])
    assert np.isfinite(head.out_of_fold).all()
    for fold in set(head.folds):
        assert set(labels[head.folds != fold]) == {0, 1}
        assert not set(members[head.folds == fold]) & set(members[head.folds != fold])


def test_the_strength_follows_what_there_is_to_learn() -> None:
    weak = fit_head(*draw(300, 200, signal=0.1))
    strong = fit_head(*draw(500, 20, signal=2.0))
    assert weak.strength < strong.strength


def test_each_strength_is_chosen_by_its_own_log_loss() -> None:
    drawn = draw(300, 50)
    losses = {}
    for strength in (1e-3, 3e-3, 1e-2, 3e-2, 1e-1):
        unseen = fit_head(*drawn, strengths=[strength], balanced=False).out_of_fold
        losses[strength] = np.logaddexp(0, np.where(drawn[1], -unseen, unseen)).mean()
    chosen = fit_head(*drawn, strengths=list(losses), balanced=False)
    assert chosen.strength == min(losses, key=lambda strength: losses[strength])
    again = fit_head(*drawn, strengths=[chosen.strength], balanced=False)
    assert chosen.out_of_fold == pytest.approx(again.out_of_fold, abs=1e-3)


def test_what_hardly_varies_among_few_pictures_is_not_blown_up() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(10) % 2 == 1
    features = random.normal(size=(10, 1, 20))
    features[:, 0, 0] += 4 * labels
    features[:, 0, 1] = 1e-3 * labels  # which other pictures need not keep to
    head = fit_head(features, labels, [str(number) for number in range(10)])
    assert head.weights[0] > 10 * abs(head.weights[1]) > 0


def test_of_many_pictures_each_channel_is_standardized_whatever_its_unit() -> None:
    features, labels, groups = draw(400, 20)
    units = np.geomspace(1 / 3, 3, 20)
    one, other = fit_head(features, labels, groups), fit_head(features * units, labels, groups)
    logits = one.logits(features), other.logits(features * units)
    assert np.corrcoef(*logits)[0, 1] > 0.999


def test_chance_does_not_choose_the_strength_of_few_pictures() -> None:
    """The least loss has another one of nearly all these draws."""
    chosen = [fit_head(*draw(20, 100, signal=0.5, seed=seed)).strength for seed in range(20)]
    assert chosen.count(1e-2) > 12


def test_as_in_folds_a_threshold_is_of_the_same_scale() -> None:
    """Of what is all alike, a head without a fifth of it, and one with all of it, are the same."""
    once = draw(40, 12)
    features, labels = (np.concatenate([values] * 5) for values in once[:2])
    groups = [f"{number} {copy}" for copy in range(5) for number in range(40)]

    def spread(as_in_folds: bool) -> float:
        head = fit_head(features, labels, groups, strengths=[1e-3], as_in_folds=as_in_folds)
        return float(head.logits(features).std() / head.out_of_fold.std())

    assert spread(as_in_folds=True) == pytest.approx(1, abs=0.05)
    assert spread(as_in_folds=False) > 1.2


def test_few_pictures_have_a_head_too() -> None:
    features, labels, _ = draw(12, 40)
    labels[:] = [True] * 2 + [False] * 10
    pairs = fit_head(features, labels, [str(number) for number in range(12)])
    assert np.isfinite(pairs.out_of_fold).all()  # two folds
    one = fit_head(features, labels, ["same", "same", *map(str, range(10))])
    assert np.isfinite(one.weights).all()
    assert one.strength == 1e-2
    assert np.isnan(one.out_of_fold).all()
    assert set(one.folds) == {-1}


def test_what_cannot_be_learned_from_is_told() -> None:
    features, labels, groups = draw(20, 5)
    with pytest.raises(ValueError, match="one label"):
        fit_head(features, np.ones(20), groups)
    features[3, 1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit_head(features, labels, groups)


def test_features_that_are_all_alike_tell_nothing_apart() -> None:
    labels = np.arange(12) % 3 == 0
    head = fit_head(np.zeros((12, 2, 5)), labels, [str(number) for number in range(12)])
    assert head.weights.tolist() == [0] * 5
    assert np.isfinite(head.out_of_fold).all()
    assert head.logits(np.ones((3, 2, 5))) == pytest.approx([head.bias] * 3)
