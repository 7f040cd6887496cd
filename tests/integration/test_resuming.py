"""Training on several devices, and after any interruption, ends with the same model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import jobs.explore
import jobs.pack
from imagetag.layout import Layout
from imagetag.runs import Run, load_run
from imagetag.split import parts_of_groups
from imagetag.storage import LocalStorage, open_storage
from tests.integration.test_training import PICTURES, TAG, store

pytestmark = pytest.mark.timeout(1800)

LAYOUT = Layout(TAG)
# No batch normalization, which is sensitive to rounding, and no dropout, of which each replica has
# its own.
EXACT = (
    *("--model", "vgg16", "--weights", "none", "--image-size", "32x32", "--dropout", 0),
    *(
        "--optimizer",
        "sgd",
        "--learning-rate",
        0.002,
        "--epochs",
        2,
        "--patience",
        9,
        "--no-export",
    ),
)
SMALL = (
    *("--model", "alexnet-small", "--image-size", "72x72", "--epochs", 6, "--patience", 9),
    *("--checkpoint-seconds", 0, "--no-export"),
)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a dataset, for runs of different names."""
    folder = tmp_path_factory.mktemp("storage")
    store(folder, PICTURES)
    assert jobs.explore.main(["--storage", str(folder), "--tags", TAG]) == 0
    return folder


# ---- processes


@dataclass
class Worker:
    """A training process, and what it has logged so far, in a file."""

    process: subprocess.Popen[bytes]
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        # TensorFlow writes a line of its own when a connection breaks.
        text = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in text if line.startswith("{") and line.endswith("}")]

    def wait_for(self, event: str, number: int = 1, **fields: Any) -> None:
        for _ in range(30_000):  # minutes, on a machine that has more to do
            found = [line for line in self.lines() if fields.items() <= line.items()]
            if [line["event"] for line in found].count(event) >= number:
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"no {event} {fields} in {self.log.read_text()}")

    def wait(self, seconds: float = 800) -> int:
        return self.process.wait(seconds)

    @property
    def complaint(self) -> str:
        return str(self.lines()[-1]["event"])


Lines = list[dict[str, Any]]


def ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return found


Start = Callable[..., list[Worker]]

# Ctrl-C counts, though a shell that started this in the background may have said otherwise.
MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
{before}
from jobs.train import main
sys.exit(main())
"""

# As `before`: the worker of this number stays in the midst of an epoch, after so many whole ones,
# until a signal comes. What is stopped there is stopped in mid-work, however fast it trains.
HOLDING = """
import os, time
from imagetag.fit import Fitting
from imagetag.log import get_logger
from imagetag.stopping import stop
begun = []
def hold(self, rate, set_rate=Fitting._set_rate):
    set_rate(self, rate)
    begun.append(len(self.state.history))
    if self.state.step == 1 and begun[-1] == begun[0] + EPOCHS:
        get_logger().info("held")
        while not stop.asked:
            time.sleep(0.01)
if os.environ["JOB_COMPLETION_INDEX"] == "WORKER":
    Fitting._set_rate = hold
"""


def held(epochs: int, worker: int = 0) -> str:
    return HOLDING.replace("EPOCHS", str(epochs)).replace("WORKER", str(worker))


@contextmanager
def starting(storage: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a training, as one process or as some workers; each has a cache of its own."""
    started: list[Worker] = []

    def start(
        run: str,
        *options: Any,
        workers: int = 1,
        only: int | None = None,
        before: str = "",
        own: Sequence[Sequence[Any]] = ((), ()),
    ) -> list[Worker]:
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports(workers))
        found = []
        for index in range(workers):
            if only not in (None, index):
                continue
            command = [
                *(sys.executable, "-c", MAIN.format(before=before)),
                *("--storage", storage, "--tags", TAG),
                *("--run", run, "--cache-folder", tmp_path / f"cache-{index}"),
                *options,
                *own[index],
            ]
            if workers > 1:
                command += ["--workers", workers, "--worker-addresses", addresses]
            log = tmp_path / f"{run}-{len(started)}.log"
            with log.open("wb") as stream:
                process = subprocess.Popen(
                    [str(word) for word in command],
                    stderr=stream,
                    env=os.environ | {"JOB_COMPLETION_INDEX": str(index)},
                )
            found.append(Worker(process, log))
            started.append(found[-1])
        return found

    try:
        yield start
    finally:
        for worker in started:
            worker.process.kill()
            worker.process.wait()


@pytest.fixture
def start(storage: Path, tmp_path: Path) -> Iterator[Start]:
    with starting(storage, tmp_path) as start:
        yield start


def finish(workers: list[Worker]) -> None:
    for worker in workers:
        assert worker.wait() == 0, worker.log.read_text()


def run_of(storage: Path, name: str) -> Run:
    return load_run(LocalStorage(storage), TAG, name)


def weights_of(storage: Path, name: str) -> list[Any]:
    path = storage / LAYOUT.run(name, "model.keras")
    weights: list[Any] = keras.models.load_model(path, compile=False).get_weights()
    return weights


def assert_same(storage: Path, name: str, other: str) -> None:
    """Two runs are the same to the last bit."""
    assert run_of(storage, name).history == run_of(storage, other).history
    for ours, theirs in zip(weights_of(storage, name), weights_of(storage, other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ---- one batch, however many share it


def test_replicas_and_workers_train_as_one_process_does(storage: Path, start: Start) -> None:
    finish(start("one", *EXACT, "--batch-size", 16))
    # Two workers of two replicas each, which take their four images in two parts.
    halves = ("--batch-size", 4, "--micro-batch", 2, "--cpu-devices", 2)
    finish(start("four", *EXACT, *halves, workers=2))
    one, four = run_of(storage, "one"), run_of(storage, "four")
    assert abs(one.history[0]["loss"] - one.history[1]["loss"]) > 1e-4, "it learned nothing"
    assert (four.global_batch, four.replicas, four.workers) == (16, 4, 2)
    assert four.images == one.images
    # What rounding does to a step grows in the next ones.
    for row, other, near in zip(one.history, four.history, (1e-5, 3e-4), strict=True):
        assert other == pytest.approx(row, rel=near, abs=1e-6)
    for ours, theirs in zip(weights_of(storage, "four"), weights_of(storage, "one"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_features_are_computed_once_by_all_workers_as_by_one(storage: Path, start: Start) -> None:
    frozen = (
        *("--model", "mobilenet", "--weights", "none", "--freeze-backbone", "yes"),
        *("--image-size", "32x32", "--no-augment", "--dropout", 0, "--fine-tune-blocks", 0),
        *("--epochs", 3, "--no-export"),
    )
    finish(start("features-one", *frozen, "--batch-size", 16))
    finish(start("features-two", *frozen, "--batch-size", 8, workers=2))
    one, two = run_of(storage, "features-one"), run_of(storage, "features-two")
    for row, other in zip(one.history, two.history, strict=True):
        assert other == pytest.approx(row, rel=1e-4, abs=1e-5)


def test_each_worker_fetches_its_own_share(storage: Path, start: Start, tmp_path: Path) -> None:
    finish(start("shares", *SMALL, "--epochs", 1, "--batch-size", 8, workers=2))
    shares = [
        {path.stem for path in (tmp_path / f"cache-{index}" / "images").rglob("*.*")}
        for index in (0, 1)
    ]
    rows = [item.row for item in PICTURES if item.row.split == "train"]
    parts = parts_of_groups(((row.group, row.label) for row in rows), 0.15, 0.2)
    wanted = {row.md5 for row in rows if parts[row.group] != "threshold"}
    assert shares[0] | shares[1] == wanted
    assert abs(len(shares[0]) - len(shares[1])) <= 8  # of the last batch, the first has more
    # Only what fills up the validation's one batch may be on both.
    assert len(shares[0] & shares[1]) <= 2


# ---- killed and started again


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


RARELY = ("--checkpoint-seconds", 1000)


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
import imagetag.checkpoint, time
imagetag.checkpoint.Checkpoints._save = lambda self, checkpoint: time.sleep(600)
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
    [worker] = start("phases-torn", *phases, before=held(3))
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


def test_two_workers_that_stream_shards_go_on_too(storage: Path, start: Start) -> None:
    pack = ["--storage", str(storage), "--tags", TAG, "--shard-bytes", "20000"]
    assert jobs.pack.main([*pack, "--image-size", "72x72"]) == 0
    options = (*SMALL, "--packed", "latest", "--batch-size", 8)
    finish(start("stream-calm", *options, workers=2))
    workers = start("stream-torn", *options, workers=2, before=held(2))
    workers[0].wait_for("held")
    workers[0].process.kill()
    assert workers[1].wait() == 75
    finish(start("stream-torn", *options, workers=2))
    assert_same(storage, "stream-calm", "stream-torn")


def test_when_a_worker_dies_all_leave_and_go_on_together(storage: Path, start: Start) -> None:
    options = (*SMALL, "--batch-size", 8)
    finish(start("workers-calm", *options, workers=2))
    left, dead = start("workers-torn", *options, workers=2, before=held(2, 1))
    dead.wait_for("held")
    dead.process.kill()
    assert left.wait() == 75
    assert "start all of them again" in left.complaint

    chief, told = start("workers-torn", *options, workers=2, before=held(1, 1))
    told.wait_for("held")
    told.process.send_signal(signal.SIGTERM)
    assert told.wait() == 143
    assert chief.wait() == 75

    workers = start("workers-torn", *options, workers=2)
    finish(workers)
    places = [
        [(line["epoch"], line["step"], line["digest"]) for line in worker.lines()
         if line["event"] == "resumed"]
        for worker in workers
    ]  # fmt: skip
    assert places[0] == places[1]
    assert len(places[0]) == 1
    assert_same(storage, "workers-calm", "workers-torn")

    # One that was started again when all was done has nothing to wait for.
    [late] = start("workers-torn", *options, workers=2, only=1)
    assert late.wait() == 0


@pytest.mark.parametrize("told", [0, 1])
def test_where_one_of_two_workers_is_interrupted_both_go_on_from_there(
    told: int, start: Start
) -> None:
    options = (f"interrupted-{told}", *SMALL, *RARELY, "--batch-size", 8)
    workers = start(*options, workers=2, before=held(2, told))
    workers[told].wait_for("held")
    workers[told].process.send_signal(signal.SIGINT)
    assert workers[told].wait() == 130
    assert "; a checkpoint is stored (epoch " in workers[told].complaint
    assert workers[1 - told].wait() == 75
    workers = start(*options, workers=2)
    finish(workers)
    resumed = [
        {(line["epoch"], line["digest"]) for line in worker.lines() if line["event"] == "resumed"}
        for worker in workers
    ]
    assert resumed[0] == resumed[1]
    assert min(resumed[0])[0] > 2


def test_two_workers_that_are_interrupted_together_go_on_too(start: Start) -> None:
    """Ctrl-C in a terminal reaches all that were started there."""
    options = ("interrupted", *SMALL, *RARELY, "--batch-size", 8)
    workers = start(*options, workers=2, before=held(2))
    workers[0].wait_for("held")
    for worker in workers:
        worker.process.send_signal(signal.SIGINT)
    assert [worker.wait() for worker in workers] == [130, 130]
    workers = start(*options, workers=2)
    finish(workers)
    assert "resumed" in [line["event"] for line in workers[0].lines()]


# ---- many tags


def lines_of(worker: Worker, event: str) -> Lines:
    return [line for line in worker.lines() if line["event"] == event]


def test_a_tag_that_cannot_be_trained_stops_no_other(storage: Path, start: Start) -> None:
    """As with one worker; all of them know which, and why."""
    tags = ("--tags", f"nothere,{TAG},gone", "--epochs", 1)
    told = []
    for name, workers in (("tags-1", 1), ("tags-2", 2)):
        started = start(name, *SMALL, *tags, "--batch-size", 16 // workers, workers=workers)
        for worker in started:
            assert worker.wait() == 3, worker.log.read_text()
            assert worker.complaint == "2 of 3 tags failed: nothere, gone"
            told.append([line["event"] for line in worker.lines() if line["level"] == "error"])
        assert lines_of(started[0], "trained")
        assert run_of(storage, name).workers == workers
    assert told == [told[0]] * 3
    assert "no complete dataset of the tag 'nothere'" in told[0][0]

    # Given again, what is trained is not trained again.
    for worker in start("tags-2", *SMALL, *tags, "--batch-size", 8, workers=2):
        assert worker.wait() == 3, worker.log.read_text()
        assert lines_of(worker, "already trained")


@pytest.mark.parametrize("tags", ["{}", "nothere,{}", "{},nothere"])
def test_workers_that_see_different_datasets_start_again(
    tags: str, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    options = (*SMALL, "--epochs", 1, "--batch-size", 8, "--tags", tags.format(TAG))
    workers = start("apart", *options, workers=2, own=((), ("--storage", tmp_path / "empty")))
    assert [worker.wait() for worker in workers] == [75, 75]
    assert all("start all" in worker.complaint for worker in workers)


def test_a_worker_that_never_comes_is_waited_for_no_longer_than_asked(start: Start) -> None:
    for index in (0, 1):
        options = (*SMALL, "--rendezvous-timeout", 3)
        [alone] = start("alone", *options, workers=2, only=index)
        assert alone.wait() == 75
        assert "--rendezvous-timeout" in alone.complaint


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
