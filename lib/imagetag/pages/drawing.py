"""How plots are drawn, as PNG: light and dark, for wide and for narrow screens.

No text from outside goes into a plot (fonts lack glyphs, and `$` would start a formula): labels are
`positive` and `negative`.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

# Blue and orange stay apart for every kind of colour blindness, and both can be read on white and
# on the dark paper; the accent is neither, for what is not about one label.
POSITIVE = "#3b7fd4"
NEGATIVE = "#dd7424"
ACCENT = "#14a08c"
LABEL_COLORS = {"positive": POSITIVE, "negative": NEGATIVE}

_DPI = 200
_WIDTH = 5.0  # inches: a card of the page, so that points are points on a wide screen
_NARROW = 3.4  # inches: the same on a phone
_COLORS = 255


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


# matplotlib's settings belong to the process, and its fonts are not safe to draw with from two
# threads: one figure at a time, and the settings are as before after it.
_DRAWING = threading.Lock()


@contextlib.contextmanager
def canvas(theme: Theme, height: float = 3.6) -> Iterator[Figure]:
    """Give a figure to draw on, in the colours and the width of a theme; `height` is in inches."""
    size = (_NARROW, min(height, 1.1 * _NARROW)) if theme.narrow else (_WIDTH, height)
    with _DRAWING, mpl.rc_context(_settings(theme)):
        # Not of pyplot: nothing is left to close.
        yield Figure(figsize=size, dpi=_DPI, layout="constrained")


def png(figure: Figure) -> bytes:
    """Return a figure of `canvas` as the bytes of a PNG."""
    agg = FigureCanvasAgg(figure)  # not `savefig`, which draws twice
    agg.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(agg.buffer_rgba())  # type: ignore[no-untyped-call]
    picture = Image.fromarray(pixels).convert("RGB")
    # A palette takes a third of the bytes, and nothing in a plot needs more colours.
    few = picture.quantize(_COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, format="PNG", compress_level=8)  # 1 % larger than by 9, in half the time
    return buffer.getvalue()


def label_names(positive: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Return the label of each picture in words, of the same shape."""
    return np.where(positive, "positive", "negative")


def legend_above(axes: Axes) -> None:
    """Put the legend above the axes, where it hides nothing."""
    place = {"bbox_to_anchor": (-0.01, 1.0), "borderaxespad": 0.3}
    sns.move_legend(axes, "lower left", ncols=2, title=None, **place)


def note_above(axes: Axes, text: str, theme: Theme) -> None:
    """Write a small text above the axes, on the right."""
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
