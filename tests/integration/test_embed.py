"""Features are the same whoever is killed, and on however many devices."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imagetag.features.feature_store import FeatureStore
from imagetag.features.stored_extractors import find_extractor
from imagetag.storage.local import LocalStorage
from tests.builders.datasets import store_dataset
from tests.builders.rows import row_of
from tests.ended import log_lines
from tests.forked import Forked
from tests.predicting import make_model, noise

PICTURES = 90
# Small parts, of pictures that take a while to come.
SCRIPT = """
import sys, time
from imagetag.embed import embed
from imagetag.storage.local import LocalStorage
embed.PART = 8
read = LocalStorage.read
def slow(storage, key):
    if "/train/" in key or "/test/" in key:
        time.sleep(0.02)
    return read(storage, key)
LocalStorage.read = slow
from jobs.embed import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "tiny.keras"
    make_model().save(path)
    return path


def filled(folder: Path) -> LocalStorage:
    """A storage of three tags that share pictures."""
    storage = LocalStorage(folder)
    for tag, numbers in (("a", range(60)), ("b", range(30, 80)), ("c", range(50, PICTURES))):
        files = [noise(number) for number in numbers]
        rows = [row_of(number, data) for number, data in zip(numbers, files, strict=True)]
        store_dataset(storage, tag, rows, files)
    return storage


def start(storage: LocalStorage, network: Path, *arguments: object) -> Forked:
    given = ["--storage", storage.url, "--tags", "a,b,c", "--extractor", network]
    given += ["--batch-size", 4, "--concurrency", 2, *arguments]
    return Forked(SCRIPT, list(map(str, given)))


def finish(process: Forked) -> None:
    assert process.wait(800) == 0, process.log


def features(storage: LocalStorage, folder: Path) -> dict[str, NDArray[np.float16]]:
    store = FeatureStore(storage, find_extractor(storage))
    found = store.read(store.ids(), folder)
    return {md5: found.values[row] for md5, row in found.rows.items()}


def lists(storage: LocalStorage) -> list[Path]:
    return list(Path(storage.url).glob(".features/*/parts/*.ids"))


@pytest.fixture(scope="module")
def calm(network: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float16]]:
    """What nothing has disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    storage = filled(folder / "storage")
    finish(start(storage, network))
    found = features(storage, folder)
    assert len(found) == PICTURES
    return found


def test_killed_at_any_instant_it_ends_as_if_undisturbed(
    network: Path, calm: dict[str, NDArray[np.float16]], tmp_path: Path
) -> None:
    storage = filled(tmp_path / "storage")
    instants = random.Random(5)
    killed = 0
    for number in range(1, 100):
        process = start(storage, network)
        # Somewhere in the first two parts of each, or before them.
        parts, delay = len(lists(storage)) + number % 3, instants.uniform(0, 0.1)
        while process.returncode is None and len(lists(storage)) < parts:
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
        if process.wait(100) == 0:
            break
        killed += 1
    assert killed > 3, "it proves nothing"
    found = features(storage, tmp_path)
    assert found.keys() == calm.keys()
    assert all(np.array_equal(found[md5], calm[md5]) for md5 in calm)
    assert sum(path.stat().st_size for path in lists(storage)) == 16 * PICTURES, "some twice"


def test_stopped_it_keeps_what_it_has_computed(network: Path, tmp_path: Path) -> None:
    storage = filled(tmp_path / "storage")
    process = start(storage, network)
    while process.returncode is None and len(lists(storage)) < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 143, process.log
    last = log_lines(process.log, chatter=True)[-1]["event"]
    assert "features that are stored are kept; run it again to go on" in last
    finish(start(storage, network))
    assert len(features(storage, tmp_path)) == PICTURES


def test_several_devices_give_the_same_features(
    network: Path, calm: dict[str, NDArray[np.float16]], tmp_path: Path
) -> None:
    storage = filled(tmp_path / "storage")
    process = start(storage, network, "--cpu-devices", 3)
    finish(process)
    [devices] = [one for one in log_lines(process.log, chatter=True) if one["event"] == "devices"]
    assert (devices["replicas"], devices["strategy"]) == (3, "mirrored")
    found = features(storage, tmp_path)
    assert found.keys() == calm.keys()
    for md5, values in calm.items():
        assert np.allclose(found[md5], values, rtol=2e-3, atol=2e-3)
