"""Plots of a dataset are drawn whatever is in it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from imagetag.explore import plots
from imagetag.pages import drawing

pytestmark = pytest.mark.filterwarnings("error")


def test_a_hundred_thousand_pictures_stay_points() -> None:
    count, random = 100_000, np.random.default_rng(3)
    widths = np.exp(random.normal(6.9, 0.4, count))
    svg = plots.dimensions(
        widths, widths * 1.4, random.random(count) < 0.5, (990, 1400), (224, 288)
    )
    [points] = re.findall(r"data:image/png;base64,([^\"]*)", svg.decode())
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(points))).convert("RGBA"))
    assert 0.02 < (image[..., 3] > 0).mean() < 0.4


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


SIDES = np.full(60, 128.0)
HALF = np.arange(60) % 2 == 0


def figure_of(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], bytes]) -> Figure:
    """Return what a plot is drawn on, laid out."""
    figures: list[Figure] = []

    def noted(figure: Figure) -> bytes:
        figures.append(figure)
        return drawing.svg(figure)

    monkeypatch.setattr(plots, "svg", noted)
    assert draw()
    return figures[0]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("spread", [0, 0.02, 0.1, 0.5, 3, 100])
def test_an_axis_can_be_read_however_alike_the_pictures_are(
    spread: float, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = np.geomspace(1, 1 + spread, 60)
    for draw in (
        lambda: plots.aspect_ratio(SIDES * factors, SIDES, HALF, narrow),
        lambda: plots.file_size(12_000 * factors, HALF, narrow),
    ):
        axes = figure_of(monkeypatch, draw).axes[0]
        low, high = axes.get_xlim()
        shown = [text for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high]
        assert len({text.get_text() for text in shown}) == len(shown) >= 3
        boxes = [text.get_window_extent() for text in shown]
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("recommended", [(160, 128), (1536, 1024)])
def test_the_scatter_has_its_room_and_nothing_written_on_it(
    recommended: tuple[int, int], narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    width, height = recommended
    figure = figure_of(
        monkeypatch,
        lambda: plots.dimensions(
            SIDES * width / 128, SIDES * height / 128, HALF, recommended, recommended, narrow
        ),
    )
    joint, above, beside = (axes.get_position() for axes in figure.axes)
    assert joint.width > 0.55
    assert beside.x0 - joint.x1 < 0.05
    [legend] = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert f"input {height} high, {width} wide" in words
    box = legend.get_window_extent().transformed(figure.transFigure.inverted())
    assert box.y0 >= above.y1 - 0.01
    assert box.x1 <= 1
    assert len(figure.axes[0].get_xticks()) >= 2
