"""Packing: each image in one shard, the same however it was made; batches that can be resumed."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import itertools
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_sample_images
from structlog.testing import capture_logs

from imagetag.dataset.local_copy import Resize, load_pixels
from imagetag.dataset.manifest import (
    Row,
    load_dataset,
)
from imagetag.dataset.split import parts_of_groups
from imagetag.errors import InputError, TransientError, UsageError
from imagetag.imaging.images import Size
from imagetag.inputs.batch_plan import NOISE
from imagetag.inputs.cleaning import Cleaning
from imagetag.inputs.pack import Packing, encode_jpeg, pack_tag
from imagetag.inputs.pack_index import Packed, Shard, load_packed
from imagetag.inputs.shard_feed import PackedFeed
from imagetag.inputs.tfrecord import make_example
from imagetag.layout import Layout, PartName
from imagetag.storage.base import ObjectNotFound, Storage
from imagetag.storage.local import LocalStorage
from jobs.pack import main
from tests.builders.datasets import store_dataset
from tests.builders.pictures import encoded, plain
from tests.builders.rows import key_of, row_of
from tests.storages import Late
from tests.traced import traced

TAG = "re:zero"
SIZE = (8, 12)
LAYOUT = Layout(TAG)
MODES: Sequence[Resize] = get_args(Resize)
PARTS: tuple[PartName, ...] = ("train", "validation")
IMAGES = 150
PART_OF = parts_of_groups(
    (
        (str(number), "negative" if number % 3 else "positive")
        for number in range(IMAGES)
        if number % 10 != 9
    ),
    0.3,
    0.2,
)
PACKING = Packing(image_size="8x12", shard_bytes=9000, validation_fraction=0.3)


PACKED = [number for number in range(IMAGES) if PART_OF.get(str(number)) in PARTS]


# ---- what is packed


def one_colour(number: int) -> bytes:
    """A picture by which `number_of` knows its number again."""
    return plain(SIZE[1], SIZE[0], (number % 16 * 15, number // 16 * 15, 77))


def number_of(pixels: Any) -> int:
    return round(int(pixels[4, 6, 0]) / 15) + 16 * round(int(pixels[4, 6, 1]) / 15)


def a_row(number: int, data: bytes, **changes: Any) -> Row:
    split = "test" if number % 10 == 9 else "train"
    label = "negative" if number % 3 else "positive"
    return row_of(number, data, **{"split": split, "label": label, **changes})


def scraped(
    storage: Storage, images: int = IMAGES, data: Callable[[int], bytes] = one_colour
) -> None:
    """Store a dataset of numbered pictures."""
    files = [data(number) for number in range(images)]
    store_dataset(storage, TAG, [a_row(*each) for each in enumerate(files)], files)


class Recorded(LocalStorage):
    """A folder that notes what is read and written, and may fail at a write."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened: list[str] = []
        self.written: list[str] = []
        self.fail_at: int | None = None
        self.before = True

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        self.opened.append(key)
        return super().open(key)

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        fails = self.fail_at == len(self.written)
        self.written.append(key)
        if fails and self.before:
            raise KeyboardInterrupt
        super().write(key, data)
        if fails:
            raise KeyboardInterrupt


@pytest.fixture
def storage(tmp_path: Path) -> Recorded:
    storage = Recorded(tmp_path / "data")
    scraped(storage)
    storage.written.clear()
    return storage


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorded, Packed]:
    """A storage with a pack that was made in one go."""
    storage = Recorded(tmp_path_factory.mktemp("undisturbed"))
    scraped(storage)
    storage.written.clear()
    return storage, pack_tag(storage, TAG, PACKING)


def records(storage: Storage, shard: Shard) -> list[dict[str, Any]]:
    """What is in a shard, as TensorFlow reads it, its checksums included."""
    kinds = {
        "jpeg": tf.io.FixedLenFeature([], tf.string),
        "target": tf.io.FixedLenFeature([], tf.int64),
        "md5": tf.io.FixedLenFeature([], tf.string),
    }
    path = f"{storage.url}/{shard.key}"
    return [
        {name: value.numpy() for name, value in tf.io.parse_single_example(raw, kinds).items()}
        for raw in tf.data.TFRecordDataset(path)
    ]


def packed_files(storage: Storage) -> dict[str, str]:
    """The digest of all that packs have in storage, but for when they were made."""
    found = {}
    for entry in storage.list(LAYOUT.root + "packed/"):
        data = re.sub(rb'"created": "[^"]*"', b"", storage.read(entry.key))
        found[entry.key] = hashlib.sha256(data).hexdigest()
    return found


# ---- what is in a pack


def test_each_image_of_the_train_split_is_in_one_shard_of_its_part(
    undisturbed: tuple[Recorded, Packed],
) -> None:
    storage, packed = undisturbed
    for part in PARTS:
        expected = {
            hashlib.md5(one_colour(number)).hexdigest(): int(number % 3 == 0)
            for number in range(IMAGES)
            if PART_OF.get(str(number)) == part
        }
        found = [record for shard in packed.parts[part] for record in records(storage, shard)]
        assert len(found) == len(expected)
        assert {record["md5"].decode(): record["target"] for record in found} == expected
        assert len(packed.parts[part]) > 2
        assert packed.images(part) == {
            "positive": sum(expected.values()),
            "negative": len(expected) - sum(expected.values()),
        }


def test_the_index_says_what_a_shard_is(undisturbed: tuple[Recorded, Packed]) -> None:
    storage, packed = undisturbed
    for part in PARTS:
        sizes = []
        for number, shard in enumerate(packed.parts[part]):
            data = storage.read(shard.key)
            assert shard.key == LAYOUT.shard(packed.name, part, number, len(packed.parts[part]))
            assert (shard.bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())
            targets = [record["target"] for record in records(storage, shard)]
            assert shard.labels == {"positive": sum(targets), "negative": targets.count(0)}
            assert shard.images == len(targets)
            sizes.append(len(targets))
        assert max(sizes) - min(sizes) <= 1
    assert (packed.image_size, packed.resize) == (SIZE, "letterbox")
    assert packed.fingerprint == load_dataset(storage, TAG).fingerprint


def test_shards_are_mixed(undisturbed: tuple[Recorded, Packed]) -> None:
    storage, packed = undisturbed
    found = [record for shard in packed.parts["train"] for record in records(storage, shard)]
    first = found[: len(found) // 2]
    least = sorted(record["md5"] for record in found)[: len(found) // 2]
    assert 0.3 < sum(record["md5"] in least for record in first) / len(first) < 0.7
    positive = sum(record["target"] for record in found)
    assert 0.3 < sum(record["target"] for record in first) / positive < 0.7


@pytest.mark.parametrize("quality", [75, 95, 100])
def test_shards_are_about_as_large_as_they_should_be(tmp_path: Path, quality: int) -> None:
    photos = [Image.fromarray(array) for array in load_sample_images().images]

    def cut(number: int) -> bytes:
        photo = photos[number % 2]
        left, top = number * 7 % 200, number * 3 % 100
        return encoded(photo.crop((left, top, left + 400, top + 300)), "JPEG", quality=90)

    storage = LocalStorage(tmp_path)
    files = [cut(number) for number in range(24)]
    rows = [a_row(number, data, split="train") for number, data in enumerate(files)]
    store_dataset(storage, TAG, rows, files)
    packing = Packing(image_size="224x224", jpeg_quality=quality, shard_bytes=150_000)
    shards = pack_tag(storage, TAG, packing).parts["train"]
    assert 0.4 * 150_000 < np.mean([shard.bytes for shard in shards]) < 1.6 * 150_000


def test_a_shard_is_the_same_however_many_threads_made_it(
    undisturbed: tuple[Recorded, Packed], storage: Recorded
) -> None:
    pack_tag(storage, TAG, PACKING, concurrency=1)
    assert packed_files(storage) == packed_files(undisturbed[0])


def test_a_record_is_the_same_in_every_process() -> None:
    # What protobuf writes by default differs between them.
    digest = hashlib.sha256(make_example(b"jpeg", 1, "0" * 32)).hexdigest()
    assert digest == "00eda3cbef2643e8882b8e9d5cd21b19e867a5f68a325861e12840eb6d05cbf1"


def test_whatever_decides_the_content_decides_the_name(
    undisturbed: tuple[Recorded, Packed], storage: Recorded
) -> None:
    changes: list[dict[str, Any]] = [
        {"image_size": "12x8"},
        {"resize": "crop"},
        {"validation_fraction": 0.4},
        {"threshold_fraction": 0.3},
        {"jpeg_quality": 90},
        {"shard_bytes": 5000},
        {"seed": 2},
    ]
    names = {pack_tag(storage, TAG, PACKING.model_copy(update=change)).name for change in changes}
    names.add(undisturbed[1].name)
    rows = [a_row(number, one_colour(number)) for number in range(IMAGES - 1)]
    store_dataset(storage, TAG, rows)
    names.add(pack_tag(storage, TAG, PACKING).name)
    # Another group may be held out.
    store_dataset(storage, TAG, [rows[0].model_copy(update={"group": "x"}), *rows[1:]])
    names.add(pack_tag(storage, TAG, PACKING).name)
    assert len(names) == len(changes) + 3


# ---- pixels


@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize("size", [(224, 224), (96, 160), (500, 700)])
def test_what_is_read_is_what_load_pixels_gives_but_for_the_loss_of_jpeg(
    size: Size, resize: Resize
) -> None:
    for array in load_sample_images().images:
        for photo in (Image.fromarray(array), Image.fromarray(array).crop((200, 50, 330, 400))):
            data = encoded(photo, "JPEG", quality=92)
            expected = load_pixels(data, size, resize)
            found = load_pixels(encode_jpeg(data, size, resize, 95), size, resize)
            assert np.abs(found.astype(int) - expected).mean() < 2


@pytest.mark.parametrize(
    ("width", "height", "resize", "stored"),
    [
        (400, 200, "letterbox", (64, 32)),
        (400, 200, "crop", (64, 64)),
        (400, 200, "stretch", (64, 64)),
        (40, 20, "letterbox", (40, 20)),
        (40, 20, "crop", (40, 20)),
        (40, 20, "stretch", (40, 20)),
        (70_000, 1, "letterbox", (64, 1)),
        (4_000, 1, "stretch", (4_000, 1)),
    ],
)
def test_no_bars_are_stored_nor_pixels_that_were_not_there(
    width: int, height: int, resize: Resize, stored: Size
) -> None:
    data = encoded(Image.new("RGB", (width, height), (250, 10, 10)))
    jpeg = Image.open(io.BytesIO(encode_jpeg(data, (64, 64), resize, 95)))
    assert (jpeg.format, jpeg.mode, jpeg.size) == ("JPEG", "RGB", stored)
    assert {layer[1:3] for layer in jpeg.layer} == {(1, 1)}  # type: ignore[attr-defined]
    pixels = np.asarray(jpeg).reshape(-1, 3).astype(int)
    assert np.abs(pixels - (250, 10, 10)).max() < 4  # red to its edges, and no grey


sides = st.integers(1, 300)


@given(sides, sides, sides, sides, st.sampled_from(MODES))
@example(1, 300, 64, 64, "letterbox")
@example(300, 1, 3, 200, "crop")
def test_the_frame_is_that_of_the_file(
    width: int, height: int, rows: int, columns: int, resize: Resize
) -> None:
    # A ramp shows where each pixel comes from, and its blue what is bars.
    across = np.linspace(20, 235, width)[None, :].repeat(height, axis=0)
    down = np.linspace(20, 235, height)[:, None].repeat(width, axis=1)
    ramp = np.stack([across, down, np.full_like(down, 30)], axis=2).round().astype(np.uint8)
    data = encoded(Image.fromarray(ramp))
    expected = load_pixels(data, (rows, columns), resize).astype(int)
    found = load_pixels(encode_jpeg(data, (rows, columns), resize, 100), (rows, columns), resize)
    assert np.abs(found - expected).mean() < 2.5
    assert np.abs(found - expected).max() < 16


# ---- stopped, done, lost


def test_stopped_at_any_write_it_ends_with_the_same_bytes(
    undisturbed: tuple[Recorded, Packed], tmp_path: Path
) -> None:
    expected = packed_files(undisturbed[0])
    count = len(undisturbed[0].written)
    assert count > 10
    for moment, before in itertools.product(range(count), (True, False)):
        storage = Recorded(tmp_path / f"{moment}-{before}")
        scraped(storage)
        storage.written.clear()
        storage.fail_at, storage.before = moment, before
        with pytest.raises(KeyboardInterrupt):
            pack_tag(storage, TAG, PACKING)
        stored = {entry.key for entry in storage.list(LAYOUT.root + "packed/")}
        assert stored <= expected.keys()  # nothing half-written stands under a name
        if moment < count - 2 or (moment == count - 2 and before):
            with pytest.raises(InputError):
                load_packed(storage, TAG, undisturbed[1].name)
        first, storage.fail_at = list(storage.written), None
        storage.written.clear()
        storage.opened.clear()
        pack_tag(storage, TAG, PACKING)
        assert packed_files(storage) == expected
        # Shards that were complete, with their notes, were not made again.
        noted = {key.replace(".json", ".tfrecord") for key in stored if "-of-" in key}
        noted &= {key for key in stored if key.replace(".tfrecord", ".json") in stored}
        assert not noted & set(storage.written)
        assert len(set(first) & set(storage.written)) <= 2
        left = count - 2 - 2 * len(noted)
        images = [key for key in storage.opened if key.startswith(f"{LAYOUT.root}train/")]
        assert (len(images) == 0) == (left <= 0)


def test_the_marker_comes_last_and_the_pointer_after_it(
    undisturbed: tuple[Recorded, Packed],
) -> None:
    storage, packed = undisturbed
    assert storage.written[-2:] == [LAYOUT.packed(packed.name, "index.json"), LAYOUT.latest_packed]
    shards = [shard.key for part in PARTS for shard in packed.parts[part]]
    assert [key for key in storage.written if key.endswith(".tfrecord")] == shards
    assert storage.read(LAYOUT.latest_packed).decode() == packed.name + "\n"
    assert load_packed(storage, TAG) == load_packed(storage, TAG, packed.name) == packed


def test_what_is_packed_is_left_as_it_is(storage: Recorded) -> None:
    packed = pack_tag(storage, TAG, PACKING)
    storage.written.clear()
    storage.opened.clear()
    with capture_logs() as logs:
        assert pack_tag(storage, TAG, PACKING) == packed
    assert storage.written == []
    assert not [key for key in storage.opened if "/train/" in key or "/manifest/" in key]
    assert [line["event"] for line in logs] == ["already packed"]
    storage.delete(LAYOUT.latest_packed)  # a kill came before it
    pack_tag(storage, TAG, PACKING)
    assert load_packed(storage, TAG) == packed


def test_shards_that_are_listed_late_are_not_written_again(storage: Recorded) -> None:
    storage.fail_at = len(("shard", "note", "shard"))
    with pytest.raises(KeyboardInterrupt):
        pack_tag(storage, TAG, PACKING)
    storage.fail_at = None
    first = set(storage.written[:2])
    storage.written.clear()
    late = Late(storage, lambda key: "/packed/" in key)
    packed = pack_tag(late, TAG, PACKING)
    assert not first & set(storage.written)
    storage.written.clear()
    assert pack_tag(late, TAG, PACKING) == packed
    assert storage.written == []


def test_the_pointer_does_not_go_back_to_an_older_pack(storage: Recorded) -> None:
    older = pack_tag(storage, TAG, PACKING)
    newer = pack_tag(storage, TAG, PACKING.model_copy(update={"seed": 2}))
    changed = newer.model_copy(update={"created": "2999-01-01T00:00:00+00:00"})
    storage.write(LAYOUT.packed(newer.name, "index.json"), changed.model_dump_json().encode())
    pack_tag(storage, TAG, PACKING)
    assert load_packed(storage, TAG).name == newer.name != older.name


@pytest.mark.parametrize("how", ["deleted", "cut"])
def test_a_lost_shard_is_written_again_and_no_other(storage: Recorded, how: str) -> None:
    packed = pack_tag(storage, TAG, PACKING)
    before = packed_files(storage)
    key = packed.parts["train"][1].key
    storage.delete(key)
    if how == "cut":
        storage.write(key, b"")
    storage.written.clear()
    pack_tag(storage, TAG, PACKING)
    assert packed_files(storage) == before
    assert [name for name in storage.written if name.endswith(".tfrecord")] == [key]


# ---- bad images


def test_images_that_cannot_be_read_are_left_out_and_counted(storage: Recorded) -> None:
    rows = {number: a_row(number, one_colour(number)) for number in range(IMAGES)}
    reasons = ("not_an_image", "truncated", "missing", "truncated")
    broken = dict(zip(PACKED, reasons, strict=False))
    for how, number in enumerate(broken, 1):
        row = rows[number]
        key = key_of(row, TAG)
        if how == 3:
            storage.delete(key)
        else:
            data = {1: b"x" * row.bytes, 2: b"", 4: one_colour(number) + b"x" * 9}[how]
            storage.write(key, data)
    with capture_logs() as logs:
        packed = pack_tag(storage, TAG, PACKING)
    told = {line["md5"]: line["reason"] for line in logs if line["event"] == "left out"}
    assert told == {rows[number].md5: reason for number, reason in broken.items()}
    shards = [shard for part in PARTS for shard in packed.parts[part]]
    counted = sum((Counter(shard.left_out) for shard in shards), Counter())
    assert counted == {"not_an_image": 1, "truncated": 2, "missing": 1}
    found = {record["md5"].decode() for shard in shards for record in records(storage, shard)}
    assert found == {
        row.md5 for number, row in rows.items() if number in PACKED and number not in broken
    }


def test_a_part_of_which_nothing_can_be_read_is_an_input_error(storage: Recorded) -> None:
    for number in range(IMAGES):
        row = a_row(number, one_colour(number))
        if PART_OF.get(row.group) == "validation":
            storage.delete(key_of(row, TAG))
    with pytest.raises(InputError, match="none of the validation images"):
        pack_tag(storage, TAG, PACKING)
    with pytest.raises(InputError):
        load_packed(storage, TAG)


def test_a_part_without_images_is_an_input_error(storage: Recorded) -> None:
    store_dataset(
        storage, TAG, [a_row(number, one_colour(number), group="0") for number in range(5)]
    )
    with pytest.raises(InputError, match=r"no images for (train|validation)"):
        pack_tag(storage, TAG, PACKING)


def test_a_storage_that_fails_stops_it(storage: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    plainly = storage.open

    def fail(key: str) -> AbstractContextManager[BinaryIO]:
        if len(storage.opened) > 60:
            raise TransientError("down")
        return plainly(key)

    monkeypatch.setattr(storage, "open", fail)
    with pytest.raises(TransientError, match="down"):
        pack_tag(storage, TAG, PACKING)


# ---- bounds


def test_a_bounded_number_of_images_is_in_flight(
    storage: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, first = threading.Event(), threading.Lock()
    plainly, images = storage.open, []

    def slow(key: str) -> AbstractContextManager[BinaryIO]:
        if key.startswith(f"{LAYOUT.root}train/"):
            images.append(key)
            if first.acquire(blocking=False):
                release.wait()
        return plainly(key)

    monkeypatch.setattr(storage, "open", slow)
    worker = threading.Thread(
        target=pack_tag, args=(storage, TAG, PACKING), kwargs={"concurrency": 3}
    )
    worker.start()
    while len(images) < 3:
        time.sleep(0.01)
    time.sleep(0.5)  # for more of them, which must not come
    try:
        assert len(images) <= 6
    finally:
        release.set()
        worker.join()
    assert len(images) == len(PACKED)


def test_no_more_than_one_shard_waits_on_the_disk(
    storage: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    plainly, seen = storage.upload, []

    def look(path: Path, key: str) -> None:
        seen.append([file for file in scratch.rglob("*") if file.is_file()])
        plainly(path, key)

    monkeypatch.setattr(storage, "upload", look)
    pack_tag(storage, TAG, PACKING)
    assert {len(files) for files in seen} == {1}
    assert list(scratch.iterdir()) == []


# ---- loading


def test_without_a_pack_one_is_told_to_make_one(storage: Recorded) -> None:
    with pytest.raises(InputError, match="run imagetag pack --tags re:zero first"):
        load_packed(storage, TAG)
    with pytest.raises(InputError, match=r"no complete pack 'x'.*run imagetag pack"):
        load_packed(storage, TAG, "x")
    with pytest.raises(UsageError, match=r"--packed '\.\./x'"):
        load_packed(storage, TAG, "../x")


@pytest.mark.parametrize(
    ("find", "replace"),
    [
        ('"version"', "version"),
        ('"version": 2', '"version": 1'),
        ('"tag": "re:zero"', '"tag": "other"'),
        ('"sha256": "', '"sha256": "z'),
        ('"positive": ', '"positive": -'),
        ("/train-00000-of", "/../../../x-of"),
        ('"validation": [', '"other": ['),
        ('"resize": "letterbox"', '"resize": "seam"'),
        ('"image_size": [\n    8', '"image_size": [\n    0'),
    ],
)
def test_a_damaged_index_is_an_input_error(storage: Recorded, find: str, replace: str) -> None:
    packed = pack_tag(storage, TAG, PACKING)
    key = LAYOUT.packed(packed.name, "index.json")
    text = storage.read(key).decode()
    assert find in text
    storage.write(key, text.replace(find, replace).encode())
    with pytest.raises(InputError, match=r"index.json cannot be read: .*run imagetag pack") as info:
        load_packed(storage, TAG)
    assert "\n" not in str(info.value)
    with capture_logs() as logs:
        assert pack_tag(storage, TAG, PACKING).parts == packed.parts
    assert logs[0]["event"] == "packing again"
    load_packed(storage, TAG)


@pytest.mark.parametrize("data", [b"", b"../x\n", b"\xff\xfe", b"x" * 1000])
def test_a_pointer_to_nothing_is_an_input_error(storage: Recorded, data: bytes) -> None:
    storage.write(LAYOUT.latest_packed, data)
    with pytest.raises(InputError, match="LATEST names no pack"):
        load_packed(storage, TAG)


def test_a_pack_is_compared_with_what_a_training_wants(
    undisturbed: tuple[Recorded, Packed],
) -> None:
    storage, packed = undisturbed
    dataset = load_dataset(storage, TAG)
    packed.check_fits(dataset, SIZE, "letterbox", 0.3, 0.2, Cleaning())
    with pytest.raises(InputError, match="--image-size 8x12 and not 12x8"):
        packed.check_fits(dataset, (12, 8), "letterbox", 0.3, 0.2, Cleaning())
    with pytest.raises(InputError, match=r"--resize letterbox and not crop, --validation-fraction"):
        packed.check_fits(dataset, SIZE, "crop", 0.2, 0.2, Cleaning())
    changed = dataset.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(InputError, match="run imagetag pack --tags re:zero again"):
        packed.check_fits(changed, SIZE, "letterbox", 0.3, 0.2, Cleaning())


# ---- batches


Batch = tuple[Any, ...]


@pytest.fixture
def feed(undisturbed: tuple[Recorded, Packed], tmp_path: Path) -> Callable[..., PackedFeed]:
    storage, packed = undisturbed

    def make(part: PartName = "train", **changes: Any) -> PackedFeed:
        values: dict[str, Any] = {
            "storage": storage,
            "shards": packed.parts[part],
            "size": SIZE,
            "resize": "letterbox",
            "batch": 8,
            "seed": 3,
            "shuffle": part == "train",
            "folder": tmp_path / "shards",
            "shuffle_images": 20,
        }
        return PackedFeed(**{**values, **changes})

    return make


def take(dataset: tf.data.Dataset, count: int | None = None) -> list[Batch]:
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def assert_same(one: Sequence[Batch], other: Sequence[Batch]) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        for left, right in zip(first, second, strict=True):
            np.testing.assert_array_equal(left, right)


def shown(batches: Sequence[Batch]) -> list[tuple[int, float]]:
    """The numbers and targets of the images that count."""
    return [
        (number_of(pixels), float(target))
        for inputs, targets, weights, _ in batches
        for pixels, target, weight in zip(inputs, targets, weights, strict=True)
        if weight
    ]


def numbers(part: PartName) -> list[tuple[int, float]]:
    return [
        (number, float(number % 3 == 0))
        for number in range(IMAGES)
        if PART_OF.get(str(number)) == part
    ]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("batch", [1, 8, 1000])
def test_one_pass_shows_each_image_once(
    feed: Callable[..., PackedFeed], part: PartName, batch: int
) -> None:
    made = feed(part, batch=batch)
    batches = take(made.one_pass())
    assert len(batches) == made.steps == -(-len(numbers(part)) // batch)
    assert sorted(shown(batches)) == numbers(part)
    for inputs, targets, weights, noise in batches:
        assert (inputs.shape, inputs.dtype) == ((batch, *SIZE, 3), np.uint8)
        assert (targets.shape, targets.dtype) == ((batch,), np.float32)
        assert (weights.shape, weights.dtype) == ((batch,), np.float32)
        assert (noise.shape, noise.dtype) == ((batch, NOISE), np.float32)
        assert noise.min() >= 0
        assert noise.max() < 1
        assert set(weights) <= {0, 1}
        assert noise.any() == (part == "train")


def test_the_pixels_are_those_of_load_pixels(feed: Callable[..., PackedFeed]) -> None:
    for inputs, *_ in take(feed().one_pass()):
        for pixels in inputs:
            expected = load_pixels(one_colour(number_of(pixels)), SIZE)
            assert np.abs(pixels.astype(int) - expected).max() < 5


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("part", PARTS)
def test_workers_share_the_images(
    feed: Callable[..., PackedFeed], part: PartName, count: int
) -> None:
    feeds = [feed(part, worker=(index, count), batch=6) for index in range(count)]
    assert len({made.steps for made in feeds}) == 1
    passes = [take(made.one_pass()) for made in feeds]
    assert {len(batches) for batches in passes} == {feeds[0].steps}
    assert all(len(batch[1]) == 6 // count for batches in passes for batch in batches)
    assert sorted(item for batches in passes for item in shown(batches)) == numbers(part)
    if part == "train":
        one, other = (np.concatenate([batch[3] for batch in batches]) for batches in passes[:2])
        assert not np.isin(one, other).any()


def test_a_worker_with_fewer_images_repeats_some_of_its_own(
    feed: Callable[..., PackedFeed], undisturbed: tuple[Recorded, Packed]
) -> None:
    shards = undisturbed[1].parts["train"][:3]  # two of them are worker 0's
    made = feed(shards=shards, worker=(1, 2), batch=4)
    batches = take(made.one_pass())
    assert made.steps == -(-(shards[0].images + shards[2].images) // 2)
    assert len(shown(batches)) == shards[1].images
    filling = [
        number_of(pixels)
        for inputs, _, weights, _ in batches
        for pixels, weight in zip(inputs, weights, strict=True)
        if not weight
    ]
    assert len(filling) == made.steps * 2 - shards[1].images > 2
    assert set(filling) <= {number for number, _ in shown(batches)}


def test_more_workers_than_shards_are_a_usage_error(
    feed: Callable[..., PackedFeed], undisturbed: tuple[Recorded, Packed]
) -> None:
    shards = undisturbed[1].parts["train"][:3]
    empty = shards[1].model_copy(update={"labels": {}})
    feed(shards=shards, worker=(2, 3), batch=6)
    with pytest.raises(InputError, match=r"4 workers cannot share 3 shards.*--shard-bytes"):
        feed(shards=shards, worker=(0, 4))
    with pytest.raises(InputError, match="3 workers cannot share 2 shards"):
        feed(shards=[shards[0], empty, shards[2]], worker=(0, 3), batch=6)


@pytest.mark.parametrize(
    ("shuffle", "shuffle_images", "worker", "replicas"),
    [
        (True, 7, (0, 1), 1),
        (True, 20, (1, 2), 2),
        (True, 4096, (1, 2), 1),
        (False, 20, (0, 1), 2),
        (False, 20, (1, 2), 1),
    ],
)
def test_from_any_step_it_goes_on_as_an_undisturbed_pass(
    feed: Callable[..., PackedFeed],
    shuffle: bool,
    worker: tuple[int, int],
    replicas: int,
    shuffle_images: int,
) -> None:
    made = feed(shuffle=shuffle, worker=worker, replicas=replicas, shuffle_images=shuffle_images)
    whole = take(made.from_step(0, 0), 3 * made.steps * replicas)
    assert_same(take(made.one_pass()), whole[: made.steps * replicas])
    for epoch, step in [(0, 1), (0, made.steps - 1), (1, 0), (1, made.steps // 2), (2, 3)]:
        first = (epoch * made.steps + step) * replicas
        assert_same(take(made.from_step(epoch, step), len(whole) - first), whole[first:])
    # The end of an epoch is the beginning of the next.
    last = whole[made.steps * replicas :]
    assert_same(take(made.from_step(0, made.steps), len(last)), last)


def test_replicas_share_the_batches_of_one(feed: Callable[..., PackedFeed]) -> None:
    one, two = feed(replicas=1), feed(replicas=2)
    assert (one.each, two.each, one.steps) == (8, 4, two.steps)
    halves = take(two.one_pass())
    joined = [
        tuple(map(np.concatenate, zip(left, right, strict=True)))
        for left, right in zip(halves[::2], halves[1::2], strict=True)
    ]
    assert_same(take(one.one_pass()), joined)


def test_epochs_and_seeds_differ(feed: Callable[..., PackedFeed]) -> None:
    made = feed()
    orders = [shown(take(made.from_step(epoch, 0), made.steps)) for epoch in range(3)]
    orders.append(shown(take(feed(seed=4).one_pass())))
    assert len(set(map(tuple, orders))) == 4
    whole = [*take(made.from_step(0, 0), 3 * made.steps), *take(feed(seed=4).one_pass())]
    noise = np.concatenate([batch[3] for batch in whole])
    assert len(np.unique(noise, axis=0)) == len(noise)
    # The order of the shards does too, not only that within a window.
    made = feed(shuffle_images=1)
    orders = [shown(take(made.from_step(epoch, 0), made.steps)) for epoch in range(3)]
    assert len(set(map(tuple, orders))) == 3
    assert len({tuple(sorted(order)) for order in orders}) == 1
    still = feed(shuffle=False)
    whole = take(still.from_step(0, 0), 2 * still.steps)
    assert_same(whole[: still.steps], whole[still.steps :])


def test_images_are_drawn_from_a_window_and_no_farther(
    feed: Callable[..., PackedFeed], undisturbed: tuple[Recorded, Packed]
) -> None:
    storage, packed = undisturbed
    digests = {hashlib.md5(one_colour(number)).hexdigest(): number for number in range(IMAGES)}
    for window in (1, 6, 1000):
        for shard in packed.parts["train"]:
            stored = [digests[record["md5"].decode()] for record in records(storage, shard)]
            made = feed(shards=[shard], shuffle_images=window)
            order = [number for number, _ in shown(take(made.one_pass()))]
            moved = [abs(order.index(number) - place) for place, number in enumerate(stored)]
            assert max(moved) < window
            assert (order == stored) == (window == 1)


# ---- what a worker holds


def files_in(folder: Path) -> int:
    """How many files this process has open in a folder, with or without a name."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(link.readlink()).startswith(f"{folder}/")
    return found


def test_no_more_than_two_shards_are_on_the_disk(
    feed: Callable[..., PackedFeed],
    undisturbed: tuple[Recorded, Packed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, folder = undisturbed[0], tmp_path / "shards"
    plainly, seen = storage.open, []

    def look(key: str) -> AbstractContextManager[BinaryIO]:
        seen.append(files_in(folder))
        return plainly(key)

    monkeypatch.setattr(storage, "open", look)
    made = feed(shuffle_images=5)
    batches = made.from_step(0, 0).as_numpy_iterator()
    for _ in range(2 * made.steps):
        next(batches)
        seen.append(files_in(folder))
        assert list(folder.iterdir()) == []  # and none has a name that it could leave behind
    assert max(seen) == 2
    del batches
    while files_in(folder):
        gc.collect()
        time.sleep(0.05)


def test_the_next_shard_comes_while_one_is_read(
    feed: Callable[..., PackedFeed],
    undisturbed: tuple[Recorded, Packed],
) -> None:
    storage, packed = undisturbed
    storage.opened.clear()
    made = feed(shuffle=False, batch=1)
    batches = made._parts(0, None)
    next(batches)
    while len(storage.opened) < 2:
        time.sleep(0.01)
    time.sleep(0.1)
    assert storage.opened == [shard.key for shard in packed.parts["train"][:2]]
    batches.close()


def test_shards_whose_images_were_seen_are_not_fetched(
    feed: Callable[..., PackedFeed], undisturbed: tuple[Recorded, Packed]
) -> None:
    storage, packed = undisturbed
    shards = packed.parts["train"]
    made = feed(shuffle=False, batch=1)
    storage.opened.clear()
    [*_] = made._parts(made.steps - 1, made.steps)
    assert storage.opened == [shards[-1].key]


def test_the_images_that_wait_are_bounded(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)

    def large(number: int) -> bytes:
        array = noise.integers(0, 256, (120, 120, 3), dtype=np.uint8)
        return encoded(Image.fromarray(array))

    storage = LocalStorage(tmp_path / "data")
    scraped(storage, 300, large)
    packing = Packing(image_size="120x120", shard_bytes=200_000)
    # Manifests say less pixels than there are: shards are larger than they should be, which is
    # no matter here.
    shards = pack_tag(storage, TAG, packing).parts["train"]
    few, many = traced(
        """
from pathlib import Path
from imagetag.inputs.pack_index import load_packed
from imagetag.inputs.shard_feed import PackedFeed
from imagetag.storage import LocalStorage
from tests.unit.inputs.test_pack import TAG

def held(window):
    feed = PackedFeed(
        storage, shards, (120, 120), "letterbox", batch=4, seed=1, shuffle=True,
        folder=folder, shuffle_images=window,
    )
    parts = feed._parts(0, feed.steps)
    next(parts)
    return peak(lambda: [None for _ in parts])

folder = Path(sys.argv[1])
storage = LocalStorage(folder / "data")
shards = load_packed(storage, TAG).parts["train"]
tell([held(20), held(4096)])
""",
        [str(tmp_path)],
    )
    each = sum(shard.bytes for shard in shards) / sum(shard.images for shard in shards)
    assert each > 20_000
    assert few < 20 * each + 4 * 4 * each + (3 << 20)
    assert many > 60 * each


def test_large_images_wait_in_smaller_number(
    feed: Callable[..., PackedFeed], undisturbed: tuple[Recorded, Packed]
) -> None:
    shards = [
        shard.model_copy(update={"bytes": shard.images * (100 << 20)})
        for shard in undisturbed[1].parts["train"]
    ]
    assert feed(shards=shards, shuffle_images=4096)._window == 2


# ---- what is wrong with a shard


class Bad:
    """A storage that gives something else for one key, the first few times."""

    def __init__(self, inner: Storage, key: str, times: int, data: bytes | Exception) -> None:
        self.inner, self.key, self.times, self.data = inner, key, times, data
        self.url, self.asked = inner.url, 0

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        if key == self.key:
            self.asked += 1
            if self.asked <= self.times:
                if isinstance(self.data, Exception):
                    raise self.data
                return contextlib.closing(io.BytesIO(self.data))
        return self.inner.open(key)


def damages(data: bytes) -> Iterator[bytes | Exception]:
    yield b""
    yield data[:-1]
    yield data + b"x"
    middle = len(data) // 2
    yield data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    yield TransientError("reset")


def test_a_damaged_shard_is_fetched_again(
    feed: Callable[..., PackedFeed], undisturbed: tuple[Recorded, Packed]
) -> None:
    storage, packed = undisturbed
    key = packed.parts["train"][1].key
    expected = take(feed().one_pass())
    for data in damages(storage.read(key)):
        bad = Bad(storage, key, 1, data)
        with capture_logs() as logs:
            assert_same(take(feed(storage=bad).one_pass()), expected)
        assert bad.asked == 2
        assert [line["event"] for line in logs] == ["fetching a shard again"]


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b"", InputError, "is damaged.*delete it and run imagetag pack again"),
        (ObjectNotFound("x"), InputError, "is missing: run imagetag pack again"),
        (TransientError("it is down"), TransientError, "it is down"),
    ],
)
def test_what_stops_a_generator_is_raised_as_it_was(
    feed: Callable[..., PackedFeed],
    undisturbed: tuple[Recorded, Packed],
    data: bytes | Exception,
    kind: type[Exception],
    text: str,
) -> None:
    storage, packed = undisturbed
    key = packed.parts["train"][1].key
    bad = Bad(storage, key, 9, data)
    made = feed(storage=bad)
    with pytest.raises(kind, match=text) as info, made.explained():
        take(made.from_step(0, 0), made.steps)
    assert bad.asked == (1 if isinstance(data, ObjectNotFound) else 2)
    assert made.failure is info.value
    if kind is InputError:
        assert f"{storage.url}/{key}" in str(info.value)
    other = feed()
    with pytest.raises(tf.errors.UnknownError), other.explained():
        raise tf.errors.UnknownError(None, None, "of another kind")


def test_a_shard_of_other_records_than_the_index_says_is_an_input_error(
    feed: Callable[..., PackedFeed], undisturbed: tuple[Recorded, Packed]
) -> None:
    shards = list(undisturbed[1].parts["train"])
    shards[1] = shards[1].model_copy(update={"labels": {"positive": 99}})
    made = feed(shards=shards)
    with pytest.raises(InputError, match=re.escape(shards[1].key)), made.explained():
        take(made.one_pass())


def test_a_packed_image_that_is_none_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(make_example(b"x", 1, "0" * 32))
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    shard = Shard(key="shard", bytes=len(data), sha256=digest, labels={"positive": 1}, left_out={})
    made = PackedFeed(
        LocalStorage(tmp_path), [shard], SIZE, "letterbox",
        batch=1, seed=1, shuffle=False, folder=tmp_path / "shards",
    )  # fmt: skip
    with pytest.raises(InputError, match="a packed image cannot be decoded"), made.explained():
        take(made.one_pass())


def test_a_shard_with_impossible_numbers_is_refused() -> None:
    for change in ({"bytes": -1}, {"sha256": "x"}, {"labels": {"maybe": 1}}):
        values: dict[str, Any] = {
            "key": "x", "bytes": 1, "sha256": "0" * 64, "labels": {}, "left_out": {}
        }  # fmt: skip
        with pytest.raises(ValidationError):
            Shard(**{**values, **change})


# ---- the job


def test_the_job_packs_and_packs_nothing_twice(storage: Recorded) -> None:
    options = ["--storage", storage.url, "--tags", TAG, "--image-size", "8x12"]
    options += ["--shard-bytes", "9000", "--validation-fraction", "0.3", "--concurrency", "2"]
    assert main(options) == 0
    made = packed_files(storage)
    assert load_packed(storage, TAG).parts["train"]
    assert main(options) == 0
    assert packed_files(storage) == made


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--tags", "nobody", "--image-size", "8x12"], 3),
        (["--tags", TAG], 3),  # not explored
        (["--tags", TAG, "--image-size", "8"], 2),
        (["--tags", TAG, "--image-size", "70000x8"], 2),
        (["--tags", TAG, "--image-size", "8x12", "--jpeg-quality", "101"], 2),
        (["--tags", TAG, "--image-size", "8x12", "--shard-bytes", "0"], 2),
        (["--tags", "a*"], 2),
    ],
)
def test_the_job_ends_with_the_code_of_what_is_wrong(
    storage: Recorded, options: list[str], code: int
) -> None:
    assert main(["--storage", storage.url, *options]) == code
    assert packed_files(storage) == {}
