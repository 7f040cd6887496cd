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

from imagetag.pages import plots
from imagetag.pages.plots import DARK, LIGHT, Theme
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
    "dimensions": lambda theme: plots.dimensions(
        WIDTHS, HEIGHTS, POSITIVE, (990.0, 1200.0), (224, 288), theme
    ),
    "aspect_ratio": lambda theme: plots.aspect_ratio(WIDTHS, HEIGHTS, POSITIVE, theme),
    "file_size": lambda theme: plots.file_size(WIDTHS * HEIGHTS, POSITIVE, theme),
    "class_balance": lambda theme: plots.class_balance(IMAGES, theme),
    "confusion_matrix": lambda theme: plots.confusion_matrix(59, 2, 4, 80, theme),
    "precision_recall": lambda theme: plots.precision_recall(
        POSITIVE, CHANCES, CHANCES >= 0.8, theme
    ),
    "roc": lambda theme: plots.roc(POSITIVE, CHANCES, CALLED, theme),
    "reliability": lambda theme: plots.reliability(RAW.bins, CALIBRATED.bins, theme),
    "probability_histogram": lambda theme: plots.probability_histogram(
        POSITIVE, CHANCES, 0.8, theme
    ),
    "learning_curves": lambda theme: plots.learning_curves(HISTORY, theme),
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
    assert has(image, plots.POSITIVE)
    assert has(image, plots.NEGATIVE)


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


def test_a_hundred_thousand_pictures_stay_points() -> None:
    count = 100_000
    widths = np.exp(RNG.normal(6.9, 0.4, count))
    image = pixels(
        plots.dimensions(widths, widths * 1.4, RNG.random(count) < 0.5, (990, 1400), (224, 288))
    )
    paper = (image == 255).all(axis=2).mean()
    assert paper > 0.6


@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize("positive", [True, False])
def test_equal_pictures_of_one_label_are_drawn(count: int, positive: bool) -> None:
    sides, labels = np.full(count, 64.0), np.full(count, positive)
    assert plots.dimensions(sides, sides, labels, (64, 64), (64, 64))
    assert plots.aspect_ratio(sides, sides, labels)
    assert plots.file_size(sides, labels)


def test_extreme_shapes_are_drawn() -> None:
    widths, heights = np.array([1.0, 30_000, 500]), np.array([30_000.0, 1, 500])
    labels = np.array([True, False, True])
    assert plots.aspect_ratio(widths, heights, labels)
    assert plots.dimensions(widths, heights, labels, (500, 500), (32, 2048))


def test_a_split_without_pictures_is_drawn() -> None:
    empty: Any = {split: {"positive": 0, "negative": 0} for split in ("train", "test")}
    assert plots.class_balance(empty)


def test_matrices_and_curves_of_useless_models_are_drawn() -> None:
    labels, never = np.array([True, False] * 5), np.full(10, 0.2)
    assert plots.confusion_matrix(0, 0, 5, 5)
    assert plots.precision_recall(labels, never, never >= 0.5)
    assert plots.roc(labels, never, never >= 0.5)
    assert plots.probability_histogram(labels, never, 0.5)


@pytest.mark.parametrize(
    "history",
    [
        [{"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}],
        [{"loss": 1.0, "accuracy": 0.5}, {"loss": 0.5, "accuracy": 0.6}],
        [{"loss": float("nan"), "val_loss": float("inf")}] * 2,
        HISTORY * 20,
    ],
    ids=["one epoch", "no validation", "diverged", "many epochs"],
)
def test_odd_histories_are_drawn(history: list[dict[str, float]]) -> None:
    assert plots.learning_curves(history)


def test_the_best_epoch_is_that_of_the_lowest_validation_loss() -> None:
    assert plots.best_epoch([{"val_loss": loss} for loss in (0.9, float("nan"), 0.3, 0.4)]) == 3
    assert plots.best_epoch([{"loss": 0.1}]) is None
    assert plots.best_epoch([]) is None


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
        for color in (plots.POSITIVE, plots.NEGATIVE, plots.ACCENT):
            assert contrast(color, theme.paper) >= 3  # WCAG, graphics
        for color in (theme.ink, theme.muted):
            assert contrast(color, theme.paper) >= 4.5  # WCAG, text
