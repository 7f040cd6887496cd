"""Files of pictures: what is said of them, and their pixels."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image

from imagetag.imaging import (
    MAX_PIXELS,
    BadImage,
    Frame,
    inspect,
    is_picture,
    load_resized,
    load_rgb,
    perceptual_hashes,
    thumbnail,
)
from tests.builders.pictures import encoded
from tests.fuzz.target import Target

_FRAME = Frame((16, 24), (0.5, 0.9))


def _picture(data: bytes) -> None:
    is_picture(data[:16])
    try:
        info = inspect(data)
    except BadImage:
        load_resized(data, lambda _: _FRAME)  # what is in no dataset may still be predicted
        raise
    assert 0 < info.width * info.height <= MAX_PIXELS
    # What is whole by its structure alone is taken by who decodes it, and of the same size.
    picture = load_rgb(data)
    assert (picture.mode, picture.size) == ("RGB", (info.width, info.height))
    assert load_resized(data, lambda _: _FRAME).size == (24, 16)
    perceptual_hashes(data)
    thumbnail(data)


def _small() -> Image.Image:
    picture = Image.linear_gradient("L").resize((17, 13))
    return Image.merge("RGB", (picture, picture.rotate(90), picture.rotate(180)))


def _jpeg() -> Iterable[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    yield encoded(_small(), "JPEG", quality=60)
    yield encoded(_small(), "JPEG", quality=60, progressive=True, exif=exif)
    yield encoded(_small().convert("CMYK"), "JPEG")


def _png() -> Iterable[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 8
    yield encoded(_small())
    yield encoded(_small().quantize(8), "PNG", transparency=3)
    yield encoded(_small().convert("I;16"), "PNG", exif=exif)
    yield encoded(_small().convert("LA"))


def _others() -> Iterable[bytes]:
    for kind in ("WEBP", "GIF", "BMP"):
        yield encoded(_small(), kind)


TARGETS = (
    Target("jpeg", _picture, (BadImage,), _jpeg),
    Target("png", _picture, (BadImage,), _png),
    Target("other-pictures", _picture, (BadImage,), _others),
)
