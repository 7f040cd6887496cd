"""Exploring: the size rule keeps its bounds, the test split has no say, and nothing is redone."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from imagetag import plots
from imagetag.errors import InputError
from imagetag.exploration import Exploration, InputSize, load_exploration, recommend_size
from imagetag.explore import explore_tag
from imagetag.layout import Layout
from imagetag.manifest import Dataset, Row, summarize, write_part
from imagetag.storage import LocalStorage, Storage

TAG = "robot"
SIDES = st.lists(st.integers(1, 30_000), min_size=1, max_size=20)


class Recorded(LocalStorage):
    """A folder that notes what is written, and fails at a key that ends in `fail_at`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.written: list[str] = []
        self.fail_at = "nothing"

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        if key.endswith(self.fail_at):
            raise KeyboardInterrupt
        self.written.append(key)
        super().write(key, data)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Return a folder; what is stored in it has no more than one pixel a plot."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, format="PNG")
    chart = plots.Chart(light=buffer.getvalue(), dark=buffer.getvalue())
    monkeypatch.setattr(plots, "in_both_themes", lambda draw: chart)
    return Recorded(tmp_path)


def make_row(number: int, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "post_id": number,
        "board": "safebooru",
        "page_url": f"https://board.example/post/{number}",
        "md5": hashlib.md5(str(number).encode()).hexdigest(),
        "ext": "jpg",
        "bytes": 100_000 + number,
        "width": 800,
        "height": 1200,
        "tags": (),
        "rating": "general",
        "split": "test" if number % 5 == 0 else "train",
        "label": "positive" if number % 2 else "negative",
        "group": str(number),
    }
    return Row(**{**values, **changes})


def store(storage: Storage, rows: Sequence[Row]) -> Dataset:
    layout = Layout(TAG)
    images, size, fingerprint = summarize(rows)
    dataset = Dataset(
        tag=TAG,
        board="safebooru",
        request={},
        images=images,
        bytes=size,
        failures={},
        skipped={},
        parts=(write_part(storage, layout, "part", rows),),
        fingerprint=fingerprint,
        created="2026-01-01T00:00:00+00:00",
        software="test",
    )
    storage.write(layout.dataset, dataset.model_dump_json().encode())
    return dataset


def explore(storage: Storage, max_pixels: int = 65536, percentile: float = 50) -> Exploration:
    return explore_tag(storage, TAG, max_pixels=max_pixels, percentile=percentile)


@settings(deadline=None)  # a busy machine is no defect
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


@settings(deadline=None)  # a busy machine is no defect
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


def test_no_train_pictures_is_an_input_error(storage: Recorded) -> None:
    store(storage, [make_row(number, split="test") for number in range(10)])
    with pytest.raises(InputError, match="train split has no pictures"):
        explore(storage)


def test_the_test_split_influences_nothing_but_its_own_count(storage: Recorded) -> None:
    train = [make_row(number, split="train") for number in range(1, 40)]
    first = [make_row(100, split="test")]
    other = [
        make_row(number, split="test", width=9000, height=50, ext="gif", rating="explicit", bytes=9)
        for number in range(200, 300)
    ]
    store(storage, train + first)
    with_first = explore(storage)
    store(storage, train + other)
    with_other = explore(storage)

    assert with_other.images["test"] == {"positive": 50, "negative": 50}
    own = {"fingerprint", "images", "created"}
    assert with_other.model_dump(exclude=own) == with_first.model_dump(exclude=own)


def test_what_is_found_is_what_is_in_the_manifest(storage: Recorded) -> None:
    rows = [make_row(number, ext="png" if number % 4 == 1 else "jpg") for number in range(1, 41)]
    dataset = store(storage, rows)
    found = explore(storage)

    assert found == load_exploration(storage, TAG)
    assert found.fingerprint == dataset.fingerprint
    assert found.images == dataset.images
    assert found.formats == {
        "jpg": {"positive": 8, "negative": 16},
        "png": {"positive": 8, "negative": 0},
    }
    assert found.ratings == {"general": {"positive": 16, "negative": 16}}
    assert (found.width.min, found.width.median, found.height.max) == (800, 800, 1200)
    assert found.aspect_ratio.median == pytest.approx(2 / 3)
    assert found.input_size == recommend_size(
        np.array([800]), np.array([1200]), max_pixels=65536, percentile=50
    )


def test_the_marker_is_written_last_with_every_plot_before_it(storage: Recorded) -> None:
    store(storage, [make_row(number) for number in range(1, 20)])
    storage.written.clear()
    explore(storage)
    names = [key.removeprefix("robot/explore/") for key in storage.written]
    assert names[-2:] == ["report.html", "explore.json"]
    assert set(names[:-2]) == {
        "dimensions.png",
        "aspect_ratio.png",
        "file_size.png",
        "class_balance.png",
    }


def test_exploring_again_does_nothing(storage: Recorded) -> None:
    store(storage, [make_row(number) for number in range(1, 20)])
    first = explore(storage)
    storage.written.clear()
    assert explore(storage) == first
    assert storage.written == []


@pytest.mark.parametrize("changed", [{"max_pixels": 40_000}, {"percentile": 25.0}])
def test_other_options_explore_again(storage: Recorded, changed: dict[str, Any]) -> None:
    store(storage, [make_row(number) for number in range(1, 20)])
    explore(storage)
    storage.written.clear()
    explore(storage, **changed)
    assert "robot/explore/explore.json" in storage.written


def test_other_images_explore_again(storage: Recorded) -> None:
    store(storage, [make_row(number) for number in range(1, 20)])
    explore(storage)
    dataset = store(storage, [make_row(number) for number in range(1, 30)])
    assert explore(storage).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("written", [b"{}", b"not JSON", b"\xff", b'{"version": 2}'])
def test_an_unreadable_result_is_made_anew(storage: Recorded, written: bytes) -> None:
    store(storage, [make_row(number) for number in range(1, 20)])
    storage.write("robot/explore/explore.json", written)
    assert explore(storage) == load_exploration(storage, TAG)


def test_a_kill_before_the_marker_leaves_no_result(storage: Recorded) -> None:
    store(storage, [make_row(number) for number in range(1, 20)])
    storage.fail_at = "explore.json"
    with pytest.raises(KeyboardInterrupt):
        explore(storage)
    with pytest.raises(InputError, match="not explored"):
        load_exploration(storage, TAG)
    storage.fail_at = "nothing"
    assert explore(storage) == load_exploration(storage, TAG)


def test_a_missing_exploration_says_what_to_run(storage: Recorded) -> None:
    with pytest.raises(InputError, match="run imagetag explore --tags robot first"):
        load_exploration(storage, TAG)


@pytest.mark.parametrize("written", [b"{}", b"not JSON", b"\xff"])
def test_an_unreadable_exploration_says_which_file(storage: Recorded, written: bytes) -> None:
    storage.write("robot/explore/explore.json", written)
    with pytest.raises(InputError, match=r"robot/explore/explore\.json cannot be read"):
        load_exploration(storage, TAG)


@pytest.mark.parametrize("side", [0, -32, 31, 100])
def test_a_stored_size_that_no_backbone_takes_is_refused(side: int) -> None:
    with pytest.raises(ValidationError):
        InputSize(height=side, width=64, reason="")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [("positive",), ("negative",), ("positive", "negative")])
@pytest.mark.parametrize("count", [1, 2])
def test_few_or_equal_images_and_one_label_are_explored(
    tmp_path: Path, labels: tuple[str, ...], count: int
) -> None:
    storage = LocalStorage(tmp_path)  # with plots
    rows = [
        make_row(number, split="train", label=labels[number % len(labels)])
        for number in range(count)
    ]
    store(storage, rows)
    assert explore(storage).input_size.width == 192
