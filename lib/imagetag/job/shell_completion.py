"""Tab completion: the script by which a shell completes jobs, options, choices and files.

shtab makes it of the parsers that are made of the settings, for each shell that it knows: so none
is asked while somebody types, which would take Python's start each time.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import shtab

from imagetag.job.options import add_options, field_of
from imagetag.job.settings import JobSettings
from imagetag.job.value_types import Takes

SHELLS = ("bash", "zsh", "fish")

_WIDTH = 60  # characters of what is shown beside an option
_FILES = {"file": shtab.FILE, "folder": shtab.DIRECTORY}


def completion(shell: str, jobs: Mapping[str, type[JobSettings]], words: Mapping[str, str]) -> str:
    """Return the script of a shell, one of `SHELLS`.

    Args:
        shell: which.
        jobs: the settings of each job by its name.
        words: what may stand in the place of a job, each with what it is.

    """
    parser = argparse.ArgumentParser(prog="imagetag")
    commands = parser.add_subparsers()
    for word, text in words.items():
        command = commands.add_parser(word, help=text, allow_abbrev=False)
        if word in jobs:
            _complete(command, jobs[word])
        elif word == "help":
            command.add_argument("job", choices=list(jobs))
        elif word == "completion":
            command.add_argument("shell", choices=SHELLS)
    return str(shtab.complete(parser, shell))


def _complete(parser: argparse.ArgumentParser, settings_class: type[JobSettings]) -> None:
    actions = add_options(parser, settings_class)
    for action in parser._actions:
        if action.dest.endswith(".OPTION"):  # it stands for all of a job, in the help
            action.help = argparse.SUPPRESS
    for action in actions:
        field = field_of(settings_class, action.dest)
        if field is None:
            continue
        text = textwrap.shorten(str(field.description), _WIDTH, placeholder=" ...")
        action.help = text.replace("%", "%%")
        takes = next((item for item in _parts(field.annotation, field.metadata) if item), None)
        if isinstance(takes, Takes):
            if takes.words:
                action.choices = takes.words
            elif takes.kind:
                action.complete = _FILES[takes.kind]  # type: ignore[attr-defined]
        elif takes:
            action.choices = takes


def _parts(annotation: Any, metadata: list[Any]) -> Iterator[Takes | tuple[str, ...] | None]:
    """Yield what a value may be: the words of a Literal, and what annotations say of it."""
    yield from (item for item in metadata if isinstance(item, Takes))
    if get_origin(annotation) is Literal:
        yield tuple(map(str, get_args(annotation)))
        return
    for inner in get_args(annotation):
        yield from _parts(inner, list(getattr(inner, "__metadata__", ())))
