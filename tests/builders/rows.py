"""Rows of manifests."""

from __future__ import annotations

import hashlib
import io
from typing import Any

from PIL import Image

from imagetag.dataset import Row
from imagetag.layout import Layout

_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


def make_row(number: int, **changes: Any) -> Row:
    """Return a row: odd ones are positive, every fifth is in test."""
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


def row_of(number: int, data: bytes, **changes: Any) -> Row:
    """Return the row of a picture's file."""
    with Image.open(io.BytesIO(data)) as image:
        facts: dict[str, Any] = {
            "md5": hashlib.md5(data).hexdigest(),
            "ext": _ENDINGS[str(image.format)],
            "bytes": len(data),
            "width": image.width,
            "height": image.height,
        }
    return make_row(number, **{**facts, **changes})


def key_of(row: Row, tag: str) -> str:
    """Return where the image of a tag's row is in storage."""
    return Layout(tag).image(row.split, row.label, row.md5, row.ext)
