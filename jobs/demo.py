"""The demo: every job, one after the other, on a board of drawn pictures on this machine."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from imagetag.demo.scenes import draw_posts
from imagetag.errors import InputError, Terminated, TransientError
from imagetag.job import run_job
from imagetag.layout import Layout
from imagetag.log import LogFormat
from imagetag.settings import CommaList, JobSettings
from imagetag.storage import open_storage

_USUAL_PORT = 8480
_FRESH_SEED = 1_000_000  # pictures to predict: drawn from a seed that no board is drawn from


class DemoSettings(JobSettings):
    """Options of `imagetag demo`."""

    log_format: LogFormat = Field("console", description="log lines of all jobs")
    output: Path = Field(Path("demo-output"), description="the folder that gets everything")
    tags: CommaList = Field(
        ("robot", "fox"), description="what to recognise: robot, fox, owl, ghost or frog"
    )
    posts: int = Field(1500, ge=100, description="how many pictures the board has")
    fresh: int = Field(40, ge=1, description="how many new pictures to predict")
    epochs: int = Field(24, ge=1, description="passes over the images at the most")


def work(settings: DemoSettings) -> None:
    """Run the pipeline as a user would, each job a process of its own."""
    started = time.monotonic()
    os.environ["IMAGETAG_LOG_FORMAT"] = settings.log_format  # of every job from here on
    storage = settings.output / "storage"
    cache = ["--cache-folder", str(settings.output / "cache")]
    tags = ["--storage", str(storage), "--tags", ",".join(settings.tags)]
    with _board(settings.posts) as url:
        board = ["--board", f"gelbooru02+{url}", "--allow-private-hosts", "--max-rate", "500"]
        _run("scrape", *tags, *board, "--limit", str(settings.posts * 3 // 10))
    _run("explore", *tags, "--max-pixels", "16384")
    budget = ["--epochs", str(settings.epochs), "--patience", "6"]
    _run("train", *tags, "--model", "alexnet-small", *budget, *cache)
    # So few pictures support no greater promise.
    _run("evaluate", *tags, *cache, "--min-precision", "0.9")
    fresh = settings.output / "fresh"
    draw_posts(fresh, settings.fresh, _FRESH_SEED)
    for tag in settings.tags:
        output = settings.output / f"{tag}.csv"
        options = ["--tag", tag, "--input", str(fresh / "images"), "--output", str(output)]
        _run("predict", "--storage", str(storage), *options)
    _say("")
    for tag in settings.tags:
        _summarize(storage, tag, settings.output / f"{tag}.csv")
    _say(f"\nAll of it took {time.monotonic() - started:.0f} seconds.")


@contextmanager
def _board(posts: int) -> Iterator[str]:
    """Serve a board from a process of its own, and give its URL; stop it afterwards."""
    options = ["--port", str(_port()), "--posts", str(posts)]
    command = [sys.executable, "-m", "jobs.board", *options]
    _say(f"$ imagetag board {' '.join(options)}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None  # noqa: S101 - as it is a pipe
            url = process.stdout.readline().strip()
            if not url:
                raise TransientError("the demo's board did not start; its own line says why")
            yield url
        finally:
            process.terminate()


def _port() -> int:
    """Return the board's usual port, or 0 for any if it is taken.

    A board is known by its address: at the same one, a demo that is run again finds all done.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _USUAL_PORT))
        except OSError:
            return 0
    return _USUAL_PORT


def _run(job: str, *options: str) -> None:
    """Run a job and show its command.

    Raises:
        InputError: if it fails; it has said why.

    """
    _say(f"\n$ imagetag {job} {' '.join(options)}")
    with subprocess.Popen([sys.executable, "-m", f"jobs.{job}", *options]) as process:  # noqa: S603
        try:
            code = process.wait()
        except (KeyboardInterrupt, Terminated):
            process.terminate()  # it may have had the same signal; a second one does no harm
            process.wait()
            raise
    if code != 0:
        raise InputError(f"imagetag {job} ended with {code}; the lines above say why")


def _summarize(storage: Path, tag: str, predictions: Path) -> None:
    from imagetag.evaluation import Evaluation  # scikit-learn: not for --help

    layout = Layout(tag)
    files = open_storage(str(storage))
    run = files.read(layout.latest).decode().strip()
    evaluation = Evaluation.model_validate_json(files.read(layout.run(run, "evaluation.json")))
    metrics, chosen = evaluation.metrics, evaluation.metrics.chosen
    promise = evaluation.decision.promise
    with predictions.open(newline="") as stream:
        decisions = [row["decision"] for row in csv.DictReader(stream)]
    precision = "none" if chosen.precision.value is None else f"{chosen.precision.value:.3f}"
    assert promise is not None  # noqa: S101 - no threshold was given
    promised = "at least" if promise.met else "cannot be promised to be"
    _say(
        f"{tag}: precision {promised} {promise.min_precision:g}; on "
        f"{metrics.positives + metrics.negatives} test pictures precision {precision}, recall "
        f"{chosen.recall.value:.3f}, accuracy {chosen.accuracy.value:.3f}; found in "
        f"{decisions.count('true')} of {len(decisions)} new ones\n"
        f"  spread       {storage / layout.explore('report.html')}\n"
        f"  evaluation   {storage / layout.run(run, 'report.html')}\n"
        f"  predictions  {predictions}"
    )


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is what the demo is for


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns its exit code."""
    kept = "what the lines above say is kept; run it again to go on"
    return run_job("demo", str(__doc__), DemoSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
