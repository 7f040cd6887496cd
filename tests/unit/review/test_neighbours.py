from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imagetag.features import FeatureStore, StoredFeatures, mark_latest, store_extractor
from imagetag.review import open_tag_session
from imagetag.review.neighbours import Neighbours
from imagetag.storage import LocalStorage
from tests.builders.extractors import features_of, make_record, md5s
from tests.builders.reviews import TAG, store_reviewable


def stored(values: np.ndarray, gone: int = 0) -> StoredFeatures:
    rows = {f"{number:032x}": number for number in range(len(values))}
    rows |= {f"{1000 + number:032x}": -1 for number in range(gone)}
    return StoredFeatures("x", values.astype(np.float16), rows)


def test_the_most_alike_come_first_by_the_mean_of_both_views_and_less_the_mean_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(50, 2, 16)) + 5  # all point the same way, but for their differences
    monkeypatch.setattr("imagetag.review.neighbours._AT_ONCE", 7)
    found = Neighbours(stored(values, gone=2)).of(f"{4:032x}", 6)
    means = values.astype(np.float16).astype(float).mean(axis=1)
    means -= means.mean(axis=0)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosines = means @ means[4]
    cosines[4] = -2
    wanted = np.argsort(-cosines)[:6]
    assert [name for name, _ in found] == [f"{number:032x}" for number in wanted]
    assert [value for _, value in found] == pytest.approx(cosines[wanted], abs=2e-3)


def test_a_picture_without_features_has_none_and_is_none() -> None:
    values = np.eye(4)[:, np.newaxis]
    values[2] = np.nan
    features = stored(values, gone=1)
    features.rows[f"{2:032x}"] = -1
    neighbours = Neighbours(features)
    assert neighbours.of(f"{2:032x}", 5) == []
    assert neighbours.of(f"{1000:032x}", 5) == []
    assert f"{2:032x}" not in [name for name, _ in neighbours.of(f"{0:032x}", 5)]


def test_a_session_shows_alike_pictures_of_its_dataset_with_their_label(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "storage")
    rows = store_reviewable(storage)
    folder = tmp_path / "cache"
    session = open_tag_session(storage, TAG, "promise", cache_folder=folder)
    assert session.neighbours(session.items[0]) == []  # nothing is embedded
    network = tmp_path / "network"
    network.write_bytes(b"network")
    record = store_extractor(storage, make_record(), network)
    names = [row.md5 for row in rows] + md5s(3)  # of other tags too
    FeatureStore(storage, record).add(names, features_of(names))
    mark_latest(storage, record)
    session = open_tag_session(storage, TAG, "promise", cache_folder=folder)
    item = session.items[0]
    found = session.neighbours(item)
    assert 0 < len(found) <= 12
    assert item not in {one.item for one in found}
    labels = {row.md5: row.label for row in rows}
    for one in found:
        assert one.note == ("robot" if labels[one.item] == "positive" else "not robot")
        assert session.picture(one.item, 320).startswith(b"\xff\xd8")
