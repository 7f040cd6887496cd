"""Trainings as processes, of one worker or of several, that are stopped in mid-work."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from imagetag.layout import Layout
from imagetag.runs.runs import Run, load_run
from imagetag.storage.local import LocalStorage
from tests.builders.drawn import PICTURES, TAG, store
from tests.ended import log_lines
from tests.forked import Forked

LAYOUT = Layout(TAG)
SMALL = (
    *("--model", "alexnet-small", "--image-size", "72x72", "--epochs", 6, "--patience", 9),
    *("--checkpoint-seconds", 0, "--no-export"),
)
RARELY = ("--checkpoint-seconds", 1000)


def dataset(folder: Path) -> Path:
    """A storage with a dataset, for runs of different names."""
    store(folder, PICTURES)
    return folder


@dataclass
class Worker:
    """A training process, and what it has logged so far, in a file."""

    process: Forked
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        # TensorFlow writes a line of its own when a connection breaks.
        return log_lines(self.log.read_text(errors="replace"), chatter=True)

    def wait_for(self, event: str, number: int = 1, **fields: Any) -> None:
        for _ in range(30_000):  # minutes, on a machine that has more to do
            found = [line for line in self.lines() if fields.items() <= line.items()]
            if [line["event"] for line in found].count(event) >= number:
                return
            assert self.process.returncode is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"no {event} {fields} in {self.log.read_text()}")

    def wait(self, seconds: float = 800) -> int:
        return self.process.wait(seconds)

    @property
    def complaint(self) -> str:
        return str(self.lines()[-1]["event"])


Lines = list[dict[str, Any]]


def lines_of(worker: Worker, event: str) -> Lines:
    return [line for line in worker.lines() if line["event"] == event]


def ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return found


Start = Callable[..., list[Worker]]


TINY = "from tests.integration import tiny; tiny.replace_models()"


MAIN = """
import sys
{before}
from jobs.train import main
sys.exit(main())
"""


# As `before`: the worker of this number stays in the midst of an epoch, after so many whole ones,
# until a signal comes. What is stopped there is stopped in mid-work, however fast it trains.
HOLDING = """
import os, time
from imagetag.train.fit import Fitting
from imagetag.log import get_logger
from imagetag.job.stopping import stop
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
                *("--storage", storage, "--tags", TAG),
                *("--run", run, "--cache-folder", tmp_path / f"cache-{index}"),
                *options,
                *own[index],
            ]
            if workers > 1:
                command += ["--workers", workers, "--worker-addresses", addresses]
            log = tmp_path / f"{run}-{len(started)}.log"
            process = Forked(
                MAIN.format(before=f"{TINY}\n{before}"),
                [str(word) for word in command],
                log=log,
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
