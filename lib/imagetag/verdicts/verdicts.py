"""What people say of a tag's pictures: each verdict a line, the newest of a picture counts.

They are written in parts named by their content, so that two reviewers overwrite nothing of each
other's, and a write that may or may not have arrived is repeated without harm.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints

from imagetag.dataset import Md5
from imagetag.errors import InputError, complaint
from imagetag.layout import Label, Layout
from imagetag.parallel import map_ahead
from imagetag.record import Record
from imagetag.storage import ObjectNotFound, Storage

Answer = Literal["yes", "no", "unclear", "withdrawn"]
"""Whether a picture has the tag; `withdrawn` takes the one before back."""
LABELS_BY: Mapping[Answer, Label] = {"yes": "positive", "no": "negative"}
"""The label that an answer gives; `unclear` gives none."""

_MAX_BYTES = 64 << 20  # of a part
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
    """The verdict that stands for each picture, by md5; those that were withdrawn are not there."""

    standing: Mapping[str, Verdict]

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
        newest: dict[str, Verdict] = {}
        for verdict in verdicts:
            before = newest.get(verdict.md5)
            if before is None or (before.at, before.id) < (verdict.at, verdict.id):
                newest[verdict.md5] = verdict
        return cls({md5: found for md5, found in newest.items() if found.answer != "withdrawn"})


def new_verdict(
    md5: str, answer: Answer, queue: str, *, chance: float | None = None, by: str = ""
) -> Verdict:
    """Return a verdict of now.

    Raises:
        ValueError: if something of it cannot be.

    """
    now, name = datetime.now(UTC), secrets.token_hex(8)
    return Verdict(md5=md5, answer=answer, queue=queue, chance=chance, at=now, by=by, id=name)


def store_verdicts(storage: Storage, tag: str, verdicts: Iterable[Verdict]) -> str:
    """Store verdicts as one part, and return its key: once it returns, they are there for good."""
    data = "".join(verdict.model_dump_json() + "\n" for verdict in verdicts).encode()
    key = Layout(tag).verdict_part(hashlib.sha256(data).hexdigest()[:24])
    storage.write(key, data)
    return key


def load_verdicts(storage: Storage, tag: str, *, concurrency: int = 16) -> Verdicts:
    """Return what stands of all verdicts on a tag's pictures.

    Raises:
        InputError: if a part cannot be read; it names the line.

    """
    layout = Layout(tag)
    keys = (
        entry.key for entry in storage.list(layout.verdicts) if layout.is_verdict_part(entry.key)
    )

    def read(key: str) -> list[Verdict]:
        return list(_read(storage, key))

    parts = map_ahead(read, keys, threads=concurrency, ahead=4 * concurrency)
    return Verdicts.of(verdict for _, part in parts for verdict in part)


def _read(storage: Storage, key: str) -> Iterator[Verdict]:
    try:
        with storage.open(key) as stream:
            data = stream.read(_MAX_BYTES)
    except ObjectNotFound:  # a listing may still show what is gone
        return
    for number, line in enumerate(data.splitlines(), 1):
        try:
            yield Verdict.model_validate_json(line)
        except ValueError as error:
            raise InputError(
                f"{storage.url}/{key} line {number}: {complaint(error)}; mend that line, or delete "
                "it and judge its pictures again"
            ) from error
