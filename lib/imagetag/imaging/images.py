"""Images as bytes: what they are, whether they are whole, and their pixels as RGB."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import ExifTags, Image, ImageChops, ImageFile, UnidentifiedImageError

from imagetag.errors import one_line
from imagetag.imaging import integrity

if TYPE_CHECKING:
    from pathlib import Path

Size = tuple[int, int]  # (height, width) in pixels

# Pillow's name of a format, and the ending it is stored under.
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
EXTENSIONS = frozenset(FORMATS.values()) | {"jpeg"}
# What is read besides, but in no dataset, as not all that trains on one can.
READ = FORMATS | {"AVIF": "avif", "TIFF": "tif"}
HEAD_BYTES = 16  # of a file, which tell its format

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
# One of these is in a PNG that EXIF or XMP turns.
_TURNS_PNG = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_SIDEWAYS = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))


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
    """What an image is: the ending of its format, and its size in pixels, turned as EXIF says."""

    ext: str
    width: int
    height: int


@dataclass(frozen=True)
class Frame:
    """Which part of a picture is shown, and how large.

    Attributes:
        size: (height, width) in pixels that the part is resized to.
        part: (height, width) of the part as shares of the picture's, above 0 and up to 1. It is
            in the middle.

    """

    size: Size
    part: tuple[float, float] = (1.0, 1.0)

    @property
    def at_least(self) -> Size:
        """The (height, width) in pixels that the whole picture needs for none of it to grow."""
        return math.floor(self.size[0] / self.part[0]), math.floor(self.size[1] / self.part[1])

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the part of a picture of this size: left, top, right and bottom in pixels."""
        shown_height, shown_width = self.part[0] * height, self.part[1] * width
        left, top = (width - shown_width) / 2, (height - shown_height) / 2
        return left, top, left + shown_width, top + shown_height


def inspect(data: bytes) -> ImageInfo:
    """Check that an image is whole, and say what it is.

    A JPEG or PNG whose structure is sound is not decoded for that, but for a PNG that may have to
    be turned; all else is, completely.

    Raises:
        BadImage: if it is not a still image of a known format, is cut off, or is too large.

    """
    with _refusing("not_an_image"):
        integrity.check_bounds(data)
    with _opened(data, FORMATS) as image:
        kind = _kind(image)
        if kind != "JPEG" and _is_animated(image):
            raise BadImage("animated", "more than one frame")
        if not _is_sound(kind, data):
            _check_decoded(kind, image, data)
        elif kind == "PNG":
            # What turns it may be behind its pixels, and to look there Pillow decodes them.
            if not any(name in data for name in _TURNS_PNG):
                return ImageInfo(FORMATS[kind], image.width, image.height)
            with _turn(image):
                _load(image)
        height, width = _turned((image.height, image.width), _orientation(image))
        return ImageInfo(FORMATS[kind], width, height)


def is_picture(head: bytes) -> bool:
    """Tell from a file's first `HEAD_BYTES` whether it is of a format that can be read."""
    Image.init()
    # An answer in words is why a format cannot be read here.
    return any(accept(head) is True for accept in (Image.OPEN[kind][1] for kind in READ) if accept)


def _is_sound(kind: str, data: bytes) -> bool:
    with _refusing("truncated"):
        return (kind == "JPEG" and integrity.jpeg(data)) or (kind == "PNG" and integrity.png(data))


@contextlib.contextmanager
def _refusing(reason: str) -> Iterator[None]:
    try:
        yield
    except integrity.Damaged as error:
        raise BadImage(reason, str(error)) from error


def _check_decoded(kind: str, image: Image.Image, data: bytes) -> None:
    if kind == "JPEG":
        with _refusing("not_an_image"):
            integrity.check_scans(data)
    with _turn(image):
        _load(image)
    # Pillow is content without these ends; other decoders, TensorFlow's among them, are not.
    if (kind == "PNG" and b"IEND\xaeB`\x82" not in data) or (
        kind == "GIF" and not data.rstrip(b"\0\r\n").endswith(b"\0;")
    ):
        raise BadImage("truncated", f"the end of the {kind} file is missing")


def load_rgb(source: bytes | Path, at_least: Size | None = None) -> Image.Image:
    """Return a picture's pixels as people see it: turned as EXIF says, in RGB, on white.

    Args:
        source: the file's bytes, or its path.
        at_least: (height, width) in pixels of the turned picture. A JPEG larger than that is
            decoded at 1/2, 1/4 or 1/8 of its size, but never below it, which is several times
            faster.

    Returns:
        An image of mode RGB; the first frame of an animated one.

    Raises:
        BadImage: if it cannot be decoded.

    """
    return _decoded(source, None if at_least is None else lambda _: at_least)[0]


def load_resized(source: bytes | Path, frame: Callable[[Size], Frame]) -> Image.Image:
    """Return a part of a picture, as `load_rgb` sees it, at another size, antialiased.

    Args:
        source: the file's bytes, or its path.
        frame: gets the turned picture's (height, width) in pixels and says what to show of it. A
            JPEG is decoded at the smallest size that this leaves enough pixels of.

    Returns:
        An image of mode RGB and of the frame's size.

    Raises:
        BadImage: if it cannot be decoded.

    """
    picture, shape = _decoded(source, lambda shape: frame(shape).at_least)
    # Of the full size, so that how it was decoded changes nothing of how it is framed.
    shown = frame(shape)
    height, width = shown.size
    return picture.resize(
        (width, height), Image.Resampling.BILINEAR, shown.box(*picture.size), reducing_gap=2.0
    )


def _decoded(
    source: bytes | Path, at_least: Callable[[Size], Size] | None
) -> tuple[Image.Image, Size]:
    """Return a picture turned, in RGB and on white, and the (height, width) it has in full."""
    with _opened(source) as image:
        shape = image.height, image.width
        # A JPEG's EXIF is before its pixels, and must be known to shrink it; a PNG's may be behind.
        is_jpeg = _kind(image) == "JPEG"
        turn = _orientation(image) if is_jpeg else None
        if is_jpeg and at_least is not None:
            height, width = _turned(at_least(_turned(shape, turn)), turn)
            image.draft("RGB" if image.mode != "CMYK" else "CMYK", (width, height))
        if is_jpeg and isinstance(source, bytes):
            # Else it is decoded in pieces, and after each a thread waits for all others.
            image.decodermaxblock = len(source)
        transparent = _transparent(image)
        with _turn(image):
            _load(image)
            if not is_jpeg:
                turn = _orientation(image)
            try:
                picture = _on_white(image, transparent and _alpha(image, source, *transparent))
                upright = picture if turn is None else picture.transpose(turn)
            except Exception as error:
                raise BadImage("not_an_image", one_line(error, 200)) from error
        return upright, _turned(shape, turn)


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF: then it says nothing, and the picture is as good
        return None


def _turned(size: Size, turn: Image.Transpose | None) -> Size:
    return (size[1], size[0]) if turn in _SIDEWAYS else size


def _on_white(image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):  # 16 bits of grey: keep the high 8
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if alpha is not None:
        image = image.convert("RGB")
        image.putalpha(alpha)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _transparent(image: ImageFile.ImageFile) -> tuple[str, tuple[int, ...]] | None:
    """Return how a PNG has its pixels, and the one grey or colour that is transparent there.

    To be asked before they are decoded: Pillow knows no longer then how the file has them.
    """
    colour = image.info.get("transparency")
    if image.format != "PNG" or image.mode not in ("L", "I;16", "RGB") or colour is None:
        return None
    samples = colour if isinstance(colour, tuple) else (colour,)
    return (str(image.tile[0].args), samples) if image.tile else None  # without pixels, none


def _alpha(
    image: Image.Image, source: bytes | Path, layout: str, colour: tuple[int, ...]
) -> Image.Image:
    """Return 0 for the pixels that are of the transparent colour, and 255 for the others.

    As libpng does, in the file's own bits. Pillow compares the colour as it is in the file with the
    8 bits that it has made of each sample, which is right for files of 8 bits alone.

    Args:
        image: the decoded picture.
        source: its file.
        layout: how that has its pixels, by Pillow's name.
        colour: the samples of the colour, as the file has them.

    """
    if layout == "I;16B":
        bands = Image.frombytes("LA", image.size, image.tobytes()).split()
        values = [colour[0] & 255, colour[0] >> 8]
    elif layout == "RGB;16B":
        with _opened(source) as low:
            # Pillow takes the first byte of each sample; with the other order, the second.
            low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
            bands = (*image.split(), *low.split())
        values = [*(sample >> 8 for sample in colour), *(sample & 255 for sample in colour)]
    else:
        step = {"L;2": 85, "L;4": 17}.get(layout, 1)  # between two shades, once in 8 bits
        bands = image.split()
        values = [(sample & 255 // step) * step for sample in colour]
    others = [
        band.point([0 if shade == value else 255 for shade in range(256)])
        for band, value in zip(bands, values, strict=True)
    ]
    return functools.reduce(ImageChops.lighter, others)


def _opened(source: bytes | Path, formats: Mapping[str, str] = READ) -> ImageFile.ImageFile:
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        image = Image.open(stream, formats=tuple(formats))
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels", one_line(error, 200)) from error
    except UnidentifiedImageError as error:
        raise BadImage("not_an_image", "neither " + ", ".join(formats)) from error
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's parsers raise many kinds on hostile bytes
        raise BadImage("not_an_image", one_line(error, 200)) from error
    if image.width * image.height > MAX_PIXELS:
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
