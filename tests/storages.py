"""Storages that misbehave as real ones may, around one that does not, and one in memory."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
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


class InMemory(Storage):
    """Objects in a dict, some microseconds each."""

    url = "memory"

    def __init__(self, objects: Mapping[str, bytes] = MappingProxyType({})) -> None:
        self.objects = dict(objects)

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        checked_key(folder, folder=True)
        for key, data in sorted(self.objects.items()):
            if key.startswith(folder):
                yield ObjectInfo(key, len(data))

    def folders(self, folder: str = "") -> Iterator[str]:
        below = (entry.key.removeprefix(folder) for entry in self.list(folder))
        yield from sorted({key.partition("/")[0] for key in below if "/" in key})

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
