"""The labels of a run's pictures that are probably wrong, as they are stored: `suspects.json`."""

from __future__ import annotations

import shlex
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from imagetag.dataset import Md5
from imagetag.errors import InputError
from imagetag.layout import Label, Layout, Split
from imagetag.record import Record
from imagetag.storage import ObjectNotFound, Storage, load_record

Part = Literal["train", "validation", "threshold", "test"]

_MAX_BYTES = 256 << 20  # of `suspects.json`, which has some 300 a suspect

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Record(Record):
    model_config = ConfigDict(allow_inf_nan=False)


class Suspect(_Record):
    """A picture whose label is probably wrong.

    `probability` is that of the tag, by a head that has seen neither this label nor its group's;
    `said` is that of the run's own model, which has been trained on the label if `part` is train,
    None where it is no number. `rank` counts from 1 among the suspects of the same label, the most
    suspect first. `page_url` is where to check it; empty if it was too long to be kept.
    """

    md5: Md5
    part: Part
    label: Label
    post_id: int
    board: str
    page_url: str
    probability: Share
    said: Share | None
    rank: int = Field(ge=1)

    @property
    def split(self) -> Split:
        """The split of the dataset that it is in."""
        return "test" if self.part == "test" else "train"


class Suspects(_Record):
    """The labels that are probably wrong, of those that were looked at.

    Negatives among them look like the tag, and positives (doubtful ones) do not. `looked_at` counts
    pictures by part and label, `unjudged` those of them on which nothing could be said. `auc` is
    the area under the ROC curve of the probabilities of train and validation, None if there are
    none; `reason` says why nothing was judged. `fingerprint` is that of the pictures looked at: the
    dataset's, if all of them could be read.
    """

    version: Literal[1] = 1
    method: str
    seed: int
    looked_at: dict[Part, dict[Label, Count]]
    unjudged: Count
    auc: Share | None
    reason: str | None
    fingerprint: str
    found: tuple[Suspect, ...]

    def of_label(self, label: Label) -> list[Suspect]:
        """Return the suspects of one label, the most suspect first."""
        return [suspect for suspect in self.found if suspect.label == label]


class StoredSuspects(Suspects):
    """The suspects that were found with a run's model, as `suspects.json` of the run has them."""

    tag: str
    run: str


def store_suspects(storage: Storage, tag: str, run: str, suspects: Suspects) -> None:
    """Store what was found with a run's model, beside it."""
    stored = StoredSuspects(**dict(suspects), tag=tag, run=run)
    data = stored.model_dump_json(indent=1).encode() + b"\n"
    storage.write(Layout(tag).run(run, "suspects.json"), data)


def load_suspects(storage: Storage, tag: str, run: str) -> StoredSuspects:
    """Return what was found with a run's model.

    Raises:
        InputError: if nothing is stored, or it cannot be read.
        UsageError: if `run` cannot be a run's name.

    """
    layout = Layout(tag)
    key = layout.run(run, "suspects.json")
    command = f"imagetag evaluate --tags {shlex.quote(tag)} --run {run}"
    marker = layout.run(run, "evaluation.json")
    advice = f"delete {storage.url}/{marker} and run {command} again"
    try:
        return load_record(
            *(storage, key, StoredSuspects, advice), max_bytes=_MAX_BYTES, run=run, tag=tag
        )
    except ObjectNotFound as error:
        raise InputError(
            f"no suspect labels of the run {run!r} of the tag {tag!r} in {storage.url}: "
            f"run {command} first"
        ) from error
