"""Pictures of every kind that boards hold, and bytes that only claim to be one."""

from __future__ import annotations

import contextlib
import gc
import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw, ImageStat
from PIL.JpegImagePlugin import JpegImageFile

from imagetag.imaging import images
from imagetag.imaging.images import BadImage, Frame, ImageInfo, inspect, load_resized, load_rgb
from tests.builders.pictures import encoded

WHITE, BLACK, RED, GREEN = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0)


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, chunks: bytes = b""
) -> bytes:
    """A PNG made by hand, as Pillow cannot write all that there are."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunks
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def noise(width: int = 60, height: int = 40) -> Image.Image:
    return Image.frombytes("RGB", (width, height), Random(1).randbytes(width * height * 3))


def drawn(width: int, height: int) -> Image.Image:
    """A picture with lines and areas, no two corners alike."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 3, height // 4), fill="red")
    draw.ellipse((width // 2, height // 2, width * 0.9, height * 0.8), fill="blue", outline="green")
    draw.line((0, height, width, 0), fill="yellow", width=max(width // 30, 1))
    return image


def row(data: bytes) -> list[tuple[int, ...]]:
    """The pixels of the first row."""
    image = load_rgb(data)
    assert image.mode == "RGB"
    return [image.getpixel((x, 0)) for x in range(image.width)]  # type: ignore[misc]


def palette(*colours: tuple[int, int, int]) -> Image.Image:
    image = Image.new("P", (len(colours), 1))
    image.putpalette([value for colour in colours for value in colour])
    image.putdata(range(len(colours)))
    return image


STILL = {
    "jpg": encoded(noise(), "JPEG"),
    "jpg progressive": encoded(noise(), "JPEG", progressive=True),
    "png": encoded(noise()),
    "webp": encoded(noise(), "WEBP"),
    "webp lossless": encoded(noise(), "WEBP", lossless=True),
    "gif": encoded(noise(), "GIF"),
    "bmp": encoded(noise(), "BMP"),
}


@pytest.mark.parametrize("name", STILL)
def test_every_format_is_known_by_its_content(name: str) -> None:
    assert inspect(STILL[name]) == ImageInfo(name.split()[0], 60, 40)
    assert load_rgb(STILL[name]).size == (60, 40)


@pytest.mark.parametrize("kind", images.FORMATS)
def test_one_pixel_is_a_picture(kind: str) -> None:
    data = encoded(Image.new("RGB", (1, 1), RED), kind)
    assert inspect(data) == ImageInfo(images.FORMATS[kind], 1, 1)
    assert load_rgb(data, at_least=(300, 200)).size == (1, 1)


# Every mode becomes RGB as people see it.


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey(kind: str) -> None:
    assert row(encoded(Image.new("L", (2, 1), 128), kind)) == [(128, 128, 128)] * 2


def test_one_bit() -> None:
    assert row(png(4, 1, 1, 0, b"\0\x50")) == [BLACK, WHITE, BLACK, WHITE]


def test_sixteen_bits_of_grey_keep_their_shades() -> None:
    rows = b"\0" + struct.pack(">5H", 0, 64 * 257, 128 * 257, 200 * 257, 65535)
    shades = [0, 64, 128, 200, 255]
    assert row(png(5, 1, 16, 0, rows)) == [(shade,) * 3 for shade in shades]


def test_sixteen_bits_of_colour() -> None:
    assert row(png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 0, 128 * 257, 65535))) == [(0, 128, 255)]


def test_palette() -> None:
    assert row(encoded(palette(RED, GREEN))) == [RED, GREEN]
    assert row(encoded(palette(RED, GREEN), "GIF")) == [RED, GREEN]


def test_cmyk() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    assert inspect(data) == ImageInfo("jpg", 16, 16)
    assert row(data)[0] == RED
    assert load_rgb(data, at_least=(4, 4)).getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 0))), [WHITE]),
        (encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 127))), [(128, 128, 128)]),
        (encoded(Image.new("LA", (1, 1), (0, 0))), [WHITE]),
        (encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "WEBP", lossless=True), [WHITE]),
        (encoded(palette(RED, GREEN), transparency=1), [RED, WHITE]),
        (encoded(palette(RED, GREEN), transparency=b"\x80\xff"), [(255, 127, 127), GREEN]),
        (encoded(palette(RED, GREEN), "GIF", transparency=1), [RED, WHITE]),
        (png(2, 1, 8, 0, b"\0\0\x40", chunk(b"tRNS", b"\0\0")), [WHITE, (64, 64, 64)]),
        (png(1, 1, 8, 2, b"\0\1\2\3", chunk(b"tRNS", b"\0\1\0\2\0\3")), [WHITE]),
        (png(2, 1, 16, 0, b"\0\0\0\x40\x40", chunk(b"tRNS", b"\0\0")), [WHITE, (64, 64, 64)]),
        (png(1, 1, 16, 4, b"\0" + b"\x80\x80\0\0"), [WHITE]),
    ],
)
def test_what_is_transparent_is_white(data: bytes, shown: list[tuple[int, ...]]) -> None:
    assert row(data) == shown


def packed(samples: list[int], depth: int) -> bytes:
    """A row of a PNG: its filter, none, and its samples, of so many bits each."""
    bits = "".join(f"{sample:0{depth}b}" for sample in samples)
    return bytes([0, *(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))])


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_grey_is_transparent_as_the_file_has_it(depth: int) -> None:
    most = 2**depth - 1
    # Of 16 bits, some that differ in one of their bytes alone.
    greys = sorted({0, 1, 2 % (most + 1), most // 3, most // 2, most - 1, most, 0x7FFE & most})
    for transparent in greys:
        # The file's bits above those of the depth count for nothing.
        colour = transparent | (0x100 if depth == 8 else 0)
        data = png(
            *(len(greys), 1, depth, 0),
            packed(greys, depth),
            chunk(b"tRNS", struct.pack(">H", colour)),
        )
        expected = [WHITE if grey == transparent else (grey * 255 // most,) * 3 for grey in greys]
        assert row(data) == expected, transparent


@pytest.mark.parametrize("depth", [8, 16])
def test_a_colour_is_transparent_as_the_file_has_it(depth: int) -> None:
    most = 2**depth - 1
    colours = [(0x1234 & most, 0x5678 & most, 0x9ABC & most), (0, 0, 0), (most, most, most)]
    colours += [(r ^ 1, g, b) for r, g, b in colours[:1]]
    colours += [(r, g ^ 1, b) for r, g, b in colours[:1]]
    colours += [(r, g, b ^ 1) for r, g, b in colours[:1]]
    samples = [sample for colour in colours for sample in colour]
    for transparent in colours:
        trns = chunk(b"tRNS", struct.pack(">3H", *transparent))
        data = png(len(colours), 1, depth, 2, packed(samples, depth), trns)
        shown = [tuple(sample >> depth - 8 for sample in colour) for colour in colours]
        shown[colours.index(transparent)] = WHITE
        assert row(data) == shown, transparent


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_has_its_own_alpha_at_every_depth(depth: int) -> None:
    data = png(
        *(2, 1, depth, 3),
        packed([0, 1], depth),
        chunk(b"PLTE", bytes([*RED, *GREEN])) + chunk(b"tRNS", b"\x80"),
    )
    assert row(data) == [(255, 127, 127), GREEN]


def test_a_picture_with_a_transparent_grey_is_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn
    turn = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    trns = chunk(b"tRNS", struct.pack(">3H", 7, 7, 7))
    (tmp_path / "a").write_bytes(png(2, 1, 16, 2, packed([7] * 3 + [8] * 3, 16), trns + turn))
    turned = load_rgb(tmp_path / "a")
    assert turned.size == (1, 2)
    assert [turned.getpixel((0, y)) for y in range(2)] == [WHITE, BLACK]


def test_a_transparent_colour_of_no_pixels_is_no_picture() -> None:
    data = png(1, 1, 2, 0, b"\0\0", chunk(b"tRNS", b"\0\1") + chunk(b"IEND", b""))
    check_either_or(data)


# EXIF.


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_exif_says_and_listed_as_it_is_seen(
    kind: str, orientation: int
) -> None:
    picture = drawn(64, 32)
    turns = [None, None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM"]
    turns += ["TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture, kind, exif=exif)
    turn = turns[orientation]
    seen = load_rgb(encoded(picture, kind))
    seen = seen.transpose(Image.Transpose[turn]) if turn else seen
    assert load_rgb(data).size == seen.size
    assert load_rgb(data).tobytes() == seen.tobytes()
    assert inspect(data) == ImageInfo(images.FORMATS[kind], *seen.size)


def _turned_otherwise() -> dict[str, bytes]:
    """Pictures of 64 x 32 pixels that are seen upright, by all ways that there are to say so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    block = exif.tobytes()
    tiff = block.removeprefix(b"Exif\0\0")
    profile = f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()
    chunks = {
        "eXIf": chunk(b"eXIf", tiff),
        "raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
    }
    plain = encoded(drawn(64, 32))
    found = {}
    for name, more in chunks.items():
        for place, at in (("before", plain.index(b"IDAT") - 4), ("behind", len(plain) - 12)):
            found[f"PNG, {name} {place} the pixels"] = plain[:at] + more + plain[at:]
    previews = [drawn(64, 32)]
    return {
        **found,
        "JPEG, XMP": encoded(drawn(64, 32), "JPEG", xmp=xmp),
        "WEBP, XMP": encoded(drawn(64, 32), "WEBP", xmp=xmp),
        "MPO": encoded(drawn(64, 32), "MPO", exif=exif, save_all=True, append_images=previews),
        "JPEG, progressive": encoded(drawn(64, 32), "JPEG", exif=exif, progressive=True),
    }


@pytest.mark.parametrize("name", _turned_otherwise())
def test_a_picture_is_listed_as_it_is_seen_whatever_turns_it(name: str) -> None:
    data = _turned_otherwise()[name]
    assert load_rgb(data).size == (32, 64)
    ext = {"PNG": "png", "WEB": "webp"}.get(name[:3], "jpg")
    assert inspect(data) == ImageInfo(ext, 32, 64)


def test_a_png_that_nothing_turns_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0

    def load(_: Image.Image) -> None:
        nonlocal decoded
        decoded += 1

    monkeypatch.setattr(images, "_load", load)
    assert inspect(encoded(drawn(64, 32))) == ImageInfo("png", 64, 32)
    assert not decoded


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif", [b"", b"II", b"\xff" * 40, b"MM\0*\0\0\0\x08\xff\xff", b"MM\0*\xff\xff\xff\xff"]
)
def test_broken_exif_says_nothing(kind: str, exif: bytes) -> None:
    data = encoded(drawn(64, 32), kind, exif=b"Exif\0\0" + exif)
    assert inspect(data) == ImageInfo(images.FORMATS[kind], 64, 32)
    assert load_rgb(data).size == (64, 32)


def test_a_picture_is_turned_though_the_rest_of_its_exif_cannot_be_written_back() -> None:
    # Orientation 6, then a tag of an unknown type.
    entries = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(">HHII", 0x8298, 2, 9999, 8)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 2) + entries + b"\0\0\0\0"
    assert load_rgb(encoded(drawn(64, 32), "JPEG", exif=exif)).size == (32, 64)


def difference(one: Image.Image, other: Image.Image) -> float:
    return sum(ImageStat.Stat(ImageChops.difference(one, other.convert("RGB"))).mean) / 3


# Large JPEGs are decoded at a fraction, never below what was asked for.


@pytest.mark.parametrize("at_least", [(300, 200), (200, 300), (64, 64), (751, 500), (2000, 3000)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_scaled_decode_is_large_enough_and_close_to_the_full_one(
    at_least: tuple[int, int], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(drawn(1000, 1503), "JPEG", exif=exif, quality=92)
    full, scaled = load_rgb(data), load_rgb(data, at_least=at_least)
    height, width = at_least
    assert scaled.height >= min(height, full.height)
    assert scaled.width >= min(width, full.width)
    size = (min(width, full.width), min(height, full.height))
    assert difference(scaled.resize(size, box=None), full.resize(size)) < 2


def test_a_jpeg_in_memory_is_decoded_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    read, pieces = JpegImageFile.load_read, []

    def reading(image: JpegImageFile, most: int) -> bytes:
        pieces.append(read(image, most))
        return pieces[-1]

    monkeypatch.setattr(JpegImageFile, "load_read", reading)
    data = encoded(noise(600, 400), "JPEG")
    assert len(data) > 2 << 16
    whole = load_rgb(data)
    assert len(pieces) == 1
    monkeypatch.undo()
    with Image.open(io.BytesIO(data)) as image:
        assert image.tobytes() == whole.tobytes()


def test_a_scaled_decode_is_used_where_it_can_be() -> None:
    data = encoded(drawn(2400, 3200), "JPEG")
    assert load_rgb(data, at_least=(300, 200)).size == (300, 400)
    assert load_rgb(encoded(drawn(800, 600)), at_least=(30, 20)).size == (800, 600)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_side_of_a_turned_picture_is_compared_with_what_is_asked_of_it(
    orientation: int,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = (1000, 1500) if orientation < 5 else (1500, 1000)
    data = encoded(drawn(*stored), "JPEG", exif=exif)
    assert load_rgb(data, at_least=(300, 200)).size == (250, 375)
    assert load_rgb(data, at_least=(375, 250)).size == (250, 375)
    assert load_rgb(data, at_least=(376, 250)).size == (500, 750)
    assert load_rgb(data, at_least=(200, 300)).size == (500, 750)
    assert load_rgb(data, at_least=(1, 1)).size == (125, 188)


@pytest.mark.parametrize("exif", [b"", b"II", b"MM\0*\0\0\0\x08\xff\xff"])
def test_a_picture_of_broken_exif_is_shrunk_as_an_upright_one(exif: bytes) -> None:
    data = encoded(drawn(1000, 1500), "JPEG", exif=b"Exif\0\0" + exif)
    assert load_rgb(data, at_least=(300, 200)).size == (250, 375)


# A part of a picture, resized.


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_shown_is_chosen_by_the_turned_pictures_full_size(
    kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    asked = set()

    def frame(shape: tuple[int, int]) -> Frame:
        asked.add(shape)
        return Frame((9, 7), (0.5, 1.0))

    data = encoded(drawn(801, 401), kind, exif=exif)
    assert load_resized(data, frame).size == (7, 9)
    assert asked == {(801, 401) if orientation > 4 else (401, 801)}


def test_the_middle_of_a_picture_is_shown() -> None:
    stripes = Image.new("RGB", (80, 40), RED)
    stripes.paste(GREEN, (20, 10, 60, 30))
    for kind in ("PNG", "JPEG"):
        shown = load_resized(
            encoded(stripes, kind, **({"subsampling": 0, "quality": 95} if kind == "JPEG" else {})),
            lambda _: Frame((10, 40), (0.5, 0.5)),
        )
        assert shown.size == (40, 10)
        inner = shown.crop((1, 1, 39, 9))
        assert difference(inner, Image.new("RGB", inner.size, GREEN)) < 3
    whole = load_resized(encoded(stripes), lambda _: Frame((40, 80)))
    assert whole.tobytes() == stripes.tobytes()


def test_the_whole_must_be_as_large_as_its_part_wants() -> None:
    assert Frame((300, 200)).at_least == (300, 200)
    assert Frame((300, 200), (0.5, 1.0)).at_least == (600, 200)
    assert Frame((200, 200), (1.0, 1600 / 1607)).at_least == (200, 200)


def test_what_is_no_picture_cannot_be_resized(tmp_path: Path) -> None:
    for data in (b"<html>", STILL["jpg"][:600], STILL["png"][:2000]):
        with pytest.raises(BadImage):
            load_resized(data, lambda _: Frame((8, 8)))
    with pytest.raises(FileNotFoundError):
        load_resized(tmp_path / "none", lambda _: Frame((8, 8)))


def test_a_file_is_read_as_its_bytes_are(tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(STILL["png"])
    assert load_rgb(path).tobytes() == load_rgb(STILL["png"]).tobytes()
    with pytest.raises(FileNotFoundError):
        load_rgb(tmp_path / "none")


def test_no_file_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture"
    with warnings.catch_warnings(record=True, action="always", category=ResourceWarning) as found:
        for data in (STILL["png"], STILL["jpg"], STILL["png"][:500], b"nonsense"):
            path.write_bytes(data)
            for limit in (10, 10_000):
                monkeypatch.setattr(images, "MAX_PIXELS", limit)
                with contextlib.suppress(BadImage):
                    load_rgb(path)
        gc.collect()
    assert not found


# Animations.


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_no_still_image_but_its_first_frame_can_be_seen(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(BadImage) as error:
        inspect(data)
    assert error.value.reason == "animated"
    assert difference(load_rgb(data), frames[0]) < 2


def test_a_cameras_jpeg_with_previews_is_a_still_image() -> None:
    data = encoded(drawn(64, 32), "MPO", save_all=True, append_images=[drawn(16, 8)])
    assert inspect(data) == ImageInfo("jpg", 64, 32)
    assert load_rgb(data).size == (64, 32)


# What is no picture.


@pytest.mark.parametrize("name", STILL)
def test_a_file_cut_off_anywhere_is_refused(name: str) -> None:
    data = STILL[name]
    for length in range(len(data)):
        with pytest.raises(BadImage) as error:
            inspect(data[:length])
        assert error.value.reason in ("not_an_image", "truncated")


def test_bytes_behind_a_picture_are_no_harm() -> None:
    for name in ("jpg", "png", "webp", "bmp"):
        assert inspect(STILL[name] + b"<script>").width == 60
    assert inspect(STILL["gif"] + b"\0\r\n").width == 60


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"<html><body>404 Not Found</body></html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"GIF89a",
        b"\xff\xd8\xff",
        b"RIFF\xff\xff\xff\xffWEBP",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
        encoded(noise(), "PPM"),
        encoded(noise(), "ICO"),
    ],
)
def test_what_is_no_known_image_is_refused(data: bytes) -> None:
    for use in (inspect, load_rgb):
        with pytest.raises(BadImage) as error:
            use(data)
        assert error.value.reason == "not_an_image"
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("side", [10_001, 20_000, 65_000])
def test_a_small_file_that_claims_to_be_huge_is_refused_before_it_is_decoded(side: int) -> None:
    webp = bytearray(encoded(noise(), "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"))
    start = webp.index(b"VP8X") + 12
    webp[start : start + 6] = struct.pack("<I", 16_382)[:3] * 2
    gif = bytearray(STILL["gif"])
    gif[6:10] = struct.pack("<HH", side, side)
    for data in (png(side, side, 8, 2, b"\0"), bytes(webp), bytes(gif)):
        assert len(data) < 10_000
        for use in (inspect, load_rgb):
            with pytest.raises(BadImage) as error:
                use(data)
            assert error.value.reason == "too_many_pixels"


def test_a_picture_may_have_as_many_pixels_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 2400)
    assert inspect(STILL["png"]).width == 60
    monkeypatch.setattr(images, "MAX_PIXELS", 2399)
    for use in (inspect, load_rgb):
        with pytest.raises(BadImage, match="60 x 40") as error:
            use(STILL["png"])
        assert error.value.reason == "too_many_pixels"


def test_pillows_warnings_and_limits_are_the_same_in_every_thread() -> None:
    filters = list(warnings.filters)
    big = png(11_000, 10_000, 8, 2, b"\0")

    def work() -> None:
        for _ in range(50):
            for data in (STILL["png"], big):
                try:
                    inspect(data)
                except BadImage as error:
                    assert error.reason == "too_many_pixels"  # noqa: PT017

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == filters


def test_pillows_doubts_are_not_logged(tmp_path: Path) -> None:
    (tmp_path / "exif").write_bytes(
        encoded(drawn(64, 32), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12")
    )
    (tmp_path / "big").write_bytes(png(11_000, 10_000, 8, 2, b"\0"))
    script = """
import pathlib, sys
from imagetag.imaging import images
for path in pathlib.Path(sys.argv[1]).iterdir():
    try:
        images.load_rgb(path)
    except images.BadImage as error:
        print(error.reason)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("too_many_pixels\n", "")


def check_either_or(data: bytes) -> None:
    with contextlib.suppress(BadImage):
        info = inspect(data)
        assert info.ext in images.EXTENSIONS
        assert info.width > 0 < info.height
        with contextlib.suppress(BadImage):
            assert load_rgb(data).size == (info.width, info.height)
    for at_least in (None, (8, 8)):
        with contextlib.suppress(BadImage):
            assert load_rgb(data, at_least).mode == "RGB"
    with contextlib.suppress(BadImage):
        assert load_resized(data, lambda _: Frame((8, 9), (0.3, 1.0))).size == (9, 8)


@given(st.binary(max_size=200), st.sampled_from([b"", *(data[:16] for data in STILL.values())]))
def test_any_bytes_are_a_picture_or_a_bad_one(data: bytes, start: bytes) -> None:
    check_either_or(start + data)


def _small() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a picture"
    small = noise(12, 9)
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("JPEG", {"exif": exif}),
        ("JPEG", {"progressive": True}),
        ("PNG", {"exif": exif}),
        ("WEBP", {"exif": exif}),
        ("GIF", {}),
        ("BMP", {}),
    ]
    still = [encoded(small, kind, **options) for kind, options in kinds]
    moving = [
        encoded(small, kind, save_all=True, append_images=[Image.new("RGB", (12, 9), RED)])
        for kind in ("GIF", "PNG", "WEBP", "MPO")
    ]
    trns = encoded(palette(RED, GREEN), transparency=b"\x80\xff")
    return [*still, *moving, trns, png(2, 1, 16, 4, b"\0" + b"\x80" * 8)]


SMALL = _small()


@given(
    st.sampled_from(SMALL),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0.2, 1),
)
def test_a_damaged_picture_is_a_picture_or_a_bad_one(
    data: bytes, changes: list[tuple[float, int]], keep: float
) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    check_either_or(bytes(damaged[: int(keep * len(damaged))]))


def test_every_single_damaged_byte_of_a_header_is_a_picture_or_a_bad_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A few damaged sizes are just below the usual limit: minutes for what is no other case.
    monkeypatch.setattr(images, "MAX_PIXELS", 1_000_000)
    for data in SMALL:
        for place in range(min(len(data), 120)):
            for value in {0, 0x7F, 0xFF, data[place] ^ 1} - {data[place]}:
                check_either_or(data[:place] + bytes([value]) + data[place + 1 :])


@pytest.mark.parametrize("kind", ["AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_formats_that_no_dataset_has_are_read_upright(kind: str, orientation: int) -> None:
    picture = Image.new("RGB", (32, 16), (250, 250, 250))
    picture.paste((10, 10, 10), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x112] = orientation
    plain = encoded(picture, exif=exif)  # first: an AVIF's encoder takes it out
    data = encoded(picture, kind, exif=exif)
    shapes: list[images.Size] = []

    def whole(shape: images.Size) -> Frame:
        shapes.append(shape)
        return Frame(shape)

    found, expected = load_resized(data, whole), load_rgb(plain)
    assert set(shapes) == {(expected.height, expected.width)}
    assert found.size == expected.size
    assert ImageStat.Stat(ImageChops.difference(found, expected)).mean[0] < 10
    assert images.is_picture(data[: images.HEAD_BYTES])
    with pytest.raises(BadImage, match=r"neither JPEG, PNG, WEBP, GIF, BMP$"):
        inspect(data)


def test_what_is_no_picture_does_not_begin_like_one() -> None:
    for head in (b"", b"B", b"#!/bin/sh", b"PK\3\4", b"\0" * 16, b"%PDF-1.7", b"RIFF....WAVEfmt "):
        assert not images.is_picture(head)
