"""What audits of predictions have proven, and what people said of the pictures that were drawn.

Those pictures are none of the dataset: what is said of them is kept apart from its verdicts, and no
training takes it. It is stored in `parts`, as verdicts are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints

from imagetag.errors import InputError
from imagetag.layout import Layout
from imagetag.parallel import map_ahead
from imagetag.record import Record
from imagetag.storage import ObjectNotFound, Storage, load_record
from imagetag.verdicts.parts import Parts, newest
from imagetag.verdicts.verdicts import Answer

_AHEAD = {"threads": 16, "ahead": 64}

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class Judgement(Record):
    """What a person says of a picture that was drawn for an audit; `item` stands for its file."""

    item: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{24}$")]
    file: str
    answer: Answer
    at: AwareDatetime
    by: Annotated[str, StringConstraints(max_length=100)] = ""
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,32}$")]


class AuditResult(Record):
    """What an audit has proven so far of the pictures that a run called the tag.

    Of the `called` pictures of `predictions`, so many were judged that count; `low` and `high` are
    bounds of the precision among all, each at `confidence`. `trained` is when the run was made, and
    `updated` when the last verdict came.
    """

    version: Literal[1] = 1
    tag: str
    name: str
    run: str
    trained: str
    predictions: tuple[str, ...]
    called: Count
    target: Share
    confidence: Share
    right: Count
    wrong: Count
    unclear: Count
    low: Share
    high: Share
    outcome: Literal["open", "proven", "refuted", "undecided"]
    updated: AwareDatetime

    @property
    def judged(self) -> int:
        """How many verdicts count."""
        return self.right + self.wrong + self.unclear

    @property
    def short(self) -> str:
        """The outcome in two words, such as `0.96 proven`."""
        if self.outcome == "proven":  # as much as two digits can say, and never more than is so
            return f"{max(self.target, math.floor(100 * self.low) / 100):g} proven"
        return f"{self.target:g} {self.outcome}"

    @property
    def sentence(self) -> str:
        """The outcome, such as `0.96 proven on your pictures, 2026-12-01, 64 judged`."""
        what = self.short
        if self.outcome in ("open", "undecided"):
            what += f" ({self.low:.2f} to {self.high:.2f})"
        return f"{what} on your pictures, {self.updated:%Y-%m-%d}, {self.judged:,} judged"


def store_judgements(storage: Storage, tag: str, name: str, told: Iterable[Judgement]) -> None:
    """Store what people said as one part: once it returns, that is there for good."""
    _parts(storage, tag, name).store(told)


def load_judgements(storage: Storage, tag: str, name: str) -> dict[str, Judgement]:
    """Return the newest of each picture, by its item, also what takes one back.

    Raises:
        InputError: if a part cannot be read; it names the line.

    """
    return newest((one.item, one) for one in _parts(storage, tag, name).load())


def merge_judgements(storage: Storage, tag: str, name: str) -> None:
    """Let the parts of an audit become one where they are many, if that can be done."""
    _parts(storage, tag, name).tidy()


def store_audit(storage: Storage, result: AuditResult) -> None:
    """Store what an audit has proven, in the place of what it had before."""
    key = Layout(result.tag).audit(result.name)
    storage.write(key, result.model_dump_json(indent=2).encode() + b"\n")


def load_audits(storage: Storage, tag: str) -> list[AuditResult]:
    """Return what audits of a tag's runs have proven, the newest last; none that is damaged."""
    layout = Layout(tag)
    keys = (entry.key for entry in storage.list(layout.audits) if layout.is_audit(entry.key))

    def read(key: str) -> AuditResult | None:
        try:
            return load_record(storage, key, AuditResult, tag=tag)
        except (ObjectNotFound, InputError):  # made anew when the audit is gone on with
            return None

    found = [result for _, result in map_ahead(read, keys, **_AHEAD) if result is not None]
    return sorted(found, key=lambda result: (result.updated, result.name))


def audits_of(audits: Iterable[AuditResult], run: str, trained: str) -> list[AuditResult]:
    """Return a run's that have a verdict: those that came to an end first, and the newest first.

    Each is of other pictures: what one has proven, the beginning of another does not hide.

    Args:
        audits: of the tag.
        run: its name.
        trained: when it was made: another of the same name is another.

    """
    found = [one for one in audits if (one.run, one.trained) == (run, trained) and one.judged]
    return sorted(found, key=lambda one: (one.outcome == "open", -one.updated.timestamp()))


def _parts(storage: Storage, tag: str, name: str) -> Parts[Judgement]:
    layout = Layout(tag)
    return Parts(
        storage,
        layout.audited(name),
        Judgement,
        partial(layout.audited_part, name),
        partial(layout.is_audited_part, name),
    )
