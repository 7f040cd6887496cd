"""Features in storage: what is added is found again, whoever is killed or repeats it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imagetag.errors import InputError
from imagetag.features.feature_store import FeatureStore, rounded
from imagetag.storage.local import LocalStorage
from tests.builders.extractors import features_of, make_record, md5s

RECORD = make_record()
ROOT = f".features/{RECORD.name}/parts/"


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "storage")


@pytest.fixture
def store(storage: LocalStorage) -> FeatureStore:
    return FeatureStore(storage, RECORD)


def test_features_of_several_parts_are_found_by_the_pictures_md5(
    store: FeatureStore, tmp_path: Path
) -> None:
    names = md5s(30)
    store.add(names[:20], features_of(names[:20]))
    store.add(names[20:], features_of(names[20:]))
    assert store.ids() == set(names)
    assert store.missing([*names, *md5s(3, 100), *md5s(3, 100)]) == sorted(md5s(3, 100))
    wanted = [names[25], names[3], names[19]]
    found = store.read(wanted, tmp_path)
    rows = found.find(wanted, "fox")
    assert np.array_equal(found.values[rows], features_of(wanted))
    assert found.values.shape == (3, 2, 3), "no more than was asked for is on the disk"
    assert list(tmp_path.glob("*")) == [tmp_path / "storage"], "a file is left"


def test_a_picture_of_two_parts_is_read_once(store: FeatureStore, tmp_path: Path) -> None:
    names = md5s(6)
    store.add(names[:4], features_of(names[:4]))
    store.add(names[2:], features_of(names[2:]))
    found = store.read(names, tmp_path)
    assert len(found.values) == 6
    assert np.array_equal(found.values[found.find(names, "fox")], features_of(names))


def test_the_same_part_again_is_one_part(store: FeatureStore, storage: LocalStorage) -> None:
    names = md5s(4)
    assert store.add(names, features_of(names)) == store.add(names, features_of(names))
    assert len(list(storage.list(ROOT))) == 2


def test_an_array_without_its_list_is_not_there_yet(
    store: FeatureStore, storage: LocalStorage
) -> None:
    names = md5s(4)
    digest = store.add(names, features_of(names))
    storage.delete(f"{ROOT}{digest}.ids")
    assert store.ids() == set()
    assert store.missing(names) == sorted(names)


def test_what_cannot_be_decoded_has_no_row_and_is_not_missing(
    store: FeatureStore, tmp_path: Path
) -> None:
    names = md5s(3)
    features = features_of(names)
    features[1] = np.nan
    store.add(names, features)
    assert store.missing(names) == []
    found = store.read(names, tmp_path)
    assert list(found.find(names, "fox") < 0) == [False, True, False]


def test_a_picture_without_features_is_told_with_what_to_do(
    store: FeatureStore, tmp_path: Path
) -> None:
    names = md5s(3)
    store.add(names[:1], features_of(names[:1]))
    found = store.read(names, tmp_path)
    with pytest.raises(InputError, match=r"2 of 3 pictures of the tag 're:zero' .*imagetag embed"):
        found.find(names, "re:zero")


def test_of_no_pictures_nothing_is_read(store: FeatureStore, tmp_path: Path) -> None:
    assert store.read([], tmp_path).values.shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("ext", "data", "why"),
    [
        ("npz", None, "it is missing"),
        ("npz", b"", "no such archive"),
        ("npz", b"PK\x03\x04 and no more", "no such archive"),
        ("npz", "cut", "no such archive"),
        ("ids", b"", "cut off"),
        ("ids", b"123", "cut off"),
        ("ids", b"12345678" * 20, "fewer pictures"),
    ],
)
def test_a_damaged_part_is_told_of(
    ext: str,
    data: bytes | str | None,
    why: str,
    store: FeatureStore,
    storage: LocalStorage,
    tmp_path: Path,
) -> None:
    names = md5s(4)
    key = f"{ROOT}{store.add(names, features_of(names))}.{ext}"
    whole = storage.read(key)
    if data is None:
        storage.delete(key)
    else:
        storage.write(key, data if isinstance(data, bytes) else whole[: len(whole) // 2])
    listed = [(b"12345678" * 2).hex()] if data == b"12345678" * 20 else names
    with pytest.raises(InputError, match=f"{why}.*: delete {ROOT}.*ids and run imagetag"):
        store.read(listed, tmp_path)


def test_features_of_another_extractor_are_not_taken_for_its_own(
    store: FeatureStore, storage: LocalStorage, tmp_path: Path
) -> None:
    names = md5s(2)
    digest = FeatureStore(storage, make_record(channels=5)).add(
        names, features_of(names, channels=5)
    )
    for ext in ("npz", "ids"):
        other = f".features/{make_record(channels=5).name}/parts/{digest}.{ext}"
        storage.write(f"{ROOT}{digest}.{ext}", storage.read(other))
    with pytest.raises(InputError, match=r"features of the shape \(2, 5\)"):
        store.read(names, tmp_path)
    with pytest.raises(ValueError, match="features of"):
        store.add(names, features_of(names, views=1))


def test_what_is_too_large_for_16_bits_is_the_largest_that_is_not() -> None:
    values = np.array([1e9, -1e9, 0.1, np.nan], np.float32)
    found = rounded(values)
    assert found[:2].tolist() == [65504.0, -65504.0]
    assert found[2] == np.float16(0.1)
    assert np.isnan(found[3])
