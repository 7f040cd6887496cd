"""Charts that a page draws itself: lines, areas and points in a frame, by SVG and the page's style.

One drawing does for every screen: its frame takes the width there is, its lines and its text keep
their size, and its colours are the page's, light or dark. It takes a millisecond and some
kilobytes. The template `chart.html` draws it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Color = Literal["positive", "negative", "accent", "muted", "ink"]
_Points = NDArray[np.float64]

_UNITS = 1000  # of the frame's width and of its height: less than half a pixel


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
        label: what is measured, and its unit.
        low: the value at its left or lower end.
        high: the value at its other end.
        ticks: the text of each value that has one.
        log: whether it is logarithmic.

    """

    label: str
    low: float
    high: float
    ticks: Mapping[float, str]
    log: bool = False

    def share(self, values: ArrayLike) -> _Points:
        """Return how far values are along the axis, from 0 to 1; those beyond are at its ends."""
        low, high, found = self.low, self.high, np.asarray(values, dtype=np.float64)
        if self.log:
            found, low, high = np.log(np.maximum(found, low)), math.log(low), math.log(high)
        return np.clip((found - low) / (high - low), 0, 1)

    @property
    def places(self) -> dict[float, str]:
        """The text of each tick by how far it is along the axis; those beyond it are left out."""
        return {
            float(self.share(value)): text
            for value, text in self.ticks.items()
            if self.low <= value <= self.high
        }


@dataclass(frozen=True)
class Mark:
    """Something in a chart, as paths of SVG in a frame of 1,000 x 1,000; an empty one is none."""

    color: Color
    name: str | None
    line: str
    area: str = ""
    dots: str = ""
    style: Literal["", "dashed", "thin"] = ""


@dataclass
class Chart:
    """A frame, and what is drawn in it, the first at the bottom.

    Attributes:
        x: the horizontal axis.
        y: the vertical axis.
        marks: lines with what belongs to them.
        point: the name, and the place along both axes, of the one point that stands out.

    """

    x: Axis
    y: Axis
    marks: list[Mark] = field(default_factory=list)
    point: tuple[str, float, float] | None = None

    def line(
        self,
        x: ArrayLike,
        y: ArrayLike,
        color: Color,
        name: str | None = None,
        *,
        area: bool = False,
        dots: bool = False,
        dashed: bool = False,
    ) -> Self:
        """Draw a line through points, (points,) each; where one is not finite it has a gap.

        Args:
            x: along the horizontal axis.
            y: along the vertical axis.
            color: of it.
            name: in the key; None is not in it.
            area: whether what is below it is shaded.
            dots: whether its points are.
            dashed: whether it is.

        """
        pieces = _pieces(self._placed(x, y))
        line = "".join(_path(piece) for piece in pieces)
        below = "".join(
            f"{_path(piece)}V{_UNITS}H{piece[0, 0]}Z" for piece in pieces if area and len(piece)
        )
        spots = "".join(f"M{px} {py}h0" for piece in pieces if dots for px, py in piece)
        self.marks.append(Mark(color, name, line, below, spots, "dashed" if dashed else ""))
        return self

    def spans(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, color: Color) -> Self:
        """Draw a vertical line at each x from a low to a high value, (lines,) each."""
        lower, upper = (self._placed(x, ends).round().astype(int) for ends in (low, high))
        ends = zip(lower.tolist(), upper.tolist(), strict=True)
        line = "".join(f"M{px} {bottom}V{top}" for (px, bottom), (_, top) in ends)
        self.marks.append(Mark(color, None, line, style="thin"))
        return self

    def highlight(self, x: float, y: float, name: str) -> Self:
        """Let one point stand out, by a name in the key."""
        self.point = name, float(self.x.share(x)), float(self.y.share(y))
        return self

    @property
    def grid(self) -> str:
        """The path of a line at each tick."""
        across = (f"M0 {round(_UNITS * (1 - place))}H{_UNITS}" for place in self.y.places)
        up = (f"M{round(_UNITS * place)} 0V{_UNITS}" for place in self.x.places)
        return "".join((*across, *up))

    def _placed(self, x: ArrayLike, y: ArrayLike) -> _Points:
        """Return points in units of the frame, from its upper left, (points, 2)."""
        return _UNITS * np.stack([self.x.share(x), 1 - self.y.share(y)], axis=-1)


def steps(edges: ArrayLike, heights: ArrayLike) -> tuple[_Points, _Points]:
    """Return the outline of bars as points of a line; a bar of no height has none.

    Args:
        edges: where bars begin and end, (bars + 1,).
        heights: of each, (bars,).

    """
    at, high = np.asarray(edges, dtype=np.float64), np.asarray(heights, dtype=np.float64)
    x = np.stack([at[:-1], (at[:-1] + at[1:]) / 2, at[1:]], axis=1)
    y = np.stack([high, np.where(high == 0, np.nan, high), high], axis=1)
    return np.append(np.insert(x, 0, at[0]), at[-1]), np.append(np.insert(y, 0, 0), 0)


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return some `count` round numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart.

    Raises:
        ValueError: if `high` is not greater than `low`.

    """
    if not high > low:
        raise ValueError(f"nothing is from {low} to {high}")
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if rough <= power * factor * 1.0001)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return three to six numbers that can be read on a logarithmic axis, however short it is.

    Powers of ten where there are three; else with what is between them, or plain round numbers.

    Raises:
        ValueError: if `low` is not positive, or `high` is not greater than it.

    """
    if not high > low > 0:
        raise ValueError(f"no logarithmic axis is from {low} to {high}")
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        numbers = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [number for number in numbers if low <= number <= high]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / 6)]
    return next(ticks for count in range(2, 9) if len(ticks := round_ticks(low, high, count)) >= 3)


def _pieces(points: _Points) -> list[NDArray[np.int64]]:
    """Return points as whole numbers, parted where some are missing, none twice in a row."""
    missing = ~np.isfinite(points).all(axis=1)
    pieces = []
    for piece in np.split(points, np.flatnonzero(missing)):
        whole = piece[np.isfinite(piece).all(axis=1)].round().astype(np.int64)
        moved = np.append(True, np.any(whole[1:] != whole[:-1], axis=1))[: len(whole)]
        pieces.append(whole[moved])
    return pieces


def _path(points: NDArray[np.int64]) -> str:
    """Return a path through points, with a letter where it goes straight across or up."""
    if not len(points):
        return ""
    (x, y), *others = points.tolist()
    found = [f"M{x} {y}"]
    for px, py in others:
        found.append(f"H{px}" if py == y else f"V{py}" if px == x else f"L{px} {py}")
        x, y = px, py
    return "".join(found)
