"""Datasets of very many tags, of which little is held: manifests are made when they are read."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from functools import cached_property, partial
from random import Random
from typing import Any

from PIL import Image

from imagetag.dataset import Dataset, split_of, write_dataset
from imagetag.imaging.layouts import CHROMA, LUMA
from imagetag.layout import LABELS, Label, Layout
from tests.builders.datasets import make_dataset
from tests.builders.rows import make_row
from tests.storages import Made, MadeUp

_PART = 200  # rows of a part, as scrape writes them
_FIRST = 10_000_000  # post ids have as many digits
_FRACTION = 0.2  # of the groups that are in test
_TAGS = tuple(f"some_tag_of_{number}" for number in range(30))
# What stands in a template of a row for what differs.
_MD5, _SPLIT, _LAYOUT = "0" * 32, '"split":"train"', "layout:LAYOUT"


@dataclass(frozen=True)
class Many:
    """Made-up datasets of as many pictures without the tag as with it.

    Attributes:
        tags: how many.
        limit: pictures of each label of a tag.
        pool: how many pictures the negatives of all tags are of; 0 for each tag's own.
        layouts: whether each picture has a layout of its own, a cloud of colours; else all have the
            same.
        request: what was asked for.

    """

    tags: int
    limit: int = 1000
    pool: int = 0
    layouts: bool = False
    request: dict[str, Any] = field(default_factory=lambda: {"limit": 1000})

    @property
    def names(self) -> list[str]:
        """The tags."""
        return [f"tag_{number:05}" for number in range(self.tags)]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return 2 * self.tags * self.limit

    @property
    def distinct(self) -> int:
        """How many pictures there are, each once."""
        return self.tags * self.limit + (self.pool or self.tags * self.limit)

    def store(self, storage: MadeUp) -> None:
        """Put the markers into a storage, and manifests that are made when they are read."""
        size = len(self.part(0, "negative", 0)) // min(_PART, self.limit)
        for number, tag in enumerate(self.names):
            parts = []
            for label in LABELS:
                for start in range(0, self.limit, _PART):
                    name = hashlib.sha256(f"{label} {start}".encode()).hexdigest()[:24]
                    parts.append(Layout(tag).part("part", name))
                    make = partial(self.part, number, label, start)
                    rows = min(_PART, self.limit - start)
                    storage.made[parts[-1]] = Made(size * rows, make)
            write_dataset(storage, self.dataset(tag, tuple(parts)))

    def dataset(self, tag: str, parts: tuple[str, ...]) -> Dataset:
        """Return the marker of a tag."""
        test = round(_FRACTION * self.limit)
        return make_dataset(
            tag=tag,
            parts=parts,
            request=self.request,
            failures={},
            images={
                "train": dict.fromkeys(LABELS, self.limit - test),
                "test": dict.fromkeys(LABELS, test),
            },
            bytes=2 * self.limit * 250_000,
            fingerprint=self.fingerprint(tag),
        )

    def fingerprint(self, tag: str) -> str:
        """Return that of a tag's dataset, which is none that its rows would have."""
        return hashlib.sha256(tag.encode()).hexdigest()

    def digests(self, first: int, end: int) -> bytes:
        """Return the md5 digests of the pictures of some numbers, 16 bytes each."""
        return b"".join(
            hashlib.md5(str(picture).encode()).digest() for picture in range(first, end)
        )

    def part(self, number: int, label: Label, start: int) -> bytes:
        """Return the lines of a part of the manifest of a tag, by its number."""
        head, after_id, after_md5, after_group = self._template[label]
        lines = []
        for place in range(start, min(start + _PART, self.limit)):
            picture = number * self.limit + place
            if label == "negative":
                picture = self.tags * self.limit + (picture % self.pool if self.pool else picture)
            md5 = hashlib.md5(str(picture).encode()).hexdigest()
            group = str(_FIRST + picture)
            row = f"{head}{group}{after_id}{md5}{after_md5}{group}{after_group}"
            if split_of(group, _FRACTION) == "test":
                row = row.replace(_SPLIT, '"split":"test"')
            if self.layouts:
                row = row.replace(_LAYOUT, f"layout:{_cloud(picture)}")
            lines.append(row)
        return "".join(lines).encode()

    @cached_property
    def _template(self) -> dict[Label, tuple[str, ...]]:
        found: dict[Label, tuple[str, ...]] = {}
        for label in LABELS:
            row = make_row(
                _FIRST,
                md5=_MD5,
                split="train",
                label=label,
                group="GROUP",
                page_url="https://board.example/index.php?page=post&s=view",
                tags=_TAGS,
                phashes=(_LAYOUT if self.layouts else f"layout:{_cloud(0)}",),
            )
            head, rest = row.model_dump_json().split(str(_FIRST))
            after_id, rest = rest.split(_MD5)
            after_md5, rest = rest.split("GROUP")
            found[label] = head, after_id, after_md5, rest + "\n"
        return found


def _cloud(picture: int) -> str:
    """Return the layout of a cloud of colours, which is like no other."""
    cells = Random(picture).randbytes(108)
    cloud = Image.frombytes("RGB", (6, 6), cells).resize((LUMA, LUMA), Image.Resampling.BICUBIC)
    luma, *chroma = cloud.convert("YCbCr").split()
    halves = [plane.resize((CHROMA, CHROMA), Image.Resampling.BOX) for plane in chroma]
    return base64.b64encode(b"".join(plane.tobytes() for plane in (luma, *halves))).decode()
