"""What is found in a dataset: the spread of its images, and the input size to train at."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagetag import __version__
from imagetag.errors import InputError, UsageError
from imagetag.images import Size
from imagetag.layout import LABELS, SPLITS, Label, Layout, Split
from imagetag.manifest import Row
from imagetag.storage import ObjectNotFound, Storage

# Backbones halve their input five times: a multiple of 32 loses no pixels at the edges.
_STEP = 32
_MAX_BYTES = 1 << 20  # of `explore.json`, which has a few thousand

FloatArray = NDArray[np.float64]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class InputSize(_Record):
    """The input size to train at, in pixels, and why."""

    height: int = Field(ge=_STEP, multiple_of=_STEP)
    width: int = Field(ge=_STEP, multiple_of=_STEP)
    reason: str


class Options(_Record):
    """What a recommendation was asked for with."""

    max_pixels: int
    percentile: float


class Spread(_Record):
    """A distribution by its percentiles."""

    min: float
    p5: float
    p25: float
    median: float
    p75: float
    p95: float
    max: float


class Exploration(_Record):
    """What was found in a dataset, stored as `explore.json`.

    `images` counts both splits. All else is of the train split alone, as the test split must not
    influence any choice: `width` and `height` are in pixels, `aspect_ratio` is width / height,
    `bytes` is of files; `formats` and `ratings` count by label.
    """

    version: Literal[1] = 1
    tag: str
    fingerprint: str
    options: Options
    images: dict[Split, dict[Label, int]]
    input_size: InputSize
    width: Spread
    height: Spread
    aspect_ratio: Spread
    bytes: Spread
    formats: dict[str, dict[Label, int]]
    ratings: dict[str, dict[Label, int]]
    software: str
    created: str


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
    if max_pixels < _STEP**2:
        raise ValueError(f"max_pixels must be {_STEP**2} or more, and it is {max_pixels}")
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
            + f" to multiples of {_STEP}"
        ),
    )


def explored(tag: str, fingerprint: str, options: Options, measures: Measures) -> Exploration:
    """Return what there is to say of some measures, the recommended input size among it.

    Raises:
        InputError: if the train split is empty.

    """
    return Exploration(
        tag=tag,
        fingerprint=fingerprint,
        options=options,
        images=measures.images,
        input_size=recommend_size(
            measures.width,
            measures.height,
            max_pixels=options.max_pixels,
            percentile=options.percentile,
        ),
        width=_spread(measures.width),
        height=_spread(measures.height),
        aspect_ratio=_spread(measures.width / measures.height),
        bytes=_spread(measures.bytes),
        formats=measures.formats,
        ratings=measures.ratings,
        software=f"imagetag {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def load_exploration(storage: Storage, tag: str) -> Exploration:
    """Return what `explore` stored.

    Raises:
        InputError: if the tag has not been explored, or the result cannot be read.

    """
    key = Layout(tag).explore("explore.json")
    try:
        with storage.open(key) as stream:
            return Exploration.model_validate_json(stream.read(_MAX_BYTES))
    except ObjectNotFound as error:
        raise InputError(
            f"the tag {tag!r} in {storage.url} is not explored: "
            f"run imagetag explore --tags {tag} first"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{storage.url}/{key} cannot be read: {where}: {first['msg']}; "
            f"delete it and run imagetag explore --tags {tag} again"
        ) from error


def input_size(storage: Storage, tag: str, text: str) -> Size:
    """Return the (height, width) in pixels that `--image-size` asks for.

    Args:
        storage: has what explore found.
        tag: whose.
        text: HEIGHTxWIDTH, or auto for what explore recommended.

    Raises:
        InputError: if it is auto and the tag has not been explored.
        UsageError: if it is neither.

    """
    if text == "auto":
        size = load_exploration(storage, tag).input_size
        return size.height, size.width
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise UsageError(f"--image-size {text!r}: write HEIGHTxWIDTH in pixels, such as 224x224")
    return int(match[1]), int(match[2])


class Measures:
    """The numbers of a manifest's rows, without the rows.

    `width` and `height` in pixels, `bytes` and `positive` are arrays of the train split,
    (images,); `formats` and `ratings` count it by label. `images` counts both splits.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        width, height, size, positive = array("d"), array("d"), array("d"), array("b")
        self.images: dict[Split, dict[Label, int]] = {
            split: dict.fromkeys(LABELS, 0) for split in SPLITS
        }
        formats: Counter[tuple[str, Label]] = Counter()
        ratings: Counter[tuple[str, Label]] = Counter()
        for row in rows:
            self.images[row.split][row.label] += 1
            if row.split == "test":
                continue
            width.append(row.width)
            height.append(row.height)
            size.append(row.bytes)
            positive.append(row.label == "positive")
            formats[row.ext, row.label] += 1
            ratings[row.rating, row.label] += 1
        self.width, self.height = np.array(width), np.array(height)
        self.bytes = np.array(size)
        self.positive = np.array(positive, dtype=bool)
        self.formats, self.ratings = _by_label(formats), _by_label(ratings)

    @property
    def count(self) -> int:
        """How many images there are in both splits."""
        return sum(count for labels in self.images.values() for count in labels.values())


def _spread(values: FloatArray) -> Spread:
    numbers = np.percentile(values, (0, 5, 25, 50, 75, 95, 100))
    return Spread(**dict(zip(Spread.model_fields, map(float, numbers), strict=True)))


def _by_label(counts: Counter[tuple[str, Label]]) -> dict[str, dict[Label, int]]:
    """Return counts by name and label, the most frequent name first."""
    names = {name for name, _ in counts}
    table = {name: {label: counts[name, label] for label in LABELS} for name in names}
    return dict(sorted(table.items(), key=lambda item: (-sum(item[1].values()), item[0])))


def _nearest_multiples(
    wanted: tuple[float, float], limits: tuple[float, float], max_pixels: int
) -> tuple[int, int]:
    """Return the (width, height) in multiples of 32 that are nearest to what is wanted."""
    # The shorter side may have grown to 32: the longer one must then make up for it.
    sides = [
        {_STEP * max(1, math.floor(side / _STEP)), _STEP * max(1, math.ceil(side / _STEP))}
        | {max_pixels // _STEP // _STEP * _STEP}
        for side in wanted
    ]
    allowed = [
        (width, height)
        for width, height in product(*sides)
        if width * height <= max_pixels
        and width <= max(_STEP, limits[0])
        and height <= max(_STEP, limits[1])
    ]
    return min(
        allowed,
        key=lambda size: sum(abs(math.log(a / b)) for a, b in zip(size, wanted, strict=True)),
    )


def _ordinal(number: float) -> str:
    if number % 1 or number % 100 in (11, 12, 13):
        return f"{number:g}th"
    return f"{number:g}" + {1: "st", 2: "nd", 3: "rd"}.get(int(number) % 10, "th")
