"""Event files say what the history says, in the format and under the names TensorBoard expects."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from imagetag.train.tensorboard import write_events
from tests.forked import run_forked

STARTED = 1_800_000_000.25
HISTORY = [
    {"epoch": 1.0, "loss": 0.5, "val_loss": 0.75, "learning_rate": 1e-3, "seconds": 12.5},
    {"epoch": 2.0, "loss": 0.25, "val_loss": 0.625, "learning_rate": 5e-4, "seconds": 10.0},
]


def read(path: Path) -> list[Any]:
    return [
        tf.compat.v1.Event.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    ]


def scalars(path: Path) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.simple_value
        for event in read(path)
        for value in event.summary.value
    }


def test_each_number_is_a_scalar_of_its_epoch_and_validation_is_a_run_of_its_own(
    tmp_path: Path,
) -> None:
    train, validation = write_events(HISTORY, tmp_path / "events", STARTED)
    assert (train.parent, validation.parent) == (
        tmp_path / "events" / "train",
        tmp_path / "events" / "validation",
    )
    assert scalars(train) == pytest.approx(
        {
            ("epoch_loss", 1): 0.5,
            ("epoch_loss", 2): 0.25,
            ("epoch_learning_rate", 1): 1e-3,
            ("epoch_learning_rate", 2): 5e-4,
            ("epoch_seconds", 1): 12.5,
            ("epoch_seconds", 2): 10.0,
        }
    )
    assert scalars(validation) == {("epoch_loss", 1): 0.75, ("epoch_loss", 2): 0.625}


def test_a_file_begins_with_its_version_and_has_a_name_that_is_looked_for(tmp_path: Path) -> None:
    for path in write_events(HISTORY, tmp_path, STARTED):
        assert "tfevents" in path.name
        first, *others = read(path)
        assert first.file_version == "brain.Event:2"
        assert not any(event.file_version for event in others)


def test_wall_times_are_the_ends_of_the_epochs(tmp_path: Path) -> None:
    for path in write_events(HISTORY, tmp_path, STARTED):
        first, *others = read(path)
        assert first.wall_time == STARTED
        assert {event.step: event.wall_time - STARTED for event in others} == {1: 12.5, 2: 22.5}


def test_a_longer_history_continues_the_same_files(tmp_path: Path) -> None:
    early = write_events(HISTORY[:1], tmp_path, STARTED)
    before = [path.read_bytes() for path in early]
    late = write_events(HISTORY, tmp_path, STARTED)
    assert late == early
    for old, path in zip(before, late, strict=True):
        new = path.read_bytes()
        assert new.startswith(old)
        assert len(new) > len(old)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(late)


def test_a_loss_that_is_no_number_stays_one(tmp_path: Path) -> None:
    [path] = write_events([{"epoch": 1.0, "loss": math.nan}], tmp_path, STARTED)
    [value] = scalars(path).values()
    assert math.isnan(value)


def test_nothing_is_written_of_no_epoch(tmp_path: Path) -> None:
    assert write_events([], tmp_path, STARTED) == []
    assert list(tmp_path.iterdir()) == []


def test_tensorboards_command_finds_the_runs_of_a_tag(tmp_path: Path) -> None:
    write_events(HISTORY, tmp_path / "models" / "first" / "tensorboard", 0.0)
    script = "import runpy; runpy.run_module('tensorboard.main', run_name='__main__')"
    told = run_forked(script, ["--inspect", "--logdir", str(tmp_path / "models")])
    for part in ("train", "validation"):
        assert f"first/tensorboard/{part}" in told
    assert "epoch_loss" in told
