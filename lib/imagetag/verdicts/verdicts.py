"""What people say of a tag's pictures: each verdict a line, the newest of a picture counts.

They are stored in `parts`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints

from imagetag.dataset import Md5
from imagetag.layout import Label, Layout
from imagetag.record import Record
from imagetag.storage import Storage
from imagetag.verdicts.parts import Parts, newest

Answer = Literal["yes", "no", "unclear", "withdrawn"]
"""Whether a picture has the tag; `withdrawn` takes the one before back."""
LABELS_BY: Mapping[Answer, Label] = {"yes": "positive", "no": "negative"}
"""The label that an answer gives; `unclear` gives none."""

_DIGITS = 12  # of the digest of what stands


class Verdict(Record):
    """What a person says of a picture.

    `queue` is what it was shown for; `chance` is the probability with which it was drawn among
    those that it might have been, None where it was not drawn at random. `by` is the reviewer's
    name, if one was given. `id` is its own: told twice, it is one verdict.
    """

    md5: Md5
    answer: Answer
    queue: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z-]{0,31}$")]
    chance: Annotated[float, Field(gt=0, le=1)] | None = None
    at: AwareDatetime
    by: Annotated[str, StringConstraints(max_length=100)] = ""
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,32}$")]


@dataclass(frozen=True)
class Verdicts:
    """The newest verdict of each picture, by md5, also where it takes one back."""

    newest: Mapping[str, Verdict]

    @cached_property
    def standing(self) -> Mapping[str, Verdict]:
        """The verdict that stands for each picture; those that were withdrawn are not there."""
        return {md5: one for md5, one in self.newest.items() if one.answer != "withdrawn"}

    @property
    def digest(self) -> str:
        """A digest of which pictures were judged and how; empty where none was."""
        if not self.standing:
            return ""
        lines = sorted(f"{md5} {verdict.answer}\n" for md5, verdict in self.standing.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:_DIGITS]

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Verdicts:
        """Return what stands when all verdicts that there are have been told, in any order."""
        return cls(newest((verdict.md5, verdict) for verdict in verdicts))


def store_verdicts(storage: Storage, tag: str, verdicts: Iterable[Verdict]) -> str:
    """Store verdicts as one part, and return its key: once it returns, they are there for good."""
    return _parts(storage, tag).store(verdicts)


def load_verdicts(storage: Storage, tag: str) -> Verdicts:
    """Return what stands of all verdicts on a tag's pictures.

    Raises:
        InputError: if a part cannot be read; it names the line.

    """
    return Verdicts.of(_parts(storage, tag).load())


def merge_verdicts(storage: Storage, tag: str) -> None:
    """Let the parts of a tag's verdicts become one where they are many, if that can be done."""
    _parts(storage, tag).tidy()


def _parts(storage: Storage, tag: str) -> Parts[Verdict]:
    layout = Layout(tag)
    return Parts(storage, layout.verdicts, Verdict, layout.verdict_part, layout.is_verdict_part)
