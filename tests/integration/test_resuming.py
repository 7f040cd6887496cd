"""Training after any interruption ends with the same model."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagetag.runs.runs import load_run
from imagetag.storage.local import LocalStorage
from imagetag.storage.opening import open_storage
from tests.builders.drawn import TAG
from tests.integration.trainings import (
    LAYOUT,
    RARELY,
    SMALL,
    Start,
    assert_same,
    dataset,
    finish,
    held,
    run_of,
    starting,
)

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("storage"))


@pytest.fixture
def start(storage: Path, tmp_path: Path) -> Iterator[Start]:
    with starting(storage, tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def calm(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    with starting(storage, folder) as start:
        finish(start("calm", *SMALL))
    return "calm"


def test_a_run_goes_on_on_another_machine_as_if_undisturbed(
    storage: Path, calm: str, start: Start, tmp_path: Path
) -> None:
    ends = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
    for signum, epochs in ((signal.SIGKILL, 2), (signal.SIGTERM, 1), (signal.SIGINT, 1)):
        [worker] = start("torn", *SMALL, before=held(epochs))
        worker.wait_for("held")
        worker.process.send_signal(signum)
        assert worker.wait() == ends[signum]
        assert not (storage / LAYOUT.run("torn", "metrics.json")).exists()
        # Two are kept; a kill may come between the third and the removal of the first.
        assert len(list((storage / LAYOUT.run("torn", "checkpoint/x")).parent.glob("*.npz"))) <= 3
        shutil.rmtree(tmp_path / "cache-0")  # another machine
    [worker] = start("torn", *SMALL)
    finish([worker])
    [resumed] = [line for line in worker.lines() if line["event"] == "resumed"]
    assert resumed["epoch"] >= 3
    assert_same(storage, calm, "torn")
    assert list((storage / LAYOUT.run("torn", "checkpoint/x")).parent.glob("*")) == []


def test_ctrl_c_keeps_what_was_trained_and_says_how_far(
    storage: Path, calm: str, start: Start, tmp_path: Path
) -> None:
    [worker] = start("ctrl-c", *SMALL, *RARELY, before=held(2))
    worker.wait_for("held")
    worker.process.send_signal(signal.SIGINT)
    assert worker.wait() == 130
    place = re.fullmatch(
        r"interrupted; a checkpoint is stored \((epoch \d, step \d+)\); "
        "run it again to go on from there",
        worker.complaint,
    )
    assert place, worker.complaint
    shutil.rmtree(tmp_path / "cache-0")  # another machine
    [worker] = start("ctrl-c", *SMALL, *RARELY)
    finish([worker])
    [resumed] = [line for line in worker.lines() if line["event"] == "resumed"]
    assert f"epoch {resumed['epoch']}, step {resumed['step']}" == place[1]
    assert_same(storage, calm, "ctrl-c")


def test_a_second_ctrl_c_does_not_wait_for_the_checkpoint(storage: Path, start: Start) -> None:
    stalled = """
import imagetag.train.checkpoint, time
imagetag.train.checkpoint.Checkpoints._save = lambda self, checkpoint: time.sleep(600)
"""
    [worker] = start("stalled", *SMALL, *RARELY, before=stalled + held(1))
    worker.wait_for("held")
    worker.process.send_signal(signal.SIGINT)
    worker.wait_for("stopping: a checkpoint is stored first; Ctrl-C again leaves without it")
    worker.process.send_signal(signal.SIGINT)
    assert worker.wait() == 130
    assert "left without saving what was under way" in worker.complaint
    assert not list(storage.joinpath(LAYOUT.run("stalled", "checkpoint")).glob("*"))


def test_a_checkpoint_that_storage_does_not_take_is_said_to_be_here_alone(start: Start) -> None:
    full = """
import errno, imagetag.storage
def refuse(self, path, key):
    raise OSError(errno.ENOSPC, "No space left on device")
imagetag.storage.LocalStorage.upload = refuse
"""
    [worker] = start("unstored", *SMALL, *RARELY, before=full + held(2))
    worker.wait_for("held")
    worker.process.send_signal(signal.SIGINT)
    assert worker.wait() == 130
    assert "a checkpoint is on this machine alone, as storage failed (" in worker.complaint
    [worker] = start("unstored", *SMALL, *RARELY)
    worker.wait_for("resumed")
    # With several workers, only what is in storage counts.
    workers = start(
        "unstored-2", *SMALL, *RARELY, "--batch-size", 8, workers=2, before=full + held(1, 1)
    )
    workers[1].wait_for("held")
    workers[1].process.send_signal(signal.SIGINT)
    assert workers[1].wait() == 130
    assert "; no checkpoint could be stored; " in workers[1].complaint


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    storage: Path, calm: str, start: Start, tmp_path: Path
) -> None:
    [worker] = start("damaged", *SMALL, before=held(3))
    worker.wait_for("held")
    worker.process.kill()
    worker.wait()
    shutil.rmtree(tmp_path / "cache-0")
    folder = (storage / LAYOUT.run("damaged", "checkpoint/x")).parent
    newest = max(folder.glob("*.npz"))
    newest.write_bytes(newest.read_bytes()[:-400])
    [worker] = start("damaged", *SMALL)
    finish([worker])
    left_out = [line for line in worker.lines() if line["event"] == "checkpoint left out"]
    assert [line["name"] for line in left_out] == [newest.name]
    assert_same(storage, calm, "damaged")


def test_in_the_second_phase_too(storage: Path, start: Start, tmp_path: Path) -> None:
    phases = (
        *("--model", "mobilenet", "--weights", "none", "--freeze-backbone", "yes"),
        *("--image-size", "32x32", "--epochs", 1, "--fine-tune-epochs", 3, "--patience", 9),
        *("--fine-tune-rate", 0.001, "--checkpoint-seconds", 0, "--no-export"),
    )
    finish(start("phases-calm", *phases))
    assert len(run_of(storage, "phases-calm").history) == 4
    [worker] = start("phases-torn", *phases, before=held(2))
    worker.wait_for("held")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait() == 143
    [worker] = start("phases-torn", *phases)
    finish([worker])
    [resumed] = [line for line in worker.lines() if line["event"] == "resumed"]
    assert resumed["phase"] == "fine-tune"
    *_, last = [line for line in worker.lines() if line["event"] == "epoch"]
    assert (last["epoch"], last["epochs"], last["seconds_left"]) == (4, 4, 0)
    best = run_of(storage, "phases-torn").history[last["best_epoch"] - 1]
    assert last["best_val_loss"] == pytest.approx(best["val_loss"], abs=1e-6)
    assert_same(storage, "phases-calm", "phases-torn")


def test_another_global_batch_does_not_go_on_from_a_checkpoint(start: Start) -> None:
    [worker] = start("batch", *SMALL, before=held(1))
    worker.wait_for("held")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait() == 143
    [worker] = start("batch", *SMALL, "--strategy", "mirrored", "--cpu-devices", 2)
    assert worker.wait() == 2
    assert "global batch" in worker.complaint


def test_checkpoints_survive_in_a_bucket(s3_bucket: str, storage: Path, calm: str, start: Start,
                                         tmp_path: Path) -> None:  # fmt: skip
    """The same on a real S3 server, to which checkpoints go in the background."""
    bucket = open_storage(s3_bucket)
    for entry in LocalStorage(storage).list(LAYOUT.root):
        if "/models/" not in entry.key:
            bucket.upload(storage / entry.key, entry.key)
    options = ("--storage", s3_bucket, *SMALL)  # the last one counts
    [worker] = start("bucket", *options, before=held(2))
    worker.wait_for("held")
    worker.process.kill()
    worker.wait()
    shutil.rmtree(tmp_path / "cache-0")
    [worker] = start("bucket", *options)
    finish([worker])
    assert "resumed" in [line["event"] for line in worker.lines()]
    assert load_run(bucket, TAG, "bucket").history == run_of(storage, calm).history
