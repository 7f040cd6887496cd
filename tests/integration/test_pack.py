"""The pack job as it is run: killed at any instant, and from a bucket as from a folder."""

from __future__ import annotations

import time
from pathlib import Path

from imagetag.inputs.pack_index import load_packed
from imagetag.inputs.shard_feed import PackedFeed
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from imagetag.storage.opening import open_storage
from jobs.pack import main
from tests.forked import Forked
from tests.unit.inputs.test_pack import (
    IMAGES,
    LAYOUT,
    SIZE,
    TAG,
    packed_files,
    scraped,
    shown,
    take,
)

MAIN = "import sys\nfrom jobs.pack import main\nsys.exit(main())"
OPTIONS = ["--tags", TAG, "--image-size", "8x12", "--shard-bytes", "3000"]


def shards(storage: Storage) -> int:
    found = storage.list(LAYOUT.root + "packed/")
    return sum(entry.key.endswith(".tfrecord") for entry in found)


def test_killed_at_any_instant_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    undisturbed, killed = LocalStorage(tmp_path / "undisturbed"), LocalStorage(tmp_path / "killed")
    for storage in (undisturbed, killed):
        scraped(storage)
    assert main(["--storage", undisturbed.url, *OPTIONS]) == 0
    least = 1
    while True:
        process = Forked(MAIN, ["--storage", killed.url, *OPTIONS])
        while process.returncode is None and shards(killed) < least:
            time.sleep(0.001)
        process.kill()
        if process.wait() == 0:
            break
        least = shards(killed) + 20
    assert least > 21  # it was killed more than once
    assert packed_files(killed) == packed_files(undisturbed)


def test_a_bucket_is_packed_and_read_as_a_folder_is(s3_bucket: str, tmp_path: Path) -> None:
    folder, bucket = LocalStorage(tmp_path / "data"), open_storage(s3_bucket)
    for storage in (folder, bucket):
        scraped(storage)
        assert main(["--storage", storage.url, *OPTIONS]) == 0
    assert packed_files(bucket) == packed_files(folder)
    packed = load_packed(bucket, TAG)
    numbers = []
    for index in range(2):
        feed = PackedFeed(
            bucket,
            packed.parts["train"],
            SIZE,
            packed.resize,
            batch=8,
            seed=1,
            shuffle=True,
            worker=(index, 2),
            folder=tmp_path / "shards",
        )
        numbers += [number for number, _ in shown(take(feed.one_pass()))]
    assert len(numbers) == len(set(numbers)) == sum(packed.images("train").values()) < IMAGES
