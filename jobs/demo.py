"""The demo: imagetag run, from scraping to predictions, on a board of drawn pictures."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from imagetag.demo import BoardServer, draw_posts
from imagetag.errors import UsageError
from imagetag.job import CommaList, FolderPath, JobSettings, make_settings, run_job
from imagetag.log import LogFormat, get_logger
from imagetag.run import is_json, run_all, tell
from imagetag.sentences import duration
from jobs.run import RunSettings

_USUAL_PORT = 8480
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
    with BoardServer(board, _port(known)) as server:
        known.write_text(f"{server.url.rpartition(':')[2]}\n", encoding="ascii")
        serve = _command(board, server.url)
        run = _run_settings(settings, server.url, fresh)
        if not quiet:
            say(f"\n$ imagetag run {' '.join(map(shlex.quote, _shown(run)))}\n")
        outcome = run_all(run, serve=serve)
    tell(outcome, run)
    truth = _truth(fresh)
    say("")
    for tag in settings.tags:
        if run.predictions.is_file():
            say(_score(tag, run.predictions, truth))
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


def _port(known: Path) -> int:
    """Return the port that this board has had, or the usual one, or 0 for any if that is taken.

    A board is known by its address: at the same one, a demo that is run again finds all done.

    Raises:
        UsageError: if the port that it has had is taken.

    """
    told = known.read_text(encoding="utf-8", errors="replace").strip() if known.is_file() else ""
    had = int(told) if told.isdecimal() else None
    port = had or _USUAL_PORT
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if had is None:
                return 0
            raise UsageError(
                f"port {port}, by which what is done is known, is taken: stop the imagetag board "
                "that serves there, or take another --output"
            ) from error
    return port


def _command(board: Path, url: str) -> str:
    """Return the command that serves the same posts at the same address."""
    program = "imagetag"
    here = Path(sys.executable).with_name(program)
    if shutil.which(program) is None and here.is_file():  # of a `make demo`
        program = os.path.relpath(here) if here.is_relative_to(Path.cwd()) else str(here)
    port = url.rpartition(":")[2]
    return f"{program} board --folder {shlex.quote(str(board))} --port {port}"


def _truth(folder: Path) -> dict[str, list[str]]:
    """Return the tags of each picture, which the board has never seen, by its file's name."""
    with (folder / "posts.jsonl").open(encoding="utf-8") as stream:
        return {Path(post["file"]).name: post["tags"] for post in map(json.loads, stream)}


def _score(tag: str, predictions: Path, truth: Mapping[str, Sequence[str]]) -> str:
    """Return how many of the new pictures were called what they are."""
    with predictions.open(encoding="utf-8", newline="") as stream:
        rows = [
            row
            for row in csv.DictReader(stream)
            if (row["tag"], row["file"] in truth) == (tag, True)
        ]
    called = {row["file"]: row["decision"] == "true" for row in rows}  # others' are not judged
    have = {file for file in called if tag in truth[file]}
    found = {file for file, positive in called.items() if positive}
    right = len(called) - len(have ^ found)
    return (
        f"{tag}: right about {right} of {len(called)} new pictures: found in {len(have & found)} "
        f"of the {len(have)} that have it, and in {len(found - have)} of the "
        f"{len(called) - len(have)} that do not"
    )


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is what the demo is for


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns its exit code."""
    kept = "what the lines above say is kept; run it again to go on"
    return run_job("demo", str(__doc__), DemoSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
