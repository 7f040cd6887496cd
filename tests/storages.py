"""Storages that misbehave as real ones may, or count, around one that does not; one in memory."""

from __future__ import annotations

import bisect
import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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


@dataclass(frozen=True)
class Made:
    """An object that is made whenever it is read, so that nothing holds it."""

    size: int
    make: Callable[[], bytes]


class InMemory(Storage):
    """Objects in a dict, some microseconds each, or made when they are read: more than a disk has.

    Attributes:
        objects: by their keys.
        others: makes what is to be read and is none of them, such as any picture; None for none.

    """

    url = "memory"

    def __init__(
        self,
        objects: Mapping[str, bytes | Made] = MappingProxyType({}),
        *,
        others: Callable[[str], bytes | None] = lambda _: None,
    ) -> None:
        self.objects = dict(objects)
        self.others = others
        self._keys: list[str] = []

    def _sorted(self) -> list[str]:
        if len(self._keys) != len(self.objects):
            self._keys = sorted(self.objects)
        return self._keys

    def _below(self, folder: str) -> Iterator[str]:
        keys = self._sorted()
        for place in range(bisect.bisect_left(keys, folder), len(keys)):
            if not keys[place].startswith(folder):
                return
            yield keys[place]

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        keys = self._below(checked_key(folder, folder=True))
        return (found for key in keys if (found := self.stat(key)))

    def folders(self, folder: str = "") -> Iterator[str]:
        checked_key(folder, folder=True)
        keys = self._sorted()
        place = bisect.bisect_left(keys, folder)
        while place < len(keys) and keys[place].startswith(folder):
            name, slash, _ = keys[place].removeprefix(folder).partition("/")
            if slash:
                yield name
                # "0" is the character behind "/"
                place = bisect.bisect_left(keys, f"{folder}{name}0", place)
            else:
                place += 1

    def stat(self, key: str) -> ObjectInfo | None:
        found = self.objects.get(checked_key(key))
        return None if found is None else ObjectInfo(key, self._size(found))

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        found = self.objects.get(checked_key(key))
        data = found.make() if isinstance(found, Made) else found
        if data is None and (data := self.others(key)) is None:
            raise ObjectNotFound(f"{self.url}/{key}: there is no such object")
        return io.BytesIO(data)

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        self.objects[checked_key(key)] = data if isinstance(data, bytes) else data.read()

    def copy(self, source: str, key: str) -> None:
        with self.open(source) as stream:
            self.write(key, stream.read())

    def delete(self, key: str) -> None:
        self.objects.pop(checked_key(key), None)
        self._keys = []

    def _size(self, found: bytes | Made) -> int:
        return found.size if isinstance(found, Made) else len(found)
