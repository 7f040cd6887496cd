"""What storage already has of a tag."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from imagetag.boards import Post
from imagetag.dataset import (
    Dataset,
    Failure,
    Lead,
    Repeat,
    Row,
    is_dropped,
    part_keys,
    read_changes,
    read_parts,
    split_of,
    standing_curation,
)
from imagetag.errors import UsageError
from imagetag.layout import LABELS, SPLITS, Label, Layout, Split, parse_image
from imagetag.scrape.placeholders import Sighting, is_placeholder
from imagetag.scrape.selection import Selection
from imagetag.storage import Storage

_PLACES = [(split, label) for split in SPLITS for label in LABELS]


def place(split: Split, label: Label, md5: str) -> bytes:
    """Return where an image is, in 17 bytes."""
    return bytes([_PLACES.index((split, label))]) + bytes.fromhex(md5)


def key_at(layout: Layout, where: bytes, ext: str) -> str:
    """Return the key of the image that is at a `place`."""
    split, label = _PLACES[where[0]]
    return layout.image(split, label, where[1:].hex(), ext)


class StoredImages:
    """The images of a tag that are in storage, by their `place`, with their endings."""

    def __init__(self, storage: Storage, layout: Layout) -> None:
        self._storage, self._layout = storage, layout
        self.listed: dict[bytes, str] = {}
        for split, label in _PLACES:
            for entry in storage.list(layout.images(split, label)):
                try:
                    image = parse_image(entry.key)
                except ValueError:
                    continue  # somebody else's file
                self.listed[place(split, label, image.md5)] = sys.intern(image.ext)

    def has(self, row: Row) -> bool:
        """Tell whether a row's image is there; it may be, though the listing does not show it."""
        where = place(row.split, row.label, row.md5)
        return (
            where in self.listed
            or self._storage.stat(key_at(self._layout, where, row.ext)) is not None
        )


@dataclass
class Known:
    """What storage already has of a tag: some hundred bytes an image.

    Attributes:
        board: what manifests call the board.
        selection: what is asked for.
        images: by label the images that count, being recorded, in storage and as they are asked
            for: by their digests, whether they were taken for another request, and the post's id.
        posts: ids that are not to be fetched (again).
        said: of which image a post is, by its id and the label that it was recorded with.
        failed: ids that failed, for now or for good, and are not stored.
        regained: ids that failed once, and are stored by now.
        labels: by their md5s of the images as they are asked for, also of those that do not count;
            None for what is left out for good.
        dropped: md5s of those that curation has dropped.
        left_out: md5s of what is none of the pictures that the posts which lead to it are of.
        objects: images without a row, by their `place`, with their endings: a run was killed
            before it recorded them.
        places: those of the images that have a row.
        tags: how many positives have each tag.
        parts: keys of the parts that have the rows, in the order in which they are read.
        repeat_parts, failed_parts: of those that have the repeats and the failures.

    """

    board: str
    selection: Selection
    images: dict[Label, dict[bytes, tuple[bool, int]]] = field(
        default_factory=lambda: {label: {} for label in LABELS}
    )
    posts: set[int] = field(default_factory=set)
    said: dict[tuple[int, Label], bytes] = field(default_factory=dict)
    failed: dict[int, Label] = field(default_factory=dict)
    regained: set[int] = field(default_factory=set)
    labels: dict[bytes, Label | None] = field(default_factory=dict)
    dropped: set[bytes] = field(default_factory=set)
    left_out: set[bytes] = field(default_factory=set)
    objects: dict[bytes, str] = field(default_factory=dict)
    places: set[bytes] = field(default_factory=set)
    tags: Counter[str] = field(default_factory=Counter)
    parts: list[str] = field(default_factory=list)
    repeat_parts: list[str] = field(default_factory=list)
    failed_parts: list[str] = field(default_factory=list)
    _repeats: list[tuple[bytes, Label]] = field(default_factory=list)
    _leads: dict[bytes, dict[Sighting, tuple[Label, Lead]]] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        storage: Storage,
        layout: Layout,
        board: str,
        selection: Selection,
        previous: Dataset | None = None,
    ) -> Known:
        """Read the manifest's parts, complete or not, and list the images.

        Args:
            storage: has them.
            layout: of the tag.
            board: what manifests call the board.
            selection: what is asked for.
            previous: what is marked as complete: it names parts that may not be listed yet.

        Raises:
            UsageError: if the images were split by another fraction.

        """
        known = cls(board, selection)
        named = previous.parts if previous else ()
        known.parts = part_keys(storage, layout, "part", named)
        # They only repeat rows, unless the parts that these are from were lost.
        known.parts += [key for key in named if key not in known.parts]
        stored = StoredImages(storage, layout)
        known.objects = dict(stored.listed)
        changes = read_changes(storage, standing_curation(storage, layout))
        for row in read_parts(storage, known.parts, Row, strict=False):
            if row.split != split_of(row.group, selection.test_fraction):
                raise UsageError(
                    f"{storage.url}/{layout.root} has images that --test-fraction "
                    f"{selection.test_fraction} would move between train and test: use the "
                    "fraction they were scraped with, or another --storage"
                )
            where = place(row.split, row.label, row.md5)
            known.objects.pop(where, None)
            known.places.add(where)
            # Two pods that did the same work left two rows.
            if known.unfit(row) or bytes.fromhex(row.md5) in known.labels:
                continue
            if is_dropped(row.md5, changes):
                known.drop(row)
            elif stored.has(row):
                known.add(row)
        named = previous.repeats if previous else ()
        known.repeat_parts = part_keys(storage, layout, "repeat", named)
        known._read_repeats(read_parts(storage, known.repeat_parts, Repeat, strict=False))
        named = previous.failed_parts if previous else ()
        known.failed_parts = part_keys(storage, layout, "failed", named)
        permanent = set()
        for failure in read_parts(storage, known.failed_parts, Failure, strict=False):
            if not known.of_board(failure):
                continue
            if failure.post_id in known.posts:
                known.regained.add(failure.post_id)
                continue
            known.failed[failure.post_id] = failure.label
            if failure.permanent:
                permanent.add(failure.post_id)
        known.posts |= permanent
        return known

    def _read_repeats(self, records: Iterable[Repeat]) -> None:
        orphans: dict[bytes, list[Repeat]] = {}
        for record in records:
            digest = bytes.fromhex(record.md5)
            if digest in self.labels:
                self.repeat(record)
            else:
                orphans.setdefault(digest, []).append(record)
        for digest, of_one in orphans.items():
            for record in of_one:
                self._sight(record, known=False)
            # Else the row was lost, and these posts may be fetched again.
            if digest in self.left_out:
                self.labels[digest] = None
                for record in of_one:
                    self.repeat(record)

    def of_board(self, record: Row | Repeat | Failure) -> bool:
        """Tell whether a record is of the board; two folders may be called the same."""
        return record.board == self.board and record.root in ("", self.selection.board)

    def unfit(self, row: Row) -> str | None:
        """Return why an image that is recorded is not what is asked for; None if it is."""
        return self.selection.unfit_row(row) if self.of_board(row) else "board"

    def counts(self, row: Row) -> bool:
        """Tell whether a row is of the dataset that is asked for, before curation."""
        digest = bytes.fromhex(row.md5)
        known = digest in self.images[row.label] or digest in self.dropped
        return known and digest not in self.left_out and not self.unfit(row)

    @property
    def total(self) -> int:
        """How many images `counts` holds of."""
        found = self.dropped.union(*self.images.values())
        return len(found - self.left_out)

    @property
    def rows(self) -> Counter[Label]:
        """How many images of each label count."""
        return Counter({label: len(found) for label, found in self.images.items() if found})

    @property
    def span(self) -> tuple[int, int]:
        """The least and the greatest post id of the positives."""
        ids = [post_id for _, post_id in self.images["positive"].values()]
        return min(ids, default=0), max(ids, default=0)

    def add(self, row: Row) -> None:
        """Count an image that is stored, recorded, and as it is asked for."""
        digest = bytes.fromhex(row.md5)
        other = row.request not in ("", self.selection.digest)
        self.images[row.label][digest] = (other, row.post_id)
        self.labels[digest] = row.label
        self._sight(row)
        if row.label == "positive":
            self.tags.update(row.tags)

    def drop(self, row: Row) -> None:
        """Remember an image that curation has dropped: it is not fetched again, nor counted."""
        digest = bytes.fromhex(row.md5)
        self.dropped.add(digest)
        self.labels[digest] = row.label
        self._sight(row)

    def repeat(self, record: Repeat) -> None:
        """Remember another post of an image, or another record of the same post."""
        self._repeats.append((bytes.fromhex(record.md5), record.label))
        self._sight(record)

    def repeats(self) -> Counter[str]:
        """Count the posts that are not stored for an image that is, or that is left out."""
        # Of what is left out, the first post has a row as long as this run goes on.
        reasons = Counter(
            "placeholder" for digest in self.left_out if self.labels.get(digest) is not None
        )
        for digest, label in self._repeats:
            if digest in self.left_out:
                reasons["placeholder"] += 1
            else:
                reasons["duplicate" if label == self.labels[digest] else "conflicting"] += 1
        return reasons

    def keep(self, label: Label, wanted: int) -> None:
        """Let no more than `wanted` images of a label count.

        First those that were taken for this very request, so that what was asked for before comes
        back as it was. Then the newest positives; of the negatives those that are as old as the
        positives, in the order of their digests, which is any.
        """
        oldest, newest = self.span

        def order(item: tuple[bytes, tuple[bool, int]]) -> tuple[bool, int, bytes]:
            digest, (other, post_id) = item
            if label == "positive":
                return other, -post_id, digest
            return other, not oldest <= post_id <= newest, digest

        self.images[label] = dict(sorted(self.images[label].items(), key=order)[:wanted])

    def keep_only(self, digests: Collection[bytes]) -> None:
        """Let only these images count, and those of posts that had failed before."""
        for label, found in self.images.items():
            self.images[label] = {
                digest: (other, post_id)
                for digest, (other, post_id) in found.items()
                if digest in digests or post_id in self.regained
            }

    def has(self, post: Post) -> bool:
        """Tell whether the post is stored, or known never to be."""
        return post.id in self.posts or (
            post.md5 is not None and bytes.fromhex(post.md5) in self.labels
        )

    def _sight(self, record: Row | Repeat, *, known: bool = True) -> None:
        digest = bytes.fromhex(record.md5)
        if known and self.of_board(record):
            self.posts.add(record.post_id)
            self.said[record.post_id, record.label] = digest
        if record.lead is None:
            return
        leads = self._leads.setdefault(digest, {})
        leads[record.board, record.post_id] = record.label, record.lead
        # Any number of posts may lead to it: what is decided is not looked into again.
        if digest not in self.left_out:
            if not is_placeholder({post: lead for post, (_, lead) in leads.items()}):
                return
            self.left_out.add(digest)
        # What makes room for another of its label is a matter of that label's posts: whenever a
        # run is killed, the next comes to the same.
        label = self.labels.get(digest)
        if label is not None and digest in self.images[label]:
            alike = {post: lead for post, (of, lead) in leads.items() if of == label}
            if is_placeholder(alike):
                del self.images[label][digest]
