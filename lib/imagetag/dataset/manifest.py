"""What is known of each image of a tag, kept beside the images as JSON lines.

Rows are written in parts named by their content, so that a write can be repeated without harm.
`dataset.json` comes last, names the parts it stands for, and is what a reader trusts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AwareDatetime,
    Field,
    StringConstraints,
    ValidationError,
)

from imagetag.dataset.lookup import no_dataset
from imagetag.errors import InputError, complaint
from imagetag.layout import LABELS, SPLITS, Label, Layout, PartKind, Split
from imagetag.record import Record
from imagetag.storage import ObjectNotFound, Storage, load_record

Rating = Literal["general", "sensitive", "questionable", "explicit"]
Negatives = Literal["random", "hard", "mixed"]
Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]

_MAX_LINE = 1 << 20  # bytes; a row has a few kilobytes


class Lead(Record):
    """How a post leads to its file, where nothing vouches for what is there.

    `end` is the URL that it was redirected to, empty where it was not; `width` and `height` are
    those that the post tells, in pixels.
    """

    end: str = ""
    width: int | None = None
    height: int | None = None


class Row(Record):
    """An image that is stored.

    `width` and `height` are in pixels of the picture as it is seen, turned as EXIF says (rows of
    older versions have the file's), `bytes` is the file's size, `group` is what must stay in
    one split. `lead` is None where the post's source vouches for the file. `root` is the board's
    URL or path, `negatives` how a negative was chosen, and `request` a digest of all that was asked
    for. Rows from before these were recorded lack them, the score and the time. `stored_label` is
    of a row whose label a person has turned: the one by which the picture lies in storage, where
    nothing moves. No manifest has it.
    """

    post_id: int
    board: str
    page_url: str
    md5: Md5
    ext: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{2,5}$")]
    bytes: int = Field(ge=1)
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    tags: tuple[str, ...]
    rating: Rating
    split: Split
    label: Label
    group: str
    phashes: tuple[str, ...] = ()
    lead: Lead | None = None
    score: int | None = None
    created_at: AwareDatetime | None = None
    root: str = ""
    negatives: Negatives | None = None
    request: str = ""
    stored_label: Label | None = Field(None, exclude=True)

    @property
    def target(self) -> int:
        """1 if the picture has the tag, else 0."""
        return int(self.label == "positive")

    @property
    def folder_label(self) -> Label:
        """The label whose folder has the picture."""
        return self.stored_label or self.label

    def labelled(self, label: Label) -> Row:
        """Return the row of the same picture, where it lies, with a label."""
        if label == self.label:
            return self
        return self.model_copy(update={"label": label, "stored_label": self.folder_label})


class Repeat(Record):
    """A post whose picture is that of another post, byte for byte, and what it says of it.

    Where it has another label than the row of that picture, one of them is probably wrong. `root`
    is as of a row.
    """

    post_id: int
    board: str
    page_url: str
    md5: Md5
    label: Label
    tags: tuple[str, ...]
    lead: Lead | None = None
    root: str = ""


class Failure(Record):
    """A post that was wanted and could not be stored, and why; `root` is as of a row."""

    post_id: int
    board: str
    page_url: str
    label: Label
    reason: str
    detail: str
    permanent: bool
    root: str = ""


class Curated(Record):
    """What curation says of an image: dropped from the dataset, or put into another group.

    `twin` is a near-duplicate of it, None where only the rest of its group has one, or where its
    own file is what another post gives another label.
    """

    md5: Md5
    twin: Md5 | None
    dropped: bool
    group: str | None
    conflicting: bool


class Curation(Record):
    """How a dataset was curated, and the parts that say what came out.

    `covers` is a digest of the names of the parts that were looked at; `dropped` and `conflicting`
    count images (twins of different labels are conflicting, and so is one that posts give both),
    `groups` those that twins have in common, `unreadable` the images that were passed over.
    """

    parts: tuple[str, ...]
    method: int = 0
    threshold: int = 0
    covers: str = ""
    dropped: int = 0
    groups: int = 0
    conflicting: int = 0
    unreadable: int = 0


class Mark(Record):
    """A tag that far more of the negatives have than of other posts; all three are shares.

    `board` is of a sample of the board's posts without the dataset's tag.
    """

    tag: str
    negatives: float
    positives: float
    board: float

    @property
    def caution(self) -> str:
        """What it means for a model, in a sentence."""
        return (
            f"{self.negatives:.0%} of the negatives have the tag {self.tag!r}, but "
            f"{self.board:.0%} of all other pictures and {self.positives:.0%} of the "
            "positives: a model may tell the labels apart by that tag."
        )


class Dataset(Record):
    """The summary of a complete dataset, stored as `dataset.json`.

    `images` counts by split and label; `failures` counts by reason; `request` is what was asked
    for: a later scrape that asks the same has nothing to do. `parts` have the rows, `failed_parts`
    the posts that could not be stored. `fingerprint` changes when any image, label, split or group
    does: whatever is derived from rows alone is of the same fingerprint the same. All of them are
    of what curation left.
    """

    version: Literal[1] = 1
    tag: str
    board: str
    request: dict[str, Any]
    images: dict[Split, dict[Label, int]]
    bytes: int
    failures: dict[str, int]
    skipped: dict[str, int]
    parts: tuple[str, ...]
    failed_parts: tuple[str, ...] = ()
    fingerprint: str
    created: str
    software: str
    curation: Curation | None = None
    repeats: tuple[str, ...] = ()
    negatives_marked_by: tuple[Mark, ...] = ()

    @property
    def total(self) -> int:
        """How many images there are."""
        return sum(count for labels in self.images.values() for count in labels.values())


Stored = TypeVar("Stored", bound=Record)


def write_part(storage: Storage, layout: Layout, kind: PartKind, rows: Iterable[Record]) -> str:
    """Store rows as one part, and return its key."""
    data = "".join(row.model_dump_json() + "\n" for row in rows).encode()
    key = layout.part(kind, hashlib.sha256(data).hexdigest()[:24])
    storage.write(key, data)
    return key


def part_keys(
    storage: Storage, layout: Layout, kind: PartKind, known: Iterable[str] = ()
) -> list[str]:
    """Return the keys of the parts that are stored, complete dataset or not.

    A listing may be some seconds late: `known` ones, which this run has written or a marker names,
    are among them whether they are listed or not.
    """
    keys = {entry.key for entry in storage.list(layout.manifest)}.union(known)
    return sorted(key for key in keys if layout.part_kind(key) == kind)


def missing_parts(storage: Storage, dataset: Dataset) -> list[str]:
    """Return the parts that a marker names and that are gone, or empty, as none is written."""
    listed = {entry.key for entry in storage.list(Layout(dataset.tag).manifest) if entry.size}
    named = dataset.parts + dataset.repeats
    named += dataset.curation.parts if dataset.curation else ()
    # One that is not listed may have been written a moment ago.
    return [key for key in named if key not in listed and _is_empty(storage, key)]


def _is_empty(storage: Storage, key: str) -> bool:
    """Tell whether a part is gone, or a machine that went down left nothing in it."""
    found = storage.stat(key)
    return found is None or not found.size


def read_parts(
    storage: Storage, keys: Iterable[str], record: type[Stored], *, strict: bool = True
) -> Iterator[Stored]:
    """Yield the records of some parts, one part after the other.

    Args:
        storage: has them.
        keys: of the parts.
        record: what a line is.
        strict: whether all must be there; a listing may still show one that was deleted.

    Raises:
        InputError: if a part is missing or empty, or a line of it cannot be read; it names both.

    """
    for key in keys:
        try:
            number = yield from _read_part(storage, key, record)
        except ObjectNotFound as error:
            if not strict:
                continue
            raise InputError(
                f"{storage.url}/{key}: this part of the manifest is missing; scrape the tag again"
            ) from error
        if strict and not number:
            raise InputError(
                f"{storage.url}/{key}: this part of the manifest is empty; scrape the tag again"
            )


def _read_part(storage: Storage, key: str, record: type[Stored]) -> Generator[Stored, None, int]:
    """Yield a part's records, and return the number of its lines."""
    with storage.open(key) as stream:
        number = 0
        while line := stream.readline(_MAX_LINE):
            number += 1
            if not line.strip():
                continue
            try:
                yield record.model_validate_json(line)
            except ValidationError as error:
                raise InputError(
                    f"{storage.url}/{key} line {number}: {complaint(error)}; "
                    "delete this part and scrape the tag again"
                ) from error
    return number


def load_dataset(storage: Storage, tag: str) -> Dataset:
    """Return the summary of a tag's complete dataset.

    Raises:
        InputError: if there is none, or it cannot be read.

    """
    layout = Layout(tag)
    try:
        dataset = load_record(storage, layout.dataset, Dataset, "scrape the tag again", tag=tag)
    except ObjectNotFound as error:
        raise no_dataset(storage, tag) from error
    strange = [part for part in dataset.parts if layout.part_kind(part) not in ("part", "kept")]
    strange += [part for part in dataset.repeats if layout.part_kind(part) != "repeat"]
    if dataset.curation is not None:
        parts = dataset.curation.parts
        strange += [part for part in parts if layout.part_kind(part) != "curated"]
    if strange:
        raise InputError(
            f"{storage.url}/{layout.dataset} is not a summary of the tag {tag!r}: it names "
            f"{strange[0][:100]!r}; scrape the tag again"
        )
    return dataset


def write_dataset(storage: Storage, dataset: Dataset) -> None:
    """Store a dataset's summary: from then on it is complete."""
    data = dataset.model_dump_json(indent=2).encode() + b"\n"
    storage.write(Layout(dataset.tag).dataset, data)


def read_rows(storage: Storage, dataset: Dataset) -> Iterator[Row]:
    """Yield the rows of a complete dataset, each image once, as curation left them.

    Raises:
        InputError: if a part is missing or cannot be read.

    """
    changes = read_changes(storage, dataset.curation)
    return curated(distinct(read_parts(storage, dataset.parts, Row)), changes)


def distinct(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield each image's first row: two pods that did the same work left two."""
    seen: set[bytes] = set()
    for row in rows:
        digest = bytes.fromhex(row.md5)
        if digest not in seen:
            seen.add(digest)
            yield row


Changes = dict[bytes, str | None]


def read_changes(storage: Storage, curation: Curation | None) -> Changes:
    """Return what a curation changes: by an image's digest its new group, None if dropped.

    Raises:
        InputError: if a part is missing or cannot be read.

    """
    return changes_of(read_parts(storage, curation.parts, Curated)) if curation else {}


def changes_of(verdicts: Iterable[Curated]) -> Changes:
    """Return what verdicts change, as `read_changes` does."""
    changes: Changes = {}
    for verdict in verdicts:
        digest = bytes.fromhex(verdict.md5)
        # Whatever another part says: what was dropped once has no object any more.
        if verdict.dropped:
            changes[digest] = None
        elif verdict.group is not None:
            changes.setdefault(digest, verdict.group)
    return changes


def is_dropped(md5: str, changes: Changes) -> bool:
    """Tell whether an image is among those that curation has dropped."""
    return changes.get(bytes.fromhex(md5), "") is None


def curated(rows: Iterable[Row], changes: Changes) -> Iterator[Row]:
    """Yield the rows that are not dropped, in their new groups."""
    for row in rows:
        digest = bytes.fromhex(row.md5)
        group = changes.get(digest, row.group)
        if group == row.group:
            yield row
        elif group is not None:
            yield row.model_copy(update={"group": group})


def standing_curation(storage: Storage, layout: Layout) -> Curation | None:
    """Return the curation that holds until the next, for a marker that is written anew.

    Every curated part that is stored counts, whether a marker names it or not: its images may be
    gone. None if there is none.

    Raises:
        InputError: if a part cannot be read.

    """
    try:
        previous = load_dataset(storage, layout.tag).curation
    except InputError:
        previous = None
    found = part_keys(storage, layout, "curated", previous.parts if previous else ())
    # They are few, and a listing may still show one that was deleted.
    parts = tuple(key for key in found if not _is_empty(storage, key))
    if not parts:
        return None
    if previous is not None and set(previous.parts) == set(parts):
        return previous
    changes = changes_of(read_parts(storage, parts, Curated))
    return Curation(parts=parts, dropped=sum(group is None for group in changes.values()))


def summarize(rows: Iterable[Row]) -> tuple[dict[Split, dict[Label, int]], int, str]:
    """Return counts by split and label, the sum of bytes, and the fingerprint of some rows."""
    images: dict[Split, dict[Label, int]] = {split: dict.fromkeys(LABELS, 0) for split in SPLITS}
    size = 0
    # A sum of digests does not depend on the order of the rows, so nothing must be held or sorted.
    total = 0
    for row in rows:
        images[row.split][row.label] += 1
        size += row.bytes
        identity = f"{row.md5} {row.split} {row.label} {row.group}"
        digest = hashlib.sha256(identity.encode()).digest()
        total = (total + int.from_bytes(digest, "big")) % 2**256
    return images, size, f"{total:064x}"
