"""Charts of an evaluation show what they say, however bad the model is."""

from __future__ import annotations

import re

import numpy as np
import pytest

from imagetag.evaluate import charts
from imagetag.pages.chart import Chart, Mark
from imagetag.stats.calibration import reliability

pytestmark = pytest.mark.filterwarnings("error")

LABELS = np.array([True] * 4 + [False] * 4)
SCORES = np.array([4.0, 3.0, 1.0, -1.0, 2.0, -2.0, -3.0, -4.0])
CALLED = SCORES > 0.5  # three of the positives, and one negative
CHANCES = 1 / (1 + np.exp(-SCORES))
HISTORY = [
    {"loss": 1 / n, "accuracy": 1 - 0.4 / n, "val_loss": 1 / n + n / 50, "val_accuracy": 0.8}
    for n in range(1, 12)
]


def points(path: str) -> list[tuple[int, int]]:
    """Return the corners of a path, from the lower left, in thousandths of the frame."""
    found, x, y = [], 0, 0
    for letter, numbers in re.findall(r"([MLHV])([\d ]+)", path):
        values = [int(value) for value in numbers.split()]
        x = values[0] if letter in "MLH" else x
        y = values[-1] if letter in "MLV" else y
        found.append((x, 1000 - y))
    return found


def named(chart: Chart, name: str) -> Mark:
    [mark] = [mark for mark in chart.marks if mark.name == name]
    return mark


def test_precision_keeps_its_value_down_to_the_recall_of_the_next_threshold() -> None:
    chart = charts.precision_recall(LABELS, SCORES, CALLED)
    # By falling threshold: recall 1/4, 2/4 at precision 1, then 2/3, 3/4 at 3/4, 4/4 at 4/5.
    corners = points(chart.marks[0].line)
    assert {(500, 1000), (500, 667), (500, 750), (750, 750), (1000, 800)} <= set(corners)
    assert corners[-1] == (0, 1000)
    assert chart.marks[0].area
    assert points(named(chart, "calling every picture positive").line) == [(0, 500), (1000, 500)]
    assert chart.point == ("the threshold in use", 0.75, 0.75)


def test_a_roc_curve_goes_from_corner_to_corner() -> None:
    chart = charts.roc(LABELS, SCORES, CALLED)
    corners = points(chart.marks[0].line)
    assert corners == [(0, 0), (0, 250), (0, 500), (250, 500), (250, 1000), (1000, 1000)]
    assert points(named(chart, "guessing").line) == [(0, 0), (1000, 1000)]
    assert chart.point == ("the threshold in use", 0.25, 0.75)


def test_a_histogram_has_a_bar_for_each_label_where_its_pictures_are() -> None:
    chart = charts.probability_histogram(LABELS, CHANCES, 0.62)
    for name, of in (("positive", LABELS), ("negative", ~LABELS)):
        tops = {x for x, y in points(named(chart, name).line) if y}
        bars = {round(40 * int(25 * chance)) for chance in CHANCES[of]}
        assert bars <= tops <= bars | {bar + side for bar in bars for side in (20, 40)}
    [(x, low), (same, high)] = points(named(chart, "threshold 0.62").line)
    assert (x, same, low, high) == (620, 620, 0, 1000)


def test_a_bar_of_one_picture_can_be_seen_beside_one_of_many() -> None:
    labels = np.array([True] * 1001)
    chart = charts.probability_histogram(labels, np.array([0.1] + [0.9] * 1000), 0.5)
    heights = {y for _, y in points(named(chart, "positive").line)}
    assert min(heights - {0}) > 40
    assert list(chart.y.ticks.values()) == ["1", "10", "100", "1,000"]


@pytest.mark.parametrize("most", [1, 2, 3, 4, 6, 9, 13, 60, 700])
def test_the_bars_of_a_histogram_can_be_read(most: int) -> None:
    labels = np.array([True] * most + [False])
    chart = charts.probability_histogram(labels, np.array([0.9] * most + [0.1]), 0.5)
    assert len(chart.y.places) >= 3
    assert all(number == round(number) for number in chart.y.ticks)


def test_reliability_shows_both_and_the_intervals_of_those_in_use() -> None:
    groups = [str(number) for number in range(8)]
    raw, calibrated = (reliability(LABELS, chances, groups) for chances in (CHANCES, CHANCES**2))
    chart = charts.reliability(raw.bins, calibrated.bins)
    spans = next(mark for mark in chart.marks if mark.style == "thin")
    assert len(points(spans.line)) == 2 * len(calibrated.bins)
    shown = points(named(chart, "calibrated, with 95 % intervals").dots)
    assert shown[0] == tuple(
        round(1000 * value) for value in (calibrated.bins[0].probability, calibrated.bins[0].share)
    )
    assert named(chart, "raw").dots
    alone = charts.reliability(raw.bins)
    assert [mark.name for mark in alone.marks] == [
        "as they should be",
        None,
        "raw, with 95 % intervals",
    ]


def test_charts_of_useless_models_are_made() -> None:
    labels, never = np.array([True, False] * 5), np.full(10, 0.2)
    assert charts.precision_recall(labels, never, never >= 0.5).point is None
    assert charts.roc(labels, never, never >= 0.5).point == ("the threshold in use", 0, 0)
    assert charts.probability_histogram(labels, never, 0.5).marks[0].line


def test_a_chart_of_many_pictures_is_small() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(200_000) < 0.5
    scores = rng.normal(labels)
    for chart in (
        charts.precision_recall(labels, scores, scores > 0),
        charts.roc(labels, scores, scores > 0),
    ):
        assert len(chart.marks[0].line) < 40_000


@pytest.mark.parametrize(
    "history",
    [
        [{"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}],
        [{"loss": 1.0, "accuracy": 0.5}, {"loss": 0.5, "accuracy": 0.6}],
        [{"loss": float("nan"), "val_loss": float("inf")}] * 2,
        [{"loss": 0.0, "accuracy": 1.0}] * 3,
        HISTORY * 20,
    ],
    ids=["one epoch", "no validation", "diverged", "perfect", "many epochs"],
)
def test_odd_histories_are_drawn(history: list[dict[str, float]]) -> None:
    loss, accuracy = charts.learning_curves(history)
    for panel in (loss, accuracy):
        assert panel.y.low < panel.y.high
        assert panel.y.ticks
        assert "nan" not in "".join(mark.line for mark in panel.marks)
    assert loss.y.low == 0


def test_a_diverged_epoch_is_a_gap_and_the_best_is_marked() -> None:
    history = [{**epoch} for epoch in HISTORY]
    history[5]["loss"] = float("nan")
    loss, accuracy = charts.learning_curves(history)
    assert list(loss.x.places.items()) == [(4.5 / 11, "5"), (9.5 / 11, "10")]
    assert named(loss, "train").line.count("M") == 2
    assert named(loss, "validation").line.count("M") == 1
    assert len(points(named(loss, "train").dots)) == 10
    best = charts.best_epoch(history)
    at = round(1000 * (best - 0.5) / 11) if best else None
    for panel in (loss, accuracy):
        assert [x for x, _ in points(panel.marks[-1].line)] == [at, at]


def test_the_best_epoch_is_that_of_the_lowest_validation_loss() -> None:
    assert charts.best_epoch([{"val_loss": loss} for loss in (0.9, float("nan"), 0.3, 0.4)]) == 3
    assert charts.best_epoch([{"loss": 0.1}]) is None
    assert charts.best_epoch([]) is None
