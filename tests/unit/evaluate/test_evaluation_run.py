"""How a dataset differs from what a run has learned is told apart from what people say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagetag.dataset import Row, load_dataset
from imagetag.evaluate.evaluation_run import _parts
from imagetag.inputs import Cleaning, find_partition, store_partition
from imagetag.layout import LABELS, Split
from imagetag.runs import Run
from imagetag.storage import LocalStorage
from tests.builders.datasets import store_dataset
from tests.builders.rows import make_row
from tests.builders.runs import make_run, store_run

TAG = "robot"


def row_of(number: int) -> Row:
    split: Split = "train" if number < 80 else "test"
    return make_row(number, split=split, label=LABELS[number % 2], group=f"group {number}")


ROWS = [row_of(number) for number in range(100)]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path)
    store_dataset(storage, TAG, ROWS)
    return storage


def learned(storage: LocalStorage) -> Run:
    """Return a run of which people have turned two labels."""
    dataset = load_dataset(storage, TAG)
    plain = find_partition(storage, dataset, 0.2, 0.2, Cleaning())
    turned = [row.md5 for row in ROWS if row.split == "train" and plain.use_of(row) == "train"][:2]
    cleaning = Cleaning(verdicts="0" * 12, judged=dict.fromkeys(turned, "yes"))
    assert len({row.label for row in ROWS if row.md5 in turned}) == 2, "one has that label already"
    partition = find_partition(storage, dataset, 0.2, 0.2, cleaning)
    parts = store_partition(storage, TAG, "first", partition)
    run = make_run(tag=TAG, run="first", parts=parts, fingerprint=dataset.fingerprint)
    return store_run(storage, run)


def test_labels_that_people_turned_are_no_change_of_the_dataset(storage: LocalStorage) -> None:
    run = learned(storage)
    _, _, since, unlearned = _parts(storage, run, load_dataset(storage, TAG), {})  # are ignored now
    assert not since.anything
    assert unlearned == 0


def test_a_label_that_the_board_has_changed_is_one(storage: LocalStorage) -> None:
    run = learned(storage)
    parts, *_ = _parts(storage, run, load_dataset(storage, TAG), {})
    changed = parts["train"][5]
    other = changed.model_copy(update={"label": LABELS[1 - LABELS.index(changed.label)]})
    store_dataset(storage, TAG, [other if row.md5 == changed.md5 else row for row in ROWS])
    _, _, since, _ = _parts(storage, run, load_dataset(storage, TAG), {})
    assert since.relabelled == 1, "what people turned is none, though they may have withdrawn it"
