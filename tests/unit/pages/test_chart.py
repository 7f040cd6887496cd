"""Charts that a page draws put values where they belong, in colours that can be told apart."""

from __future__ import annotations

import re
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagetag.pages.chart import Axis, Chart, log_ticks, round_ticks, steps
from imagetag.pages.drawing import DARK, PAPER
from tests.pages import contrast

LINEAR = Axis("x", 10, 20, {9: "beyond", 10: "ten", 15: "fifteen", 21: "beyond"})
LOG = Axis("y", 1, 100, {1: "1", 10: "10", 100: "100"}, log=True)


def test_an_axis_knows_where_values_are() -> None:
    assert LINEAR.share([10, 12.5, 20, 5, 99]).tolist() == [0, 0.25, 1, 0, 1]
    assert LOG.share([1, 10, 100, 0, -1, 1000]) == pytest.approx([0, 0.5, 1, 0, 0, 1])
    assert np.isnan(LINEAR.share(np.nan))
    assert LINEAR.places == {0: "ten", 0.5: "fifteen"}


def test_a_line_goes_from_the_upper_left_as_svg_has_it() -> None:
    chart = Chart(LINEAR, LOG).line([10, 15, 15, 20], [1, 1, 10, 100], "accent", area=True)
    [mark] = chart.marks
    assert mark.line == "M0 1000H500V500L1000 0"
    assert mark.area == "M0 1000H500V500L1000 0V1000H0Z"
    assert mark.dots == ""
    assert chart.grid == "M0 1000H1000M0 500H1000M0 0H1000M0 0V1000M500 0V1000"


def test_what_is_no_number_is_a_gap_and_what_does_not_move_is_left_out() -> None:
    chart = Chart(LINEAR, LINEAR)
    chart.line([10, 10.001, 15, 17, 20], [10, 10, np.nan, 15, 20], "accent", dots=True)
    assert chart.marks[0].line == "M0 1000M700 500L1000 0"
    assert chart.marks[0].dots == "M0 1000h0M700 500h0M1000 0h0"
    assert Chart(LINEAR, LINEAR).line([], [], "ink").marks[0].line == ""
    assert Chart(LINEAR, LINEAR).line([np.nan], [10], "ink", area=True).marks[0].area == ""


def test_spans_are_vertical_and_a_point_is_along_both_axes() -> None:
    chart = Chart(LINEAR, LOG).spans([10, 20], [1, 10], [10, 100], "muted")
    assert chart.marks[0].line == "M0 1000V500M1000 500V0"
    point = chart.highlight(15, 10, "here").point
    assert point
    assert point[0] == "here"
    assert point[1:] == pytest.approx((0.5, 0.5))


def test_bars_have_sides_and_those_of_no_height_are_not_there() -> None:
    x, y = steps([10, 12, 14, 16, 18], [3, 0, 0, 5])
    axis = Axis("", 0, 10, {})
    [mark] = Chart(LINEAR, axis).line(x, y, "positive").marks
    assert mark.line == "M0 1000V700H100H200V1000M400 1000M600 1000V500H700H800V1000"


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_round_numbers_within_the_axis(low: float, width: float, count: int) -> None:
    high = low + width
    if (high - low) < 1e-9 * abs(low):
        return
    ticks = round_ticks(low, high, count)
    assert 1 <= len(ticks) <= count + 1 or (count == 2 and not ticks)
    assert all(low - 1e-6 * width <= tick <= high + 1e-6 * width for tick in ticks)
    for one, other in pairwise(ticks):
        assert f"{other - one:.2e}"[:4] in ("1.00", "2.00", "5.00")


@given(st.floats(-3, 10), st.floats(1e-3, 9))
def test_an_axis_by_powers_has_three_ticks_and_not_many_however_short(
    power: float, length: float
) -> None:
    low, high = 10**power, 10 ** (power + length)
    ticks = log_ticks(low, high)
    assert 3 <= len(ticks) <= 6
    assert ticks == sorted(ticks)
    assert all(low * (1 - 1e-9) <= tick <= high * (1 + 1e-9) for tick in ticks)


def test_ticks_by_powers_are_what_people_would_write() -> None:
    assert log_ticks(0.7, 1200) == [1, 10, 100, 1000]
    assert log_ticks(1, 72) == [1, 3, 10, 30]
    assert log_ticks(1, 7.2) == [1, 2, 5]
    assert log_ticks(1, 3.6) == [1, 2, 3]
    for low, high in ((1, 1), (0, 1), (-1, 1)):
        with pytest.raises(ValueError, match="no logarithmic axis"):
            log_ticks(low, high)


def test_round_ticks_are_what_people_would_write() -> None:
    assert round_ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert round_ticks(0, 11) == [0, 5, 10]
    assert round_ticks(0.52, 0.93, 4) == pytest.approx([0.6, 0.8])
    for low, high in ((1, 1), (2, 1), (0, float("nan"))):
        with pytest.raises(ValueError, match="nothing is from"):
            round_ticks(low, high)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_the_counts_of_a_confusion_matrix_can_be_read_on_their_cells(
    dark: bool, share: float
) -> None:
    templates = resources.files("imagetag.pages") / "templates"
    style = (templates / "evaluate.html").read_text()
    found = re.search(
        r"\.cell \{ background: rgb\((\d+) (\d+) (\d+) / calc\(([.\d]+) \+ ([.\d]+) \*", style
    )
    assert found
    *blue, least, more = map(float, found.groups())
    paper = bytes.fromhex((DARK[PAPER] if dark else PAPER)[1:])
    opacity = least + more * share
    mixed = [opacity * b + (1 - opacity) * p for b, p in zip(blue, paper, strict=True)]
    cell = "#" + bytes(round(value) for value in mixed).hex()
    base = (templates / "base.html").read_text()
    ink = re.findall(r"--ink: (#[0-9a-f]{6})", base)[dark]
    assert contrast(ink, cell) >= 4.5  # WCAG, text
