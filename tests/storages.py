"""Storages that misbehave as real ones may, or count, around one that does not; one in memory."""

from __future__ import annotations

import bisect
import io
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, BinaryIO

from imagetag.storage.base import ObjectInfo, ObjectNotFound, Storage, checked_key


class Killed(BaseException):
    """The end of a process, at once."""


class Wrapped(Storage):
    """Passes everything on, and counts what it was asked by the method's name."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.url = inner.url
        self.asked: Counter[str] = Counter()

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        self.asked["list"] += 1
        return self.inner.list(folder)

    def folders(self, folder: str = "") -> Iterator[str]:
        self.asked["list"] += 1
        return self.inner.folders(folder)

    def stat(self, key: str) -> ObjectInfo | None:
        self.asked["stat"] += 1
        return self.inner.stat(key)

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        self.asked["open"] += 1
        return self.inner.open(key)

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        self._change(self.inner.write, key, data)

    def delete(self, key: str) -> None:
        self._change(self.inner.delete, key)

    def copy(self, source: str, key: str) -> None:
        self._change(self.inner.copy, source, key)

    def _change(self, do: Any, *arguments: Any) -> None:
        self.asked["change"] += 1
        do(*arguments)


class Mortal(Wrapped):
    """Is killed before the n-th change or, if `late`, behind it."""

    def __init__(self, inner: Storage, changes: float, *, late: bool = False) -> None:
        super().__init__(inner)
        self._left, self._late = changes, late
        self.changes = 0

    def _change(self, do: Any, *arguments: Any) -> None:
        self.changes += 1
        last = self.changes > self._left
        if not last or self._late:
            do(*arguments)
        if last:
            raise Killed


class Late(Wrapped):
    """Lists some keys not yet, and others still that are deleted; reads are right at once."""

    def __init__(
        self,
        inner: Storage,
        not_yet: Callable[[str], bool] = lambda _: False,
        *,
        still: Callable[[str], bool] = lambda _: False,
    ) -> None:
        super().__init__(inner)
        self._not_yet, self._still = not_yet, still
        self._deleted: dict[str, ObjectInfo] = {}

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        found = {entry.key: entry for entry in super().list(folder) if not self._not_yet(entry.key)}
        gone = {key: entry for key, entry in self._deleted.items() if key.startswith(folder)}
        return iter([entry for _, entry in sorted((gone | found).items())])

    def delete(self, key: str) -> None:
        entry = self.inner.stat(key)
        if entry is not None and self._still(key):
            self._deleted[key] = entry
        super().delete(key)


_PAGE = 1000  # keys that S3 lists at once


class Counting(Wrapped):
    """Counts requests as S3 does, and the bytes that are moved.

    Attributes:
        requests: by LIST, of a page each, HEAD, GET, PUT, COPY and DELETE.
        read_bytes, written: bytes.

    """

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        self.requests: Counter[str] = Counter()
        self.read_bytes = self.written = 0

    def _count(self, kind: str, *, read: int = 0, written: int = 0) -> None:
        with self._lock:
            self.requests[kind] += bool(kind)
            self.read_bytes += read
            self.written += written

    def _paged(self, found: Iterator[Any]) -> Iterator[Any]:
        self._count("LIST")
        for number, entry in enumerate(found):
            if number and number % _PAGE == 0:
                self._count("LIST")
            yield entry

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        return self._paged(self.inner.list(folder))

    def folders(self, folder: str = "") -> Iterator[str]:
        return self._paged(self.inner.folders(folder))

    def stat(self, key: str) -> ObjectInfo | None:
        self._count("HEAD")
        return self.inner.stat(key)

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        found = self.inner.stat(key)
        self._count("GET", read=found.size if found else 0)
        return self.inner.open(key)

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        self.inner.write(key, data)
        found = self.inner.stat(key)
        self._count("PUT", written=found.size if found else 0)

    def copy(self, source: str, key: str) -> None:
        self._count("COPY")
        self.inner.copy(source, key)

    def delete(self, key: str) -> None:
        self._count("DELETE")
        self.inner.delete(key)


class InMemory(Storage):
    """Objects in a dict, some microseconds each."""

    url = "memory"

    def __init__(self, objects: Mapping[str, bytes] = MappingProxyType({})) -> None:
        self.objects = dict(objects)
        self._keys: list[str] = []

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        keys, place = self._from(folder)
        while place < len(keys) and keys[place].startswith(folder):
            if found := self.stat(keys[place]):
                yield found
            place += 1

    def folders(self, folder: str = "") -> Iterator[str]:
        keys, place = self._from(folder)
        while place < len(keys) and keys[place].startswith(folder):
            name, slash, _ = keys[place].removeprefix(folder).partition("/")
            if slash:
                yield name
                # "0" is the character behind "/".
                place = bisect.bisect_left(keys, f"{folder}{name}0", place)
            else:
                place += 1

    def _from(self, folder: str) -> tuple[Sequence[str], int]:
        """Return all keys in their order, and where those of a folder begin."""
        checked_key(folder, folder=True)
        kinds = self.kinds()
        if len(self._keys) != sum(map(len, kinds)):
            self._keys = sorted(itertools.chain(*kinds))
        return self._keys, bisect.bisect_left(self._keys, folder)

    def kinds(self) -> tuple[Collection[str], ...]:
        """Return the keys of each kind of objects."""
        return (self.objects,)

    def stat(self, key: str) -> ObjectInfo | None:
        data = self.objects.get(checked_key(key))
        return None if data is None else ObjectInfo(key, len(data))

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        if checked_key(key) not in self.objects:
            raise ObjectNotFound(f"{self.url}/{key}: there is no such object")
        return io.BytesIO(self.objects[key])

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        self.objects[checked_key(key)] = data if isinstance(data, bytes) else data.read()

    def copy(self, source: str, key: str) -> None:
        self.write(key, self.read(source))

    def delete(self, key: str) -> None:
        self.objects.pop(checked_key(key), None)
        self._keys = []


@dataclass(frozen=True)
class Made:
    """An object that is made whenever it is read, so that nothing holds it."""

    size: int
    make: Callable[[], bytes]


class MadeUp(InMemory):
    """Has objects besides that are made when they are read: more of them than a disk would take.

    Attributes:
        made: by their keys.
        others: makes what is to be read and is not there, such as any picture; None for none.

    """

    def __init__(self, others: Callable[[str], bytes | None] = lambda _: None) -> None:
        super().__init__()
        self.made: dict[str, Made] = {}
        self.others = others

    def kinds(self) -> tuple[Collection[str], ...]:
        return self.objects, self.made

    def stat(self, key: str) -> ObjectInfo | None:
        if key in self.made:
            return ObjectInfo(key, self.made[key].size)
        return super().stat(key)

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        data = self.made[key].make() if key in self.made else None
        if data is None and key not in self.objects:
            data = self.others(key)
        return super().open(key) if data is None else io.BytesIO(data)
