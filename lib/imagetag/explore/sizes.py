"""The input size to train at: the one to recommend, and what it and others do to the pictures."""

from __future__ import annotations

import math
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from imagetag.errors import InputError
from imagetag.record import Record

# Backbones halve their input five times: a multiple of 32 loses no pixels at the edges.
STEP = 32

# Inputs that backbones are trained at, and what lies between them.
_SQUARES = (96, 128, 160, 192, 224, 256, 299, 320, 384, 448, 512)
_USUAL = 224, 224  # what most published weights have seen
_TOO_MANY_ENLARGED = 0.5  # of the pictures, for a size to be a candidate

FloatArray = NDArray[np.float64]
Kind = Literal["recommended", "alike", "square"]


class InputSize(Record):
    """The input size to train at, in pixels, and why."""

    height: int = Field(ge=STEP, multiple_of=STEP)
    width: int = Field(ge=STEP, multiple_of=STEP)
    reason: str


class Candidate(Record):
    """What an input size does to the pictures of the train split.

    Attributes:
        height: of the input in pixels.
        width: of the input in pixels.
        kind: `recommended`; `alike`, of its shape and half or twice as many pixels; or `square`.
        enlarged: share of the pictures that are smaller than the input on both sides, so that a
            letterbox enlarges them.
        shrink: by how much a letterbox divides the sides of the median picture; less than 1 where
            it is enlarged.
        bars: share of the input that is grey bars beside the picture, the median.
        cut: share of the picture that `--resize crop` cuts off, the median.
        cut_p95: the same of the 95th percentile.
        cost: pixels of the input, as a multiple of the recommended one's.

    """

    height: int
    width: int
    kind: Kind
    enlarged: float
    shrink: float
    bars: float
    cut: float
    cut_p95: float
    cost: float


def recommend_size(
    widths: FloatArray, heights: FloatArray, *, max_pixels: int, percentile: float
) -> InputSize:
    """Return the input size that follows a percentile of the widths and of the heights.

    It is scaled down, with its shape kept, to `max_pixels` (width x height), and each side is a
    multiple of 32. It never has more than `max_pixels`, and never a longer side than the
    percentile has, unless that is below 32.

    Args:
        widths: pixels, (images,).
        heights: pixels, (images,).
        max_pixels: 1024 or more.
        percentile: above 0 and below 100.

    Raises:
        InputError: if there are no images.

    """
    if max_pixels < STEP**2:
        raise ValueError(f"max_pixels must be {STEP**2} or more, and it is {max_pixels}")
    if np.size(widths) == 0:
        raise InputError("the train split has no pictures: scrape more images of the tag")
    typical = float(np.percentile(widths, percentile)), float(np.percentile(heights, percentile))
    scale = min(1.0, math.sqrt(max_pixels / (typical[0] * typical[1])))
    wanted = typical[0] * scale, typical[1] * scale
    width, height = _nearest_multiples(wanted, typical, max_pixels)
    scaled = f"scaled down to {max_pixels:,} pixels with its shape kept, and rounded"
    return InputSize(
        width=width,
        height=height,
        reason=(
            f"the {_ordinal(percentile)} percentile of the train pictures is {typical[0]:,.0f} "
            f"wide and {typical[1]:,.0f} high; "
            + (scaled if scale < 1 else f"that is within {max_pixels:,} pixels, and is rounded")
            + f" to multiples of {STEP}"
        ),
    )


def compare_sizes(
    widths: FloatArray, heights: FloatArray, recommended: InputSize
) -> tuple[Candidate, ...]:
    """Return what the recommended input size and its alternatives do, by their number of pixels.

    These are squares, and sizes of its own shape. Those that would enlarge more than half of the
    pictures are left out, but for 224 x 224, which is what most published weights have seen.

    Args:
        widths: pixels, (images,).
        heights: pixels, (images,).
        recommended: what the others are compared with.

    """
    height, width = recommended.height, recommended.width
    kinds: dict[tuple[int, int], Kind] = {(height, width): "recommended"}
    for scale in (math.sqrt(0.5), math.sqrt(2)):
        kinds.setdefault((_multiple(scale * height), _multiple(scale * width)), "alike")
    for side in _SQUARES:
        kinds.setdefault((side, side), "square")
    candidates = []
    for size, kind in kinds.items():
        height, width = size
        enlarged = float(np.mean((widths < width) & (heights < height)))
        if enlarged > _TOO_MANY_ENLARGED and kind != "recommended" and size != _USUAL:
            continue
        bars = letterbox_bars(widths, heights, size)
        cut = crop_cut(widths, heights, size)
        candidates.append(
            Candidate(
                height=height,
                width=width,
                kind=kind,
                enlarged=enlarged,
                shrink=float(np.median(np.maximum(widths / width, heights / height))),
                bars=float(np.median(bars)),
                cut=float(np.median(cut)),
                cut_p95=float(np.percentile(cut, 95)),
                cost=height * width / (recommended.height * recommended.width),
            )
        )
    return tuple(sorted(candidates, key=lambda item: item.cost))


def letterbox_bars(widths: FloatArray, heights: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Return the share of an input of (height, width) that is bars, (images,).

    That is `dataset.frame_of` with `letterbox`, for many pictures at once.
    """
    rows, columns = size
    inner_height = np.maximum(1, np.rint(np.minimum(rows, columns * heights / widths)))
    inner_width = np.maximum(1, np.rint(np.minimum(columns, rows * widths / heights)))
    bars: FloatArray = 1 - inner_height * inner_width / (rows * columns)
    return bars


def crop_cut(widths: FloatArray, heights: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Return the share of each picture that is cut off, (images,), for an input (height, width).

    That is `dataset.frame_of` with `crop`, for many pictures at once.
    """
    rows, columns = size
    tall, wide = columns * heights, rows * widths
    cut: FloatArray = 1 - np.minimum(wide / tall, tall / wide)
    return cut


def _multiple(side: float) -> int:
    return STEP * max(1, round(side / STEP))


def _nearest_multiples(
    wanted: tuple[float, float], limits: tuple[float, float], max_pixels: int
) -> tuple[int, int]:
    """Return the (width, height) in multiples of 32 that are nearest to what is wanted."""
    # The shorter side may have grown to 32: the longer one must then make up for it.
    sides = [
        {STEP * max(1, math.floor(side / STEP)), STEP * max(1, math.ceil(side / STEP))}
        | {max_pixels // STEP // STEP * STEP}
        for side in wanted
    ]
    allowed = [
        (width, height)
        for width, height in product(*sides)
        if width * height <= max_pixels
        and width <= max(STEP, limits[0])
        and height <= max(STEP, limits[1])
    ]
    return min(
        allowed,
        key=lambda size: sum(abs(math.log(a / b)) for a, b in zip(size, wanted, strict=True)),
    )


def _ordinal(number: float) -> str:
    if number % 1 or number % 100 in (11, 12, 13):
        return f"{number:g}th"
    return f"{number:g}" + {1: "st", 2: "nd", 3: "rd"}.get(int(number) % 10, "th")
