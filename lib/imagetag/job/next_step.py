"""The command that comes after a job, told on a terminal as it can be copied.

In pods a chain starts the next job, and the log is for machines: there nothing is told.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagetag.job.options import option_name
from imagetag.job.settings import StorageSettings, TagSettings
from imagetag.log import tell_person

_held: list[tuple[str, ...]] | None = None


@contextmanager
def told_last() -> Iterator[None]:
    """Hold the next job's command back, and tell it when the block has succeeded."""
    global _held
    _held = []
    try:
        yield
        for command in _held:
            tell_command(*command)
    finally:
        _held = None


def tell_next(
    job: str, settings: StorageSettings, *options: str, same: tuple[str, ...] = ()
) -> None:
    """Tell the next job's command, for the same storage and tags.

    Args:
        job: its name.
        settings: of the job that has ended.
        options: its further options and their values.
        same: names of settings that the next job takes too, and needs where they were given.

    """
    words = ["--storage", settings.storage]
    if isinstance(settings, TagSettings):
        if settings.tags:
            words += ["--tags", ",".join(settings.tags)]
        if settings.tags_file is not None:
            words += ["--tags-file", str(settings.tags_file)]
    for name in same:
        if name in settings.model_fields_set:
            words += [option_name(name), str(getattr(settings, name))]
    command = ("next:", job, *words, *options)
    if _held is None:
        tell_command(*command)
    else:
        _held.append(command)


def tell_command(text: str, job: str, *options: str) -> None:
    """Tell a person a command of a job, after a text that says what for."""
    tell_person(text, shlex.join([*_program(), job, *options]))


def _program() -> list[str]:
    """Return what runs this program's jobs in the shell that it was started from."""
    called = Path(sys.argv[0])
    if called.name != "imagetag":
        return ["imagetag"] if shutil.which("imagetag") else ["python", "-m", "jobs.cli"]
    there = shutil.which("imagetag")
    if there is not None and os.path.realpath(there) == os.path.realpath(called):
        return ["imagetag"]
    return [os.path.relpath(called) if called.is_absolute() else str(called)]
