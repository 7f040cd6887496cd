"""Thumbnails: of how much of a JPEG they are made, and that it shows in none of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from imagetag.imaging import layouts
from imagetag.imaging.images import load_rgb
from imagetag.imaging.layouts import THUMB, thumbnail


def encoded(picture: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **({"quality": 95} if kind == "JPEG" else {"compress_level": 1}))
    return stream.getvalue()


def drawn(width: int, height: int) -> Image.Image:
    """A picture with edges, none finer than what a thumbnail shows."""
    cells = np.random.default_rng(5).integers(0, 256, (18, 12, 3), dtype="uint8")
    picture = Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST)
    return picture.filter(ImageFilter.GaussianBlur(width / 100))


@pytest.mark.parametrize(("size", "decoded"), [((1000, 1500), (125, 188)), ((768, 900), (96, 113))])
def test_a_jpeg_is_decoded_at_an_eighth_where_96_pixels_are_left(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    sizes = []

    def seen(data: bytes, at_least: tuple[int, int]) -> Image.Image:
        picture = load_rgb(data, at_least)
        sizes.append(picture.size)
        return picture

    monkeypatch.setattr(layouts, "load_rgb", seen)

    thumbnail(encoded(drawn(*size), "JPEG"))

    assert sizes == [decoded]


@pytest.mark.parametrize("width", [768, 848, 1000])
def test_what_was_decoded_smaller_than_a_thumbnail_shows_the_same(width: int) -> None:
    picture = drawn(width, width * 3 // 2)
    small, whole = (
        np.frombuffer(thumbnail(encoded(picture, kind)), np.uint8).astype(int)
        for kind in ("JPEG", "PNG")
    )

    difference = np.abs(small - whole)[: THUMB**2]  # of luma; with boxes more than 2.2
    assert difference.mean() < 2
