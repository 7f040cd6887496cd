"""What storage already has of a tag."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field

from imagetag.boards import Post
from imagetag.errors import UsageError
from imagetag.layout import LABELS, SPLITS, Label, Layout, Split, parse_image
from imagetag.manifest import (
    Failure,
    Row,
    distinct,
    is_dropped,
    part_keys,
    read_changes,
    read_parts,
)
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
        failed: ids that failed, for now or for good, and are not stored.
        digests: md5s of the images, dropped ones too.
        objects: images without a row, by their `place`, with their endings: a run was killed
            before it recorded them.
        span: the least and the greatest post id of the positives.
        tags: how many positives have each tag.

    """

    rows: Counter[Label] = field(default_factory=Counter)
    posts: set[int] = field(default_factory=set)
    failed: dict[int, Label] = field(default_factory=dict)
    digests: set[bytes] = field(default_factory=set)
    objects: dict[bytes, str] = field(default_factory=dict)
    span: tuple[int, int] = (0, 0)
    tags: Counter[str] = field(default_factory=Counter)

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
        permanent = set()
        for failure in read_parts(storage, part_keys(storage, layout, "failed"), Failure):
            if failure.board == board and failure.post_id not in known.posts:
                known.failed[failure.post_id] = failure.label
                if failure.permanent:
                    permanent.add(failure.post_id)
        known.posts |= permanent
        known.objects = stored
        return known

    def add(self, row: Row, board: str) -> None:
        """Count an image that is stored and recorded, of this board or of another."""
        self.rows[row.label] += 1
        self.digests.add(bytes.fromhex(row.md5))
        if row.label == "positive":
            self.tags.update(row.tags)
        if row.board != board:
            return
        self.posts.add(row.post_id)
        if row.label == "positive":
            oldest, newest = self.span
            self.span = (min(oldest or row.post_id, row.post_id), max(newest, row.post_id))

    def drop(self, row: Row, board: str) -> None:
        """Remember an image that curation has dropped: it is not fetched again, nor counted."""
        self.digests.add(bytes.fromhex(row.md5))
        if row.board == board:
            self.posts.add(row.post_id)

    def has(self, post: Post) -> bool:
        """Tell whether the post is stored, or known never to be."""
        return post.id in self.posts or (
            post.md5 is not None and bytes.fromhex(post.md5) in self.digests
        )
