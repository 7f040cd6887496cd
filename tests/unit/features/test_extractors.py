"""Extractors' names stand for all that decides features, and their networks are stored once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagetag.errors import InputError
from imagetag.features.stored_extractors import (
    fetch_network,
    find_extractor,
    mark_latest,
    store_extractor,
)
from imagetag.storage.local import LocalStorage
from tests.builders.extractors import make_record
from tests.builders.pictures import plain
from tests.storages import Late

OTHER = hashlib.sha256(b"other weights").hexdigest()


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "storage")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "a.keras"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "onnx"},
        {"model": "other"},
        {"content": OTHER},
        {"image_size": (32, 24)},
        {"resize": "crop"},
        {"padding": "white"},
        {"pixel_range": "unit"},
        {"channel_order": "bgr"},
        {"signature": "serve"},
        {"output": "pooled"},
        {"views": 1},
        {"channels": 4},
    ],
)
def test_whatever_decides_the_features_is_in_the_name(values: dict[str, Any]) -> None:
    assert make_record(**values).name != make_record().name


def test_a_name_tells_the_model_and_its_size() -> None:
    record = make_record(model="wd tagger/v3!", created="2026-01-01", software="1.0")
    assert record.name == f"wd-tagger-v3-24x32-{record.digest[:8]}"
    assert record.digest == make_record(model="wd tagger/v3!").digest
    assert make_record(model="../é").name.startswith("model-24x32-")


@pytest.mark.parametrize(("padding", "bars"), [("grey", 128), ("white", 255), ("black", 0)])
def test_a_picture_is_fitted_with_bars_of_its_colour(padding: str, bars: int) -> None:
    pixels = make_record(padding=padding).pixels_of(plain(10, 100, (10, 20, 30)))
    assert pixels.shape == (24, 32, 3)
    assert pixels[12, 0].tolist() == [bars] * 3
    assert pixels[12, 16].tolist() == [10, 20, 30]


def test_pixel_ranges_are_those_of_their_names() -> None:
    def ends(name: str) -> list[list[float]]:
        factors, offsets = make_record(pixel_range=name).scale()
        return [(value * factors + offsets).tolist() for value in (0, 255)]

    assert ends("byte") == [[0] * 3, [255] * 3]
    assert np.allclose(ends("unit"), [[0] * 3, [1] * 3])
    assert np.allclose(ends("signed"), [[-1] * 3, [1] * 3])
    assert np.allclose(ends("imagenet")[0], [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert np.allclose(ends("imagenet")[1], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225])


def test_an_extractor_is_stored_once_and_found(storage: LocalStorage, network: Path) -> None:
    record = store_extractor(storage, make_record(), network)
    assert record.created
    network.write_bytes(b"written again")
    assert store_extractor(storage, make_record(), network) == record
    assert find_extractor(storage, record.name) == record
    mark_latest(storage, record)
    assert find_extractor(storage) == record
    fetched = fetch_network(storage, record, network.parent / "copy")
    assert fetched.read_bytes() == b"weights"


def test_a_network_is_found_before_a_listing_has_it(tmp_path: Path, network: Path) -> None:
    storage = Late(LocalStorage(tmp_path / "storage"), not_yet=lambda _: True)
    record = store_extractor(storage, make_record(), network)
    assert fetch_network(storage, record, tmp_path / "copy").read_bytes() == b"weights"


def test_a_folder_is_stored_with_all_below_it(storage: LocalStorage, tmp_path: Path) -> None:
    folder = tmp_path / "tagger"
    for name in ("saved_model.pb", "variables/variables.index", "assets/a/b.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    record = store_extractor(storage, make_record(kind="saved_model"), folder)
    found = fetch_network(storage, record, tmp_path / "copy")
    before = found.stat().st_ino, (found / "saved_model.pb").stat().st_ino
    assert fetch_network(storage, record, tmp_path / "copy") == found
    after = found.stat().st_ino, (found / "saved_model.pb").stat().st_ino
    assert after == before, "it is fetched again"
    assert sorted(p.relative_to(found).as_posix() for p in found.rglob("*") if p.is_file()) == [
        "assets/a/b.txt",
        "saved_model.pb",
        "variables/variables.index",
    ]


def test_one_that_is_not_there_is_told_with_those_that_are(
    storage: LocalStorage, network: Path
) -> None:
    with pytest.raises(InputError, match=r"no features in .*: run imagetag embed first"):
        find_extractor(storage)
    record = store_extractor(storage, make_record(), network)
    with pytest.raises(InputError, match=f"--features can be {record.name}; or run imagetag embed"):
        find_extractor(storage, "tiny-32x32-00000000")
    storage.write(".features/LATEST", b"../..\n")
    with pytest.raises(InputError, match="LATEST names no extractor"):
        find_extractor(storage)


def test_one_that_changed_under_its_name_is_not_used(storage: LocalStorage, network: Path) -> None:
    record = store_extractor(storage, make_record(), network)
    other = make_record(content=OTHER)
    storage.write(f".features/{record.name}/extractor.json", other.model_dump_json().encode())
    with pytest.raises(InputError, match="it changed under its name"):
        find_extractor(storage, record.name)
    with pytest.raises(InputError, match="it changed under its name"):
        store_extractor(storage, make_record(), network)


def test_a_record_that_cannot_be_read_is_stored_again(storage: LocalStorage, network: Path) -> None:
    record = store_extractor(storage, make_record(), network)
    storage.write(f".features/{record.name}/extractor.json", b"{")
    with pytest.raises(InputError, match=r"extractor\.json cannot be read: .* embed again"):
        find_extractor(storage, record.name)
    assert store_extractor(storage, make_record(), network).digest == record.digest
    assert find_extractor(storage, record.name).digest == record.digest


def test_a_network_that_is_gone_is_told_of(storage: LocalStorage, network: Path) -> None:
    record = store_extractor(storage, make_record(), network)
    storage.delete(f".features/{record.name}/model.keras")
    with pytest.raises(InputError, match=r"model\.keras is missing: delete .*extractor\.json"):
        fetch_network(storage, record, network.parent / "copy")
