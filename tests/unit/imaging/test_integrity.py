"""Telling whether a file is whole without decoding it: never content where a decoder is not."""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from imagetag.imaging import images, integrity
from imagetag.imaging.images import BadImage, ImageInfo, inspect
from tests.builders.pictures import encoded
from tests.traced import traced

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    header: tuple[int, int, int, int, int],
    rows: bytes,
    *,
    before: bytes = b"",
    behind: bytes = b"",
    piece: int = 1 << 20,
) -> bytes:
    """A PNG made by hand; the header is width, height, depth, colour, interlaced."""
    width, height, depth, colour, interlaced = header
    packed = zlib.compress(rows)
    pixels = [chunk(b"IDAT", packed[i : i + piece]) for i in range(0, len(packed), piece)]
    fields = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"".join(
        [PNG_MAGIC, chunk(b"IHDR", fields), before, *pixels, behind, chunk(b"IEND", b"")]
    )


def pictures() -> list[Image.Image]:
    random = Random(7)
    noise = Image.frombytes("RGB", (60, 40), random.randbytes(60 * 40 * 3))
    smooth = noise.resize((7, 5)).resize((150, 203))
    return [noise, smooth, smooth.convert("L"), noise.crop((0, 0, 17, 9))]


def jpegs() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    ways: list[dict[str, Any]] = [
        *({}, {"progressive": True}, {"optimize": True}, {"subsampling": 0}, {"subsampling": 2}),
        *({"restart_marker_blocks": 3}, {"restart_marker_rows": 1, "progressive": True}),
        *({"exif": exif, "comment": b"a comment", "icc_profile": b"x" * 200_000}, {"quality": 100}),
    ]
    shown = pictures()
    return [
        encoded(picture, "JPEG", **way)
        for way in ways
        for picture in [*shown, shown[0].convert("CMYK")]
    ]


def pngs() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *(encoded(picture, "PNG") for picture in pictures()),
        *(encoded(pictures()[0].convert(mode), "PNG") for mode in ("1", "P", "LA", "RGBA", "I;16")),
        *(encoded(pictures()[0], "PNG", **way) for way in ({"compress_level": 0}, {"exif": exif})),
        png((9, 7, 8, 2, 0), (b"\1" + b"\5" * 27) * 7, piece=3),
        png((9, 7, 8, 0, 0), bytes(70), behind=chunk(b"tEXt", b"date\0today")),
    ]


JPEGS, PNGS = jpegs(), pngs()
ALL = [*JPEGS, *PNGS]


def decoded(data: bytes) -> ImageInfo | str:
    """What a full decode says: the picture, or why there is none."""
    try:
        with images._opened(data) as image:
            kind = images._kind(image)
            if kind != "JPEG" and images._is_animated(image):
                return "animated"
            images._check_decoded(kind, image, data)
            shape = (image.height, image.width)
            height, width = images._turned(shape, images._orientation(image))
            return ImageInfo(images.FORMATS[kind], width, height)
    except BadImage as error:
        return error.reason


def inspected(data: bytes) -> ImageInfo | str:
    try:
        return inspect(data)
    except BadImage as error:
        return error.reason


def no_decoding(image: Image.Image) -> None:
    raise AssertionError("decoded")


def test_what_encoders_make_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    # What turns a PNG may be behind its pixels.
    made = [data for data in ALL if b"eXIf" not in data]
    assert len(made) == len(ALL) - 1
    expected = [decoded(data) for data in made]
    monkeypatch.setattr(images, "_load", no_decoding)
    assert [inspect(data) for data in made] == expected
    assert [inspect(data + b"<script>" * 9) for data in made] == expected


# A JPEG's verdict never differs; a PNG's may be stricter, where Pillow does not look.


def damaged(random: Random, data: bytes, other: bytes, *, header: bool) -> bytes:
    def place() -> int:
        return random.randrange(min(len(data), 700) if header else len(data))

    found = bytearray(data)
    at = place()
    match random.randrange(7):
        case 0:
            del found[at:]
        case 1:
            for _ in range(random.randint(1, 4)):
                found[place()] = random.randrange(256)
        case 2:
            found[place()] ^= 1 << random.randrange(8)
        case 3:
            run = random.choice([1, 2, 4, 16, 100, 1000])
            found[at : at + run] = bytes(len(found[at : at + run]))
        case 4:
            del found[at : at + random.choice([1, 2, 3, 10, 500])]
        case 5:
            marker = bytes([0xFF, random.choice([0xD9, 0xDA, 0xFF, 0xD0, 1, 0xC4, 0xD8, 0xDC])])
            found[at:at] = marker + random.choice([b"", b"\0\2", random.randbytes(5), bytes(12)])
        case 6:
            found[at:] = other[at:]
    return bytes(found)


@pytest.mark.parametrize("header", [True, False], ids=["header", "anywhere"])
@pytest.mark.parametrize(("files", "strict"), [(JPEGS, False), (PNGS, True)], ids=["jpeg", "png"])
def test_a_damaged_file_is_judged_as_a_full_decode_does(
    files: list[bytes], strict: bool, header: bool
) -> None:
    random = Random(11)
    verdicts = set()
    for _ in range(1500):
        data = damaged(random, random.choice(files), random.choice(files), header=header)
        expected, found = decoded(data), inspected(data)
        if isinstance(expected, str):
            assert isinstance(found, str), f"a decode says {expected}"
        elif not strict:
            assert found == expected
        verdicts.add(type(found))
    assert verdicts == {str, ImageInfo}


@pytest.mark.parametrize("data", [JPEGS[0], JPEGS[5], PNGS[0]])
def test_every_cut_is_judged_as_a_full_decode_does(data: bytes) -> None:
    for length in range(0, len(data), 3):
        assert isinstance(inspected(data[:length]), str), f"{length} of {len(data)}"
        assert isinstance(decoded(data[:length]), str)


# JPEG.


def segments(data: bytes) -> tuple[bytes, dict[int, bytes], bytes]:
    """The header up to the first scan, its segments by their markers, and the rest."""
    found: dict[int, bytes] = {}
    at = 2
    while data[at + 1] != 0xDA:
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found[data[at + 1]] = found.get(data[at + 1], b"") + data[at : at + length]
        at += length
    return data[:at], found, data[at:]


@pytest.mark.parametrize("marker", [0xDB, 0xC0, 0xC4])
def test_a_jpeg_that_lacks_what_a_scan_needs_is_left_to_the_decoder(marker: int) -> None:
    _, found, rest = segments(JPEGS[0])
    assert integrity.jpeg(b"\xff\xd8" + b"".join(found.values()) + rest)
    lacking = b"\xff\xd8" + b"".join(v for k, v in found.items() if k != marker) + rest
    assert not integrity.jpeg(lacking)
    assert inspected(lacking) == decoded(lacking)


def test_fill_bytes_before_markers_are_allowed() -> None:
    header, _, rest = segments(JPEGS[0])
    filled = header + b"\xff" * 5 + rest[:-2] + b"\xff" * 5 + rest[-2:]
    assert integrity.jpeg(filled)
    assert decoded(filled) == inspect(filled)


def test_a_second_picture_in_the_scans_is_refused_as_by_the_decoder() -> None:
    header, _, rest = segments(JPEGS[0])
    again = header + rest[:-2] + rest
    assert not integrity.jpeg(again)
    assert decoded(again) == inspected(again) == "truncated"


# PNG.


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(
    ("depth", "colour", "channels"), [(1, 0, 1), (4, 3, 1), (8, 2, 3), (16, 6, 4)]
)
def test_pixels_are_counted_as_the_decoder_counts_them(
    interlaced: int, depth: int, colour: int, channels: int
) -> None:
    before = chunk(b"PLTE", bytes(48)) if colour == 3 else b""
    for width in range(1, 10):
        for height in range(1, 10):
            steps = integrity._ADAM7 if interlaced else [(0, 0, 1, 1)]
            rows = bytearray()
            for left, top, across, down in steps:
                columns = len(range(left, width, across))
                for _ in range(top, height, down) if columns else ():
                    rows += b"\4" + b"\x55" * ((columns * depth * channels + 7) // 8)
            header = (width, height, depth, colour, interlaced)
            data = png(header, bytes(rows), before=before)
            assert integrity.png(data)
            assert decoded(data) == ImageInfo("png", width, height)
            with pytest.raises(integrity.Damaged, match="pixels end after"):
                integrity.png(png(header, bytes(rows[:-1]), before=before))
            assert not integrity.png(png(header, bytes(rows) + b"\0", before=before))
            rows[0] = 5  # there are five filters, from 0
            bad = png(header, bytes(rows), before=before)
            assert not integrity.png(bad)
            assert inspected(bad) == decoded(bad) == "truncated"


def test_a_wrong_filter_is_found_in_every_row_however_the_pixels_are_parted() -> None:
    stride, count = 3001, 300  # several blocks of what is inflated at once
    for row in (0, 1, 87, 88, 174, 175, count - 1):
        rows = bytearray(stride * count)
        rows[row * stride] = 9
        assert not integrity.png(png((1000, count, 8, 2, 0), bytes(rows), piece=100))


def test_a_wrong_checksum_of_pixels_is_damage_though_pillow_does_not_look() -> None:
    data = bytearray(PNGS[0])
    data[data.index(b"IEND") - 5] ^= 1
    assert isinstance(decoded(bytes(data)), ImageInfo)
    with pytest.raises(BadImage, match="checksum") as error:
        inspect(bytes(data))
    assert error.value.reason == "truncated"


@pytest.mark.parametrize("name", [b"acTL", b"zTXt", b"fdAT", b"abCd", b"ABCD"])
def test_odd_chunks_are_left_to_the_decoder(name: bytes) -> None:
    for where in ("before", "behind"):
        odd = chunk(name, b"\0" * 30)
        data = png((2, 2, 8, 0, 0), bytes(6), **{where: odd})  # type: ignore[arg-type]
        assert name in data
        assert inspected(data) == decoded(data)


def test_a_large_png_is_not_held_in_memory(tmp_path: Path) -> None:
    data = png((10_000, 10_000, 8, 2, 0), bytes(30_001 * 10_000))
    assert len(data) < 1_000_000
    assert inspect(data) == ImageInfo("png", 10_000, 10_000)
    path = tmp_path / "large.png"
    path.write_bytes(data)
    peak = traced(
        """
from pathlib import Path
from imagetag.imaging import inspect

data = Path(sys.argv[1]).read_bytes()
tell(peak(lambda: inspect(data)))
""",
        [str(path)],
    )
    assert peak < 4_000_000


# Files made to keep a parser busy, or memory full.


def scans(count: int) -> bytes:
    """A progressive JPEG whose first scan comes so often."""
    header, _, rest = segments(JPEGS[5])
    return header + rest[: rest.index(b"\xff\xda", 2)] * count + rest


HEADER, REST = segments(JPEGS[0])[::2]
FLOODS: dict[str, Callable[[], bytes]] = {
    "zeros": lambda: b"\xff\xd8\xff" + bytes(20_000_000),
    "fill": lambda: HEADER + b"\xff" * 20_000_000 + REST,
    "stuffed": lambda: b"\xff\xd8" + b"\xff\x00" * 10_000_000,
    "restarts": lambda: HEADER + b"\xff\xd0" * 10_000_000 + REST,
    "comments": lambda: HEADER + b"\xff\xfe\0\2" * 5_000_000 + REST,
    "markers": lambda: HEADER + b"\xff\xf0" * 10_000_000 + REST,
    "chunks": lambda: PNGS[0][:33] + chunk(b"abCd", b"") * 2_000_000 + PNGS[0][33:],
    "empty pixels": lambda: PNGS[0][:33] + chunk(b"IDAT", b"") * 2_000_000 + PNGS[0][33:],
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_parts_is_refused_before_it_is_parsed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_opened", no_decoding)
    with pytest.raises(BadImage, match="more than") as error:
        inspect(FLOODS[name]())
    assert error.value.reason == "not_an_image"


def test_a_flood_of_scans_is_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert inspect(scans(100)).width == 60
    monkeypatch.setattr(images, "_load", no_decoding)
    for damage in (b"", b"\0"):  # with and without a reason to decode it
        with pytest.raises(BadImage, match="more than") as error:
            inspect(scans(1000)[:-2] + damage + b"\xff\xd9")
        assert error.value.reason == "not_an_image"


LONG: dict[str, Callable[[], bytes]] = {
    "fill": lambda: JPEGS[0][:-2] + b"\xff" * 10_000_000,
    "restarts": lambda: JPEGS[0][:-2] + b"\xff\xd0" * 5_000_000,
    "comments": lambda: JPEGS[0][:-2] + b"\xff\xfe\0\2" * 2_000_000,
    "bomb": lambda: png((1, 1, 8, 0, 0), bytes(50_000_000)),
    "empty pixels": lambda: PNGS[0][:33] + chunk(b"IDAT", b"") * 90_000 + PNGS[0][33:],
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_way_to_the_end_is_walked_once(name: str) -> None:
    data = LONG[name]()
    assert inspected(data) == decoded(data)


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = (encoded(Image.new("1", size), "BMP") for size in ((5000, 4000), (50, 40)))
    load, lock = images._load, threading.Lock()
    under_way: list[int] = []
    most: dict[bool, int] = {True: 0, False: 0}

    def slow(image: Image.Image) -> None:
        big = image.width > 100
        with lock:
            under_way.append(big)
            most[big] = max(most[big], under_way.count(big))
        time.sleep(0.05)
        load(image)
        with lock:
            under_way.remove(big)

    monkeypatch.setattr(images, "_load", slow)
    work: list[Callable[[], object]] = [lambda: inspect(large), lambda: images.load_rgb(large)]
    work += [lambda: inspect(small)] * 4
    threads = [threading.Thread(target=one) for one in work * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[True] == 1
    assert most[False] > 1
