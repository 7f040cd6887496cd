"""How plots are drawn by seaborn, as SVG: for wide and for narrow screens, each light and dark.

No text from outside goes into a plot (`$` would start a formula): labels are `positive` and
`negative`.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Blue and orange stay apart for every kind of colour blindness, and both can be read on white and
# on the dark paper; the accent is neither, for what is not about one label.
POSITIVE = "#3b7fd4"
NEGATIVE = "#dd7424"
ACCENT = "#14a08c"
LABEL_COLORS = {"positive": POSITIVE, "negative": NEGATIVE}

# Of what is not data.
PAPER, INK, MUTED, GRID = "#ffffff", "#1a1d23", "#626b7a", "#e6e9ee"
DARK = {PAPER: "#181b22", INK: "#e8eaee", MUTED: "#98a1b0", GRID: "#2b303a"}

_DPI = 150  # of the points of a scatter, which are pixels
_WIDTH = 5.0  # inches: a card of the page, so that points are points on a wide screen
_NARROW = 3.4  # inches: the same on a phone
_SEED = "imagetag"  # of names inside a drawing: the same is drawn alike


@dataclass(frozen=True)
class Plot:
    """A plot for wide and for narrow screens: SVG, which is dark where its reader wants that."""

    wide: bytes
    narrow: bytes


def for_all_screens(draw: Callable[[bool], bytes]) -> Plot:
    """Draw a plot twice, its text of one size; `draw` takes whether it is for a narrow screen."""
    return Plot(wide=draw(False), narrow=draw(True))


# matplotlib's settings belong to the process, and its fonts are not safe to draw with from two
# threads: one figure at a time, and the settings are as before after it.
_DRAWING = threading.Lock()


@contextlib.contextmanager
def canvas(narrow: bool, height: float = 3.6) -> Iterator[Figure]:
    """Give a figure to draw on, for a narrow screen or a wide one; `height` is in inches."""
    size = (_NARROW, min(height, 1.1 * _NARROW)) if narrow else (_WIDTH, height)
    with _DRAWING, mpl.rc_context(_SETTINGS):
        # Not of pyplot: nothing is left to close.
        yield Figure(figsize=size, dpi=_DPI, layout="constrained")


def svg(figure: Figure) -> bytes:
    """Return a figure of `canvas` as the bytes of an SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().replace(b"<defs>", _DARK_STYLE + b"<defs>", 1)


def label_names(positive: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Return the label of each picture in words, of the same shape."""
    return np.where(positive, "positive", "negative")


def legend_above(axes: Axes) -> None:
    """Put the legend above the axes, where it hides nothing."""
    place = {"bbox_to_anchor": (-0.01, 1.0), "borderaxespad": 0.3}
    sns.move_legend(axes, "lower left", ncols=2, title=None, **place)


def note_above(axes: Axes, text: str, narrow: bool) -> None:
    """Write a small text above the axes, on the right."""
    axes.annotate(
        text,
        xy=(1, 1),
        xycoords="axes fraction",
        xytext=(0, 24 if narrow and axes.get_legend() else 5),  # above the legend
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=MUTED,
        fontsize=8,
    )


_SETTINGS: Any = {
    **sns.axes_style("white"),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": _SEED,
    "text.color": INK,
    "text.parse_math": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelpad": 6,
    "axes.labelsize": 9.5,
    "axes.linewidth": 1,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
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

# A plot is drawn on light paper, so that any program shows it; where dark is wanted, its colours of
# what is not data are others.
_DARK_STYLE = (
    "<style>text{font-family:system-ui,sans-serif!important}@media(prefers-color-scheme:dark){"
    + "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    + "}</style>"
).encode()
