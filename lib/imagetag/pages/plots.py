"""Plots of datasets and of evaluations, as PNG: light and dark, for wide and for narrow screens.

Each function draws one figure and returns the PNG's bytes. No text from outside goes into a plot
(fonts lack glyphs, and `$` would start a formula): labels are `positive` and `negative`.
"""

from __future__ import annotations

import contextlib
import io
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from imagetag.layout import Label, Split
from imagetag.stats import Bin

# Blue and orange stay apart for every kind of colour blindness, and both can be read on white and
# on the dark paper; the accent is neither, for what is not about one label.
POSITIVE = "#3b7fd4"
NEGATIVE = "#dd7424"
ACCENT = "#14a08c"
LABEL_COLORS = {"positive": POSITIVE, "negative": NEGATIVE}

_DPI = 200
_WIDTH = 5.0  # inches: a card of the page, so that points are points on a wide screen
_NARROW = 3.4  # inches: the same on a phone
_SAMPLE = 3000  # points a scatter shows before they hide each other
_SEED = 0
_COLORS = 255
_EXTREME_ASPECT = 5.0

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Theme:
    """The colours of what is not data, and whether a plot is for a narrow screen."""

    paper: str
    ink: str
    muted: str
    grid: str
    narrow: bool = False


LIGHT = Theme(paper="#ffffff", ink="#1a1d23", muted="#626b7a", grid="#e6e9ee")
DARK = Theme(paper="#181b22", ink="#e8eaee", muted="#98a1b0", grid="#2b303a")


@dataclass(frozen=True)
class Chart:
    """One plot in both themes, for wide and for narrow screens, as PNG bytes."""

    light: bytes
    dark: bytes
    narrow_light: bytes
    narrow_dark: bytes


def for_all_screens(draw: Callable[[Theme], bytes]) -> Chart:
    """Draw a plot in the light and in the dark theme, wide and narrow, its text of one size."""
    return Chart(
        light=draw(LIGHT),
        dark=draw(DARK),
        narrow_light=draw(replace(LIGHT, narrow=True)),
        narrow_dark=draw(replace(DARK, narrow=True)),
    )


def dimensions(
    widths: FloatArray,
    heights: FloatArray,
    positive: BoolArray,
    typical: tuple[float, float],
    recommended: tuple[int, int],
    theme: Theme = LIGHT,
    *,
    others: Sequence[tuple[int, int]] = (),
) -> bytes:
    """Draw the joint distribution of widths and heights, and the way to the input size.

    Args:
        widths: pixels, (images,).
        heights: pixels, (images,).
        positive: which of them are of the positive label, (images,).
        typical: (width, height) that the recommendation starts from, in pixels.
        recommended: (width, height) of the recommended input, in pixels.
        theme: the colours.
        others: (width, height) of inputs that it may be compared with, in pixels.

    """
    with _figure(theme, height=4.8) as figure:
        grid = figure.add_gridspec(2, 2, width_ratios=(6, 1), height_ratios=(1, 6))
        joint = figure.add_subplot(grid[1, 0])
        above = figure.add_subplot(grid[0, 0], sharex=joint)
        beside = figure.add_subplot(grid[1, 1], sharey=joint)
        shown = _sample(len(widths))
        sns.scatterplot(
            x=widths[shown],
            y=heights[shown],
            hue=_names(positive[shown]),
            palette=LABEL_COLORS,
            s=14 if len(shown) < 1000 else 7,
            alpha=0.55,
            linewidth=0,
            legend=False,
            ax=joint,
        )
        joint.set(xscale="log", yscale="log", xlabel="width (pixels)", ylabel="height (pixels)")
        margin: dict[str, Any] = {
            "hue": _names(positive),
            "palette": LABEL_COLORS,
            "element": "step",
            "stat": "density",
            "common_norm": False,
            "log_scale": True,
            "bins": _bins(len(widths)),
            "linewidth": 0.8,
            "legend": False,
        }
        sns.histplot(x=widths, ax=above, **margin)
        sns.histplot(y=heights, ax=beside, **margin)
        for axes in (above, beside):
            axes.set_axis_off()
        sides = [side for size in (recommended, *others) for side in size]
        everything = np.concatenate([widths, heights, typical, sides])
        _powers_of_two(joint, float(everything.min()), float(everything.max()))
        for size in others:
            joint.plot(*size, "D", color="none", markeredgecolor=theme.muted, markersize=4.5)
        _draw_way(joint, typical, recommended, theme)
        _label_legend(joint, positive)
        if len(shown) < len(widths):
            _note(joint, f"{len(shown):,} of {len(widths):,} pictures, drawn at random", theme)
        return _png(figure)


def aspect_ratio(
    widths: FloatArray, heights: FloatArray, positive: BoolArray, theme: Theme = LIGHT
) -> bytes:
    """Draw the distribution of width / height by label; arrays are (images,), in pixels."""
    ratios = widths / heights
    with _figure(theme, height=4.8) as figure:
        axes = figure.subplots()
        _histogram(axes, np.clip(ratios, 1 / _EXTREME_ASPECT, _EXTREME_ASPECT), positive)
        axes.axvline(1, color=theme.muted, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
        ticks = {
            "1:4": 1 / 4,
            "1:2": 1 / 2,
            "2:3": 2 / 3,
            "1:1": 1,
            "3:2": 3 / 2,
            "2:1": 2,
            "4:1": 4,
        }
        limits = axes.get_xlim()
        axes.set_xticks(list(ticks.values()), list(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="width : height", xlim=limits)
        beyond = int(np.count_nonzero(np.maximum(ratios, 1 / ratios) > _EXTREME_ASPECT))
        if beyond:
            _note(axes, f"{beyond:,} beyond 5:1", theme)
        return _png(figure)


def file_size(sizes: FloatArray, positive: BoolArray, theme: Theme = LIGHT) -> bytes:
    """Draw the distribution of file sizes by label; `sizes` is (images,), in bytes."""
    with _figure(theme) as figure:
        axes = figure.subplots()
        _histogram(axes, sizes, positive)
        narrow = np.max(sizes) < 1000 * np.min(sizes)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if narrow else (1,)))
        axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("size of the file")
        return _png(figure)


def class_balance(images: Mapping[Split, Mapping[Label, int]], theme: Theme = LIGHT) -> bytes:
    """Draw how many images each split has of each label."""
    rows = [(split, label, count) for split, by in images.items() for label, count in by.items()]
    splits, labels, counts = (list(column) for column in zip(*rows, strict=True))
    with _figure(theme) as figure:
        axes = figure.subplots()
        sns.barplot(
            x=counts,
            y=splits,
            hue=labels,
            palette=LABEL_COLORS,
            saturation=1,
            gap=0.12,
            linewidth=0,
            ax=axes,
        )
        for bars in axes.containers:
            axes.bar_label(bars, fmt="{:,.0f}", padding=4, color=theme.ink)  # type: ignore[arg-type]
        axes.margins(x=0.14)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set(xlabel="pictures", ylabel="")
        axes.tick_params(axis="y", labelsize=10, labelcolor=theme.ink)
        _legend_above(axes)
        return _png(figure)


def confusion_matrix(tp: int, fp: int, fn: int, tn: int, theme: Theme = LIGHT) -> bytes:
    """Draw the confusion matrix: counts, and their share of the row."""
    counts = np.array([[tp, fn], [fp, tn]], dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with _figure(theme, height=4.0) as figure:
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
        return _png(figure)


def precision_recall(
    labels: BoolArray, scores: FloatArray, called: BoolArray, theme: Theme = LIGHT
) -> bytes:
    """Draw precision over recall at every threshold of the scores, and where those called are.

    All arrays are (images,).
    """
    precision, recall, _ = precision_recall_curve(labels, scores)
    hits = int(np.count_nonzero(called & labels))
    with _figure(theme, height=4.0) as figure:
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
        return _png(figure)


def roc(labels: BoolArray, scores: FloatArray, called: BoolArray, theme: Theme = LIGHT) -> bytes:
    """Draw the ROC curve of the scores, and where those called are; all arrays are (images,)."""
    false_rate, true_rate, _ = roc_curve(labels, scores, drop_intermediate=True)
    with _figure(theme, height=4.0) as figure:
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
        return _png(figure)


def probability_histogram(
    labels: BoolArray, probabilities: FloatArray, threshold: float, theme: Theme = LIGHT
) -> bytes:
    """Draw how the probabilities of each label spread; both arrays are (images,)."""
    with _figure(theme, height=4.0) as figure:
        axes = figure.subplots()
        sns.histplot(
            x=probabilities,
            hue=_names(labels),
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
        _legend_above(axes)
        _note(axes, f"dashed: threshold {threshold:.3g}", theme)
        return _png(figure)


def reliability(
    raw: Sequence[Bin], calibrated: Sequence[Bin] | None = None, theme: Theme = LIGHT
) -> bytes:
    """Draw the share of pictures with the tag over the probability they are given.

    Args:
        raw: bins of the model's own probabilities.
        calibrated: bins of the calibrated ones; None if nothing was calibrated.
        theme: the colours.

    """
    with _figure(theme, height=4.0) as figure:
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
        return _png(figure)


def learning_curves(history: Sequence[Mapping[str, float]], theme: Theme = LIGHT) -> bytes:
    """Draw loss and accuracy of train and validation by epoch; the best epoch is marked.

    Args:
        history: a mapping an epoch, of `loss`, `accuracy`, `val_loss`, `val_accuracy`; what is
            missing is not drawn.
        theme: the colours.

    """
    epochs = np.arange(1, len(history) + 1)
    best = best_epoch(history)
    with _figure(theme, height=5.0) as figure:
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
            _legend_above(panels[0])
        if best is not None:
            _note(panels[0], f"dashed: best epoch, {best}", theme)
        figure.align_ylabels(panels)
        return _png(figure)


def best_epoch(history: Sequence[Mapping[str, float]]) -> int | None:
    """Return the epoch of the lowest validation loss, from 1; None where no loss is a number."""
    losses = _column(history, "val_loss")
    return int(np.nanargmin(losses)) + 1 if np.isfinite(losses).any() else None


def _column(history: Sequence[Mapping[str, float]], name: str) -> FloatArray:
    values = np.array([epoch.get(name, np.nan) for epoch in history], dtype=np.float64)
    values[~np.isfinite(values)] = np.nan  # a diverged epoch is a gap in the line
    return values


# matplotlib's settings belong to the process, and its fonts are not safe to draw with from two
# threads: one figure at a time, and the settings are as before after it.
_DRAWING = threading.Lock()


@contextlib.contextmanager
def _figure(theme: Theme, height: float = 3.6) -> Iterator[Figure]:
    size = (_NARROW, min(height, 1.1 * _NARROW)) if theme.narrow else (_WIDTH, height)
    with _DRAWING, mpl.rc_context(_settings(theme)):
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)  # not pyplot: nothing is left to close
        yield figure


def _png(figure: Figure) -> bytes:
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="rgba")
    size = (round(figure.bbox.width), round(figure.bbox.height))
    # A palette takes a third of the bytes, and nothing in a plot needs more colours.
    picture = Image.frombuffer("RGBA", size, drawn.getvalue()).convert("RGB")
    picture.quantize(_COLORS, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _settings(theme: Theme) -> Any:
    return {
        **sns.axes_style("white"),
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9.5,
        "text.color": theme.ink,
        "text.parse_math": False,
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.grid,
        "axes.labelcolor": theme.muted,
        "axes.labelpad": 6,
        "axes.labelsize": 9.5,
        "axes.linewidth": 1,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.spines.left": False,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "xtick.bottom": False,
        "ytick.left": False,
        "legend.frameon": False,
        "legend.fontsize": 9.5,
        "legend.handlelength": 1.4,
        "lines.solid_capstyle": "round",
        "patch.force_edgecolor": False,
    }


def _histogram(axes: Axes, values: FloatArray, positive: BoolArray) -> None:
    # Each label is its own 100 %: labels of different size can be compared.
    sns.histplot(
        x=values,
        hue=_names(positive),
        hue_order=list(LABEL_COLORS),
        palette=LABEL_COLORS,
        bins=_bins(len(values)),
        log_scale=True,
        stat="percent",
        common_norm=False,
        element="step",
        alpha=0.3,
        linewidth=1.4,
        ax=axes,
    )
    axes.set_ylabel("share of the label's pictures")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g} %"))
    axes.grid(visible=False, axis="x")
    _legend_above(axes)


def _bins(count: int) -> int:
    """Return how many bins a histogram has: few pictures in many are noise (Rice's rule)."""
    return int(np.clip(2 * np.cbrt(count), 8, 40))


def _names(positive: BoolArray) -> NDArray[np.str_]:
    return np.where(positive, "positive", "negative")


def _sample(count: int) -> NDArray[np.int64]:
    """Return indices in random order, so that neither label is drawn over the other."""
    return np.random.default_rng(_SEED).permutation(count)[:_SAMPLE]


def _powers_of_two(axes: Axes, low: float, high: float) -> None:
    low, high = low / 1.3, high * 1.3
    exponents = range(int(np.ceil(np.log2(low))), int(np.floor(np.log2(high))) + 1)
    ticks = [2**exponent for exponent in exponents][:: max(1, math.ceil(len(exponents) / 7))]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{tick:,.6g}" for tick in ticks])
        axis.set_minor_locator(NullLocator())
    axes.set(xlim=(low, high), ylim=(low, high))


def _draw_way(
    axes: Axes, typical: tuple[float, float], recommended: tuple[int, int], theme: Theme
) -> None:
    width, height = recommended
    for x, y in (((0.01, width), (height, height)), ((width, width), (0.01, height))):
        axes.plot(x, y, color=theme.ink, linewidth=0.9, linestyle=(0, (4, 2)), zorder=3)
    if recommended != typical:
        axes.annotate(
            "",
            xy=recommended,
            xytext=typical,
            arrowprops={"arrowstyle": "-|>", "color": theme.ink, "shrinkA": 5, "shrinkB": 6},
            zorder=4,
        )
        axes.plot(*typical, "o", color=theme.paper, markeredgecolor=theme.ink, zorder=5)
    axes.plot(*recommended, "D", color=ACCENT, markeredgecolor=theme.paper, markersize=9, zorder=6)
    axes.annotate(
        f"input {height} high, {width} wide",
        xy=recommended,
        xytext=(10, -13),
        textcoords="offset points",
        color=theme.ink,
        fontweight="bold",
        bbox={"boxstyle": "round,pad=0.3", "facecolor": theme.paper, "edgecolor": theme.grid},
        zorder=7,
    )


def _label_legend(axes: Axes, positive: BoolArray) -> None:
    for name in np.unique(_names(positive))[::-1]:
        axes.plot([], [], "o", color=LABEL_COLORS[str(name)], label=name, markersize=6)
    axes.legend(loc="upper left")


def _legend_above(axes: Axes) -> None:
    place = {"bbox_to_anchor": (-0.01, 1.0), "borderaxespad": 0.3}
    sns.move_legend(axes, "lower left", ncols=2, title=None, **place)


def _note(axes: Axes, text: str, theme: Theme) -> None:
    axes.annotate(
        text,
        xy=(1, 1),
        xycoords="axes fraction",
        xytext=(0, 24 if theme.narrow and axes.get_legend() else 5),  # above the legend
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=theme.muted,
        fontsize=8,
    )


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
