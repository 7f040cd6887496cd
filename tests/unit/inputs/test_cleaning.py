"""What a training does not take as the board has it: suspects, and what people have judged."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest

from imagetag.dataset.local_copy import sync
from imagetag.dataset.manifest import Row, load_dataset, summarize
from imagetag.dataset.split import parts_of_groups, split_of
from imagetag.errors import InputError, UsageError
from imagetag.inputs.cleaning import Cleaning, find_cleaning
from imagetag.inputs.pack import Packing, pack_tag
from imagetag.inputs.pack_index import load_packed
from imagetag.inputs.partition import Use, find_partition, rows_of_parts, train_rows
from imagetag.layout import LABELS, Label, Layout, PartName
from imagetag.models.distribute import choose_devices
from imagetag.runs.runs import Run, Turned
from imagetag.runs.suspects import Part, Suspect, Suspects, store_suspects
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from imagetag.train.cluster import Cluster
from imagetag.train.settings import Means, Training
from imagetag.train.target import Target, find_target
from imagetag.train.train import train_tag
from imagetag.verdicts import Answer, store_verdicts
from tests.builders.datasets import store_dataset
from tests.builders.pictures import plain
from tests.builders.rows import row_of
from tests.builders.runs import make_run, store_run
from tests.builders.verdicts import new_verdict
from tests.storages import Late

TAG = "fate/stay_night"
LAYOUT = Layout(TAG)
TRAINING = Training(model="alexnet-small", image_size="96x96", validation_fraction=0.2)


def picture(number: int) -> tuple[Row, bytes]:
    data, group = plain(8, 8, (number, 0, 0)), f"group {number}"
    split, label = split_of(group, 0.2), LABELS[number % 2]
    row = row_of(number, data, split=split, label=label, group=group)
    return row, data


PICTURES = [picture(number) for number in range(100)]
ROWS = [row for row, _ in PICTURES]
PARTS = parts_of_groups(((row.group, row.label) for row in ROWS if row.split == "train"), 0.2, 0.2)


def digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def part_of(row: Row) -> Part:
    if row.split == "test":
        return "test"
    return PARTS[row.group]


def some(part: Part, label: Label, count: int) -> list[Row]:
    rows = [row for row in ROWS if part_of(row) == part and row.label == label]
    assert len(rows) >= count
    return rows[:count]


SUSPECTED = [
    row
    for part in ("train", "validation", "test")
    for label in LABELS
    for row in some(part, label, 3)
]
LEFT_OUT = {row.md5 for row in some("train", "negative", 3)}


def suspects(rows: Iterable[Row], *, reason: str | None = None) -> Suspects:
    return Suspects(
        method="by hand",
        seed=0,
        looked_at={"train": dict.fromkeys(LABELS, 100)},
        unjudged=0,
        auc=0.9,
        reason=reason,
        fingerprint="",
        found=tuple(
            Suspect(
                md5=row.md5,
                part=part_of(row),
                label=row.label,
                post_id=row.post_id,
                board=row.board,
                page_url=row.page_url,
                probability=0.9,
                said=None,
                rank=1,
            )
            for row in rows
        ),
    )


def complete(storage: LocalStorage, name: str, created: str, **settings: Any) -> Run:
    return store_run(
        storage,
        make_run(
            tag=TAG,
            run=name,
            model="alexnet-small",
            settings=settings,
            image_size=(96, 96),
            fingerprint=summarize(ROWS)[2],
            created=created,
        ),
    )


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """Has a dataset, and an evaluated run `first`."""
    storage = LocalStorage(tmp_path / "storage")
    store_dataset(storage, TAG, ROWS, [data for _, data in PICTURES])
    complete(storage, "first", "2026-01-01T00:00:00+00:00")
    store_suspects(storage, TAG, "first", suspects(SUSPECTED))
    return storage


def find(storage: Storage, suspects: str = "no", verdicts: str = "use") -> Cleaning:
    return find_cleaning(storage, load_dataset(storage, TAG), suspects, verdicts, (0.2, 0.2))


# ---- the choice


def test_by_default_nothing_is_left_out(storage: LocalStorage) -> None:
    cleaning = find(storage, "no")
    assert cleaning == Cleaning()
    assert not any(cleaning.leaves_out(row, "train") for row in ROWS)


def test_negatives_of_the_train_split_are_named_by_run_and_digest(storage: LocalStorage) -> None:
    cleaning = find(storage, "first")
    expected = LEFT_OUT | {row.md5 for row in some("validation", "negative", 3)}
    assert cleaning.suspected == expected
    digest = hashlib.sha256("".join(sorted(expected)).encode()).hexdigest()[:12]
    assert cleaning.suspects == f"first@{digest}"
    assert find(storage, cleaning.suspects) == cleaning
    store_suspects(storage, TAG, "first", suspects(SUSPECTED[::-1]))
    assert find(storage, "first") == cleaning


def test_a_list_that_has_changed_is_another(storage: LocalStorage) -> None:
    before = find(storage, "first").suspects
    store_suspects(storage, TAG, "first", suspects(SUSPECTED[4:]))
    after = find(storage, "first").suspects
    assert after != before
    with pytest.raises(UsageError, match=f"{before}.*are others now; {after} or first"):
        find(storage, before)


def test_a_positive_is_never_left_out(storage: LocalStorage) -> None:
    cleaning = find(storage, "first")
    for row in ROWS:
        assert not cleaning.leaves_out(row.labelled("positive"), "train")
    # Also if a list says so.
    [positive] = some("train", "positive", 1)
    assert not Cleaning("x", suspected=frozenset([positive.md5])).leaves_out(positive, "train")


def test_latest_is_the_newest_evaluated_run_that_was_trained_on_suspects_too(
    storage: LocalStorage,
) -> None:
    complete(storage, "older", "2025-01-01T00:00:00+00:00", exclude_suspects="no")
    complete(storage, "newer", "2026-02-01T00:00:00+00:00", exclude_suspects="no")
    complete(storage, "not-evaluated", "2026-03-01T00:00:00+00:00", exclude_suspects="no")
    complete(storage, "excluding", "2026-04-01T00:00:00+00:00", exclude_suspects="newer@0")
    for name in ("older", "newer", "excluding"):
        store_suspects(storage, TAG, name, suspects(SUSPECTED))
    assert find(storage, "latest").suspects.startswith("newer@")
    assert find(storage, "excluding").suspects.startswith("excluding@")


def test_what_held_no_labels_back_suspects_nothing_for_others(storage: LocalStorage) -> None:
    name = "all-learned-from"
    complete(storage, name, "2030-01-01T00:00:00+00:00", threshold_from="out-of-fold")
    store_suspects(storage, TAG, name, suspects(SUSPECTED))
    assert not find(storage, "latest").suspects.startswith(name)
    with pytest.raises(UsageError, match="threshold from out-of-fold scores"):
        find(storage, name)


def test_a_list_that_is_listed_late_is_the_latest(storage: LocalStorage) -> None:
    complete(storage, "newer", "2026-02-01T00:00:00+00:00", exclude_suspects="no")
    storage.write(LAYOUT.latest, b"newer\n")
    late = Late(storage, lambda key: "/newer/" in key)
    assert find(late, "latest").suspects.startswith("first@")  # it is not evaluated
    store_suspects(storage, TAG, "newer", suspects(SUSPECTED))
    assert find(late, "latest").suspects.startswith("newer@")


def test_what_is_damaged_is_not_the_latest(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    store_suspects(storage, TAG, "torn", suspects(SUSPECTED))
    storage.write(LAYOUT.run("torn", "metrics.json"), b"{")
    assert find(storage, "latest").suspects.startswith("first@")
    assert "run passed over" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("choice", "error", "complaint"),
    [
        ("../x", UsageError, r"--exclude-suspects '../x'"),
        ("@0123", UsageError, r"--exclude-suspects ''"),
        ("second", InputError, "no suspect labels of the run 'second'"),
    ],
)
def test_a_wrong_choice_is_one_line(
    choice: str, error: type[Exception], complaint: str, storage: LocalStorage
) -> None:
    with pytest.raises(error, match=complaint):
        find(storage, choice)


def test_latest_of_nothing_says_what_to_do(storage: LocalStorage) -> None:
    storage.delete(LAYOUT.run("first", "suspects.json"))
    with pytest.raises(InputError, match="run imagetag evaluate --tags fate/stay_night first"):
        find(storage, "latest")


def test_a_list_that_could_judge_nothing_is_said(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    store_suspects(storage, TAG, "first", suspects([], reason="too few groups"))
    assert find(storage, "latest").suspected == frozenset()
    assert "too few groups" in capsys.readouterr().out


# ---- in training


def members(target: Target, storage: LocalStorage) -> dict[Use, set[str]]:
    training = target.training
    fractions = training.validation_fraction, training.threshold_fraction
    partition = find_partition(storage, target.dataset, *fractions, target.cleaning)
    uses: dict[Use, set[str]] = {use: set() for use in get_args(Use)}
    for row in train_rows(storage, target.dataset):
        uses[partition.use_of(row)].add(row.md5)
    assert {use: sum(partition.images[use].values()) for use in uses} == {
        use: len(found) for use, found in uses.items()
    }
    return uses


def test_the_training_part_alone_lacks_suspects(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = find_target(storage, TAG, TRAINING, None)
    everything = members(plain, storage)
    assert "suspects excluded" not in capsys.readouterr().out
    choice = TRAINING.model_copy(update={"exclude_suspects": "latest"})
    target = find_target(storage, TAG, choice, None)
    rest = members(target, storage)
    assert everything["train"] - rest["train"] == LEFT_OUT == rest["excluded"]
    assert rest["train"] < everything["train"]
    assert rest["validation"] == everything["validation"]
    assert rest["threshold"] == everything["threshold"]
    line = capsys.readouterr().out
    assert "suspects excluded" in line
    assert "images=3" in line


def test_another_fraction_of_validation_has_another_training_part(storage: LocalStorage) -> None:
    changes = {"exclude_suspects": "first", "validation_fraction": 0.4}
    target = find_target(storage, TAG, TRAINING.model_copy(update=changes), None)
    rest = members(target, storage)
    listed = find(storage, "first").suspected
    assert not rest["train"] & listed
    assert rest["excluded"] < listed
    assert listed - rest["excluded"] < rest["validation"] | rest["threshold"]


def test_what_is_left_out_is_a_part_of_what_the_run_is(storage: LocalStorage) -> None:
    def target(choice: str, run: str | None = None) -> Target:
        return find_target(
            storage, TAG, TRAINING.model_copy(update={"exclude_suspects": choice}), run
        )

    by_name = target("first")
    assert target("latest") == by_name
    assert target(by_name.training.exclude_suspects) == by_name
    assert by_name.training.exclude_suspects == find(storage, "first").suspects
    assert len({target(choice).run for choice in ("no", "first")}) == 2
    assert len({target(choice, "some").digest for choice in ("no", "first")}) == 2
    settings = by_name.training.model_dump()
    complete(storage, by_name.run, "2026-05-01T00:00:00+00:00", **settings)
    assert target("latest").completed() is not None
    before = target("latest", "named")
    store_suspects(storage, TAG, "first", suspects(SUSPECTED[4:]))
    assert target("latest").run != by_name.run
    assert target("latest").completed() is None
    assert target("latest", "named").digest != before.digest
    with pytest.raises(UsageError, match="with other settings or other images"):
        target("latest", by_name.run).completed()
    with pytest.raises(UsageError, match="with other settings or other images"):
        target("no", by_name.run).completed()


def test_runs_from_before_there_was_a_choice_are_still_complete(storage: LocalStorage) -> None:
    target = find_target(storage, TAG, TRAINING, None)
    settings = target.training.model_dump()
    unknown = {
        "exclude_suspects": "no",
        "verdicts": "ignore",
        "features": "no",
        "head": "trained",
        "mirror": "no",
        "threshold_from": "held-out",
    }
    assert {name: settings.pop(name) for name in unknown} == unknown
    complete(storage, target.run, "2026-05-01T00:00:00+00:00", **settings)
    assert target.completed() is not None
    # And the same command gives the name that it gave then.
    del settings["image_size"]
    identity = digest([settings, [96, 96], target.dataset.fingerprint])
    assert target.run == f"alexnet-small-{identity[:8]}"


def test_too_few_that_are_left_are_an_input_error(storage: LocalStorage, tmp_path: Path) -> None:
    mine = [row for row in ROWS if part_of(row) == "train" and row.label == "negative"]
    store_suspects(storage, TAG, "first", suspects(mine[7:]))
    training = TRAINING.model_copy(update={"exclude_suspects": "first"})
    with pytest.raises(InputError, match="has 7 negative images to train on and 8 are needed"):
        train_tag(
            storage,
            TAG,
            training,
            Cluster(lambda: choose_devices("none")),
            Means(cache_folder=tmp_path),
        )


# ---- in packs


PACKING = Packing(image_size="8x8", validation_fraction=0.2)


def test_a_pack_lacks_what_a_training_leaves_out(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = pack_tag(storage, TAG, PACKING)
    packed = pack_tag(storage, TAG, PACKING.model_copy(update={"exclude_suspects": "latest"}))
    assert "suspects excluded" in capsys.readouterr().out
    assert packed.exclude_suspects == find(storage, "first").suspects
    assert packed.name != whole.name
    everything = whole.images("train")
    assert packed.images("train") == everything | {"negative": everything["negative"] - 3}
    assert packed.images("validation") == whole.images("validation")
    stored = b"".join(storage.read(shard.key) for shard in packed.parts["train"])
    for row in ROWS:
        if part_of(row) == "train":
            assert (row.md5.encode() in stored) == (row.md5 not in LEFT_OUT)
    again = pack_tag(storage, TAG, PACKING.model_copy(update={"exclude_suspects": "first"}))
    assert again == packed


@pytest.mark.parametrize(("packed", "trained"), [("no", "first"), ("first", "no")])
def test_a_training_must_leave_out_what_its_pack_does(
    packed: str, trained: str, storage: LocalStorage
) -> None:
    def packing(choice: str) -> Packing:
        return PACKING.model_copy(update={"exclude_suspects": choice})

    def training(choice: str) -> Training:
        changes = {"packed": "latest", "image_size": "auto", "exclude_suspects": choice}
        return TRAINING.model_copy(update=changes)

    name = find(storage, "first").suspects
    pack = pack_tag(storage, TAG, packing(packed))
    with pytest.raises(InputError) as caught:
        find_target(storage, TAG, training(trained), None)
    told = {"no": "no", "first": name}
    assert f"--exclude-suspects {told[packed]} and not {told[trained]}" in str(caught.value)
    target = find_target(storage, TAG, training(packed), None)
    assert (target.training.packed, target.training.exclude_suspects) == (pack.name, told[packed])


def test_packs_from_before_there_was_a_choice_are_still_complete(storage: LocalStorage) -> None:
    packed = pack_tag(storage, TAG, PACKING)
    settings = PACKING.model_dump(exclude={"image_size", "exclude_suspects", "verdicts"})
    identity = digest([2, settings, [8, 8], packed.fingerprint])
    assert packed.name == f"8x8-{identity[:16]}"
    key = LAYOUT.packed(packed.name, "index.json")
    text = storage.read(key).decode()
    for line in ('  "exclude_suspects": "no",\n', '  "verdicts": "ignore",\n'):
        assert text.count(line) == 1
        text = text.replace(line, "")
    storage.write(key, text.encode())
    assert load_packed(storage, TAG, packed.name) == packed


# ---- verdicts


def judge(storage: Storage, rows: Iterable[Row], answer: Answer) -> None:
    store_verdicts(storage, TAG, [new_verdict(row.md5, answer, "suspects") for row in rows])


def settle(storage: Storage, verdicts: str = "use", **changes: Any) -> Target:
    changes |= {"verdicts": verdicts}
    return find_target(storage, TAG, TRAINING.model_copy(update=changes), None)


def labels(target: Target) -> dict[str, tuple[Use, Label]]:
    """Return what each picture is used for and its label, as `parts.csv` has them."""
    reader = csv.DictReader(io.StringIO(target.partition().table.decode()))
    return {row["md5"]: (row["use"], row["label"]) for row in reader}  # type: ignore[misc]


@pytest.mark.parametrize("part", ["train", "validation"])
def test_verdicts_turn_labels_of_what_is_learned_from_and_leave_out_what_none_can_tell(
    part: PartName, storage: LocalStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = labels(settle(storage))
    forgotten, confirmed, unclear = some(part, "negative", 3)
    [wrong] = some(part, "positive", 1)
    judge(storage, [forgotten], "yes")
    judge(storage, [confirmed, wrong], "no")
    judge(storage, [unclear], "unclear")
    target = settle(storage)
    expected = before | {
        forgotten.md5: (part, "positive"),
        wrong.md5: (part, "negative"),
        unclear.md5: ("excluded", "negative"),
    }
    capsys.readouterr()
    assert labels(target) == expected
    line = capsys.readouterr().out
    assert "labels by verdicts" in line
    assert "left_out=1 to_negative=1 to_positive=1" in line
    partition = target.partition()
    assert partition.turned == Turned(to_positive=1, to_negative=1, left_out=1)
    rows = rows_of_parts(storage, target.dataset, partition, [part])[part]
    taken = {row.md5: row for row in rows}
    assert unclear.md5 not in taken
    assert {md5: row.label for md5, row in taken.items()} == {
        md5: label for md5, (use, label) in expected.items() if use == part
    }
    # Where they lie in storage, nothing has moved.
    assert (taken[forgotten.md5].target, taken[forgotten.md5].folder_label) == (1, "negative")
    found = sync(storage, TAG, [taken[forgotten.md5], taken[wrong.md5]], tmp_path / "copy")
    assert len(found) == 2


def test_verdicts_on_what_is_held_out_make_no_other_training(storage: LocalStorage) -> None:
    before = settle(storage)
    held = some("threshold", "negative", 2) + some("test", "negative", 2)
    judge(storage, held, "yes")
    judge(storage, some("threshold", "positive", 1), "unclear")
    after = settle(storage)
    assert after == before
    assert after.training.verdicts == "ignore"
    assert labels(after) == labels(before)


def test_verdicts_decide_nothing_of_who_is_in_which_part(storage: LocalStorage) -> None:
    before = settle(storage).partition().groups
    judge(storage, [row for row in ROWS if row.label == "negative"], "yes")
    assert settle(storage).partition().groups == before


def test_verdicts_are_a_part_of_what_the_run_is(storage: LocalStorage) -> None:
    plain = settle(storage)
    judge(storage, some("train", "negative", 1), "yes")
    first = settle(storage)
    assert first.run != plain.run
    assert first.digest != plain.digest
    assert settle(storage, "ignore") == plain
    assert settle(storage, first.training.verdicts) == first
    complete(storage, first.run, "2026-05-01T00:00:00+00:00", **first.training.model_dump())
    assert settle(storage).completed() is not None
    judge(storage, some("train", "negative", 2)[1:], "no")
    assert settle(storage).run != first.run
    digest = first.training.verdicts
    with pytest.raises(UsageError, match=f"--verdicts '{digest}': .* are others now; .* or use"):
        settle(storage, digest)
    judge(storage, some("train", "negative", 2), "withdrawn")
    assert settle(storage) == plain


def test_what_was_judged_is_no_suspect_that_is_left_out(storage: LocalStorage) -> None:
    confirmed, forgotten, _ = some("train", "negative", 3)
    judge(storage, [confirmed], "no")
    judge(storage, [forgotten], "yes")
    target = settle(storage, exclude_suspects="first")
    left_out = {md5 for md5, (use, _) in labels(target).items() if use == "excluded"}
    assert left_out == LEFT_OUT - {confirmed.md5, forgotten.md5}


def test_verdicts_that_cannot_be_read_are_one_line_and_can_be_ignored(
    storage: LocalStorage,
) -> None:
    storage.write(LAYOUT.verdict_part("0" * 24), b"{\n")
    with pytest.raises(InputError, match=r"verdicts/0+\.jsonl line 1"):
        settle(storage)
    assert settle(storage, "ignore").training.verdicts == "ignore"


@pytest.mark.parametrize("choice", ["no", "yes", "0123"])
def test_another_choice_of_verdicts_is_refused(choice: str) -> None:
    with pytest.raises(ValueError, match="take use or ignore"):
        Training(verdicts=choice)


def test_a_pack_has_labels_by_verdicts_and_its_training_must_agree(storage: LocalStorage) -> None:
    forgotten, unclear = some("train", "negative", 2)
    before = pack_tag(storage, TAG, PACKING).images("train")
    judge(storage, [forgotten], "yes")
    judge(storage, [unclear], "unclear")
    changes = {"packed": "latest", "image_size": "auto"}
    with pytest.raises(InputError, match=r"--verdicts ignore and not [0-9a-f]{12}: train with"):
        settle(storage, **changes)
    settle(storage, "ignore", **changes)
    packed = pack_tag(storage, TAG, PACKING)
    assert packed.images("train") == {
        "positive": before["positive"] + 1,
        "negative": before["negative"] - 2,
    }
    assert settle(storage, **changes).training.verdicts == packed.verdicts
    with pytest.raises(InputError, match=r"--verdicts [0-9a-f]{12} and not ignore: train with"):
        settle(storage, "ignore", **changes)
