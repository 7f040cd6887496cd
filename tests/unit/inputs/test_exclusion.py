"""What --exclude-suspects leaves out: of the training part alone, and of negatives alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest

from imagetag.dataset.manifest import Row, summarize
from imagetag.dataset.split import parts_of_groups, split_of
from imagetag.errors import InputError, UsageError
from imagetag.inputs.exclusion import Exclusion, find_exclusion
from imagetag.inputs.pack import Packing, pack_tag
from imagetag.inputs.pack_index import load_packed
from imagetag.inputs.partition import Use, find_partition, train_rows
from imagetag.layout import LABELS, Label, Layout
from imagetag.models.distribute import choose_devices
from imagetag.runs.runs import Run
from imagetag.runs.suspects import Part, Suspect, Suspects, store_suspects
from imagetag.storage.local import LocalStorage
from imagetag.train.cluster import Cluster
from imagetag.train.settings import Means, Training
from imagetag.train.target import Target, find_target
from imagetag.train.train import train_tag
from tests.builders.datasets import store_dataset
from tests.builders.pictures import plain
from tests.builders.rows import row_of
from tests.builders.runs import make_run, store_run
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


# ---- the choice


def test_by_default_nothing_is_left_out(storage: LocalStorage) -> None:
    excluded = find_exclusion(storage, "no such tag", "no")
    assert excluded == Exclusion("no", frozenset())
    assert not any(excluded.covers(row) for row in ROWS)


def test_negatives_of_the_train_split_are_named_by_run_and_digest(storage: LocalStorage) -> None:
    excluded = find_exclusion(storage, TAG, "first")
    expected = LEFT_OUT | {row.md5 for row in some("validation", "negative", 3)}
    assert excluded.md5s == expected
    digest = hashlib.sha256("".join(sorted(expected)).encode()).hexdigest()[:12]
    assert excluded.name == f"first@{digest}"
    assert find_exclusion(storage, TAG, excluded.name) == excluded
    store_suspects(storage, TAG, "first", suspects(SUSPECTED[::-1]))
    assert find_exclusion(storage, TAG, "first") == excluded


def test_a_list_that_has_changed_is_another(storage: LocalStorage) -> None:
    before = find_exclusion(storage, TAG, "first").name
    store_suspects(storage, TAG, "first", suspects(SUSPECTED[4:]))
    after = find_exclusion(storage, TAG, "first").name
    assert after != before
    with pytest.raises(UsageError, match=f"{before}.*are others now; {after} or first"):
        find_exclusion(storage, TAG, before)


def test_a_positive_is_never_left_out(storage: LocalStorage) -> None:
    excluded = find_exclusion(storage, TAG, "first")
    for row in ROWS:
        relabelled = row.model_copy(update={"label": "positive"})
        assert not excluded.covers(relabelled)
    # Also if a list says so.
    [positive] = some("train", "positive", 1)
    assert not Exclusion("x", frozenset([positive.md5])).covers(positive)


def test_latest_is_the_newest_evaluated_run_that_was_trained_on_suspects_too(
    storage: LocalStorage,
) -> None:
    complete(storage, "older", "2025-01-01T00:00:00+00:00", exclude_suspects="no")
    complete(storage, "newer", "2026-02-01T00:00:00+00:00", exclude_suspects="no")
    complete(storage, "not-evaluated", "2026-03-01T00:00:00+00:00", exclude_suspects="no")
    complete(storage, "excluding", "2026-04-01T00:00:00+00:00", exclude_suspects="newer@0")
    for name in ("older", "newer", "excluding"):
        store_suspects(storage, TAG, name, suspects(SUSPECTED))
    assert find_exclusion(storage, TAG, "latest").name.startswith("newer@")
    assert find_exclusion(storage, TAG, "excluding").name.startswith("excluding@")


def test_a_list_that_is_listed_late_is_the_latest(storage: LocalStorage) -> None:
    complete(storage, "newer", "2026-02-01T00:00:00+00:00", exclude_suspects="no")
    storage.write(LAYOUT.latest, b"newer\n")
    late = Late(storage, lambda key: "/newer/" in key)
    assert find_exclusion(late, TAG, "latest").name.startswith("first@")  # it is not evaluated
    store_suspects(storage, TAG, "newer", suspects(SUSPECTED))
    assert find_exclusion(late, TAG, "latest").name.startswith("newer@")


def test_what_is_damaged_is_not_the_latest(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    store_suspects(storage, TAG, "torn", suspects(SUSPECTED))
    storage.write(LAYOUT.run("torn", "metrics.json"), b"{")
    assert find_exclusion(storage, TAG, "latest").name.startswith("first@")
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
        find_exclusion(storage, TAG, choice)


def test_latest_of_nothing_says_what_to_do(storage: LocalStorage) -> None:
    storage.delete(LAYOUT.run("first", "suspects.json"))
    with pytest.raises(InputError, match="run imagetag evaluate --tags fate/stay_night first"):
        find_exclusion(storage, TAG, "latest")


def test_a_list_that_could_judge_nothing_is_said(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    store_suspects(storage, TAG, "first", suspects([], reason="too few groups"))
    assert find_exclusion(storage, TAG, "latest").md5s == frozenset()
    assert "too few groups" in capsys.readouterr().out


# ---- in training


def members(target: Target, storage: LocalStorage) -> dict[Use, set[str]]:
    training = target.training
    fractions = training.validation_fraction, training.threshold_fraction
    partition = find_partition(storage, target.dataset, *fractions, target.excluded)
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
    listed = find_exclusion(storage, TAG, "first").md5s
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
    assert by_name.training.exclude_suspects == find_exclusion(storage, TAG, "first").name
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
    unknown = {"exclude_suspects": "no", "features": "no", "head": "trained", "mirror": "no"}
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
        train_tag(storage, TAG, training, Cluster(lambda: choose_devices("none")), Means(tmp_path))


# ---- in packs


PACKING = Packing(image_size="8x8", validation_fraction=0.2)


def test_a_pack_lacks_what_a_training_leaves_out(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = pack_tag(storage, TAG, PACKING)
    packed = pack_tag(storage, TAG, PACKING.model_copy(update={"exclude_suspects": "latest"}))
    assert "suspects excluded" in capsys.readouterr().out
    assert packed.exclude_suspects == find_exclusion(storage, TAG, "first").name
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

    name = find_exclusion(storage, TAG, "first").name
    pack = pack_tag(storage, TAG, packing(packed))
    with pytest.raises(InputError) as caught:
        find_target(storage, TAG, training(trained), None)
    told = {"no": "no", "first": name}
    assert f"--exclude-suspects {told[packed]} and not {told[trained]}" in str(caught.value)
    target = find_target(storage, TAG, training(packed), None)
    assert (target.training.packed, target.training.exclude_suspects) == (pack.name, told[packed])


def test_packs_from_before_there_was_a_choice_are_still_complete(storage: LocalStorage) -> None:
    packed = pack_tag(storage, TAG, PACKING)
    settings = PACKING.model_dump(exclude={"image_size", "exclude_suspects"})
    identity = digest([2, settings, [8, 8], packed.fingerprint])
    assert packed.name == f"8x8-{identity[:16]}"
    key = LAYOUT.packed(packed.name, "index.json")
    text = storage.read(key).decode()
    line = '  "exclude_suspects": "no",\n'
    assert text.count(line) == 1
    storage.write(key, text.replace(line, "").encode())
    assert load_packed(storage, TAG, packed.name) == packed
