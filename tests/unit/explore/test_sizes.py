"""Input sizes: the rule keeps its bounds, and the table says what framing really does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from imagetag.dataset.local_copy import frame_of
from imagetag.explore.sizes import (
    Candidate,
    InputSize,
    compare_sizes,
    crop_cut,
    letterbox_bars,
    recommend_size,
)

SIDES = st.lists(st.integers(1, 30_000), min_size=1, max_size=20)


@given(SIDES, SIDES, st.integers(1024, 4_000_000), st.floats(0.1, 99.9))
def test_a_recommended_size_keeps_its_bounds(
    widths: list[int], heights: list[int], max_pixels: int, percentile: float
) -> None:
    size = recommend_size(
        np.array(widths), np.array(heights), max_pixels=max_pixels, percentile=percentile
    )
    assert size.width % 32 == size.height % 32 == 0
    assert size.width * size.height <= max_pixels
    assert 32 <= size.width <= max(32, np.percentile(widths, percentile))
    assert 32 <= size.height <= max(32, np.percentile(heights, percentile))


@given(st.integers(256, 10_000), st.floats(0.4, 2.5), st.integers(128, 1024))
def test_a_recommended_size_keeps_the_shape_and_uses_the_pixels(
    width: int, ratio: float, side: int
) -> None:
    height = width / ratio
    size = recommend_size(np.array([width]), np.array([height]), max_pixels=side**2, percentile=50)
    scale = min(1, side / (width * height) ** 0.5)
    assert abs(size.width - width * scale) < 32
    assert abs(size.height - height * scale) < 32


@pytest.mark.parametrize(
    ("width", "height", "max_pixels", "expected"),
    [
        (1000, 1000, 65536, (256, 256)),
        (800, 1200, 65536, (192, 320)),
        (1920, 1080, 224 * 224, (288, 160)),
        (100, 100, 65536, (96, 96)),  # not enlarged
        (20, 20, 65536, (32, 32)),  # less than 32 is no input
        (20_000, 10, 65536, (2048, 32)),  # the longer side makes up for the shorter one
        (1000, 1000, 1024, (32, 32)),
    ],
)
def test_sizes_by_example(
    width: int, height: int, max_pixels: int, expected: tuple[int, int]
) -> None:
    size = recommend_size(
        np.array([width]), np.array([height]), max_pixels=max_pixels, percentile=50
    )
    assert (size.width, size.height) == expected


def test_the_reason_has_the_numbers_behind_the_size() -> None:
    size = recommend_size(np.array([800]), np.array([1200]), max_pixels=65536, percentile=50)
    for number in ("50th", "800", "1,200", "65,536", "32"):
        assert number in size.reason


def test_the_percentile_moves_the_size() -> None:
    sides = np.arange(100.0, 1100.0)
    sizes = [
        recommend_size(sides, sides, max_pixels=4_000_000, percentile=percentile).width
        for percentile in (10, 50, 90)
    ]
    assert sizes == [192, 576, 992]


@pytest.mark.parametrize("side", [0, -32, 31, 100])
def test_a_stored_size_that_no_backbone_takes_is_refused(side: int) -> None:
    with pytest.raises(ValidationError):
        InputSize(height=side, width=64, reason="")


SHAPES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@given(st.lists(SHAPES, min_size=1, max_size=20), SHAPES)
def test_bars_and_cuts_are_those_of_the_framing_that_trains(
    shapes: list[tuple[int, int]], size: tuple[int, int]
) -> None:
    heights, widths = (np.array(sides, dtype=np.float64) for sides in zip(*shapes, strict=True))
    rows, columns = size
    bars, cut = [], []
    for shape in shapes:
        boxed, cropped = frame_of(shape, size, "letterbox"), frame_of(shape, size, "crop")
        bars.append(1 - boxed.size[0] * boxed.size[1] / (rows * columns))
        cut.append(1 - cropped.part[0] * cropped.part[1])
    assert letterbox_bars(widths, heights, size) == pytest.approx(bars)
    assert crop_cut(widths, heights, size) == pytest.approx(cut)


def candidates(
    shapes: Sequence[tuple[float, float]], height: int = 64, width: int = 64
) -> dict[tuple[int, int], Candidate]:
    """Return what (height, width) inputs do to pictures of (width, height)."""
    widths, heights = (np.array(sides) for sides in zip(*shapes, strict=True))
    found = compare_sizes(widths, heights, InputSize(height=height, width=width, reason=""))
    assert [item.height * item.width for item in found] == sorted(
        item.height * item.width for item in found
    )
    return {(item.height, item.width): item for item in found}


def test_what_a_size_does_by_hand() -> None:
    found = candidates([(100, 100), (200, 100), (400, 400)])[128, 128]
    assert found.kind == "square"
    assert found.enlarged == pytest.approx(1 / 3)  # 200 x 100 is shrunk, to 128 x 64
    assert found.shrink == pytest.approx(200 / 128)
    assert (found.bars, found.cut) == (0, 0)  # 0, a half and 0
    assert found.cut_p95 == pytest.approx(0.45)  # nine tenths of the way from 0 to a half
    assert found.cost == 4


def test_sizes_of_the_same_shape_are_among_them() -> None:
    found = candidates([(400, 200)], 64, 128)
    alike = {size: item for size, item in found.items() if item.kind == "alike"}
    assert list(alike) == [(32, 96), (96, 192)]  # 45 x 91 and 91 x 181, in multiples of 32
    small = alike[32, 96]
    assert small.shrink == pytest.approx(200 / 32)
    assert small.bars == pytest.approx(1 - 64 / 96)
    assert small.cut == pytest.approx(1 - 2 / 3)
    assert small.cost == 0.375


def test_what_most_pictures_would_be_enlarged_for_is_left_out_but_for_the_usual_one() -> None:
    small = candidates([(150, 150)] * 3 + [(900, 900)] * 2, 128, 128)
    assert list(small) == [(96, 96), (128, 128), (224, 224)]  # not 192, of the same shape
    assert small[224, 224].enlarged == pytest.approx(0.6)
    assert small[128, 128].kind == "recommended"
    large = candidates([(150, 150)] * 2 + [(900, 900)] * 2)
    assert (512, 512) in large
    tiny = candidates([(20, 20)], 32, 32)
    assert {size: item.enlarged for size, item in tiny.items()} == {(32, 32): 1, (224, 224): 1}


def test_a_size_is_listed_once() -> None:
    found = candidates([(900, 900)], 224, 224)
    assert found[224, 224].kind == "recommended"
    assert found[160, 160].kind == found[320, 320].kind == "alike"
