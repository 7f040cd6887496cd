"""Files of pictures."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

Colour = tuple[int, int, int]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return a picture's file, made with options of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(width: int, height: int, colour: Colour = (0, 0, 0)) -> bytes:
    """Return the PNG of a picture of one colour."""
    return encoded(Image.new("RGB", (width, height), colour))
