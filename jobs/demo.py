"""The demo: imagetag run, from scraping to predictions, on a board of drawn pictures."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from imagetag.demo import BoardServer, board_port, draw_posts, score, truth_of
from imagetag.errors import UsageError
from imagetag.job import CommaList, FolderPath, JobSettings, make_settings, run_job
from imagetag.log import LogFormat, get_logger
from imagetag.run import is_json, run_all, tell
from imagetag.sentences import duration
from jobs.run import RunSettings

_BOARD_SEED = 0
_FRESH_SEED = 1_000_000  # pictures to predict: drawn from a seed that no board is drawn from


class DemoSettings(JobSettings):
    """Options of `imagetag demo`."""

    log_format: LogFormat = Field("console", description="log lines of all jobs")
    output: FolderPath = Field(Path("demo-output"), description="the folder that gets everything")
    tags: CommaList = Field(
        ("robot", "fox"), description="what to recognise: robot, fox, owl, ghost or frog"
    )
    posts: int = Field(1500, ge=100, description="how many pictures the board has")
    fresh: int = Field(40, ge=1, description="how many new pictures to predict")
    epochs: int = Field(24, ge=1, description="passes over the images at the most")


def work(settings: DemoSettings) -> None:
    """Run the pipeline as a user would, on a board that is served meanwhile.

    Raises:
        UsageError: if there can be no such folder, or the port that its board has had is taken.
        ImagetagError: at the end, if a tag failed.

    """
    started = time.monotonic()
    quiet = is_json(settings.log_format)
    say = get_logger().info if quiet else _say
    output = settings.output
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror}") from error
    say(
        f"The demo draws {settings.posts:,} pictures, serves them as an imageboard, and makes a "
        f"classifier for each of {', '.join(settings.tags)}. It takes some 3 to 10 minutes on a "
        f"laptop; Ctrl-C stops it, and when it is run again it goes on. All of it goes into "
        f"{output}."
    )
    board, fresh = output / "board", output / "fresh"
    _draw(board, settings.posts, _BOARD_SEED)
    _draw(fresh, settings.fresh, _FRESH_SEED)
    known = output / "port"
    with BoardServer(board, board_port(known)) as server:
        known.write_text(f"{server.url.rpartition(':')[2]}\n", encoding="ascii")
        serve = _command(board, server.url)
        run = _run_settings(settings, server.url, fresh)
        if not quiet:
            say(f"\n$ imagetag run {' '.join(map(shlex.quote, _shown(run)))}\n")
        outcome = run_all(run, serve=serve)
    tell(outcome, run)
    truth = truth_of(fresh)
    say("")
    for tag in settings.tags:
        if run.predictions.is_file():
            say(score(tag, run.predictions, truth))
    say(f"Links to posts in the pages work while this runs:  {serve}")
    say(f"All of it took {duration(time.monotonic() - started)}. Begin with {outcome.index}")
    if outcome.error is not None:
        raise outcome.error


def _run_settings(settings: DemoSettings, url: str, fresh: Path) -> RunSettings:
    """Return the settings of the pipeline."""
    output = settings.output
    cache = str(output / "cache")
    return make_settings(
        RunSettings,
        {
            "log_format": settings.log_format,
            "log_level": settings.log_level,
            "tags": settings.tags,
            "tags_file": None,
            "board": f"gelbooru02+{url}",
            "input": str(fresh / "images"),
            "output": output,
            "storage": str(output / "storage"),
            "scrape": {
                "limit": settings.posts * 3 // 10,
                "allow_private_hosts": True,
                "max_rate": 500,
            },
            "explore": {"max_pixels": 16384},
            "train": {
                "model": "alexnet-small",
                "epochs": settings.epochs,
                "patience": 6,
                "cache_folder": cache,
            },
            # So few pictures support no greater promise.
            "evaluate": {"min_precision": 0.9, "cache_folder": cache},
        },
    )


def _shown(run: RunSettings) -> list[str]:
    """Return the options of the command that does the same."""
    argv = ["--tags", ",".join(run.tags), "--board", run.board, "--input", run.input]
    argv += ["--output", str(run.output)]
    for job in ("scrape", "explore", "train", "evaluate"):
        for name, value in getattr(run, job).items():
            option = f"--{job}.{name.replace('_', '-')}"
            argv += [option] if value is True else [option, str(value)]
    return argv


def _draw(folder: Path, count: int, seed: int) -> None:
    """Draw pictures, unless they are there."""
    listing = folder / "posts.jsonl"
    if listing.is_file() and listing.read_bytes().count(b"\n") == count:
        return
    draw_posts(folder, count, seed)


def _command(board: Path, url: str) -> str:
    """Return the command that serves the same posts at the same address."""
    program = "imagetag"
    here = Path(sys.executable).with_name(program)
    if shutil.which(program) is None and here.is_file():  # of a `make demo`
        program = os.path.relpath(here) if here.is_relative_to(Path.cwd()) else str(here)
    port = url.rpartition(":")[2]
    return f"{program} board --folder {shlex.quote(str(board))} --port {port}"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is what the demo is for


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns its exit code."""
    kept = "what the lines above say is kept; run it again to go on"
    return run_job("demo", str(__doc__), DemoSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
