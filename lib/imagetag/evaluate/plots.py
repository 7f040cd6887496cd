"""Plots of an evaluation. Each function draws one figure and returns the PNG's bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from imagetag.pages import (
    ACCENT,
    LABEL_COLORS,
    LIGHT,
    POSITIVE,
    Theme,
    canvas,
    label_names,
    legend_above,
    note_above,
    png,
)
from imagetag.stats import Bin

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def confusion_matrix(tp: int, fp: int, fn: int, tn: int, theme: Theme = LIGHT) -> bytes:
    """Draw the confusion matrix: counts, and their share of the row."""
    counts = np.array([[tp, fn], [fp, tn]], dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with canvas(theme, height=4.0) as figure:
        axes = figure.subplots()
        sns.heatmap(
            shares,
            vmin=0,
            vmax=1,
            cmap=_fade(theme),
            cbar=False,
            linewidths=5,
            linecolor=theme.paper,
            xticklabels=["positive", "negative"],
            yticklabels=["positive", "negative"],
            ax=axes,
        )
        for (row, column), count in np.ndenumerate(counts):
            strong = shares[row, column] > 0.55
            color = "#ffffff" if strong else theme.ink
            x, y = column + 0.5, row + 0.5
            share = f"{100 * shares[row, column]:.1f} % of its row"
            text: dict[str, Any] = {"ha": "center", "va": "center", "color": color}
            axes.text(x, y - 0.06, f"{count:,.0f}", fontsize=21, fontweight="bold", **text)
            axes.text(x, y + 0.17, share, fontsize=9.5, **text)
        axes.set(xlabel="the model says", ylabel="it is labelled")
        axes.xaxis.set_label_position("top")
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=10, labelcolor=theme.ink)
        axes.tick_params(axis="y", rotation=90)
        for label in axes.get_yticklabels():
            label.set_verticalalignment("center")
        return png(figure)


def precision_recall(
    labels: BoolArray, scores: FloatArray, called: BoolArray, theme: Theme = LIGHT
) -> bytes:
    """Draw precision over recall at every threshold of the scores, and where those called are.

    All arrays are (images,).
    """
    precision, recall, _ = precision_recall_curve(labels, scores)
    hits = int(np.count_nonzero(called & labels))
    with canvas(theme, height=4.0) as figure:
        axes = figure.subplots()
        axes.step(recall, precision, where="post", color=ACCENT, linewidth=2)
        axes.fill_between(recall, precision, step="post", color=ACCENT, alpha=0.12, linewidth=0)
        share = float(np.mean(labels))
        _reference(axes, [0, 1], [share, share], "calling every picture positive", theme)
        if called.any():
            point = hits / int(labels.sum()), hits / int(called.sum())
            _mark(axes, point, "the threshold in use", theme)
        axes.set(xlabel="recall", ylabel="precision")
        _unit_square(axes)
        axes.legend(loc="lower left")
        return png(figure)


def roc(labels: BoolArray, scores: FloatArray, called: BoolArray, theme: Theme = LIGHT) -> bytes:
    """Draw the ROC curve of the scores, and where those called are; all arrays are (images,)."""
    false_rate, true_rate, _ = roc_curve(labels, scores, drop_intermediate=True)
    with canvas(theme, height=4.0) as figure:
        axes = figure.subplots()
        axes.plot(false_rate, true_rate, color=ACCENT, linewidth=2)
        axes.fill_between(false_rate, true_rate, color=ACCENT, alpha=0.12, linewidth=0)
        _reference(axes, [0, 1], [0, 1], "guessing", theme)
        point = float(np.mean(called[~labels])), float(np.mean(called[labels]))
        _mark(axes, point, "the threshold in use", theme)
        axes.set(
            xlabel="false positive rate"
            if theme.narrow
            else "negatives called positive (false positive rate)",
            ylabel="positives found (recall)",
        )
        _unit_square(axes)
        axes.legend(loc="lower right")
        return png(figure)


def probability_histogram(
    labels: BoolArray, probabilities: FloatArray, threshold: float, theme: Theme = LIGHT
) -> bytes:
    """Draw how the probabilities of each label spread; both arrays are (images,)."""
    with canvas(theme, height=4.0) as figure:
        axes = figure.subplots()
        sns.histplot(
            x=probabilities,
            hue=label_names(labels),
            hue_order=list(LABEL_COLORS),
            palette=LABEL_COLORS,
            bins=25,
            binrange=(0, 1),
            element="step",
            alpha=0.35,
            linewidth=1.4,
            ax=axes,
        )
        # A good model has nearly all pictures at both ends: on a linear scale the mistakes between
        # them could not be seen.
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.axvline(threshold, color=theme.ink, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set(xlabel="probability of the tag", ylabel="pictures (log scale)", xlim=(-0.01, 1.01))
        legend_above(axes)
        note_above(axes, f"dashed: threshold {threshold:.3g}", theme)
        return png(figure)


def reliability(
    raw: Sequence[Bin], calibrated: Sequence[Bin] | None = None, theme: Theme = LIGHT
) -> bytes:
    """Draw the share of pictures with the tag over the probability they are given.

    Args:
        raw: bins of the model's own probabilities.
        calibrated: bins of the calibrated ones; None if nothing was calibrated.
        theme: the colours.

    """
    with canvas(theme, height=4.0) as figure:
        axes = figure.subplots()
        _reference(axes, [0, 1], [0, 1], "as they should be", theme)
        if calibrated is not None:
            x, y = [item.probability for item in raw], [item.share for item in raw]
            axes.plot(x, y, "o:", color=theme.muted, markersize=4, linewidth=1.2, label="raw")
        in_use, name = (raw, "raw") if calibrated is None else (calibrated, "calibrated")
        x, y = [item.probability for item in in_use], [item.share for item in in_use]
        reach = [
            [item.share - item.low for item in in_use],
            [item.high - item.share for item in in_use],
        ]
        axes.errorbar(
            x,
            y,
            yerr=reach,
            fmt="o-",
            color=ACCENT,
            markersize=5.5,
            linewidth=1.8,
            elinewidth=1.1,
            label=name if theme.narrow else f"{name}, with 95 % intervals",
        )
        axes.set(xlabel="probability given", ylabel="share that has the tag")
        _unit_square(axes)
        axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015))
        axes.legend(loc="upper left")
        if not theme.narrow:  # where it has no room beside itself
            legend_above(axes)
        return png(figure)


def learning_curves(history: Sequence[Mapping[str, float]], theme: Theme = LIGHT) -> bytes:
    """Draw loss and accuracy of train and validation by epoch; the best epoch is marked.

    Args:
        history: a mapping an epoch, of `loss`, `accuracy`, `val_loss`, `val_accuracy`; what is
            missing is not drawn.
        theme: the colours.

    """
    epochs = np.arange(1, len(history) + 1)
    best = best_epoch(history)
    with canvas(theme, height=5.0) as figure:
        panels = figure.subplots(2, 1, sharex=True)
        for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
            _curve(axes, epochs, _column(history, name), "train", theme.muted)
            _curve(axes, epochs, _column(history, f"val_{name}"), "validation", ACCENT)
            if best is not None:
                axes.axvline(best, color=theme.ink, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
            axes.set_ylabel(name)
        panels[0].set_ylim(bottom=0)
        panels[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        panels[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panels[1].set(xlabel="epoch", xlim=(0.5, len(history) + 0.5))
        if panels[0].lines:
            panels[0].legend()
            legend_above(panels[0])
        if best is not None:
            note_above(panels[0], f"dashed: best epoch, {best}", theme)
        figure.align_ylabels(panels)
        return png(figure)


def best_epoch(history: Sequence[Mapping[str, float]]) -> int | None:
    """Return the epoch of the lowest validation loss, from 1; None where no loss is a number."""
    losses = _column(history, "val_loss")
    return int(np.nanargmin(losses)) + 1 if np.isfinite(losses).any() else None


def _column(history: Sequence[Mapping[str, float]], name: str) -> FloatArray:
    values = np.array([epoch.get(name, np.nan) for epoch in history], dtype=np.float64)
    values[~np.isfinite(values)] = np.nan  # a diverged epoch is a gap in the line
    return values


def _curve(
    axes: Axes, epochs: NDArray[np.int64], values: FloatArray, name: str, color: str
) -> None:
    if np.isfinite(values).any():
        marker = "o" if len(epochs) <= 30 else ""
        axes.plot(epochs, values, marker=marker, color=color, markersize=3.5, label=name)


def _reference(axes: Axes, x: Sequence[float], y: Sequence[float], name: str, theme: Theme) -> None:
    axes.plot(x, y, color=theme.muted, linewidth=1, linestyle=(0, (2, 2)), label=name)


def _mark(axes: Axes, point: tuple[float, float], name: str, theme: Theme) -> None:
    axes.plot(
        *point, "D", color=ACCENT, markeredgecolor=theme.paper, markersize=9, label=name,
        clip_on=False, zorder=5,
    )  # fmt: skip


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(0, 1.005), ylim=(0, 1.015))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def _fade(theme: Theme) -> Colormap:
    cmap: Colormap = sns.blend_palette([theme.grid, POSITIVE], as_cmap=True)
    return cmap
