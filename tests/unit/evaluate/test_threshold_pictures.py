"""Which pictures may choose a threshold, however they are grouped by then."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagetag.dataset.manifest import Row, load_dataset
from imagetag.errors import InputError
from imagetag.evaluate.evaluation_run import _parts
from imagetag.inputs.cleaning import Cleaning
from imagetag.inputs.partition import OutOfFold, find_partition, store_partition
from imagetag.runs.runs import Run
from imagetag.storage.base import Storage
from imagetag.storage.opening import open_storage
from tests.builders.datasets import store_dataset
from tests.builders.rows import make_row
from tests.builders.runs import make_run

TAG = "robot"
ROWS = [make_row(number) for number in range(1, 41)]
TRAIN = [row for row in ROWS if row.split == "train"]
FOLDS = {row.md5: OutOfFold(place % 4, place / 8) for place, row in enumerate(TRAIN)}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path))


def trained(storage: Storage, scores: dict[str, OutOfFold], **settings: str) -> Run:
    store_dataset(storage, TAG, ROWS)
    fractions = (0.0, 0.0) if scores else (0.2, 0.3)
    partition = find_partition(storage, load_dataset(storage, TAG), *fractions, Cleaning())
    if scores:
        partition = partition.with_out_of_fold(scores)
    return make_run(parts=store_partition(storage, TAG, "first", partition), settings=settings)


def regrouped(storage: Storage, groups: dict[int, str], *more: Row) -> None:
    rows = [
        row.model_copy(update={"group": groups.get(place, row.group)})
        for place, row in enumerate(TRAIN)
    ]
    store_dataset(storage, TAG, [*rows, *(row for row in ROWS if row.split == "test"), *more])


def test_out_of_fold_every_picture_that_was_scored_chooses(storage: Storage) -> None:
    unread = TRAIN[3].md5
    scores = {md5: score for md5, score in FOLDS.items() if md5 != unread}
    run = trained(storage, scores, threshold_from="out-of-fold")
    parts, unseen, since, _ = _parts(storage, run, load_dataset(storage, TAG), {})
    assert not since.anything
    assert {row.md5 for row in parts["train"]} == FOLDS.keys()
    assert {row.md5 for row in parts["threshold"]} == scores.keys() == unseen.keys()
    assert {md5: score.logit for md5, score in unseen.items()} == {
        md5: score.logit for md5, score in scores.items()
    }


def test_out_of_fold_what_was_seen_by_what_scored_its_near_duplicate_is_left_out(
    storage: Storage,
) -> None:
    run = trained(storage, FOLDS, threshold_from="out-of-fold")
    added = make_row(900, split="train", group=TRAIN[2].group)
    # Folds go by turns of four: the first two are of two folds, the others of one.
    regrouped(storage, {0: "apart", 1: "apart", 4: "together", 8: "together"}, added)
    parts, _, since, _ = _parts(storage, run, load_dataset(storage, TAG), {})
    left_out = {TRAIN[0].md5, TRAIN[1].md5}
    assert {row.md5 for row in parts["threshold"]} == FOLDS.keys() - left_out
    assert (since.added, since.gone, since.tied) == (1, 0, 2)


def test_held_out_what_is_in_a_group_with_what_was_learned_from_is_left_out(
    storage: Storage,
) -> None:
    run = trained(storage, {})
    before, unseen, *_ = _parts(storage, run, load_dataset(storage, TAG), {})
    assert not unseen
    assert not {row.md5 for row in before["threshold"]} & {row.md5 for row in before["train"]}
    tied = before["threshold"][0]
    regrouped(storage, {TRAIN.index(tied): before["train"][0].group})
    after, _, since, _ = _parts(storage, run, load_dataset(storage, TAG), {})
    assert {row.md5 for row in before["threshold"]} - {row.md5 for row in after["threshold"]} == {
        tied.md5
    }
    assert since.tied == 1


def test_what_was_learned_from_decides_nothing_without_scores_out_of_fold(
    storage: Storage,
) -> None:
    run = trained(storage, FOLDS).model_copy(update={"parts": ""})
    with pytest.raises(InputError, match="train it again"):
        _parts(storage, run, load_dataset(storage, TAG), {})
    run = trained(storage, FOLDS)  # which says that its threshold is from held-out pictures
    with pytest.raises(InputError, match="image to choose the threshold on"):
        _parts(storage, run, load_dataset(storage, TAG), {})
