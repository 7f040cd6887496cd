"""From storage to batches: each image once, in its shape, with its label, and decoded once."""

from __future__ import annotations

import hashlib
import io
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import boto3
import keras
import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from imagetag import dataset
from imagetag.dataset import Sample, Size, batches, load_pixels, sync
from imagetag.images import BadImage
from imagetag.layout import Layout
from imagetag.manifest import Row
from imagetag.storage import LocalStorage, Storage, open_storage

TAG = "re:zero"
GREY = (128, 128, 128)
SIZE = (8, 10)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


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


def plain(number: int) -> bytes:
    """A picture of one colour, by which `number_of` knows it again."""
    return encoded(Image.new("RGB", (SIZE[1], SIZE[0]), (number % 256, number // 256, 77)))


def number_of(pixels: Any) -> int:
    return int(pixels[0, 0, 0]) + 256 * int(pixels[0, 0, 1])


def make_row(data: bytes, number: int, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "post_id": number,
        "board": "safebooru",
        "page_url": f"https://board.example/post/{number}",
        "md5": hashlib.md5(data).hexdigest(),
        "ext": "png",
        "bytes": len(data),
        "width": SIZE[1],
        "height": SIZE[0],
        "tags": (),
        "rating": "general",
        "split": "train",
        "label": "positive" if number % 3 == 0 else "negative",
        "group": str(number),
    }
    return Row(**{**values, **changes})


# ---- one way from a file to pixels


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (67, 72)])
@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (1, 5000), (5000, 1), (3, 7), (31, 97), (40, 24), (640, 480), (333, 1000)],
)
def test_any_shape_is_letterboxed_with_its_aspect_kept(width: int, height: int, size: Size) -> None:
    pixels = load_pixels(encoded(Image.new("RGB", (width, height), (250, 240, 10))), size)

    assert pixels.shape == (*size, 3)
    assert pixels.dtype == np.uint8
    rows, columns = np.nonzero((pixels == (250, 240, 10)).all(axis=2))
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


def inside(pixels: Any, picture: Image.Image) -> tuple[Any, Any]:
    """The picture's part of the pixels, and what Pillow's antialiased resize makes of it."""
    height, width = pixels.shape[:2]
    scale = min(height / picture.height, width / picture.width)
    box = round(picture.width * scale), round(picture.height * scale)
    left, top = (width - box[0]) // 2, (height - box[1]) // 2
    expected = np.asarray(picture.resize(box, Image.Resampling.BILINEAR)).astype(int)
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
    ours, expected = inside(load_pixels(data, size), Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(ours - expected).mean() < 1.5
    assert np.quantile(np.abs(ours - expected), 0.99) < 16


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


def store(storage: Storage, count: int = 12, tag: str = TAG) -> dict[str, bytes]:
    """Store images; gives their content by md5."""
    images = {}
    for number in range(count):
        data = plain(number)
        row = make_row(data, number)
        storage.write(Layout(tag).image(row.split, row.label, row.md5, row.ext), data)
        images[row.md5] = data
    return images


def rows_of(images: dict[str, bytes]) -> list[Row]:
    return [make_row(data, number) for number, data in enumerate(images.values())]


def test_images_are_copied_and_come_in_the_order_of_their_md5(
    storage: Storage, tmp_path: Path
) -> None:
    images = store(storage)
    samples = sync(storage, TAG, iter(rows_of(images)), tmp_path / "cache")
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
    key = Layout(TAG).image(row.split, row.label, row.md5, row.ext)
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


# ---- the Keras generators


@pytest.fixture
def make_samples(tmp_path: Path) -> Callable[[int], list[Sample]]:
    """Make samples of plain pictures; every third is positive."""

    def make(count: int) -> list[Sample]:
        samples = []
        for number in range(count):
            data = plain(number)
            path = tmp_path / f"{number}.png"
            path.write_bytes(data)
            samples.append(Sample(make_row(data, number), path))
        return samples

    return make


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each file is decoded."""
    counts: Counter[str] = Counter()

    def counting(source: bytes | Path, size: Size) -> Any:
        counts[Path(str(source)).name] += 1
        return load_pixels(source, size)

    monkeypatch.setattr(dataset, "load_pixels", counting)
    return counts


def generator(samples: Sequence[Sample], **changes: Any) -> Any:
    options: dict[str, Any] = {"batch_size": 4, "shuffle_seed": None, "cache": ""}
    return batches(samples, SIZE, **{**options, **changes})


def epoch(batched: Any) -> list[int]:
    """The numbers of one epoch's images, in order; each has its label and its own pixels."""
    numbers = []
    for pixels, targets in batched.as_numpy_iterator():
        for image, target in zip(pixels, targets, strict=True):
            number = number_of(image)
            assert target == [float(number % 3 == 0)]
            assert (image == image[0, 0]).all()
            numbers.append(number)
    return numbers


def test_batches_have_their_shapes_and_a_smaller_last_one(
    make_samples: Callable[[int], list[Sample]],
) -> None:
    found = list(generator(make_samples(10)).as_numpy_iterator())
    assert [pixels.shape for pixels, _ in found] == [(4, 8, 10, 3), (4, 8, 10, 3), (2, 8, 10, 3)]
    assert [targets.shape for _, targets in found] == [(4, 1), (4, 1), (2, 1)]
    assert {(pixels.dtype.name, targets.dtype.name) for pixels, targets in found} == {
        ("uint8", "float32")
    }


def test_without_a_seed_the_order_is_kept(make_samples: Callable[[int], list[Sample]]) -> None:
    samples = make_samples(11)
    Random(1).shuffle(samples)
    batched = generator(samples)
    expected = [sample.row.post_id for sample in samples]
    assert epoch(batched) == expected
    assert epoch(batched) == expected


@pytest.mark.parametrize("waiting", [1024, 5])
def test_each_epoch_has_every_image_once_in_another_order(
    waiting: int, make_samples: Callable[[int], list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_SHUFFLE_IMAGES", waiting)
    batched = generator(make_samples(30), shuffle_seed=3)
    epochs = [epoch(batched) for _ in range(4)]
    for numbers in epochs:
        assert sorted(numbers) == list(range(30))
    assert len({tuple(numbers) for numbers in [*epochs, range(30)]}) == 5


def test_the_same_seed_gives_the_same_orders_and_another_gives_others(
    make_samples: Callable[[int], list[Sample]],
) -> None:
    def orders(seed: int) -> list[list[int]]:
        keras.utils.set_random_seed(9)
        batched = generator(samples, shuffle_seed=seed)
        return [epoch(batched) for _ in range(3)]

    samples = make_samples(30)
    assert orders(5) == orders(5)
    assert orders(5)[0] != orders(6)[0]


def test_few_large_images_wait_to_be_drawn_from(
    make_samples: Callable[[int], list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, image_bytes = make_samples(40), SIZE[0] * SIZE[1] * 3
    monkeypatch.setattr(dataset, "_SHUFFLE_BYTES", image_bytes)
    fed = epoch(generator(samples, shuffle_seed=3))
    monkeypatch.setattr(dataset, "_SHUFFLE_BYTES", 4 * image_bytes)
    drawn = epoch(generator(samples, shuffle_seed=3))
    assert drawn != fed
    # With four that wait, none comes more than three places before its turn.
    assert max(fed.index(number) - drawn.index(number) for number in fed) == 3


@pytest.mark.parametrize("seed", [None, 3])
def test_a_cache_in_a_file_and_one_in_memory_give_the_same_decoded_once(
    seed: int | None,
    make_samples: Callable[[int], list[Sample]],
    decoded: Counter[str],
    tmp_path: Path,
) -> None:
    samples = make_samples(21)
    results = []
    for cache in ("", str(tmp_path / "cache")):
        keras.utils.set_random_seed(9)
        decoded.clear()
        batched = generator(samples, shuffle_seed=seed, cache=cache)
        results.append([epoch(batched) for _ in range(3)])
        assert decoded == {sample.path.name: 1 for sample in samples}
    assert results[0] == results[1]


def test_what_cannot_be_decoded_is_left_out_with_a_warning_once(
    make_samples: Callable[[int], list[Sample]],
) -> None:
    samples = make_samples(12)
    samples[2].path.write_bytes(b"no picture")
    samples[7].path.write_bytes(samples[7].path.read_bytes()[:50])
    samples[9].path.unlink()
    batched = generator(samples)
    with capture_logs() as logs:
        assert epoch(batched) == epoch(batched) == [0, 1, 3, 4, 5, 6, 8, 10, 11]
    assert sorted((line["log_level"], line["event"], line["file"]) for line in logs) == [
        ("warning", "left out", str(samples[number].path)) for number in (2, 7, 9)
    ]


@pytest.mark.parametrize("count", range(1, 12))
def test_no_replica_gets_nothing_of_a_batch(
    count: int, make_samples: Callable[[int], list[Sample]]
) -> None:
    batched = generator(make_samples(count), batch_size=8, replicas=4)
    assert all(len(pixels) % 4 == 0 for pixels, _ in batched.as_numpy_iterator())
    numbers = epoch(batched)
    assert set(numbers) == set(range(count))
    assert len(numbers) - count < 4
