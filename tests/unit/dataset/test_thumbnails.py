"""Pictures of a page: an even sample, and small whatever they were."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from imagetag.dataset import thumbnails
from imagetag.dataset.thumbnails import Lowest, Picture, read_thumbnails
from imagetag.layout import Layout
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from tests.builders.pictures import encoded
from tests.builders.rows import make_row

TAG = "robot"


def store(storage: Storage, data: bytes | None, number: int = 1, **changes: Any) -> Picture:
    picture = Picture.of(make_row(number, **changes))
    if data is not None:
        layout = Layout(TAG)
        key = layout.image(picture.split, picture.label, picture.md5, picture.ext)
        storage.write(key, data)
    return picture


def noise(width: int, height: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), kind)


def test_the_lowest_md5s_are_kept_in_any_order() -> None:
    md5s = [make_row(number).md5 for number in range(200)]
    for order in (md5s, md5s[::-1], sorted(md5s), sorted(md5s, reverse=True)):
        lowest: Lowest[str] = Lowest(7)
        for md5 in order:
            lowest.add(md5, lambda kept=md5: kept)  # type: ignore[misc]
        assert list(lowest.items()) == sorted(md5s)[:7]


def test_none_are_kept_where_none_are_wanted() -> None:
    lowest: Lowest[str] = Lowest(0)
    lowest.add("0" * 32, lambda: "kept")
    assert lowest.items() == ()


def test_what_is_too_long_is_not_kept() -> None:
    picture = Picture.of(make_row(1, page_url="https://board.example/" + "x" * 500, board="b" * 99))
    assert picture.page_url == ""
    assert picture.board == "b" * 60
    assert Picture.of(make_row(1)).page_url == make_row(1).page_url


def test_thumbnails_keep_the_shape(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    wide = store(storage, noise(1200, 600), 1)
    tall = store(storage, noise(30, 60, "PNG"), 2, ext="png")
    found, unreadable = read_thumbnails(storage, TAG, [wide, tall], 1_000_000)
    assert unreadable == {}
    sizes = {md5: Image.open(io.BytesIO(data)).size for md5, data in found.items()}
    assert sizes == {wide.md5: (256, 128), tall.md5: (30, 60)}


def test_what_cannot_be_read_is_left_out_and_counted(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    good = store(storage, noise(60, 60), 1)
    cut = noise(60, 60)
    wanted = [
        good,
        store(storage, None, 2),
        store(storage, b"not an image", 3),
        store(storage, b"<svg onload=alert(1)>", 4),
        store(storage, cut[: len(cut) // 2], 5),
    ]
    with capture_logs() as logs:
        found, unreadable = read_thumbnails(storage, TAG, wanted, 1_000_000)
    assert list(found) == [good.md5]
    assert unreadable == {"missing": 1, "not_an_image": 2, "truncated": 1}
    assert logs[0]["log_level"] == "warning"
    assert logs[0]["not_an_image"] == 2


def test_a_file_that_is_too_large_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    picture = store(storage, noise(60, 60))
    monkeypatch.setattr(thumbnails, "_MAX_FILE", 100)
    assert read_thumbnails(storage, TAG, [picture], 1_000_000) == ({}, {"too_large": 1})


@pytest.mark.parametrize("count", [2, 30])
def test_all_thumbnails_together_keep_to_the_budget(tmp_path: Path, count: int) -> None:
    storage = LocalStorage(tmp_path)
    wanted = [store(storage, noise(300, 300), number) for number in range(count)]
    found, unreadable = read_thumbnails(storage, TAG, wanted, 210_000)
    assert unreadable == {}
    assert len(found) == count
    assert sum(map(len, found.values())) <= 210_000
    side = Image.open(io.BytesIO(next(iter(found.values())))).width
    assert side == 256 if count == 2 else 80 <= side < 256


def test_a_web_address_that_would_be_too_long_in_html_is_dropped() -> None:
    longest = "https://board.example/?" + "&" * 95
    assert Picture.of(make_row(1, page_url=longest)).page_url == longest
    assert Picture.of(make_row(1, page_url=longest + "&")).page_url == ""


def test_a_picture_that_is_shown_twice_is_read_once(tmp_path: Path) -> None:
    class Counted(LocalStorage):
        opened = 0

        def open(self, key: str) -> Any:
            self.opened += 1
            return super().open(key)

    storage = Counted(tmp_path)
    picture = store(storage, noise(60, 60))
    found, _ = read_thumbnails(storage, TAG, [picture, picture], 1_000_000)
    assert (len(found), storage.opened) == (1, 1)


def test_no_pictures_need_no_storage(tmp_path: Path) -> None:
    assert read_thumbnails(LocalStorage(tmp_path), TAG, [], 1000) == ({}, {})
