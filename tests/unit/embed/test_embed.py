"""Each distinct picture of many tags is decoded and stored once, whoever is stopped meanwhile."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from numpy.typing import NDArray

from imagetag.embed import embed as module
from imagetag.embed import pictures
from imagetag.embed.embed import Embedded, embed_pictures
from imagetag.embed.pictures import find_pictures
from imagetag.errors import InputError
from imagetag.features.extractor import ExtractorRecord
from imagetag.features.feature_store import FeatureStore
from imagetag.storage.base import EndpointUnreachable
from imagetag.storage.local import LocalStorage
from tests.builders.datasets import store_dataset
from tests.builders.extractors import make_record
from tests.builders.rows import make_row, row_of
from tests.predicting import noise
from tests.storages import Wrapped
from tests.traced import traced


class Means:
    """An extractor without a network: the mean of each channel, above and below."""

    def __init__(self, batch_size: int = 4) -> None:
        self.record: ExtractorRecord = make_record(views=2, channels=3)
        self.batch_size = batch_size
        self.seen: list[int] = []

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen.append(len(pixels))
        halves = [pixels[:, :12], pixels[:, 12:]]
        return np.stack([half.mean(axis=(1, 2)) for half in halves], axis=1).astype(np.float32)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "storage")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an entry for each picture that is decoded."""
    calls: list[int] = []
    original = ExtractorRecord.pixels_of

    def counted(self: ExtractorRecord, source: bytes | Path) -> NDArray[np.uint8]:
        calls.append(1)
        return original(self, source)

    monkeypatch.setattr(ExtractorRecord, "pixels_of", counted)
    return calls


def store(storage: LocalStorage, tag: str, numbers: range) -> list[str]:
    """Store a tag's dataset of some of the same pictures; returns their md5s."""
    files = [noise(number) for number in numbers]
    rows = [row_of(number, data) for number, data in zip(numbers, files, strict=True)]
    store_dataset(storage, tag, rows, files)
    return [row.md5 for row in rows]


def stored(storage: LocalStorage, folder: Path) -> dict[str, list[Any]]:
    features = FeatureStore(storage, make_record())
    found = features.read(features.ids(), folder)
    return {md5: found.values[row].tolist() for md5, row in found.rows.items()}


def test_a_picture_of_several_tags_is_decoded_and_stored_once(
    storage: LocalStorage, decoded: list[int], tmp_path: Path
) -> None:
    names = {*store(storage, "fox", range(20)), *store(storage, "cat", range(10, 25))}
    names |= {*store(storage, "re:zero", range(25))}
    pictures = find_pictures(storage, ["fox", "cat", "re:zero"])
    assert set(pictures) == names
    extractor = Means()
    assert embed_pictures(storage, extractor, pictures) == Embedded(25, 0, 0, frozenset())
    assert len(decoded) == len(names) == 25
    assert max(extractor.seen) == 4
    found = stored(storage, tmp_path)
    for number in range(25):
        data = noise(number)
        expected = Means().features(extractor.record.pixels_of(data)[None])[0]
        assert found[row_of(number, data).md5] == expected.astype(np.float16).tolist()

    decoded.clear()
    store(storage, "fox", range(23, 28))
    pictures = find_pictures(storage, ["fox", "cat"])
    assert embed_pictures(storage, Means(), pictures) == Embedded(
        3, len(pictures) - 3, 0, frozenset()
    )
    assert len(decoded) == 3, "what was done is done again"


def test_pods_share_the_pictures_whatever_tags_have_them(storage: LocalStorage) -> None:
    store(storage, "fox", range(30))
    store(storage, "cat", range(20, 40))
    shares = [find_pictures(storage, ["fox", "cat"], index=pod, count=3) for pod in range(3)]
    assert min(map(len, shares)) > 5
    together = [md5 for share in shares for md5 in share]
    assert sorted(together) == sorted(find_pictures(storage, ["fox", "cat"]))
    alone = find_pictures(storage, ["cat"], index=1, count=3)
    assert set(alone) <= set(shares[1]), "a picture has another pod among other tags"


def test_manifests_of_several_tags_are_read_at_once_and_taken_in_their_order(
    storage: LocalStorage,
) -> None:
    tags = [f"tag {number}" for number in range(8)]
    for number, tag in enumerate(tags):
        store(storage, tag, range(number, number + 2))
    together = threading.Barrier(4)

    class Waiting(Wrapped):
        """Opens what is read of a manifest only when three others are to be opened too."""

        def open(self, key: str) -> AbstractContextManager[BinaryIO]:
            if "/manifest/" in key:
                together.wait(timeout=60)
            return super().open(key)

    found = find_pictures(Waiting(storage), tags, threads=4)
    assert dict(found) == dict(find_pictures(storage, tags, threads=1))
    assert list(found.fingerprints) == tags
    assert (len(found), found.places) == (9, 16)


def test_few_manifests_are_held_however_many_threads_there_are(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = [f"tag {number}" for number in range(9)]
    for tag in tags:
        store(storage, tag, range(1))
    monkeypatch.setattr(pictures, "_AT_ONCE", 2)
    begun: list[str] = []
    some, more = threading.Event(), threading.Event()

    class FirstIsLate(Wrapped):
        """Opens the first tag's manifest when there is nothing more to do before it."""

        def open(self, key: str) -> AbstractContextManager[BinaryIO]:
            if "/manifest/" in key:
                begun.append(key)
                (some if len(begun) == 4 else more if len(begun) > 4 else threading.Event()).set()
                if len(begun) == 1:
                    assert some.wait(timeout=60)
                    assert not more.wait(timeout=0.5), "another is read, with nobody to take it"
            return super().open(key)

    assert find_pictures(FirstIsLate(storage), tags, threads=64).places == 9


def test_a_manifest_that_waits_takes_little_memory(storage: LocalStorage) -> None:
    store_dataset(storage, "fox", [make_row(number) for number in range(40_000)])
    store(storage, "cat", range(1))
    script = """
import sys, tracemalloc
from imagetag.embed.pictures import _read_tag
from imagetag.storage import open_storage

storage = open_storage(sys.argv[1])
_read_tag(storage, "cat", 0, 1)
tracemalloc.start()
held = _read_tag(storage, "fox", 0, 1)
tell(tracemalloc.get_traced_memory()[0])
"""
    # Pydantic keeps some thousand strings besides that it has made last.
    assert traced(script, [storage.url]) < 40_000 * 100


def test_a_tag_without_a_dataset_does_not_stop_the_others(storage: LocalStorage) -> None:
    names = store(storage, "fox", range(4))
    failed: dict[str, InputError] = {}
    found = find_pictures(storage, ["cat", "fox"], failed=failed.__setitem__)
    assert set(found) == set(names)
    assert "no complete dataset of the tag 'cat'" in str(failed["cat"])
    assert list(found.fingerprints) == ["fox"]
    with pytest.raises(InputError, match="no complete dataset"):
        find_pictures(storage, ["cat", "fox"])


def test_what_cannot_be_decoded_is_noted_and_what_is_not_there_is_not(
    storage: LocalStorage, decoded: list[int]
) -> None:
    store(storage, "fox", range(6))
    pictures = find_pictures(storage, ["fox"])
    bad, gone, *_ = pictures
    storage.write(pictures[bad], b"no picture")
    picture = storage.read(pictures[gone])
    storage.delete(pictures[gone])
    assert embed_pictures(storage, Means(), pictures) == Embedded(4, 0, 1, frozenset({gone}))
    store_of_all = FeatureStore(storage, make_record())
    assert store_of_all.missing(pictures) == [gone]
    assert store_of_all.read(pictures, Path("unused")).rows[bad] == -1

    decoded.clear()
    storage.write(pictures[gone], picture)
    assert embed_pictures(storage, Means(), pictures) == Embedded(1, 5, 0, frozenset())
    assert len(decoded) == 1, "what cannot be decoded is tried again"


def test_a_picture_of_which_a_network_makes_no_numbers_is_told_of(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that overflows in 16 bits."""
    store(storage, "fox", range(6))
    pictures = find_pictures(storage, ["fox"])
    extractor = Means()

    def overflowing(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = Means.features(extractor, pixels)
        found[0, 1, 2] = np.nan  # of each batch of 4 the first
        return found

    extractor.features = overflowing  # type: ignore[method-assign]
    assert embed_pictures(storage, extractor, pictures) == Embedded(4, 0, 2, frozenset())
    assert capsys.readouterr().out.count("the network makes no numbers of it") == 2
    rows = FeatureStore(storage, make_record()).read(pictures, Path("unused")).rows
    assert sum(row == -1 for row in rows.values()) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, EndpointUnreachable])
def test_what_is_stopped_loses_nothing_that_was_computed(
    error: type[BaseException], storage: LocalStorage
) -> None:
    store(storage, "fox", range(24))
    pictures = find_pictures(storage, ["fox"])
    extractor = Means()

    def stopped(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(extractor.seen) == 3:
            raise error("stop")
        return Means.features(extractor, pixels)

    extractor.features = stopped  # type: ignore[method-assign]
    with pytest.raises(error):
        embed_pictures(storage, extractor, pictures)
    assert len(FeatureStore(storage, make_record()).ids()) == 12
    assert embed_pictures(storage, Means(), pictures) == Embedded(12, 12, 0, frozenset())


def test_no_more_than_a_part_and_some_batches_wait_in_memory(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(storage, "fox", range(40))
    monkeypatch.setattr(module, "PART", 10)
    sizes: list[int] = []
    add = FeatureStore.add

    def noted(self: FeatureStore, md5s: list[str], features: NDArray[np.float16]) -> str:
        sizes.append(len(md5s))
        return add(self, md5s, features)

    monkeypatch.setattr(FeatureStore, "add", noted)
    embed_pictures(storage, Means(), find_pictures(storage, ["fox"]))
    assert sizes == [8] * 5, "a part is of whole batches"
    sizes.clear()
    monkeypatch.setattr(module, "_PART_BYTES", 30)
    store(storage, "fox", range(40, 46))
    embed_pictures(storage, Means(), find_pictures(storage, ["fox"]))
    assert sum(sizes) == 6
    assert max(sizes) == 2, "a part is of more bytes than it may be"


def test_pictures_are_fetched_while_the_network_is_at_work(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(storage, "fox", range(8))
    pictures = find_pictures(storage, ["fox"])
    last, fetched = pictures[max(pictures)], threading.Event()
    read = LocalStorage.read

    def noted(self: LocalStorage, key: str) -> bytes:
        if key == last:
            fetched.set()
        return read(self, key)

    monkeypatch.setattr(LocalStorage, "read", noted)
    extractor = Means()

    def waiting(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert fetched.wait(20), "the next batch is not fetched before this one is done"
        return Means.features(extractor, pixels)

    extractor.features = waiting  # type: ignore[method-assign]
    assert embed_pictures(storage, extractor, pictures).done == 8
