"""Plots of a dataset. Each function draws one figure and returns the bytes of an SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from imagetag.layout import Label, Split
from imagetag.pages import (
    ACCENT,
    INK,
    LABEL_COLORS,
    MUTED,
    PAPER,
    canvas,
    label_names,
    legend_above,
    log_ticks,
    note_above,
    svg,
)

_SAMPLE = 3000  # points a scatter shows before they hide each other
_SEED = 0
_EXTREME_ASPECT = 5.0

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def dimensions(
    widths: FloatArray,
    heights: FloatArray,
    positive: BoolArray,
    typical: tuple[float, float],
    recommended: tuple[int, int],
    narrow: bool = False,
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
        narrow: whether it is for a narrow screen.
        others: (width, height) of inputs that it may be compared with, in pixels.

    """
    with canvas(narrow, height=4.8) as figure:
        grid = figure.add_gridspec(2, 2, width_ratios=(6, 1), height_ratios=(1, 6))
        joint = figure.add_subplot(grid[1, 0])
        above = figure.add_subplot(grid[0, 0], sharex=joint)
        beside = figure.add_subplot(grid[1, 1], sharey=joint)
        shown = _sample(len(widths))
        sns.scatterplot(
            x=widths[shown],
            y=heights[shown],
            hue=label_names(positive[shown]),
            palette=LABEL_COLORS,
            s=14 if len(shown) < 1000 else 7,
            rasterized=True,  # each for itself takes 180 bytes, and its time on the screen
            alpha=0.55,
            linewidth=0,
            legend=False,
            ax=joint,
        )
        joint.set(xscale="log", yscale="log", xlabel="width (pixels)", ylabel="height (pixels)")
        margin: dict[str, Any] = {
            "hue": label_names(positive),
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
            joint.plot(*size, "D", color="none", markeredgecolor=MUTED, markersize=4.5)
        _name_labels(joint, positive)
        _draw_way(joint, typical, recommended)
        handles, names = joint.get_legend_handles_labels()
        # Above all: within the plot it would hide points, and a long text would make it narrow.
        place: dict[str, Any] = {
            "loc": "outside upper left",
            "columnspacing": 1.2,
            "handletextpad": 0.4,
        }
        figure.legend(handles, names, ncols=2 if narrow else 3, **place)
        if len(shown) < len(widths):
            note_above(
                joint, f"{len(shown):,} of {len(widths):,} pictures, drawn at random", narrow
            )
        return svg(figure)


def aspect_ratio(
    widths: FloatArray, heights: FloatArray, positive: BoolArray, narrow: bool = False
) -> bytes:
    """Draw the distribution of width / height by label; arrays are (images,), in pixels."""
    ratios = widths / heights
    with canvas(narrow, height=4.8) as figure:
        axes = figure.subplots()
        _histogram(axes, np.clip(ratios, 1 / _EXTREME_ASPECT, _EXTREME_ASPECT), positive)
        axes.axvline(1, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
        ticks = {
            "1:4": 1 / 4,
            "1:2": 1 / 2,
            "2:3": 2 / 3,
            "1:1": 1,
            "3:2": 3 / 2,
            "2:1": 2,
            "4:1": 4,
        }
        limits = low, high = axes.get_xlim()
        if narrow and high > 8 * low:
            del ticks["2:3"], ticks["3:2"]  # their texts would touch
        if sum(low <= tick <= high for tick in ticks.values()) < 3:
            ticks = {f"{tick:.6g}:1": tick for tick in _log_ticks(limits, narrow)}
        axes.set_xticks(list(ticks.values()), list(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="width : height", xlim=limits)
        beyond = int(np.count_nonzero(np.maximum(ratios, 1 / ratios) > _EXTREME_ASPECT))
        if beyond:
            note_above(axes, f"{beyond:,} beyond 5:1", narrow)
        return svg(figure)


def file_size(sizes: FloatArray, positive: BoolArray, narrow: bool = False) -> bytes:
    """Draw the distribution of file sizes by label; `sizes` is (images,), in bytes."""
    with canvas(narrow) as figure:
        axes = figure.subplots()
        _histogram(axes, sizes, positive)
        limits = axes.get_xlim()
        axes.set_xticks(_log_ticks(limits, narrow))
        axes.set_xlim(limits)
        axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("size of the file")
        return svg(figure)


def class_balance(images: Mapping[Split, Mapping[Label, int]], narrow: bool = False) -> bytes:
    """Draw how many images each split has of each label."""
    rows = [(split, label, count) for split, by in images.items() for label, count in by.items()]
    splits, labels, counts = (list(column) for column in zip(*rows, strict=True))
    with canvas(narrow) as figure:
        axes = figure.subplots()
        sns.barplot(
            x=counts,
            y=splits,
            hue=labels,
            palette=LABEL_COLORS,
            saturation=1,
            errorbar=None,
            gap=0.12,
            linewidth=0,
            ax=axes,
        )
        for bars in axes.containers:
            axes.bar_label(bars, fmt="{:,.0f}", padding=4, color=INK)  # type: ignore[arg-type]
        axes.margins(x=0.14)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set(xlabel="pictures", ylabel="")
        axes.tick_params(axis="y", labelsize=10, labelcolor=INK)
        legend_above(axes)
        return svg(figure)


def _histogram(axes: Axes, values: FloatArray, positive: BoolArray) -> None:
    # Each label is its own 100 %: labels of different size can be compared.
    sns.histplot(
        x=values,
        hue=label_names(positive),
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
    legend_above(axes)


def _log_ticks(limits: tuple[float, float], narrow: bool) -> list[float]:
    ticks = log_ticks(*limits)
    return ticks[::2] if narrow and len(ticks) > 4 else ticks


def _bins(count: int) -> int:
    """Return how many bins a histogram has: few pictures in many are noise (Rice's rule)."""
    return int(np.clip(2 * np.cbrt(count), 8, 40))


def _sample(count: int) -> NDArray[np.int64]:
    """Return indices in random order, so that neither label is drawn over the other."""
    return np.random.default_rng(_SEED).permutation(count)[:_SAMPLE]


def _powers_of_two(axes: Axes, low: float, high: float) -> None:
    low, high = low / 1.3, high * 1.3
    exponents = range(int(np.ceil(np.log2(low))), int(np.floor(np.log2(high))) + 1)
    ticks = [2.0**exponent for exponent in exponents][:: max(1, math.ceil(len(exponents) / 7))]
    if len(ticks) < 2:
        ticks = log_ticks(low, high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{tick:,.6g}" for tick in ticks])
        axis.set_minor_locator(NullLocator())
    axes.set(xlim=(low, high), ylim=(low, high))


def _draw_way(axes: Axes, typical: tuple[float, float], recommended: tuple[int, int]) -> None:
    width, height = recommended
    for x, y in (((0.01, width), (height, height)), ((width, width), (0.01, height))):
        axes.plot(x, y, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=3)
    if recommended != typical:
        axes.annotate(
            "",
            xy=recommended,
            xytext=typical,
            arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 5, "shrinkB": 6},
            zorder=4,
        )
        axes.plot(*typical, "o", color=PAPER, markeredgecolor=INK, zorder=5)
    axes.plot(
        *recommended,
        "D",
        color=ACCENT,
        markeredgecolor=PAPER,
        markersize=9,
        zorder=6,
        label=f"input {height} high, {width} wide",
        linestyle="none",
    )


def _name_labels(axes: Axes, positive: BoolArray) -> None:
    for name in np.unique(label_names(positive))[::-1]:
        axes.plot([], [], "o", color=LABEL_COLORS[str(name)], label=name, markersize=6)
