"""Plots are PNG, keep their colours, leave nothing behind, and can be drawn from many threads."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from PIL import Image

from imagetag.evaluate import plots as evaluation_plots
from imagetag.explore import plots as dataset_plots
from imagetag.pages.drawing import ACCENT, DARK, LIGHT, Theme
from imagetag.pages.drawing import NEGATIVE as ORANGE
from imagetag.pages.drawing import POSITIVE as BLUE
from imagetag.stats.calibration import reliability

pytestmark = pytest.mark.filterwarnings("error")

RNG = np.random.default_rng(3)
COUNT = 300
POSITIVE = RNG.random(COUNT) < 0.4
WIDTHS = np.exp(RNG.normal(6.9, 0.4, COUNT)).round()
HEIGHTS = np.exp(RNG.normal(7.1, 0.4, COUNT)).round()
CHANCES = 1 / (1 + np.exp(-RNG.normal(np.where(POSITIVE, 2, -2), 2)))
CALLED = CHANCES >= 0.8
RAW, CALIBRATED = (
    reliability(POSITIVE, chances, [str(number) for number in range(COUNT)])
    for chances in (CHANCES**2, CHANCES)
)
HISTORY = [
    {"loss": 1 / n, "accuracy": 1 - 0.4 / n, "val_loss": 1 / n + n / 50, "val_accuracy": 0.8}
    for n in range(1, 12)
]
IMAGES: Any = {
    "train": {"positive": 90, "negative": 110},
    "test": {"positive": 20, "negative": 31},
}

Draw = Callable[[Theme], bytes]
DRAWINGS: dict[str, Draw] = {
    "dimensions": lambda theme: dataset_plots.dimensions(
        WIDTHS, HEIGHTS, POSITIVE, (990.0, 1200.0), (224, 288), theme
    ),
    "aspect_ratio": lambda theme: dataset_plots.aspect_ratio(WIDTHS, HEIGHTS, POSITIVE, theme),
    "file_size": lambda theme: dataset_plots.file_size(WIDTHS * HEIGHTS, POSITIVE, theme),
    "class_balance": lambda theme: dataset_plots.class_balance(IMAGES, theme),
    "confusion_matrix": lambda theme: evaluation_plots.confusion_matrix(59, 2, 4, 80, theme),
    "precision_recall": lambda theme: evaluation_plots.precision_recall(
        POSITIVE, CHANCES, CHANCES >= 0.8, theme
    ),
    "roc": lambda theme: evaluation_plots.roc(POSITIVE, CHANCES, CALLED, theme),
    "reliability": lambda theme: evaluation_plots.reliability(RAW.bins, CALIBRATED.bins, theme),
    "probability_histogram": lambda theme: evaluation_plots.probability_histogram(
        POSITIVE, CHANCES, 0.8, theme
    ),
    "learning_curves": lambda theme: evaluation_plots.learning_curves(HISTORY, theme),
}
LABELLED = (
    "dimensions",
    "aspect_ratio",
    "file_size",
    "class_balance",
    "probability_histogram",
)


def pixels(png: bytes) -> Any:
    """Return (height, width, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def has(image: Any, color: str) -> bool:
    wanted = np.round(np.array(to_rgb(color)) * 255)
    return bool((np.abs(image.astype(int) - wanted).max(axis=2) <= 2).any())


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", DRAWINGS)
def test_a_plot_is_a_sharp_png_on_the_themes_paper(name: str, theme: Theme) -> None:
    png = DRAWINGS[name](theme)
    image = pixels(png)
    assert png.startswith(b"\x89PNG")
    assert image.shape[1] == 1000
    assert len(png) < 300_000
    assert has(image[:1, :1], theme.paper)
    assert image.std() > 5  # something is drawn


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", LABELLED)
def test_a_label_has_its_colour_in_every_plot(name: str, theme: Theme) -> None:
    image = pixels(DRAWINGS[name](theme))
    assert has(image, BLUE)
    assert has(image, ORANGE)


@pytest.mark.parametrize("name", DRAWINGS)
def test_nothing_is_cut_off_at_the_edges(name: str) -> None:
    image = pixels(DRAWINGS[name](LIGHT))
    edges = [image[:2], image[-2:], image[:, :2], image[:, -2:]]
    assert all((edge == 255).all() for edge in edges)


def test_a_plot_leaves_no_figure_and_no_setting_behind() -> None:
    before = dict(mpl.rcParams)
    for draw in DRAWINGS.values():
        draw(DARK)
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


def test_threads_draw_what_one_draws_alone() -> None:
    jobs = [(draw, theme) for draw in list(DRAWINGS.values())[2:5] for theme in (LIGHT, DARK)]
    alone = [draw(theme) for draw, theme in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: job[0](job[1]), jobs))
    assert together == alone


def test_the_colours_can_be_told_apart_on_both_papers() -> None:
    def luminance(color: str) -> float:
        channels = np.array(to_rgb(color))
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(one: str, other: str) -> float:
        low, high = sorted([luminance(one), luminance(other)])
        return (high + 0.05) / (low + 0.05)

    for theme in (LIGHT, DARK):
        for color in (BLUE, ORANGE, ACCENT):
            assert contrast(color, theme.paper) >= 3  # WCAG, graphics
        for color in (theme.ink, theme.muted):
            assert contrast(color, theme.paper) >= 4.5  # WCAG, text
