"""What people say, as lines in parts that are named by their content, and which of it stands.

Two reviewers overwrite nothing of each other's, and a write that may or may not have arrived is
repeated without harm. Many parts become one: it is written first, and those that it holds are
deleted then. So every line is in a part at any instant, whoever else merges the same at the time:
a part of the same lines has the same name, and one is deleted only after another of more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from imagetag.errors import ImagetagError, InputError, TransientError, complaint, one_line
from imagetag.log import get_logger
from imagetag.parallel import map_ahead
from imagetag.record import Record
from imagetag.storage import ObjectInfo, ObjectNotFound, Storage

_MAX_BYTES = 64 << 20  # of a part
_MERGED_BYTES = 16 << 20  # of parts that become one, about
_MANY = 32  # parts; fewer are as well read one by one
_LOOKS = 20  # at a folder in which there is always more
_AT_ONCE = 16
_DIGITS = 24  # of a part's name


class Told(Protocol):
    """What was said of a picture: of several, the one with the latest time stands."""

    @property
    def id(self) -> str:
        """Its own: told twice, it is one."""

    @property
    def at(self) -> datetime:
        """When."""


One = TypeVar("One", bound=Told)
Line = TypeVar("Line", bound=Record)


def stands(one: Told, before: Told | None) -> bool:
    """Tell whether what was said stands, where something else was said of the same picture."""
    return before is None or (before.at, before.id) < (one.at, one.id)


def newest(told: Iterable[tuple[str, One]]) -> dict[str, One]:
    """Return what stands of each picture when all that there is was told, in any order."""
    found: dict[str, One] = {}
    for picture, one in told:
        if stands(one, found.get(picture)):
            found[picture] = one
    return found


@dataclass(frozen=True)
class Parts(Generic[Line]):
    """A folder of parts.

    Args:
        storage: has them.
        folder: ending in `/`.
        kind: what a line is.
        key_of: returns the key of a part by its name, which is hexadecimal.
        is_part: tells whether a key below the folder is of a part.

    """

    storage: Storage
    folder: str
    kind: type[Line]
    key_of: Callable[[str], str]
    is_part: Callable[[str], bool]

    def store(self, lines: Iterable[Line]) -> str:
        """Store lines as one part, and return its key: once it returns, they are there for good."""
        return self._write("".join(one.model_dump_json() + "\n" for one in lines).encode())

    def load(self) -> Iterator[Line]:
        """Yield what is in the parts; a line that is in several may come several times.

        Raises:
            InputError: if a part cannot be read; it names the line.
            TransientError: if the folder changes again and again, so that some might be missed.

        """
        read: set[str] = set()
        for _ in range(_LOOKS):
            # A listing may be older than it seems, and parts may have become one since.
            keys = [entry.key for entry in self._listed() if entry.key not in read]
            if not keys:
                return
            read.update(keys)
            for _, lines in self._each(keys):
                for line in lines:
                    yield line[1]
        raise TransientError(
            f"{self.storage.url}/{self.folder} changes faster than it can be read: run this again"
        )

    def tidy(self) -> None:
        """Let parts become one where they are many; what goes wrong is told, and loses nothing."""
        try:
            gone = self.merge()
        except (ImagetagError, OSError) as error:  # leave to write and none to delete; a full disk
            get_logger().warning("verdicts stay in many parts", error=one_line(error))
        else:
            get_logger().debug("merged verdicts", folder=self.folder, parts=gone)

    def merge(self, many: int = _MANY) -> int:
        """Let parts become one where they are many, and return how many are gone.

        Killed at any instant, and by several at once, nothing is lost.

        Raises:
            ImagetagError: if a part cannot be read, written or deleted; every line stays.

        """
        small = [entry for entry in self._listed() if entry.size <= _MERGED_BYTES]
        if len(small) < max(2, many):
            return 0
        return sum(self._merged([entry.key for entry in group]) for group in _groups(small))

    def _merged(self, keys: list[str]) -> int:
        found = [(key, lines) for key, lines in self._each(keys) if lines] if len(keys) > 1 else []
        if len(found) < 2:
            return 0
        together = sorted({line for _, lines in found for line, _ in lines})
        kept = self._write(b"".join(line + b"\n" for line in together))
        gone = [key for key, _ in found if key != kept]
        for _ in map_ahead(self.storage.delete, gone, threads=_AT_ONCE, ahead=4 * _AT_ONCE):
            pass
        return len(gone)

    def _write(self, data: bytes) -> str:
        key = self.key_of(hashlib.sha256(data).hexdigest()[:_DIGITS])
        self.storage.write(key, data)
        return key

    def _listed(self) -> Iterator[ObjectInfo]:
        return (entry for entry in self.storage.list(self.folder) if self.is_part(entry.key))

    def _each(self, keys: Iterable[str]) -> Iterator[tuple[str, list[tuple[bytes, Line]]]]:
        return map_ahead(self._read, keys, threads=_AT_ONCE, ahead=4 * _AT_ONCE)

    def _read(self, key: str) -> list[tuple[bytes, Line]]:
        """Return the lines of a part, as they are and what they say."""
        try:
            with self.storage.open(key) as stream:
                data = stream.read(_MAX_BYTES)
        except ObjectNotFound:  # merged since it was listed
            return []
        found = []
        for number, line in enumerate(data.splitlines(), 1):
            try:
                found.append((line, self.kind.model_validate_json(line)))
            except ValueError as error:
                raise InputError(
                    f"{self.storage.url}/{key} line {number}: {complaint(error)}; mend that line, "
                    "or delete it and judge its pictures again"
                ) from error
        return found


def _groups(listed: Iterable[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
    """Yield parts that become one."""
    group: list[ObjectInfo] = []
    size = 0
    for entry in listed:
        if size + entry.size > _MERGED_BYTES:
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size
    yield group
