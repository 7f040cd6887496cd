"""What a pipeline has come to: its datasets, explorations, features, runs and predictions.

Two ends are equal where what users rely on is: times, and what tells of the machine, are left out.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from imagetag.dataset.manifest import load_dataset, read_rows, summarize
from imagetag.features.stored_extractors import find_extractor
from imagetag.layout import Layout
from imagetag.storage.base import Storage

# Of when and how fast; which parts of the manifest were looked through; what was passed over.
_PASSING = {
    "created",
    "trained",
    "evaluated",
    "seconds",
    "updated",
    "images_per_second",
    "covers",
    "skipped",
}

End = dict[str, Any]
"""Values by what they are of; `differences` compares them."""


def end_of(storage: Storage, tags: Sequence[str]) -> End:
    """Read all of it, and check that each dataset is whole."""
    found: dict[str, Any] = {}
    for tag in tags:
        found |= _dataset(storage, tag)
    for entry in storage.list():
        key, name = entry.key, entry.key.rpartition("/")[2]
        if re.search(r"/(train|test|manifest)/|/dataset\.json$|^\.(status|shared|features)/", key):
            continue
        if name.endswith(".about.json"):
            continue  # by which parts of an output are found again
        if name.endswith(".json"):
            found[key] = _lasting(json.loads(storage.read(key)))
        elif name.endswith(".csv"):
            found[key] = _table(storage.read(key).decode())
        elif name == "LATEST":
            found[key] = storage.read(key).decode()
        elif name.endswith((".npz", ".keras")):
            found[key] = _digest(_arrays(storage.read(key), name))
        elif "/checkpoint/" in key:
            found[key] = "a checkpoint that is left over"
    found |= _features(storage)
    return found


def differences(end: Any, other: Any, name: str = "") -> Iterator[str]:
    """Name what is not the same in two ends, as deep down as it is to be found."""
    if isinstance(end, dict) and isinstance(other, dict):
        # What others are made of comes first.
        for key in sorted(end.keys() | other.keys(), key=lambda key: (": " not in key, key)):
            yield from differences(end.get(key), other.get(key), f"{name}/{key}" if name else key)
    elif isinstance(end, list) and isinstance(other, list) and len(end) == len(other):
        for number, (one, another) in enumerate(zip(end, other, strict=True)):
            yield from differences(one, another, f"{name}[{number}]")
    elif isinstance(end, float) and isinstance(other, float):
        # Sums of the same in another order.
        if not math.isclose(end, other, rel_tol=1e-9, abs_tol=1e-12):
            yield f"{name}: {end}, and {other}"
    elif end != other:
        yield f"{name}: {_shown(end)}, and {_shown(other)}"


def _dataset(storage: Storage, tag: str) -> dict[str, Any]:
    layout, dataset = Layout(tag), load_dataset(storage, tag)
    rows = sorted(read_rows(storage, dataset), key=lambda row: row.md5)
    stored = {
        entry.key for split in ("train", "test") for entry in storage.list(f"{layout.root}{split}/")
    }
    told = {layout.image(row.split, row.label, row.md5, row.ext): row.md5 for row in rows}
    assert len(told) == len(rows), f"{tag}: pictures with two rows"
    assert stored == told.keys(), f"{tag}: {sorted(stored ^ told.keys())} in one of the two only"
    for key, md5 in told.items():
        assert hashlib.md5(storage.read(key)).hexdigest() == md5, f"{key} is damaged"
    assert (dataset.images, dataset.bytes, dataset.fingerprint) == summarize(rows)
    return {
        f"{tag}: pictures": sorted(told),
        f"{tag}: rows": [row.model_dump(mode="json") for row in rows],
        f"{tag}: summary": _lasting(dataset.model_dump(mode="json")),
    }


def _features(storage: Storage) -> dict[str, Any]:
    if not any(True for _ in storage.list(".features/")):
        return {}
    keys = [entry.key for entry in storage.list(f".features/{find_extractor(storage).name}/parts/")]
    found: dict[str, str] = {}
    for key in keys:
        if key.endswith(".ids"):
            ids = storage.read(key)
            [values] = _arrays(storage.read(key.removesuffix(".ids") + ".npz"), ".npz").values()
            for number, value in enumerate(values):
                md5 = ids[16 * number : 16 * number + 16].hex()
                assert md5 not in found, f"the features of {md5} are there twice"
                found[md5] = _digest({"": value})
    return {"features": found}


def _arrays(data: bytes, name: str) -> dict[str, Any]:
    if name.endswith(".npz"):
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    found: dict[str, Any] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights) as file:
        file.visititems(
            lambda path, item: (
                found.update({path: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def _digest(arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = np.asarray(arrays[name])
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _table(text: str) -> list[dict[str, Any]]:
    """Return a CSV's rows, sorted where their order is that of the manifest's parts."""

    def parsed(cell: str) -> float | str:
        try:
            return float(cell)
        except ValueError:
            return cell

    rows = sorted(csv.DictReader(io.StringIO(text)), key=lambda row: next(iter(row.values())))
    return [{name: parsed(cell) for name, cell in row.items()} for row in rows]


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: _lasting(one) for name, one in value.items() if name not in _PASSING}
        if "fingerprint" in kept:
            kept.pop("parts", None)  # of the manifest: their names are of what is in them
        return kept
    return [_lasting(one) for one in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:150]
