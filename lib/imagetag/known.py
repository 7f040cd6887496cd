"""What storage already has of a tag."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from imagetag.boards import Post
from imagetag.errors import UsageError
from imagetag.layout import LABELS, SPLITS, Label, Layout, Split, parse_image
from imagetag.manifest import (
    Failure,
    Lead,
    Repeat,
    Row,
    distinct,
    is_dropped,
    part_keys,
    read_changes,
    read_parts,
)
from imagetag.placeholder import Sighting, is_placeholder
from imagetag.split import split_of
from imagetag.storage import Storage

_PLACES = [(split, label) for split in SPLITS for label in LABELS]


def place(split: Split, label: Label, md5: str) -> bytes:
    """Return where an image is, in 17 bytes."""
    return bytes([_PLACES.index((split, label))]) + bytes.fromhex(md5)


def key_at(layout: Layout, where: bytes, ext: str) -> str:
    """Return the key of the image that is at a `place`."""
    split, label = _PLACES[where[0]]
    return layout.image(split, label, where[1:].hex(), ext)


def stored_images(storage: Storage, layout: Layout) -> dict[bytes, str]:
    """Return the images of a tag that are in storage, by their `place`, with their endings."""
    found = {}
    for split, label in _PLACES:
        for entry in storage.list(layout.images(split, label)):
            try:
                image = parse_image(entry.key)
            except ValueError:
                continue  # somebody else's file
            found[place(split, label, image.md5)] = sys.intern(image.ext)
    return found


@dataclass
class Known:
    """What storage already has of a tag: some hundred bytes an image.

    Attributes:
        rows: recorded images by label.
        posts: ids that are not to be fetched (again).
        said: of which image a post is, by its id and the label that it was recorded with.
        failed: ids that failed, for now or for good, and are not stored.
        labels: of the images by their md5s, dropped ones too; None for what is left out for good.
        left_out: md5s of what is none of the pictures that the posts which lead to it are of.
        objects: images without a row, by their `place`, with their endings: a run was killed
            before it recorded them.
        positives: their post ids.
        tags: how many positives have each tag.

    """

    rows: Counter[Label] = field(default_factory=Counter)
    posts: set[int] = field(default_factory=set)
    failed: dict[int, Label] = field(default_factory=dict)
    said: dict[tuple[int, Label], bytes] = field(default_factory=dict)
    labels: dict[bytes, Label | None] = field(default_factory=dict)
    left_out: set[bytes] = field(default_factory=set)
    objects: dict[bytes, str] = field(default_factory=dict)
    positives: set[int] = field(default_factory=set)
    tags: Counter[str] = field(default_factory=Counter)
    _repeats: list[tuple[bytes, Label]] = field(default_factory=list)
    _leads: dict[bytes, dict[Sighting, tuple[Label, Lead]]] = field(default_factory=dict)
    _uncounted: set[bytes] = field(default_factory=set)  # images that are not in `rows`

    @classmethod
    def read(cls, storage: Storage, layout: Layout, board: str, test_fraction: float) -> Known:
        """Read the manifest's parts, complete or not, and list the images.

        Raises:
            UsageError: if they were split by another fraction.

        """
        known = cls()
        stored = stored_images(storage, layout)
        changes = read_changes(storage, part_keys(storage, layout, "curated"))
        for row in distinct(read_parts(storage, part_keys(storage, layout, "part"), Row)):
            if row.split != split_of(row.group, test_fraction):
                raise UsageError(
                    f"{storage.url}/{layout.root} has images that --test-fraction {test_fraction} "
                    "would move between train and test: use the fraction they were scraped with, "
                    "or another --storage"
                )
            there = stored.pop(place(row.split, row.label, row.md5), None) is not None
            if is_dropped(row.md5, changes):
                known.drop(row, board)
            elif there:
                known.add(row, board)
        known._read_repeats(
            read_parts(storage, part_keys(storage, layout, "repeat"), Repeat), board
        )
        permanent = set()
        for failure in read_parts(storage, part_keys(storage, layout, "failed"), Failure):
            if failure.board == board and failure.post_id not in known.posts:
                known.failed[failure.post_id] = failure.label
                if failure.permanent:
                    permanent.add(failure.post_id)
        known.posts |= permanent
        known.objects = stored
        return known

    def _read_repeats(self, records: Iterable[Repeat], board: str) -> None:
        orphans: dict[bytes, list[Repeat]] = {}
        for record in records:
            digest = bytes.fromhex(record.md5)
            if digest in self.labels:
                self.repeat(record, board)
            else:
                orphans.setdefault(digest, []).append(record)
        for digest, of_one in orphans.items():
            for record in of_one:
                self._sight(record, "")
            # Else the row was lost, and these posts may be fetched again.
            if digest in self.left_out:
                self.labels[digest] = None
                for record in of_one:
                    self.repeat(record, board)

    def add(self, row: Row, board: str) -> None:
        """Count an image that is stored and recorded, of this board or of another."""
        self.rows[row.label] += 1
        self.labels[bytes.fromhex(row.md5)] = row.label
        self._sight(row, board)
        if row.label == "positive":
            self.tags.update(row.tags)
            if row.board == board:
                self.positives.add(row.post_id)

    def drop(self, row: Row, board: str) -> None:
        """Remember an image that curation has dropped: it is not fetched again, nor counted."""
        self.labels[bytes.fromhex(row.md5)] = row.label
        self._uncounted.add(bytes.fromhex(row.md5))
        self._sight(row, board)

    def repeat(self, record: Repeat, board: str) -> None:
        """Remember another post of an image, or another record of the same post."""
        self._repeats.append((bytes.fromhex(record.md5), record.label))
        self._sight(record, board)

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

    @property
    def span(self) -> tuple[int, int]:
        """The least and the greatest post id of the positives."""
        return min(self.positives, default=0), max(self.positives, default=0)

    def has(self, post: Post) -> bool:
        """Tell whether the post is stored, or known never to be."""
        return post.id in self.posts or (
            post.md5 is not None and bytes.fromhex(post.md5) in self.labels
        )

    def _sight(self, record: Row | Repeat, board: str) -> None:
        digest = bytes.fromhex(record.md5)
        if record.board == board:
            self.posts.add(record.post_id)
            self.said[record.post_id, record.label] = digest
        if record.lead is None:
            return
        leads = self._leads.setdefault(digest, {})
        leads[record.board, record.post_id] = record.label, record.lead
        if is_placeholder({post: lead for post, (_, lead) in leads.items()}):
            self.left_out.add(digest)
        # What makes room for another of its label is a matter of that label's posts: whenever a
        # run is killed, the next comes to the same.
        label = self.labels.get(digest)
        alike = {post: lead for post, (of, lead) in leads.items() if of == label}
        if label is not None and digest not in self._uncounted and is_placeholder(alike):
            self._uncounted.add(digest)
            self.rows[label] -= 1
