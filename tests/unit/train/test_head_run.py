"""Heads on stored features: what is fitted, what is stored, and what is asked of whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagetag.dataset.manifest import load_dataset, read_rows
from imagetag.errors import InputError, UsageError
from imagetag.evaluate.measuring import train_command
from imagetag.features.extractor import ExtractorRecord
from imagetag.features.feature_store import FeatureStore
from imagetag.features.shared import SharedFeatures
from imagetag.features.stored_extractors import find_extractor, mark_latest, store_extractor
from imagetag.inputs.partition import load_partition
from imagetag.layout import Layout
from imagetag.runs.heads import load_head
from imagetag.runs.runs import Run, load_run
from imagetag.stats.logistic import fit_head
from imagetag.storage.base import Storage
from imagetag.storage.opening import open_storage
from imagetag.train.settings import Means, Training, settled
from imagetag.train.train import train_tag
from imagetag.verdicts import store_verdicts
from jobs.train import TrainSettings
from tests.builders.datasets import store_dataset
from tests.builders.extractors import make_record
from tests.builders.rows import make_row
from tests.builders.verdicts import new_verdict

TAG = "rei"
CHANNELS = 8
GIVEN: dict[str, Any] = {"tags": (TAG,), "storage": "data", "features": "latest"}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A dataset of 60 pictures a label, and an extractor; no features yet."""
    storage = open_storage(str(tmp_path / "storage"))
    rows = [
        make_row(number, label="positive" if number % 2 else "negative", group=f"g{number}")
        for number in range(120)
    ]
    store_dataset(storage, TAG, rows)
    return storage


def extract(storage: Storage, tmp_path: Path, **values: Any) -> ExtractorRecord:
    network = tmp_path / "model.keras"
    network.write_bytes(b"a network")
    record = store_extractor(storage, make_record(channels=CHANNELS, **values), network)
    mark_latest(storage, record)
    return record


def features_of(storage: Storage, record: ExtractorRecord, *, noise: float = 1.0) -> None:
    """Store features that tell the label apart in the first channel."""
    random = np.random.default_rng(0)
    rows = list(read_rows(storage, load_dataset(storage, TAG)))
    values = random.normal(0, noise, (len(rows), record.views, CHANNELS))
    values[:, :, 0] += np.array([[3.0 if row.label == "positive" else -3.0] for row in rows])
    FeatureStore(storage, record).add([row.md5 for row in rows], values.astype(np.float16))


def train(storage: Storage, tmp_path: Path, **values: Any) -> Run:
    training = Training(features="latest", **values)
    return train_tag(storage, TAG, training, means=Means(cache_folder=tmp_path / "cache"))


def test_a_run_is_a_head_and_the_name_of_the_extractor(storage: Storage, tmp_path: Path) -> None:
    record = extract(storage, tmp_path)
    features_of(storage, record)
    run = train(storage, tmp_path)
    assert run == load_run(storage, TAG, "latest")
    assert (run.extractor, run.image_size, run.history) == (record.name, record.image_size, [])
    assert run.validation["accuracy"] > 0.95
    head, theirs = load_head(storage, run)
    assert theirs == record
    assert np.abs(head.weights).argmax() == 0
    files = {entry.key: entry.size for entry in storage.list(Layout(TAG).run(run.run, ""))}
    assert {key.rpartition("/")[2] for key in files} == {
        "README.md",
        "head.npz",
        "metrics.json",
        "parts.csv",
    }
    assert sum(files.values()) < 20_000
    assert record.name in storage.read(Layout(TAG).run(run.run, "README.md")).decode()
    again = train(storage, tmp_path)
    assert again == run


def test_it_is_fitted_to_train_and_validation_alone(storage: Storage, tmp_path: Path) -> None:
    record = extract(storage, tmp_path)
    features_of(storage, record)
    run = train(storage, tmp_path)
    fitted = sum(run.images["train"].values())
    kept = sum(run.images["threshold"].values())
    assert "validation" not in run.images
    assert fitted + kept < 120  # the rest is the test split
    assert kept > 0.15 * (fitted + kept)


def test_out_of_fold_everything_is_learned_from_and_has_an_unseen_score(
    storage: Storage, tmp_path: Path
) -> None:
    record = extract(storage, tmp_path)
    features_of(storage, record)
    held_out = train(storage, tmp_path)
    run = train(storage, tmp_path, threshold_from="out-of-fold")
    rows = [row for row in read_rows(storage, load_dataset(storage, TAG)) if row.split == "train"]
    assert run.images["train"] == run.images["threshold"]
    assert sum(run.images["train"].values()) == len(rows)
    assert run.out_of_fold
    assert not held_out.out_of_fold
    used = load_partition(storage, run)
    assert used.keys() == {row.md5 for row in rows}
    stored = SharedFeatures(storage, [TAG], tmp_path / "cache").of(record)
    for row in rows:
        [said] = load_head(storage, run)[0].logits(stored.values[stored.find([row.md5], TAG)])
        score = used[row.md5].out_of_fold
        assert score is not None
        assert score.logit == pytest.approx(said, abs=3)
        assert score.logit != pytest.approx(said, abs=1e-6)  # not by what has learned from it
    rows.sort(key=lambda row: row.md5)
    wanted = fit_head(
        stored.values[stored.find([row.md5 for row in rows], TAG)],
        [row.target for row in rows],
        [row.group for row in rows],
        as_in_folds=True,
    )
    assert load_head(storage, run)[0].weights == pytest.approx(wanted.weights, abs=1e-6)


def test_what_is_held_back_for_nothing_makes_no_other_run(storage: Storage, tmp_path: Path) -> None:
    features_of(storage, extract(storage, tmp_path))
    run = train(storage, tmp_path, threshold_from="out-of-fold")
    again = train(storage, tmp_path, threshold_from="out-of-fold", threshold_fraction=0.4)
    assert again == run
    assert "threshold_fraction" not in run.settings
    held_out = train(storage, tmp_path)
    assert held_out.run != run.run
    assert "threshold_from" not in held_out.settings  # as of older versions
    command = train_command(TAG, run.settings, run.image_size)
    assert "--threshold-from out-of-fold" in command
    assert "fraction" not in command
    with pytest.raises(UsageError, match="is complete, with other settings"):
        train_tag(storage, TAG, Training(features="latest"), run=run.run)


def test_lost_scores_are_made_anew_with_their_head(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features_of(storage, extract(storage, tmp_path))
    run = train(storage, tmp_path, threshold_from="out-of-fold")
    key = Layout(TAG).run(run.run, "parts.csv")
    kept = load_partition(storage, run)
    storage.delete(key)
    again = train(storage, tmp_path, threshold_from="out-of-fold")
    assert "parts.csv is missing" in capsys.readouterr().out
    assert again.run == run.run
    assert load_partition(storage, again) == kept


def test_out_of_fold_nothing_is_learned_from_verdicts(storage: Storage, tmp_path: Path) -> None:
    features_of(storage, extract(storage, tmp_path))
    before = train(storage, tmp_path, threshold_from="out-of-fold")
    judged = next(md5 for md5 in load_partition(storage, before))
    store_verdicts(storage, TAG, [new_verdict(judged, "unclear", "suspects")])
    with pytest.raises(InputError, match=r"people have judged images .* add --verdicts ignore"):
        train(storage, tmp_path, threshold_from="out-of-fold")
    again = train(storage, tmp_path, threshold_from="out-of-fold", verdicts="ignore")
    assert again == before


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "goes with --features alone"),
        ({"features": "latest", "exclude_suspects": "latest"}, "not with --exclude-suspects"),
    ],
)
def test_what_out_of_fold_does_not_go_with(values: dict[str, Any], text: str) -> None:
    given = {"threshold_from": "out-of-fold", **values}
    with pytest.raises(UsageError, match=f"--threshold-from out-of-fold: {text}"):
        TrainSettings(**{"tags": (TAG,), "storage": "data", **given})
    with pytest.raises(UsageError, match=f"--threshold-from out-of-fold: {text}"):
        settled(Training(**given))


def test_few_large_groups_have_a_record_that_can_be_read(tmp_path: Path) -> None:
    """Folds of equal shares would have all of a label in one of them."""
    storage = open_storage(str(tmp_path / "storage"))
    kinds = [("a", "positive", 4), ("a", "negative", 3), ("b", "positive", 6), ("c", "negative", 5)]
    rows = [
        make_row(100 * place + number, group=group, label=label, split="train")
        for place, (group, label, count) in enumerate(kinds)
        for number in range(count)
    ]
    store_dataset(storage, TAG, rows)
    features_of(storage, extract(storage, tmp_path))
    run = train(storage, tmp_path, validation_fraction=0.01, threshold_fraction=0.01)
    assert load_run(storage, TAG, run.run) == run
    assert np.isfinite(list(run.validation.values())).all()


def test_a_picture_without_features_is_told_of_with_the_command(
    storage: Storage, tmp_path: Path
) -> None:
    extract(storage, tmp_path)
    with pytest.raises(InputError, match=r"no features of the extractor .*: run imagetag embed"):
        train(storage, tmp_path)


def test_what_cannot_be_decoded_is_left_out(storage: Storage, tmp_path: Path) -> None:
    record = extract(storage, tmp_path)
    rows = list(read_rows(storage, load_dataset(storage, TAG)))
    broken = next(row for row in rows if row.split == "train").md5
    nothing = np.full((1, record.views, CHANNELS), np.nan, np.float16)
    FeatureStore(storage, record).add([broken], nothing)
    first = FeatureStore(storage, record).missing(row.md5 for row in rows)
    assert broken not in first
    values = np.random.default_rng(0).normal(size=(len(first), record.views, CHANNELS))
    FeatureStore(storage, record).add(first, values.astype(np.float16))
    run = train(storage, tmp_path)
    assert np.isfinite(load_head(storage, run)[0].weights).all()


def test_without_an_extractor(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run imagetag embed first"):
        train(storage, tmp_path)


def test_a_head_of_another_extractor_is_refused(storage: Storage, tmp_path: Path) -> None:
    record = extract(storage, tmp_path)
    features_of(storage, record)
    run = train(storage, tmp_path)
    other = store_extractor(storage, make_record(channels=CHANNELS + 1), tmp_path / "model.keras")
    with pytest.raises(InputError, match="9 channels"):
        load_head(storage, run.model_copy(update={"extractor": other.name}))
    storage.delete(f".features/{run.extractor}/extractor.json")
    with pytest.raises(InputError, match=r"head\.npz is a head on features of .* not in storage"):
        load_head(storage, run)


def test_a_damaged_head_says_what_to_do(storage: Storage, tmp_path: Path) -> None:
    record = extract(storage, tmp_path)
    features_of(storage, record)
    run = train(storage, tmp_path)
    storage.write(Layout(TAG).run(run.run, "head.npz"), b"PK nothing")
    with pytest.raises(InputError, match=r"head\.npz cannot be read; delete .*metrics\.json"):
        load_head(storage, run)


def test_features_are_read_once_for_all_tags(storage: Storage, tmp_path: Path) -> None:
    record = extract(storage, tmp_path)
    features_of(storage, record)
    shared = SharedFeatures(storage, [TAG, "no such tag"], tmp_path / "cache")
    assert shared.of(record) is shared.of(record)
    assert len(shared.of(record).rows) == 120


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"epochs": 3}, "--epochs does not go with --features"),
        ({"packed": "latest"}, "--packed does not go with --features"),
        ({"features": "a/b"}, "--features 'a/b'"),
        (
            {"threshold_from": "out-of-fold", "threshold_fraction": 0.3},
            "--threshold-fraction does not go with --threshold-from out-of-fold",
        ),
    ],
)
def test_what_does_not_go_with_features(values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        TrainSettings(**{**GIVEN, **values})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"model": "vgg19"}, "--model vgg19: the extractor .* has tiny"),
        ({"image_size": "64x64"}, "--image-size 64x64: the extractor .* has 24x32"),
        ({"resize": "crop"}, "--resize crop: the extractor .* has letterbox"),
    ],
)
def test_settings_that_the_extractor_has_otherwise(
    storage: Storage, tmp_path: Path, values: dict[str, Any], text: str
) -> None:
    extract(storage, tmp_path)
    settings = TrainSettings(**{**GIVEN, **values})
    with pytest.raises(UsageError, match=text):
        settings.with_extractor(storage)
    found = TrainSettings(**GIVEN, image_size="24x32").with_extractor(storage)
    assert found.features == find_extractor(storage).name, "the latest may become another"
