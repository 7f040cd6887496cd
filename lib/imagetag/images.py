"""Images as bytes: what they are, whether they are whole, and their pixels as RGB."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import ExifTags, Image, UnidentifiedImageError

from imagetag import whole
from imagetag.errors import one_line

if TYPE_CHECKING:
    from pathlib import Path

# Pillow's name of a format, and the ending it is stored under.
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
EXTENSIONS = frozenset(FORMATS.values()) | {"jpeg"}

# More than any picture on a board, less than a decompression bomb needs.
MAX_PIXELS = 100_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Pictures of more pixels than these are decoded one at a time: each may need half a gigabyte.
_LARGE_PIXELS = 16_000_000
_one_large = threading.Lock()
# Others, but for small ones, by as many threads as there are processors: more are no faster, and
# each needs up to 12 bytes a pixel.
_SMALL_PIXELS = 500_000
_some = threading.BoundedSemaphore(os.cpu_count() or 1)
# We refuse what is too large, and what is damaged in earnest; that Pillow has doubts besides is
# nothing to log. (A filter set around each call would be torn by threads.)
warnings.filterwarnings("ignore", module=r"PIL\.")

# What EXIF's orientation asks for.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    """Check that an image is whole, and say what it is.

    A JPEG or PNG whose structure is sound is not decoded for that; all else is, completely.

    Raises:
        BadImage: if it is not a still image of a known format, is cut off, or is too large.

    """
    with _refusing("not_an_image"):
        whole.check_bounds(data)
    with _opened(io.BytesIO(data), max_pixels) as image:
        kind = _kind(image)
        info = ImageInfo(FORMATS[kind], image.width, image.height)
        if kind != "JPEG" and _is_animated(image):
            raise BadImage("animated", "more than one frame")
        if not _is_sound(kind, data):
            _check_decoded(kind, image, data)
        return info


def _is_sound(kind: str, data: bytes) -> bool:
    with _refusing("truncated"):
        return (kind == "JPEG" and whole.jpeg(data)) or (kind == "PNG" and whole.png(data))


@contextlib.contextmanager
def _refusing(reason: str) -> Iterator[None]:
    try:
        yield
    except whole.Damaged as error:
        raise BadImage(reason, str(error)) from error


def _check_decoded(kind: str, image: Image.Image, data: bytes) -> None:
    if kind == "JPEG":
        with _refusing("not_an_image"):
            whole.check_scans(data)
    with _turn(image):
        _load(image)
    # Pillow is content without these ends; other decoders, TensorFlow's among them, are not.
    if (kind == "PNG" and b"IEND\xaeB`\x82" not in data) or (
        kind == "GIF" and not data.rstrip(b"\0\r\n").endswith(b"\0;")
    ):
        raise BadImage("truncated", f"the end of the {kind} file is missing")


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
        with _turn(image):
            _load(image)
            try:
                return _on_white(_upright(image))
            except Exception as error:
                raise BadImage("not_an_image", one_line(error, 200)) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF: then it says nothing, and the picture is as good
        turn = None
    return image if turn is None else image.transpose(turn)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):  # 16 bits of grey: keep the high 8
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _opened(stream: io.BytesIO | Path, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(stream, formats=tuple(FORMATS))
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels", one_line(error, 200)) from error
    except UnidentifiedImageError as error:
        raise BadImage("not_an_image", "neither " + ", ".join(FORMATS)) from error
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's parsers raise many kinds on hostile bytes
        raise BadImage("not_an_image", one_line(error, 200)) from error
    if image.width * image.height > max_pixels:
        image.close()
        raise BadImage("too_many_pixels", f"{image.width} x {image.height} pixels")
    return image


def _kind(image: Image.Image) -> str:
    # A camera's MPO is a JPEG with previews behind it.
    return "JPEG" if image.format == "MPO" else str(image.format)


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception as error:
        raise BadImage("truncated", one_line(error, 200)) from error


@contextlib.contextmanager
def _turn(image: Image.Image) -> Iterator[None]:
    """Wait until an image may be decoded: a large one when no other large one is."""
    pixels = image.width * image.height
    with (
        _one_large if pixels > _LARGE_PIXELS else contextlib.nullcontext(),
        _some if pixels > _SMALL_PIXELS else contextlib.nullcontext(),
    ):
        yield


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:
        raise BadImage("truncated", one_line(error, 200)) from error
