"""Charts of an evaluation: what its page draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from imagetag.pages import Axis, Chart, log_ticks, round_ticks, steps
from imagetag.stats import Bin

if TYPE_CHECKING:
    from imagetag.pages import Color

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_BINS = 25
_FEWEST = 0.7  # pictures: where a logarithmic axis begins, so that a bar of one can be seen
_FIFTHS = [number / 5 for number in range(6)]
_SHARES = {value: f"{100 * value:.0f} %" for value in _FIFTHS}


def precision_recall(labels: BoolArray, scores: FloatArray, called: BoolArray) -> Chart:
    """Return precision over recall at every threshold of the scores, and where those called are.

    All arrays are (images,).
    """
    precision, recall, _ = precision_recall_curve(labels, scores)
    # Between two thresholds precision is what it is at the lower recall: no line leads to it.
    x, y = np.repeat(recall, 2)[1:], np.repeat(precision, 2)[:-1]
    chart = _unit_square("recall", "precision")
    chart.line(x, y, "accent", area=True)
    share = float(np.mean(labels))
    chart.line([0, 1], [share, share], "muted", "calling every picture positive", dashed=True)
    if called.any():
        hits = int(np.count_nonzero(called & labels))
        chart.highlight(hits / labels.sum(), hits / called.sum(), "the threshold in use")
    return chart


def roc(labels: BoolArray, scores: FloatArray, called: BoolArray) -> Chart:
    """Return the ROC curve of the scores, and where those called are; all arrays are (images,)."""
    false_rate, true_rate, _ = roc_curve(labels, scores)
    chart = _unit_square(
        "negatives called positive (false positive rate)", "positives found (recall)"
    )
    chart.line(false_rate, true_rate, "accent", area=True)
    chart.line([0, 1], [0, 1], "muted", "guessing", dashed=True)
    point = float(np.mean(called[~labels])), float(np.mean(called[labels]))
    return chart.highlight(*point, "the threshold in use")


def probability_histogram(labels: BoolArray, probabilities: FloatArray, threshold: float) -> Chart:
    """Return how the probabilities of each label spread; both arrays are (images,)."""
    # A good model has nearly all pictures at both ends: on a linear scale the mistakes between
    # them could not be seen.
    counts, edges = {}, np.linspace(0, 1, _BINS + 1)
    named: tuple[tuple[Color, BoolArray], ...] = (("positive", labels), ("negative", ~labels))
    for name, of in named:
        counts[name], _ = np.histogram(probabilities[of], edges)
    # Bars of one or two pictures are read by an axis that goes on above them.
    most = max(3, *(int(found.max()) for found in counts.values()))
    ticks = {number: f"{number:,.0f}" for number in log_ticks(1, 1.2 * most)}
    chart = Chart(
        Axis("probability of the tag", 0, 1, {value: f"{value:.1f}" for value in _FIFTHS}),
        Axis("pictures (log scale)", _FEWEST, 1.2 * most, ticks, log=True),
    )
    for name, found in counts.items():
        chart.line(*steps(edges, found), name, name, area=True)
    return chart.line(
        [threshold, threshold], [0, 2 * most], "ink", f"threshold {threshold:.3g}", dashed=True
    )


def reliability(raw: Sequence[Bin], calibrated: Sequence[Bin] | None = None) -> Chart:
    """Return the share of pictures with the tag over the probability they are given.

    Args:
        raw: bins of the model's own probabilities.
        calibrated: bins of the calibrated ones; None if nothing was calibrated.

    """
    chart = _unit_square("probability given", "share that has the tag")
    chart.line([0, 1], [0, 1], "muted", "as they should be", dashed=True)
    if calibrated is not None:
        chart.line(*_shares(raw), "muted", "raw", dots=True)
    in_use, name = (raw, "raw") if calibrated is None else (calibrated, "calibrated")
    x, y = _shares(in_use)
    chart.spans(x, [item.low for item in in_use], [item.high for item in in_use], "accent")
    return chart.line(x, y, "accent", f"{name}, with 95 % intervals", dots=True)


def learning_curves(history: Sequence[Mapping[str, float]]) -> list[Chart]:
    """Return loss and accuracy of train and validation by epoch; the best epoch is marked.

    Args:
        history: a mapping an epoch, of `loss`, `accuracy`, `val_loss`, `val_accuracy`; what is
            missing is not drawn.

    """
    epochs = np.arange(1, len(history) + 1)
    best = best_epoch(history)
    ticks = {value: f"{value:.0f}" for value in round_ticks(0, len(history)) if value % 1 == 0}
    panels = []
    for name in ("loss", "accuracy"):
        train, validation = _column(history, name), _column(history, f"val_{name}")
        found = np.concatenate([train, validation])
        y = _axis_of(name, found[np.isfinite(found)])
        x = Axis("epoch" if name == "accuracy" else "", 0.5, len(history) + 0.5, ticks)
        panel = Chart(x, y)
        first = name == "loss"  # whose key is both panels'
        dots = len(history) <= 30
        panel.line(epochs, train, "muted", "train" if first else None, dots=dots)
        panel.line(epochs, validation, "accent", "validation" if first else None, dots=dots)
        if best is not None:
            shown = f"best epoch, {best}" if first else None
            panel.line([best, best], [y.low, y.high], "ink", shown, dashed=True)
        panels.append(panel)
    return panels


def best_epoch(history: Sequence[Mapping[str, float]]) -> int | None:
    """Return the epoch of the lowest validation loss, from 1; None where no loss is a number."""
    losses = _column(history, "val_loss")
    return int(np.nanargmin(losses)) + 1 if np.isfinite(losses).any() else None


def _column(history: Sequence[Mapping[str, float]], name: str) -> FloatArray:
    values = np.array([epoch.get(name, np.nan) for epoch in history], dtype=np.float64)
    values[~np.isfinite(values)] = np.nan  # a diverged epoch is a gap in the line
    return values


def _axis_of(name: str, values: FloatArray) -> Axis:
    """Return the axis of a loss, from 0, or of an accuracy, with room above and below."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if name == "loss":
        low = 0.0
    room = 0.06 * (high - low) or 0.05
    low, high = low - (0 if name == "loss" else room), high + room
    ticks = round_ticks(low, high, 4)
    text = "{:.4g}".format if name == "loss" else lambda value: f"{100 * value:.4g} %"
    return Axis(name, low, high, {value: text(value) for value in ticks})


def _shares(bins: Sequence[Bin]) -> tuple[list[float], list[float]]:
    return [item.probability for item in bins], [item.share for item in bins]


def _unit_square(x: str, y: str) -> Chart:
    return Chart(Axis(x, 0, 1, _SHARES), Axis(y, 0, 1, _SHARES))
