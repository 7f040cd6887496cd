"""A training that is done already: what its next start does yet, without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from imagetag.dataset.split import split_of
from imagetag.layout import LABELS, Layout
from imagetag.storage.local import LocalStorage
from imagetag.train.checkpoint import checkpoints_below
from imagetag.train.settings import Means, Training
from imagetag.train.target import find_target
from imagetag.train.train import train_tag
from tests.builders.datasets import store_dataset
from tests.builders.pictures import plain
from tests.builders.rows import row_of
from tests.builders.runs import make_run, store_run

TAG = "fox"
TRAINING = Training(model="alexnet-small", image_size="96x96")


def test_checkpoints_that_a_kill_left_beside_a_complete_run_are_removed(tmp_path: Path) -> None:
    storage, cache = LocalStorage(tmp_path / "storage"), tmp_path / "cache"
    pictures = [plain(8, 8, (number, 0, 0)) for number in range(40)]
    rows = [
        row_of(number, data, split=split_of(str(number), 0.2), label=LABELS[number % 2])
        for number, data in enumerate(pictures)
    ]
    store_dataset(storage, TAG, rows, pictures)
    target = find_target(storage, TAG, TRAINING, "mine")
    made = make_run(
        tag=TAG,
        run="mine",
        settings=target.training.model_dump(),
        image_size=target.size,
        fingerprint=target.dataset.fingerprint,
        parts="",
    )
    store_run(storage, made)
    key = Layout(TAG).run("mine", "checkpoint/00-00002-00000001.npz")
    other = Layout(TAG).run("other", "checkpoint/00-00002-00000001.npz")
    for place in (key, other):
        storage.write(place, b"left")
    local = checkpoints_below(cache, storage, TAG, "mine")._folder
    local.mkdir(parents=True)
    (local / "00-00002-00000001.npz").write_bytes(b"left")
    done = train_tag(
        storage, TAG, TRAINING, means=Means(cache_folder=cache, export=False), run="mine"
    )
    assert done.run == "mine"
    assert storage.stat(key) is None
    assert storage.stat(other) is not None, "of a run that may be under way"
    assert not local.exists()
