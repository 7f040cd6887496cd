"""All jobs for the tags on this machine, from what is asked for to the index page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from imagetag.errors import ImagetagError, InputError, UsageError
from imagetag.job import SHORT_OF
from imagetag.run.network import check_network
from imagetag.run.outcome import Outcome
from imagetag.run.pipeline import Pipeline
from imagetag.run.settings import PipelineSettings
from imagetag.run.stages import stages
from imagetag.run.view import open_view
from imagetag.sentences import counted
from imagetag.storage import open_storage

if TYPE_CHECKING:
    from imagetag.report import TagEntry

_AT_ONCE = 16  # tags that are read for the index page


def run_all(settings: PipelineSettings, *, serve: str = "") -> Outcome:
    """Run all jobs, show how it goes, and make the index page.

    Args:
        settings: with what a file says.
        serve: the command that serves the board, where it is one of this machine.

    Raises:
        UsageError: if a setting of any stage is wrong: before the first starts.
        TransientError: if training starts from weights that cannot be fetched: likewise.

    """
    tags = settings.all_tags()
    with tempfile.TemporaryDirectory(prefix="imagetag-run-") as scratch:
        planned = stages(settings, tags, Path(scratch))
        with _open_log(settings.output) as log, open_view(settings.log_format) as view:
            path = Path(log.name)
            check_network(settings)
            pipeline = Pipeline(view, log)
            pipeline.run(planned, tags)

    from imagetag.report import make_index, read_entry, read_predictions, tags_of_leaderboard

    storage = open_storage(settings.where)
    failed = {tag: f"{why.job} failed: {why.reason}" for tag, why in pipeline.failed.items()}
    ours = set(tags)
    others = [tag for tag in tags_of_leaderboard(storage) if tag not in ours]

    predicted = read_predictions(settings.predictions)

    def read(tag: str) -> TagEntry:
        return read_entry(storage, tag, predictions=predicted.get(tag), failed=failed.get(tag, ""))

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="index") as pool:
        entries = list(pool.map(read, (*tags, *others)))
    # Not Path.is_dir, which fails of a URL that is too long for a file's name.
    pictures = Path(settings.input) if os.path.isdir(settings.input) else None  # noqa: PTH112
    index = make_index(
        storage,
        entries,
        pictures=pictures,
        serve=serve,
    )
    storage.tidy()
    return Outcome(entries[: len(tags)], index, _error(pipeline, tags, path))


def _open_log(output: Path) -> TextIO:
    logs = output / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        path = logs / f"{datetime.now().astimezone():%Y-%m-%dT%H%M%S}.jsonl"
        return path.open("a", encoding="utf-8")
    except OSError as error:
        if error.errno in SHORT_OF:
            raise
        raise UsageError(f"--output {output} cannot be written: {error}") from error


def _error(pipeline: Pipeline, tags: Sequence[str], log: Path) -> ImagetagError | None:
    """Return the error of the exit code with which this run ends, None if all is well."""
    if not (code := pipeline.exit_code):
        return None
    wrong = [f"{tag} ({failed.job})" for tag, failed in pipeline.failed.items()]
    more = ", ..." if len(wrong) > 10 else ""
    what = f"{len(wrong)} of {counted(len(tags), 'tag')} failed: {', '.join(wrong[:10])}{more}"
    if not wrong:
        what = f"{pipeline.wrong[0].job} failed: {pipeline.wrong[0].reason}"
    error = InputError(f"{what}; all that was logged: {log}")
    error.exit_code = code
    return error
