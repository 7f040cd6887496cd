"""Types of what options take: lists, paths and URLs, tags, and what a shell completes."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from imagetag.checks import expanded
from imagetag.errors import UsageError
from imagetag.layout import encode


@dataclass(frozen=True)
class Takes:
    """What the value of an option is, for a shell that completes it: a path, or one of words."""

    kind: Literal["file", "folder", ""] = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repeatable:
    """Marks an option that may be given again and again, or its values without it."""


def _split_commas(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.startswith('["'):  # as `joined` writes what has a comma
        with contextlib.suppress(ValueError, RecursionError):
            return tuple(json.loads(value))
    return tuple(part.strip() for part in value.split(",") if part.strip())


def joined(values: Sequence[str]) -> str:
    """Return the text that a `CommaList` reads as these values."""
    if any("," in value for value in values):
        return json.dumps(values)
    return ",".join(values)


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]


def _home(path: Path) -> Path:
    return Path(expanded(str(path)))


# Paths with `~`, which shells leave to us in `--storage=~/data` and `folder+~/pictures`.
FilePath = Annotated[Path, AfterValidator(_home), Takes("file")]
FolderPath = Annotated[Path, AfterValidator(_home), Takes("folder")]
FilePlace = Annotated[str, AfterValidator(expanded), Takes("file")]  # a path, or a URL
FolderPlace = Annotated[str, AfterValidator(expanded), Takes("folder")]


def split_places(text: str) -> tuple[str, ...]:
    """Return the paths and URLs of a text, which commas separate.

    What exists here by the whole text is one, and so is a URL with commas in it.
    """
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if len(parts) < 2 or os.path.lexists(expanded(text)):
        return tuple(filter(None, [text.strip()]))
    if "://" in parts[0] and not all(map(_begins_anew, parts)):
        return (text.strip(),)
    return parts


def _begins_anew(part: str) -> bool:
    """Tell whether a part of a text is a place of its own, not the rest of a URL with commas."""
    return "://" in part or part.startswith(("/", "./", "../", "~")) or os.path.lexists(part)


# Paths and URLs: as a text split at commas, and on the command line given in any number, where
# those that stand alone, such as a shell makes of `*.jpg`, are never split.
Places = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(lambda value: split_places(value) if isinstance(value, str) else value),
    AfterValidator(lambda value: tuple(map(expanded, value))),
    Repeatable(),
    Takes("file"),
]


def _fits_a_header(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise ValueError("take ASCII, as it goes into a header")
    return value


Contact = Annotated[str, AfterValidator(_fits_a_header)]


def checked_tag(name: str) -> str:
    """Return the tag as boards write it (spaces become underscores).

    Raises:
        UsageError: if it is empty, too long, or would be an operator in a board's search.

    """
    tag = re.sub(r"\s+", "_", name.strip())
    if not tag or any(ord(char) < 32 or ord(char) == 127 for char in tag):
        raise UsageError(f"{name[:40]!r} is not a tag: it is empty or has control characters")
    if any("\ud800" <= char <= "\udfff" for char in tag):  # how Python shows bytes it cannot read
        raise UsageError(f"{name[:40]!r} is not a tag: it is not UTF-8")
    if tag[0] in "-~" or "*" in tag:
        raise UsageError(f"{name!r} is not one tag: '-', '~' and '*' are search operators")
    if len(tag.encode()) > 200:
        raise UsageError(f"{name[:40]!r}... is not a tag: it is longer than 200 bytes")
    encode(tag)  # it becomes a folder's name
    return tag
