"""What is read where TensorFlow is: packs, and checkpoints of trainings."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from imagetag.export import read_contents
from imagetag.inputs import load_packed
from imagetag.layout import Layout
from tests.fuzz.target import Target
from tests.storages import InMemory

TAG = "robot"
_INDEX = Layout(TAG).packed("first", "index.json")


def _index() -> Iterable[bytes]:
    shard = {"bytes": 10, "sha256": "0" * 64, "labels": {"positive": 3}, "left_out": {}}
    yield json.dumps(
        {
            "version": 2,
            "tag": TAG,
            "name": "first",
            "fingerprint": "ab",
            "image_size": [32, 32],
            "resize": "letterbox",
            "validation_fraction": 0.2,
            "threshold_fraction": 0.2,
            "jpeg_quality": 90,
            "shard_bytes": 1000,
            "seed": 1,
            "parts": {
                part: [shard | {"key": Layout(TAG).shard("first", part, 0, 1)}]
                for part in ("train", "validation")
            },
            "software": "imagetag",
            "created": "2026-01-01",
        }
    ).encode()


def _packed(data: bytes) -> None:
    pack = load_packed(InMemory({_INDEX: data}), TAG, "first")
    for part in ("train", "validation"):
        assert sum(pack.images(part).values()) >= 0


def _records(data: bytes) -> None:
    """A shard of which the digest was right: whoever packed it meant what is in it."""
    from imagetag.inputs.tfrecord import next_record, read_example

    file = io.BytesIO(data)
    while (record := next_record(file, needed=True)) is not None:
        jpeg, target = read_example(record)
        assert isinstance(jpeg, bytes)
        assert isinstance(target, int)


def _shard() -> Iterable[bytes]:
    from imagetag.inputs.tfrecord import make_example

    record = make_example(b"jpeg", 1, "0" * 32)
    yield len(record).to_bytes(8, "little") + b"\0" * 4 + record + b"\0" * 4


def _checkpoint(data: bytes) -> None:
    from imagetag.train.checkpoint import read_checkpoint

    found = read_checkpoint(data)
    assert len(found.digest()) == 64
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        found.write(Path(folder) / "again.npz")


def _checkpoints() -> Iterable[bytes]:
    from imagetag.train.checkpoint import Checkpoint, State

    made = Checkpoint(State(identity="a"), [np.ones(3)], [np.array(1)], [], [np.ones((2, 2))])
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "made.npz"
        made.write(path)
        yield path.read_bytes()


def _contents(data: bytes) -> None:
    """What an exported file tells of itself; predict may be given anybody's."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(data)
        found = read_contents(path, "keras")
        if found is None:
            raise _NotOurs
        for tag in found.tags:
            assert 0 <= tag.calibration.probabilities(0.3) <= 1


def _exported() -> Iterable[bytes]:
    tag = {"tag": TAG, "run": "first", "model": "vgg19", "trained": "", "evaluated": True}
    given = {"image_size": [32, 32], "resize": "letterbox"}
    told = {"format": "keras", "tags": [tag], "input": given, "versions": {}, "created": ""}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("imagetag.json", json.dumps(told))
    yield file.getvalue()


class _NotOurs(Exception):
    """The file is none that was exported, which is no error."""


TARGETS = (
    Target("pack", _packed, whole=_index),
    Target("shard", _records, whole=_shard),
    Target("checkpoint", _checkpoint, (ValueError,), _checkpoints),
    Target("exported", _contents, (_NotOurs,), _exported),
)
