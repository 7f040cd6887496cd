"""How long commands take to start, beside Python itself, and beside TensorFlow where they need it.

Each is asked for its options, which is what it takes before it begins: settings, and nothing of
what the work imports. Train and evaluate are given a tag that is done, too, and predict one
picture. Counted are processor seconds.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jobs.cli import JOBS
from tests.benchmarks.commands import run
from tests.benchmarks.ratios import Goal, Ratio, compared, with_unit
from tests.builders.drawn import TAG, draw, store

_PAIRS = 3
_WITHOUT_TENSORFLOW = Goal(0.25, "at most")


def rows() -> Iterator[Ratio]:
    """Yield a row for each command, and one for each that imports TensorFlow where it works."""
    commands = {f"imagetag {job} --help": _cli(job, "--help") for job in JOBS}
    nothing = [sys.executable, "-c", "pass"]
    tell = with_unit("s")
    run(nothing)  # what is read from the disk the first time is there
    for name, command in commands.items():
        ours, theirs = _in_turn(command, nothing)
        yield compared(name, ours, theirs, tell, by="`python -c pass`")
    tensorflow = [sys.executable, "-c", "import tensorflow"]
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        for name, (command, goal) in _that_work(Path(scratch)).items():
            ours, theirs = _in_turn(command, tensorflow)
            yield compared(name, ours, theirs, tell, by="`import tensorflow`", goal=goal)


def _cli(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", *arguments]


def _in_turn(ours: list[str], theirs: list[str]) -> tuple[list[float], list[float]]:
    """Return the processor seconds of both commands, several times in turn."""
    pairs = [(run(ours).processor, run(theirs).processor) for _ in range(_PAIRS)]
    first, second = zip(*pairs, strict=True)
    return list(first), list(second)


def _that_work(scratch: Path) -> dict[str, tuple[list[str], Goal]]:
    """Train a small model; return commands that find it done, and one that uses it, by what."""
    storage, inputs = scratch / "storage", scratch / "inputs"
    drawn = [draw(number) for number in range(120)]
    store(storage, drawn)
    inputs.mkdir()
    (inputs / "picture").write_bytes(drawn[0].data)
    options = ["--storage", str(storage), "--tags", TAG, "--log-level", "error"]
    options += ["--cache-folder", str(scratch / "cache")]
    train = _cli("train", *options, "--model", "alexnet-small", "--image-size", "96x96")
    train += ["--epochs", "1", "--no-export"]
    evaluate = _cli("evaluate", *options)
    named = ["--storage", str(storage), "--tag", TAG, "--input", str(inputs)]
    predict = _cli("predict", *named, "--log-level", "error")
    run(train)
    run(evaluate)
    return {
        "imagetag train, nothing to do": (train, _WITHOUT_TENSORFLOW),
        "imagetag evaluate, nothing to do": (evaluate, _WITHOUT_TENSORFLOW),
        "imagetag predict of one picture": (predict, Goal(2, "at most")),
    }
