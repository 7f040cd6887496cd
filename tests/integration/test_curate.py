"""The curate job as it is run: on a folder and on S3, and killed at any instant."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagetag.dataset.manifest import load_dataset
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from imagetag.storage.opening import open_storage
from jobs.curate import main
from tests.unit.curate.test_curate import ALL, LEAKED, MISLABELLED, complete, content, rows_of

ROOT = Path(__file__).parents[2]


def curate(storage: Storage, *options: str) -> int:
    return main(["--storage", storage.url, "--tags", "fox", *options])


def test_the_job_curates_a_folder(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    complete(storage, ALL)
    assert curate(storage) == 0
    assert {LEAKED.md5, MISLABELLED.md5}.isdisjoint(rows_of(storage))
    once = content(storage)
    assert curate(storage, "--concurrency", "2") == 0
    assert content(storage) == once


def test_the_job_curates_a_bucket_as_it_does_a_folder(s3_bucket: str, tmp_path: Path) -> None:
    folder, bucket = LocalStorage(tmp_path), open_storage(s3_bucket)
    for storage in (folder, bucket):
        complete(storage, ALL, hashed=False)
        assert curate(storage) == 0
    assert content(bucket) == content(folder)


def test_a_tag_that_was_never_scraped_is_an_input_error(tmp_path: Path) -> None:
    assert curate(LocalStorage(tmp_path)) == 3


@pytest.mark.parametrize("options", [["--hash-threshold", "101"], ["--hash-threshold", "x"]])
def test_a_threshold_that_is_none_is_a_usage_error(tmp_path: Path, options: list[str]) -> None:
    assert curate(LocalStorage(tmp_path), *options) == 2


def test_killed_at_any_instant_it_ends_the_same(tmp_path: Path) -> None:
    undisturbed = LocalStorage(tmp_path / "undisturbed")
    complete(undisturbed, ALL, hashed=False)
    began = time.monotonic()
    assert _started(undisturbed).wait(timeout=400) == 0
    took = time.monotonic() - began
    killed = LocalStorage(tmp_path / "killed")
    complete(killed, ALL, hashed=False)
    for share in (0.5, 0.7, 0.8, 0.9, 0.95):
        process = _started(killed)
        time.sleep(took * share)
        process.kill()
        process.wait(timeout=200)
        # What can be read now has no twin of a training image that is also still tested with.
        rows = rows_of(killed)
        curation = load_dataset(killed, "fox").curation
        assert ({LEAKED.md5, MISLABELLED.md5} <= rows.keys()) == (curation is None)
    assert _started(killed).wait(timeout=400) == 0
    assert content(killed) == content(undisturbed)


def _started(storage: Storage) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.curate", "--storage", storage.url, "--tags", "fox"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "lib")},
        stderr=subprocess.DEVNULL,
    )
