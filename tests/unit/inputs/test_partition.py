"""The record of what each picture was used for, and of what was said of it unseen."""

from __future__ import annotations

from pathlib import Path

from imagetag.dataset.manifest import load_dataset
from imagetag.inputs.cleaning import Cleaning
from imagetag.inputs.partition import (
    OutOfFold,
    find_partition,
    load_partition,
    store_partition,
)
from imagetag.storage.opening import open_storage
from tests.builders.datasets import store_dataset
from tests.builders.rows import make_row
from tests.builders.runs import make_run


def test_scores_out_of_fold_are_kept_with_what_they_are_of(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    rows = [make_row(number, split="train") for number in range(20)]
    store_dataset(storage, "robot", rows)
    plain = find_partition(storage, load_dataset(storage, "robot"), 0.0, 0.0, Cleaning())
    scores = {row.md5: OutOfFold(row.post_id % 5, -0.1 * row.post_id) for row in rows[1:]}
    for partition, known in ((plain, {}), (plain.with_out_of_fold(scores), scores)):
        digest = store_partition(storage, "robot", "first", partition)
        used = load_partition(storage, make_run(parts=digest))
        assert {picture.use for picture in used.values()} == {"train"}  # nothing is held back
        found = {md5: picture.out_of_fold for md5, picture in used.items()}
        assert found == {row.md5: known.get(row.md5) for row in rows}
