"""What lists and side-car files tell of a picture: its tags above all, checked.

What cannot be used is a `BadEntry`, and what is told of one picture twice is joined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

from imagetag.boards.fields import MAX_ID, MAX_SCORE, MAX_SIDE, md5, moment
from imagetag.dataset import Rating

_MAX_TAG = 200  # characters
_MAX_TAGS = 5000  # a post
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# `s` is "sensitive" on some boards and "safe" on others: the narrower reading can do no harm.
_RATINGS: dict[str, Rating] = {
    "g": "general",
    "general": "general",
    "safe": "general",
    "s": "sensitive",
    "sensitive": "sensitive",
    "q": "questionable",
    "questionable": "questionable",
    "e": "explicit",
    "explicit": "explicit",
}
# From the mildest on; one that is not known may be any but the last.
_STRICTER: tuple[Rating | None, ...] = (
    "general",
    "sensitive",
    "questionable",
    None,
    "explicit",
)
Told = TypeVar("Told", int, datetime)


class BadEntry(ValueError):
    """An entry that cannot be used.

    Attributes:
        reason: one word for counting, such as `url` or `tags`.

    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Entry:
    """What is told of a picture. Sizes are in pixels; None stands for what is not told.

    `bytes` is the size of its file, where that is at hand.
    """

    tags: tuple[str, ...] = ()
    id: int | None = None
    md5: str | None = None
    width: int | None = None
    height: int | None = None
    rating: Rating | None = "general"
    parent_id: int | None = None
    score: int | None = None
    created_at: datetime | None = None
    bytes: int | None = None


def joined(one: Entry, other: Entry) -> Entry:
    """Return what two records of one picture say together, whichever comes first.

    It has the tags of both, the stricter rating, and the least of what else they tell: a picture
    that is to have a size, a score or a date has it by both.

    Raises:
        BadEntry: if they are of different files, or have more tags than a post may.

    """
    if one.md5 and other.md5 and one.md5 != other.md5:
        raise BadEntry("md5_conflict")
    tags = tuple(dict.fromkeys(one.tags + other.tags))
    if len(tags) > _MAX_TAGS:
        raise BadEntry("tags")
    return Entry(
        tags=tags,
        id=_least(one.id, other.id),
        md5=one.md5 or other.md5,
        width=_least(one.width, other.width),
        height=_least(one.height, other.height),
        rating=max(one.rating, other.rating, key=_STRICTER.index),
        parent_id=_least(one.parent_id, other.parent_id),
        score=_least(one.score, other.score),
        created_at=_least(one.created_at, other.created_at),
        bytes=_least(one.bytes, other.bytes),
    )


def _least(one: Told | None, other: Told | None) -> Told | None:
    return min((value for value in (one, other) if value is not None), default=None)


def read_entry(fields: Mapping[str, Any], tags: Any) -> Entry:
    """Read the fields that lists and side-car files share; names are in lower case.

    A picture without a rating is "general"; one whose rating is not known has None.

    Raises:
        BadEntry: if the tags cannot be read.

    """
    rating = fields.get("rating")
    return Entry(
        tags=read_tags(tags),
        id=_integer(fields.get("id"), 1, MAX_ID),
        md5=md5(fields.get("md5")),
        width=_integer(fields.get("width"), 1, MAX_SIDE),
        height=_integer(fields.get("height"), 1, MAX_SIDE),
        rating=_RATINGS.get(str(rating).strip().lower()) if rating not in (None, "") else "general",
        parent_id=_integer(fields.get("parent_id"), 1, MAX_ID),
        score=_integer(fields.get("score"), -MAX_SCORE, MAX_SCORE),
        created_at=_moment(fields.get("created_at") or fields.get("date")),
    )


def read_tags(value: Any) -> tuple[str, ...]:
    """Return the tags that a text, a list, or lists by category hold, each once.

    In a text with commas, commas and line breaks part the tags; in one of several lines, line
    breaks do; in any other, spaces do. Spaces within a tag become underscores. A text in square
    brackets is a JSON list.

    Raises:
        BadEntry: if it is none of these, or a tag is none: a tag left out would make the picture
            an example of what it is not.

    """
    tags = dict.fromkeys(filter(None, map(clean_tag, _parts(value))))
    if len(tags) > _MAX_TAGS:
        raise BadEntry("tags")
    return tuple(tags)


def _parts(value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    if isinstance(value, Mapping):
        return [tag for tags in value.values() for tag in _list(tags)]
    if not isinstance(value, str):
        return _list(value)
    text = value.strip().replace("\\(", "(").replace("\\)", ")")  # as prompts have them escaped
    if text.startswith("[") and text.endswith("]"):
        try:
            return _list(json.loads(value))
        except (ValueError, RecursionError) as error:
            raise BadEntry("tags") from error
    if "," in text:
        return re.split(r"[,\r\n]", text)
    lines = text.splitlines()
    return lines if len(lines) > 1 else text.split()


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise BadEntry("tags")
    return [tag for tag in value if tag is not None]


def clean_tag(text: Any) -> str:
    """Return a tag as boards write it, with underscores for spaces; may be empty.

    Raises:
        BadEntry: if it is no text, too long, or has control characters or half characters.

    """
    if not isinstance(text, str):
        raise BadEntry("tags")
    return _clean(text)


@lru_cache(maxsize=1 << 16)  # a list repeats its tags
def _clean(text: str) -> str:
    tag = "_".join(text.split())
    if len(tag) > _MAX_TAG or _CONTROL.search(tag):
        raise BadEntry("tags")
    if not is_unicode(tag):
        raise BadEntry("encoding")
    return tag


def is_unicode(text: str) -> bool:
    """Tell whether a text is free of half characters, and of marks where some could not be read."""
    return text.isascii() or not re.search("[\ud800-\udfff\ufffd]", text)


def _moment(value: Any) -> datetime | None:
    return moment(value.isoformat() if isinstance(value, datetime) else value)


def _integer(value: Any, low: int, high: int) -> int | None:
    """Return an integer, also one in a text or with a `.0` as data frames write it."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([+-]?[0-9]{1,19})(?:\.0*)?\s*", value)
        value = int(match[1]) if match else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if low <= value < high else None
