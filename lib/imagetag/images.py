"""Images as bytes: what they are, whether they are whole, and their pixels as RGB."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    from pathlib import Path

# Pillow's name of a format, and the ending it is stored under.
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
EXTENSIONS = frozenset(FORMATS.values()) | {"jpeg"}

# More than any picture on a board, less than a decompression bomb needs.
MAX_PIXELS = 100_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class BadImage(Exception):
    """The bytes are no picture that can be used.

    Attributes:
        reason: one word for counting, such as `not_an_image`, `truncated`, `too_many_pixels`.

    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class ImageInfo:
    """What an image is: the ending of its format, and its size in pixels."""

    ext: str
    width: int
    height: int


def inspect(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Decode an image completely and say what it is.

    Raises:
        BadImage: if it is not a still image of a known format, is cut off, or is too large.

    """
    with _opened(io.BytesIO(data), max_pixels) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise BadImage("animated", f"{image.n_frames} frames")  # type: ignore[attr-defined]
        info = ImageInfo(FORMATS[image.format or ""], image.width, image.height)
        _load(image)
        return info


def load_rgb(
    source: bytes | Path, at_least: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Return a picture's pixels as people see it: turned as EXIF says, in RGB, on white.

    Args:
        source: the file's bytes, or its path.
        at_least: (height, width) in pixels. A JPEG larger than that is decoded at 1/2, 1/4 or
            1/8 of its size, but never below it, which is several times faster.
        max_pixels: refuse pictures of more than these.

    Returns:
        An image of mode RGB; the first frame of an animated one.

    Raises:
        BadImage: if it cannot be decoded.

    """
    with _opened(io.BytesIO(source) if isinstance(source, bytes) else source, max_pixels) as image:
        if at_least is not None:
            side = max(at_least)  # EXIF may turn it: leave enough of both sides
            image.draft("RGB" if image.mode != "CMYK" else "CMYK", (side, side))
        _load(image)
        upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "I;16", "I;16B", "I;16L", "F"):  # 16 bits of grey: keep the high 8
        upright = upright.convert("I").point(lambda value: value / 257).convert("L")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return upright.convert("RGB")


def _opened(stream: io.BytesIO | Path, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(stream, formats=tuple(FORMATS))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImage("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadImage("not_an_image", "neither " + ", ".join(FORMATS)) from error
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's parsers raise many kinds on hostile bytes
        raise BadImage("not_an_image", _one_line(error)) from error
    if image.width * image.height > max_pixels:
        raise BadImage("too_many_pixels", f"{image.width} x {image.height} pixels")
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:
        raise BadImage("truncated", _one_line(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
