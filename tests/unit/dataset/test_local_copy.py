"""From storage to pixels: a local copy, and one way from a file to the input."""

from __future__ import annotations

import io
import secrets
import threading
from pathlib import Path
from typing import Any, get_args

import boto3
import numpy as np
import pytest
from PIL import Image, ImageOps, JpegImagePlugin
from structlog.testing import capture_logs

from imagetag.dataset.local_copy import Resize, load_pixels, sync
from imagetag.dataset.manifest import Row
from imagetag.imaging.images import BadImage, Size
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from imagetag.storage.opening import open_storage
from tests.builders.pictures import encoded, plain
from tests.builders.rows import key_of, row_of

TAG = "re:zero"
GREY = (128, 128, 128)
SIZE = (8, 10)
MODES = get_args(Resize)
SIZES = [(32, 32), (24, 40), (67, 72)]
SHAPES = [(1, 1), (1, 5000), (5000, 1), (3, 7), (31, 97), (40, 24), (640, 480), (333, 1000)]


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of soft shapes with some sharp edges in it."""
    random = np.random.default_rng(seed)
    soft = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    picture = soft.resize((width, height), Image.Resampling.BICUBIC)
    for _ in range(5):
        x, y = int(random.integers(0, width)), int(random.integers(0, height))
        colour = tuple(map(int, random.integers(0, 256, 3)))
        picture.paste(colour, (x, y, x + width // 5 + 1, y + height // 5 + 1))
    return picture


# ---- one way from a file to pixels


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("width", "height"), [*SHAPES, (900, 21), (601, 9)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_any_shape_is_letterboxed_with_its_aspect_kept(
    kind: str, width: int, height: int, size: Size
) -> None:
    pixels = load_pixels(encoded(Image.new("RGB", (width, height), (255, 255, 255)), kind), size)

    assert pixels.shape == (*size, 3)
    assert pixels.dtype == np.uint8
    rows, columns = np.nonzero((pixels == (255, 255, 255)).all(axis=2))
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    # It fills one side, and the other as its aspect wants, to half a pixel.
    scale = min(size[0] / height, size[1] / width)
    assert abs(bottom - top - max(1, height * scale)) <= 0.5
    assert abs(right - left - max(1, width * scale)) <= 0.5
    # It is in the middle, and all else is grey.
    assert 0 <= (size[0] - bottom) - top <= 1
    assert 0 <= (size[1] - right) - left <= 1
    outside = np.ones(size, bool)
    outside[top:bottom, left:right] = False
    assert (pixels[outside] == GREY).all()
    assert len(rows) == (bottom - top) * (right - left)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("width", "height"), SHAPES)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_any_shape_fills_all_if_it_is_cropped_or_stretched(
    resize: Resize, kind: str, width: int, height: int, size: Size
) -> None:
    data = encoded(Image.new("RGB", (width, height), (255, 255, 255)), kind)
    pixels = load_pixels(data, size, resize)
    assert pixels.shape == (*size, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == 255).all()


def test_no_mode_is_letterbox() -> None:
    data = encoded(scene(90, 70))
    np.testing.assert_array_equal(load_pixels(data, SIZE), load_pixels(data, SIZE, "letterbox"))


def gradients(width: int, height: int) -> Image.Image:
    """A picture whose red tells how far right a pixel is, and whose green how far down."""
    across = np.linspace(0, 255, width)[None, :].repeat(height, axis=0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, axis=1)
    values = np.stack([across, down, np.full_like(down, 128)], axis=2)
    return Image.fromarray(values.round().astype(np.uint8))


@pytest.mark.parametrize("size", [(32, 32), (20, 64), (64, 20)])
@pytest.mark.parametrize(("width", "height"), [(256, 96), (257, 99), (255, 1100)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_crop_shows_the_middle_with_its_aspect_kept(
    kind: str, width: int, height: int, size: Size
) -> None:
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(gradients(width, height), kind, **options)
    pixels = load_pixels(data, size, "crop").astype(float)
    scale = max(size[0] / height, size[1] / width)
    for axis, (side, whole) in enumerate([(size[0], height), (size[1], width)]):
        place = whole / 2 + (np.arange(side) + 0.5 - side / 2) / scale
        expected = (place - 0.5) / (whole - 1) * 255
        found = pixels[..., 1 - axis].mean(axis=1 - axis)
        levels_a_pixel = 255 / (whole - 1) / scale
        # A JPEG decoded smaller ends in a pixel that is not all picture.
        pixels_off = 1.0 if kind == "JPEG" else 0.15
        assert np.abs(found - expected)[1:-1].max() < max(1.2, pixels_off * levels_a_pixel)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (5000, 1), (3, 7), (97, 61)])
def test_a_crop_is_that_of_pillow(width: int, height: int, size: Size) -> None:
    picture = scene(width, height)
    expected = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.BILINEAR)
    difference = load_pixels(encoded(picture), size, "crop") - np.asarray(expected).astype(int)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("size", [(48, 64), (64, 20)])
@pytest.mark.parametrize(("width", "height"), [(500, 400), (900, 1500), (1500, 70)])
def test_a_large_crop_is_that_of_pillow(width: int, height: int, size: Size) -> None:
    picture = scene(width, height)
    expected = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.BILINEAR)
    difference = np.abs(load_pixels(encoded(picture), size, "crop") - np.asarray(expected, int))
    assert difference.mean() < 0.5
    assert difference.max() < 24  # at a sharp edge


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (5000, 1), (97, 61), (900, 1500)])
def test_a_stretch_is_the_resize_of_pillow(width: int, height: int, size: Size) -> None:
    picture = scene(width, height)
    expected = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    np.testing.assert_array_equal(load_pixels(encoded(picture), size, "stretch"), expected)


@pytest.mark.parametrize("resize", MODES)
def test_a_line_of_millions_of_pixels_is_fitted_without_drawing_what_is_cut(resize: Resize) -> None:
    # All of it at a size that fills the input would be a picture of 10^11 pixels.
    for width, height in [(1, 20_000_003), (20_000_003, 1)]:
        data = encoded(Image.new("L", (width, height), 255), compress_level=1)
        pixels = load_pixels(data, (64, 72), resize)
        assert pixels.shape == (64, 72, 3)
        assert (pixels >= 250).all() == (resize != "letterbox")


def inside(
    pixels: Any, picture: Image.Image, by: Image.Resampling = Image.Resampling.BILINEAR
) -> tuple[Any, Any]:
    """The picture's part of the pixels, and what Pillow's antialiased resize makes of it."""
    height, width = pixels.shape[:2]
    scale = min(height / picture.height, width / picture.width)
    box = round(picture.width * scale), round(picture.height * scale)
    left, top = (width - box[0]) // 2, (height - box[1]) // 2
    expected = np.asarray(picture.resize(box, by)).astype(int)
    return pixels[top : top + box[1], left : left + box[0]].astype(int), expected


@pytest.mark.parametrize(
    ("width", "height"), [(20, 15), (50, 64), (64, 64), (130, 65), (500, 400), (900, 1500)]
)
def test_pixels_are_those_of_an_antialiased_resize(width: int, height: int) -> None:
    picture = scene(width, height)
    ours, expected = inside(load_pixels(encoded(picture), (64, 64)), picture)
    assert np.abs(ours - expected).mean() < 0.5
    assert np.abs(ours - expected).max() < 24  # at a sharp edge


@pytest.mark.parametrize(("width", "height"), [(160, 120), (800, 600), (1201, 1797)])
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (100, 20)])
def test_a_jpeg_decoded_at_a_part_of_its_size_looks_as_in_full(
    width: int, height: int, size: Size
) -> None:
    data = encoded(scene(width, height), "JPEG", quality=92)
    # Where the decoder does it all, its means of blocks are what is seen.
    exact = (width, height, size) == (160, 120, (100, 20))
    by = Image.Resampling.BOX if exact else Image.Resampling.BILINEAR
    full = Image.open(io.BytesIO(data)).convert("RGB")
    ours, expected = inside(load_pixels(data, size), full, by)
    assert np.abs(ours - expected).mean() < 1.5
    assert np.quantile(np.abs(ours - expected), 0.99) < 16


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.fixture
def decoded_sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Note the (width, height), as stored, at which JPEGs are decoded."""
    sizes: list[tuple[int, int]] = []
    load = JpegImagePlugin.JpegImageFile.load

    def noting(image: JpegImagePlugin.JpegImageFile) -> Any:
        if not sizes or sizes[-1] != image.size:
            sizes.append(image.size)
        return load(image)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", noting)
    return sizes


@pytest.mark.parametrize(
    ("stored", "orientation", "size", "resize", "decoded_at"),
    [
        ((1000, 1500), 1, (300, 200), "letterbox", (250, 375)),
        ((1000, 1500), 3, (300, 200), "letterbox", (250, 375)),
        ((1500, 1000), 6, (300, 200), "letterbox", (375, 250)),
        ((1500, 1000), 5, (300, 200), "crop", (375, 250)),
        ((1500, 1000), 8, (300, 200), "stretch", (375, 250)),
        ((1600, 1200), 1, (200, 200), "letterbox", (200, 150)),
        ((1600, 1200), 1, (200, 200), "crop", (400, 300)),
        ((1600, 1200), 1, (200, 200), "stretch", (400, 300)),
        ((1600, 1200), 1, (150, 200), "stretch", (200, 150)),
        ((1600, 1200), 7, (150, 200), "stretch", (400, 300)),
        ((1607, 1600), 1, (200, 200), "crop", (201, 200)),
        ((1600, 1607), 1, (200, 200), "crop", (200, 201)),
        ((1599, 1200), 1, (150, 200), "stretch", (400, 300)),
        ((400, 600), 1, (300, 200), "letterbox", (200, 300)),
        ((399, 600), 1, (300, 200), "stretch", (399, 600)),
        ((30, 20), 1, (300, 200), "letterbox", (30, 20)),
        ((1, 5000), 1, (100, 100), "letterbox", (1, 5000)),
        ((1, 5000), 1, (100, 100), "crop", (1, 5000)),
        ((8, 5000), 1, (100, 100), "letterbox", (1, 625)),
    ],
)
def test_a_jpeg_is_decoded_as_small_as_what_is_shown_of_it_allows(
    stored: tuple[int, int],
    orientation: int,
    size: Size,
    resize: Resize,
    decoded_at: tuple[int, int],
    decoded_sizes: list[tuple[int, int]],
) -> None:
    data = encoded(Image.new("RGB", stored, (250, 240, 10)), "JPEG", exif=oriented(orientation))
    assert load_pixels(data, size, resize).shape == (*size, 3)
    assert decoded_sizes == [decoded_at]


def test_a_jpeg_of_broken_exif_is_decoded_as_an_upright_one(
    decoded_sizes: list[tuple[int, int]],
) -> None:
    data = encoded(Image.new("RGB", (1000, 1500)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    load_pixels(data, (300, 200))
    assert decoded_sizes == [(250, 375)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("resize", MODES)
def test_a_picture_that_exif_turns_is_fitted_after_that(
    resize: Resize, kind: str, orientation: int
) -> None:
    data = encoded(gradients(700, 500), kind, exif=oriented(orientation))
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)).convert("RGB"))
    assert turned.size == ((500, 700) if orientation > 4 else (700, 500))
    for size in [(50, 64), (64, 20)]:
        expected = load_pixels(encoded(turned), size, resize).astype(int)
        assert np.abs(load_pixels(data, size, resize) - expected).mean() < 1


def test_a_path_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    data = encoded(scene(90, 70), "JPEG")
    (tmp_path / "some").write_bytes(data)
    np.testing.assert_array_equal(
        load_pixels(tmp_path / "some", (32, 48)), load_pixels(data, (32, 48))
    )


def test_what_is_no_picture_is_a_bad_image() -> None:
    with pytest.raises(BadImage):
        load_pixels(b"<html>", (32, 32))
    with pytest.raises(BadImage):
        load_pixels(encoded(scene(90, 70))[:-300], (32, 32))


# ---- a local copy


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(str(tmp_path / "storage"))
    request.getfixturevalue("s3_settings")
    bucket = f"bucket-{secrets.token_hex(4)}"
    boto3.Session().client("s3").create_bucket(Bucket=bucket)
    return open_storage(f"s3://{bucket}/some/prefix")


def a_row(number: int, data: bytes) -> Row:
    return row_of(number, data, split="train", label="negative" if number % 3 else "positive")


def store(storage: Storage, count: int = 12, tag: str = TAG) -> dict[str, bytes]:
    """Store images; gives their content by md5."""
    images = {}
    for number in range(count):
        data = plain(SIZE[1], SIZE[0], (number % 256, number // 256, 77))
        row = a_row(number, data)
        storage.write(key_of(row, tag), data)
        images[row.md5] = data
    return images


def rows_of(images: dict[str, bytes]) -> list[Row]:
    return [a_row(number, data) for number, data in enumerate(images.values())]


def test_images_are_copied_and_come_in_the_order_of_their_md5(
    storage: Storage, tmp_path: Path
) -> None:
    images = store(storage)
    samples = sync(storage, TAG, rows_of(images), tmp_path / "cache")
    assert [sample.row.md5 for sample in samples] == sorted(images)
    assert {sample.row.md5: sample.path.read_bytes() for sample in samples} == images
    assert [sample.target for sample in samples] == [
        int(sample.row.post_id % 3 == 0) for sample in samples
    ]


def test_what_is_there_is_not_fetched_again_for_this_tag_or_another(
    storage: Storage, tmp_path: Path
) -> None:
    images = store(storage)
    first = sync(storage, TAG, rows_of(images), tmp_path / "cache")
    for entry in list(storage.list()):
        storage.delete(entry.key)
    with capture_logs() as logs:
        again = sync(storage, TAG, rows_of(images), tmp_path / "cache")
        other = sync(storage, "other", rows_of(images), tmp_path / "cache")
    assert again == other == first
    assert logs == []


def test_a_missing_image_is_left_out_with_a_warning(storage: Storage, tmp_path: Path) -> None:
    images = store(storage)
    row = rows_of(images)[4]
    key = key_of(row, TAG)
    storage.delete(key)
    with capture_logs() as logs:
        samples = sync(storage, TAG, rows_of(images), tmp_path / "cache")
    assert [sample.row.md5 for sample in samples] == sorted(images.keys() - {row.md5})
    (line,) = logs
    assert (line["log_level"], line["event"], line["reason"]) == ("warning", "left out", "missing")
    assert key in line["detail"]


def test_a_local_copy_of_another_size_is_replaced(storage: Storage, tmp_path: Path) -> None:
    images = store(storage)
    first = sync(storage, TAG, rows_of(images), tmp_path / "cache")
    first[0].path.write_bytes(b"cut off")
    first[1].path.unlink()
    again = sync(storage, TAG, rows_of(images), tmp_path / "cache")
    assert {sample.row.md5: sample.path.read_bytes() for sample in again} == images


def test_a_local_copy_of_the_same_size_is_not_trusted(storage: Storage, tmp_path: Path) -> None:
    images = store(storage)
    first = sync(storage, TAG, rows_of(images), tmp_path / "cache")
    for number, sample in enumerate(first[:3]):
        data = bytearray(sample.path.read_bytes())
        data[-1 - number] ^= 1
        sample.path.write_bytes(data)
    first[3].path.unlink()
    first[3].path.symlink_to(first[3].path.name)
    again = sync(storage, TAG, rows_of(images), tmp_path / "cache")
    assert {sample.row.md5: sample.path.read_bytes() for sample in again} == images


def test_downloads_are_under_way_at_once_and_no_more_than_asked(tmp_path: Path) -> None:
    together, lock = threading.Barrier(4, timeout=20), threading.Lock()
    under_way = most = 0

    class Slow(LocalStorage):
        def download(self, key: str, path: Path) -> None:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            together.wait()  # passes only four of them together
            with lock:
                under_way -= 1
            super().download(key, path)

    storage = Slow(tmp_path / "storage")
    images = store(storage, 12)
    samples = sync(storage, TAG, rows_of(images), tmp_path / "cache", concurrency=4)
    assert len(samples) == 12
    assert most == 4
