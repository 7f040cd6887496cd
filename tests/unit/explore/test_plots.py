"""Plots of a dataset are drawn whatever is in it."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagetag.explore import plots

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
