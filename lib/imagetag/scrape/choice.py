"""Which of the recorded images of a tag are in its dataset, and which of its parts have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from imagetag.dataset import Repeat, Row, part_keys, read_parts, write_part
from imagetag.layout import Layout
from imagetag.scrape.inventory import Known, place
from imagetag.storage import Storage


class Choice:
    """The rows of a dataset, out of all that are recorded of its tag.

    Attributes:
        parts: keys of the parts that have these rows and no others, once all were read.
        images: how many there are.
        posts: ids of all that are recorded of the board.
        unrecorded: images that are not recorded, or are no pictures.
        left_out: why recorded images are not in the dataset, by their digests.
        replaced: keys of parts that were written anew without rows of what is no picture.

    """

    def __init__(
        self, storage: Storage, layout: Layout, known: Known, written: Sequence[str]
    ) -> None:
        self._storage, self._layout, self._known = storage, layout, known
        # What this run knows of and what it wrote, and what another run of the tag did meanwhile.
        keys = part_keys(storage, layout, "part", [*known.parts, *written])
        self._keys = keys + [key for key in known.parts if key not in keys]
        self.parts: list[str] = []
        self.images = 0
        self.posts: set[int] = set()
        self.unrecorded = dict(known.objects)
        self.left_out: dict[bytes, str] = {}
        self.replaced: list[str] = []
        self._placeholders: list[Row] = []

    def rows(self) -> Iterator[Row]:
        """Yield each image's row; write anew the parts that have others too."""
        known = self._known
        seen: set[bytes] = set()
        for key in self._keys:
            rows = list(read_parts(self._storage, [key], Row, strict=False))
            pictures, taken, fresh = [], [], []
            for row in rows:
                digest, where = bytes.fromhex(row.md5), place(row.split, row.label, row.md5)
                self.unrecorded.pop(where, None)
                if known.of_board(row):
                    self.posts.add(row.post_id)
                if digest in known.left_out:
                    self.unrecorded[where] = row.ext
                    if known.labels.get(digest) is not None:  # else that was told before
                        self._placeholders.append(row)
                    continue
                pictures.append(row)
                if not known.counts(row):
                    self.left_out[digest] = known.unfit(row) or "limit"
                    continue
                taken.append(row)
                if digest not in seen:
                    seen.add(digest)
                    fresh.append(row)
            part = key
            if len(pictures) < len(rows):
                self.replaced.append(key)
                if pictures:
                    part = write_part(self._storage, self._layout, "part", pictures)
            if fresh:
                whole = len(taken) == len(pictures)
                self.parts.append(
                    part if whole else write_part(self._storage, self._layout, "kept", taken)
                )
            self.images += len(fresh)
            yield from fresh
        for digest in seen:
            self.left_out.pop(digest, None)

    def repeated(self) -> list[str]:
        """Record the rows of what is no picture as posts that lead to it; return their parts."""
        found = [Repeat.model_validate(row.model_dump()) for row in self._placeholders]
        return [write_part(self._storage, self._layout, "repeat", found)] if found else []
