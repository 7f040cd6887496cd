"""Plots are SVG, keep their colours, leave nothing behind, and can be drawn from many threads."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

from imagetag.explore import plots
from imagetag.pages.drawing import ACCENT, DARK, GRID, INK, MUTED, PAPER
from imagetag.pages.drawing import NEGATIVE as ORANGE
from imagetag.pages.drawing import POSITIVE as BLUE
from tests.pages import LARGEST_MEAN, contrast

pytestmark = pytest.mark.filterwarnings("error")

RNG = np.random.default_rng(3)
COUNT = 4000
POSITIVE = RNG.random(COUNT) < 0.4
WIDTHS = np.exp(RNG.normal(6.9, 0.4, COUNT)).round()
HEIGHTS = np.exp(RNG.normal(7.1, 0.4, COUNT)).round()
IMAGES: Any = {
    "train": {"positive": 90, "negative": 110},
    "test": {"positive": 20, "negative": 31},
}

Draw = Callable[[bool], bytes]
DRAWINGS: dict[str, Draw] = {
    "dimensions": lambda narrow: plots.dimensions(
        WIDTHS, HEIGHTS, POSITIVE, (990.0, 1200.0), (224, 288), narrow
    ),
    "aspect_ratio": lambda narrow: plots.aspect_ratio(WIDTHS, HEIGHTS, POSITIVE, narrow),
    "file_size": lambda narrow: plots.file_size(WIDTHS * HEIGHTS, POSITIVE, narrow),
    "class_balance": lambda narrow: plots.class_balance(IMAGES, narrow),
}


@pytest.fixture(scope="module")
def drawn() -> dict[tuple[str, bool], bytes]:
    """Every plot by its name and whether it is narrow."""
    return {
        (name, narrow): draw(narrow) for name, draw in DRAWINGS.items() for narrow in (False, True)
    }


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", DRAWINGS)
def test_a_plot_is_a_small_svg_with_text_in_it(
    drawn: dict[tuple[str, bool], bytes], name: str, narrow: bool
) -> None:
    data = drawn[name, narrow]
    root = ET.fromstring(data)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("width") == ("244.8pt" if narrow else "360pt")
    words = " ".join("".join(text.itertext()) for text in root.iterfind(".//{*}text"))
    assert "negative" in words
    assert "positive" in words
    linked = [value for part in root.iter() for key, value in part.items() if key.endswith("href")]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in linked)
    text = data.decode()
    for color in (BLUE, ORANGE, INK, MUTED, GRID, f"fill: {PAPER}"):
        assert color in text


def test_all_plots_of_a_page_are_small(drawn: dict[tuple[str, bool], bytes]) -> None:
    assert sum(len(found) for found in drawn.values()) < 8 * LARGEST_MEAN


def test_what_is_no_data_is_dark_where_that_is_wanted(
    drawn: dict[tuple[str, bool], bytes],
) -> None:
    data = {"none", BLUE, ORANGE, ACCENT}
    for found in drawn.values():
        style, _, drawing = found.decode().partition("</style>")
        dark = set(re.findall(r'\[style\*="((?:fill|stroke): [^"]*)"\]', style))
        used = set(re.findall(r"(?:fill|stroke): (?:#[0-9a-f]{6}|none)", drawing))
        assert {value for value in used if value.split()[1] not in data} <= dark


def test_a_plot_leaves_no_figure_and_no_setting_behind() -> None:
    before = dict(mpl.rcParams)
    DRAWINGS["class_balance"](True)
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


def test_threads_draw_what_one_draws_alone(drawn: dict[tuple[str, bool], bytes]) -> None:
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda key: DRAWINGS[key[0]](key[1]), drawn))
    assert together == list(drawn.values())


def test_the_colours_can_be_told_apart_on_both_papers() -> None:
    for paper, ink, muted in ((PAPER, INK, MUTED), (DARK[PAPER], DARK[INK], DARK[MUTED])):
        for color in (BLUE, ORANGE, ACCENT):
            assert contrast(color, paper) >= 3  # WCAG, graphics
        for color in (ink, muted):
            assert contrast(color, paper) >= 4.5  # WCAG, text
