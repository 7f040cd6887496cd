"""Calibrated probabilities are nearer to the truth, never out of order, and chosen honestly."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import brier_score_loss, log_loss

from imagetag.runs.decision import Decision, logit_of
from imagetag.stats import calibration
from imagetag.stats.calibration import Calibration, calibrate, calibrated_gain, reliability

Drawn = tuple[NDArray[np.bool_], NDArray[np.float64], list[str]]


def draw(count: int, chance: object, seed: int = 0) -> Drawn:
    """Logits, and labels with a chance that is some function of them."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=count) * 4
    labels = random.random(count) < chance(logits)  # type: ignore[operator]
    return labels, logits, [str(number) for number in range(count)]


def overconfident(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(expit(logits / 3))


def lopsided(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """No temperature makes this right."""
    return np.where(logits > 2, 0.97, np.where(logits > -1, 0.3, 0.02))


def test_a_temperature_is_found() -> None:
    labels, logits, groups = draw(4000, overconfident)
    found = calibrate(labels, logits, groups, method="temperature")
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.probabilities(3.0) == pytest.approx(expit(3 / found.temperature))


def test_isotonic_follows_any_shape() -> None:
    labels, logits, groups = draw(4000, lopsided)
    found = calibrate(labels, logits, groups, method="isotonic")
    for logit in (-6, 0.5, 5):
        truth = float(lopsided(np.array(float(logit))))
        assert found.probabilities(logit) == pytest.approx(truth, abs=0.06)


@pytest.mark.parametrize(
    ("chance", "method"), [(overconfident, "temperature"), (lopsided, "isotonic"), (expit, "none")]
)
def test_auto_takes_what_is_best_on_pictures_it_was_not_fitted_to(
    chance: object, method: str
) -> None:
    labels, logits, groups = draw(3000, chance)
    found = calibrate(labels, logits, groups)
    assert set(found.log_loss) == {"none", "temperature", "isotonic"}
    best = min(found.log_loss.values())
    if method == "none":  # a temperature of about 1 is as good
        assert found.log_loss["none"] - best < 1e-3
    else:
        assert found.method == method
        assert found.log_loss["none"] - best > 0.01
    fresh, others, _ = draw(20_000, chance, seed=1)
    assert log_loss(fresh, found.probabilities(others)) == pytest.approx(best, abs=0.03)
    assert brier_score_loss(fresh, found.probabilities(others)) <= (
        brier_score_loss(fresh, expit(others)) + 1e-3
    )


def test_the_best_fit_of_few_pictures_is_not_believed() -> None:
    """Isotonic regression fits its own pictures best every time; others it does not."""
    for seed in range(5):
        labels, logits, groups = draw(60, overconfident, seed)
        fits = [
            log_loss(labels, calibrate(labels, logits, groups, method=method).probabilities(logits))
            for method in ("temperature", "isotonic")
        ]
        assert fits[1] < fits[0]
    chosen = [calibrate(*draw(60, overconfident, seed)).method for seed in range(20)]
    assert chosen.count("temperature") > chosen.count("isotonic")


def test_a_group_is_on_one_side_of_every_fold() -> None:
    """Twins with random labels would make isotonic regression look clairvoyant."""
    random = np.random.default_rng(0)
    logits = np.repeat(random.normal(size=300), 2)
    labels = np.repeat(random.random(300) < 0.5, 2)
    groups = np.repeat(np.arange(300).astype(str), 2).tolist()
    found = calibrate(labels, logits, groups)
    assert found.log_loss["isotonic"] > np.log(2) - 0.02


@pytest.mark.parametrize("method", ["none", "temperature", "isotonic"])
@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.booleans(), st.floats(-20, 20, width=16)), min_size=2, max_size=40),
    st.lists(st.floats(-30, 30), min_size=2, max_size=10),
)
def test_a_higher_logit_never_gets_a_lower_probability(
    method: str, pairs: list[tuple[bool, float]], asked: list[float]
) -> None:
    labels, logits = (list(column) for column in zip(*pairs, strict=True))
    if len(set(labels)) < 2:
        labels[0] = not labels[0]
    groups = [str(number) for number in range(len(labels))]
    found = calibrate(labels, logits, groups, method=method)  # type: ignore[arg-type]
    chances = found.probabilities(sorted(asked))
    assert np.all(np.diff(chances) >= 0)
    assert np.all((chances >= 0) & (chances <= 1))
    assert Calibration.model_validate_json(found.model_dump_json()) == found


def test_isotonic_keeps_apart_what_it_pools() -> None:
    labels, logits, groups = draw(500, overconfident)
    found = calibrate(labels, logits, groups, method="isotonic")
    inside = np.linspace(found.points[0][0], found.points[-1][0], 500)
    assert np.all(np.diff(found.probabilities(inside)) > 0)


def test_labels_that_logits_part_entirely_leave_some_doubt() -> None:
    labels, logits = np.repeat([True, False], 20), np.repeat([3.0, -3.0], 20)
    groups = [str(number) for number in range(40)]
    for method in ("temperature", "isotonic", "auto"):
        found = calibrate(labels, logits, groups, method=method)
        assert np.all(np.isfinite(found.probabilities([-30, 30])))
    assert 0.9 < found.probabilities(3.0) <= 1


def test_too_few_to_compare_take_the_temperature() -> None:
    labels, logits, groups = [True, True, False, False], [2.0, 1.0, -1.0, 1.5], list("abcd")
    found = calibrate(labels, logits, groups)
    assert (found.method, found.log_loss) == ("temperature", {})


# ---- reliability


def test_reliability_by_example() -> None:
    labels = [0] * 9 + [1] + [1] * 5 + [0] * 5
    found = reliability(labels, [0.1] * 10 + [0.5] * 10, [str(n) for n in range(20)])
    assert len(found.bins) == 10
    assert found.bins[0].pictures == 2
    assert sum(item.pictures for item in found.bins) == 20
    # |0.1 - 0| in 4 bins, |0.1 - 0.5| in one; |0.5 - 1| in two, 0 in one, |0.5 - 0| in two.
    assert found.error == pytest.approx((4 * 0.1 + 0.4 + 4 * 0.5) * 2 / 20)
    assert all(item.low <= item.share <= item.high for item in found.bins)
    # The two pictures of each bin are a family: one is known, and not two.
    families = reliability(labels, [0.1] * 10 + [0.5] * 10, [str(n // 2) for n in range(20)])
    assert found.bins[0].high == pytest.approx(1 - 0.025**0.5)
    assert families.bins[0].high == pytest.approx(0.975)


def test_calibration_brings_probabilities_to_shares() -> None:
    labels, logits, groups = draw(4000, overconfident)
    found = calibrate(labels, logits, groups)
    fresh, others, alone = draw(4000, overconfident, seed=1)
    before = reliability(fresh, expit(others), alone).error
    after = reliability(fresh, found.probabilities(others), alone).error
    assert before > 0.1
    assert after < 0.03


def test_few_pictures_have_few_bins() -> None:
    assert len(reliability([1, 0, 1], [0.9, 0.1, 0.8], ["a", "b", "c"]).bins) == 3


# ---- the decision that stands on it


@pytest.mark.parametrize("method", ["none", "temperature", "isotonic"])
@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.9])
def test_a_given_threshold_is_the_same_as_a_logit(method: str, threshold: float) -> None:
    labels, logits, groups = draw(300, overconfident)
    found = calibrate(labels, logits, groups, method=method)  # type: ignore[arg-type]
    cut = logit_of(found, threshold)
    assert [logit >= cut for logit in logits] == (found.probabilities(logits) >= threshold).tolist()


def test_a_threshold_that_no_probability_reaches_calls_nothing() -> None:
    steps = Calibration(method="isotonic", points=((-1.0, 0.1), (1.0, 0.9)))
    assert logit_of(steps, 0.95) > 1e3
    assert logit_of(steps, 0.05) < -1e3
    assert calibration.Calibration().probabilities([0.0]).tolist() == [0.5]
    decision = Decision(
        tag="fox",
        run="first",
        trained="",
        fingerprint="",
        calibration=steps,
        promise=None,
        logit_threshold=0.0,
        threshold=0.5,
        created="",
    )
    assert decision.positive(0.0)
    assert not decision.positive(-1e-9)
    assert decision.probability(0.0) == pytest.approx(0.5)


def test_a_decision_of_an_older_version_is_read() -> None:
    """It had another threshold besides, of the model's own probability."""
    decision = Decision(
        tag="fox",
        run="first",
        trained="",
        fingerprint="",
        calibration=Calibration(),
        promise=None,
        logit_threshold=21.142,
        threshold=0.99,
        created="",
    )
    old = decision.model_dump() | {"raw_threshold": 0.999999999342}
    assert Decision.model_validate_json(json.dumps(old)) == decision


def test_what_is_wrong_with_the_scale_alone_is_no_loss() -> None:
    labels, logits, groups = draw(500, expit)
    gain, error = calibrated_gain(labels, logits, 3 * logits, groups)
    assert gain == pytest.approx(0, abs=1e-6)
    assert error == pytest.approx(0, abs=1e-6)


def test_better_logits_are_told_from_chance() -> None:
    labels, logits, groups = draw(400, expit)
    noise = np.random.default_rng(1).normal(size=(2, 400))
    gain, error = calibrated_gain(labels, logits + 4 * noise[0], logits, groups)
    assert gain > 3 * error > 0
    gain, error = calibrated_gain(labels, logits + noise[0], logits + noise[1], groups)
    assert abs(gain) < 3 * error
    worse, _ = calibrated_gain(labels, logits, logits + 4 * noise[0], groups)
    assert worse < 0


def test_groups_are_the_unit_of_the_error_of_a_gain() -> None:
    labels, logits, groups = draw(100, expit)
    other = logits + np.random.default_rng(1).normal(size=100)
    _, alone = calibrated_gain(labels, logits, other, groups)
    four = np.tile(labels, 4), np.tile(logits, 4), np.tile(other, 4)
    _, copies = calibrated_gain(*four, groups * 4)
    assert copies == pytest.approx(alone, rel=0.01)
    _, apart = calibrated_gain(*four, [str(number) for number in range(400)])
    assert apart == pytest.approx(alone / 2, rel=0.02)


def test_labels_count_in_a_gain_as_in_the_loss() -> None:
    labels, logits, groups = draw(300, expit)
    other = logits - 2 * ~labels  # better on negatives alone
    on_negatives, _ = calibrated_gain(labels, logits, other, groups, (1.0, 1e-6))
    on_positives, _ = calibrated_gain(labels, logits, other, groups, (1e-6, 1.0))
    assert on_negatives > on_positives
