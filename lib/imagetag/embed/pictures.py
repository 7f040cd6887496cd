"""Which pictures there are of many tags, each once, and which of them are one pod's."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from imagetag.dataset import load_dataset, read_rows
from imagetag.errors import InputError
from imagetag.layout import Label, Layout, Split
from imagetag.log import Progress
from imagetag.parallel import map_ahead
from imagetag.storage import Storage

_SHARING = 8  # digits of an md5 that say whose a picture is
_AT_ONCE = 16  # tags whose manifests are read, and as many that have been wait
_MD5 = 32  # its digits


class Pictures(Mapping[str, str]):
    """Keys of pictures by their md5, made when they are asked for: there may be many millions.

    Attributes:
        places: each of them, counted once for each tag that has it.
        fingerprints: those of the datasets that they are of, by tag.

    """

    def __init__(self) -> None:
        self.places = 0
        self.fingerprints: dict[str, str] = {}
        self._where: dict[str, _Where] = {}

    def __getitem__(self, md5: str) -> str:
        where = self._where[md5]
        return where.layout.image(where.split, where.label, md5, where.ext)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def add(self, tag: _Tag) -> None:
        """Take pictures of a tag; those that are there already stay where they are."""
        self.fingerprints[tag.name] = tag.fingerprint
        self.places += len(tag.where)
        for number, where in enumerate(tag.where):
            md5 = tag.md5s[number * _MD5 : (number + 1) * _MD5].decode()
            self._where.setdefault(md5, tag.places[where])


class _Where(NamedTuple):
    """What the keys of pictures have in common that lie beside each other."""

    layout: Layout
    split: Split
    label: Label
    ext: str


class _Tag(NamedTuple):
    """A share of a tag's pictures, in 40 bytes each, as many tags wait to be taken.

    Attributes:
        md5s: of all of them, one behind the other.
        where: the number of each picture's place.
        places: those that there are.

    """

    name: str
    fingerprint: str
    md5s: bytearray
    where: array[int]
    places: tuple[_Where, ...]


def find_pictures(
    storage: Storage,
    tags: Iterable[str],
    *,
    index: int = 0,
    count: int = 1,
    threads: int = 16,
    failed: Callable[[str, InputError], None] | None = None,
) -> Pictures:
    """Return the key of each distinct picture of some tags by its md5, of a pod's share.

    A picture is of the same pod whatever tags there are, and one of several tags is there once.

    Args:
        storage: has the datasets.
        tags: whose.
        index: which share, from 0.
        count: how many there are.
        threads: that read the manifests of so many tags at once, of 16 at the most.
        failed: gets each tag whose dataset is incomplete or cannot be read; without it that is
            raised.

    Raises:
        InputError: see `failed`.

    """

    def read(tag: str) -> _Tag | InputError:
        try:
            return _read_tag(storage, tag, index, count)
        except InputError as error:
            return error

    found = Pictures()
    names, at_once = list(tags), min(threads, _AT_ONCE)
    with (
        Progress("manifests", total=len(names), unit="tags") as progress,
        contextlib.closing(map_ahead(read, names, threads=at_once, ahead=2 * at_once)) as all_read,
    ):
        for name, tag in all_read:
            if isinstance(tag, _Tag):
                found.add(tag)
            elif failed is None:
                raise tag
            else:
                failed(name, tag)
            progress.advance(images=len(found))
    return found


def _read_tag(storage: Storage, name: str, index: int, count: int) -> _Tag:
    layout, dataset = Layout(name), load_dataset(storage, name)
    md5s, where = bytearray(), array("I")
    places: dict[_Where, int] = {}  # a few: each split, label and format
    for row in read_rows(storage, dataset):
        if count == 1 or int(row.md5[:_SHARING], 16) % count == index:
            place = _Where(layout, row.split, row.label, row.ext)
            md5s += row.md5.encode()
            where.append(places.setdefault(place, len(places)))
    return _Tag(name, dataset.fingerprint, md5s, where, tuple(places))


def count_of_tags(storage: Storage, tags: Iterable[str], md5s: Collection[str]) -> dict[str, int]:
    """Return how many of some pictures each tag has, of those that have any.

    Args:
        storage: has the datasets.
        tags: whose.
        md5s: of the pictures.

    Raises:
        InputError: if a dataset is incomplete or cannot be read.

    """
    found = {
        tag: sum(row.md5 in md5s for row in read_rows(storage, load_dataset(storage, tag)))
        for tag in tags
    }
    return {tag: count for tag, count in found.items() if count}
