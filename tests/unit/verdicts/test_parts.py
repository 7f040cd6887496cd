"""Parts become one, and no line is lost: by a kill, by several at once, or to who reads then."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imagetag.errors import InputError, TransientError
from imagetag.record import Record
from imagetag.storage import LocalStorage, ObjectInfo
from imagetag.verdicts import parts as module
from imagetag.verdicts.parts import Parts

COUNT = 40


class Line(Record):
    id: str
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


class Fragile(LocalStorage):
    """Storage that fails for ever after so many writes and deletions."""

    left = 1 << 30

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TransientError("killed")

    def write(self, key: str, data: object) -> None:
        self._spend()
        super().write(key, data)  # type: ignore[arg-type]

    def delete(self, key: str) -> None:
        self._spend()
        super().delete(key)


def parts_of(storage: LocalStorage) -> Parts[Line]:
    return Parts(storage, "said/", Line, "said/{}.jsonl".format, lambda key: key.endswith(".jsonl"))


def ids(parts: Parts[Line]) -> set[str]:
    return {line.id for line in parts.load()}


def keys(parts: Parts[Line]) -> list[str]:
    return [entry.key for entry in parts.storage.list(parts.folder)]


def filled(parts: Parts[Line], first: int = 0, count: int = COUNT) -> set[str]:
    names = {str(number) for number in range(first, first + count)}
    for name in names:
        parts.store([Line(id=name)])
    return names


def test_many_parts_become_one_and_few_stay(tmp_path: Path) -> None:
    parts = parts_of(LocalStorage(tmp_path))
    names = filled(parts)
    assert parts.merge(COUNT + 1) == 0
    assert len(keys(parts)) == COUNT
    assert parts.merge() == COUNT
    assert (len(keys(parts)), ids(parts)) == (1, names)
    assert parts.merge(1) == 0
    assert len(keys(parts)) == 1


def test_what_is_large_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of(LocalStorage(tmp_path))
    names = filled(parts)
    monkeypatch.setattr(module, "_MERGED_BYTES", 10 * parts.storage.stat(keys(parts)[0]).size)  # type: ignore[union-attr]
    parts.merge()
    assert 4 <= len(keys(parts)) <= 5
    assert parts.merge(2) <= 2, "what is full is not read again"
    assert ids(parts) == names


@pytest.mark.parametrize("left", [0, 1, 2, 20, COUNT, COUNT + 1])
def test_a_kill_at_any_instant_loses_nothing(tmp_path: Path, left: int) -> None:
    storage = Fragile(tmp_path)
    parts = parts_of(storage)
    names = filled(parts)
    storage.left = left
    if left < COUNT + 1:
        with pytest.raises(TransientError):
            parts.merge()
    else:
        parts.merge()
    assert ids(parts) == names
    storage.left = 1 << 30
    parts.merge(2)
    assert (ids(parts), len(keys(parts))) == (names, 1)


def test_several_at_once_who_store_merge_and_read_lose_nothing(tmp_path: Path) -> None:
    parts = parts_of(LocalStorage(tmp_path))
    before = filled(parts)
    stop = threading.Event()

    def merge() -> None:
        while not stop.is_set():
            parts.merge(2)

    def read() -> bool:
        return all(before <= ids(parts) for _ in range(30))

    with ThreadPoolExecutor(6) as pool:
        merging = [pool.submit(merge) for _ in range(2)]
        try:
            reading = [pool.submit(read) for _ in range(2)]
            storing = [pool.submit(filled, parts, first) for first in (100, 200)]
            stored = before.union(*(one.result() for one in storing))
            assert all(one.result() for one in reading)
        finally:
            stop.set()
        for one in merging:
            one.result()
    assert ids(parts) == stored


def test_who_has_listed_parts_that_are_gone_looks_again(tmp_path: Path) -> None:
    storage = Late(tmp_path)
    parts = parts_of(storage)
    names = filled(parts)
    storage.late = list(LocalStorage.list(storage, parts.folder))
    parts_of(LocalStorage(tmp_path)).merge()
    assert ids(parts) == names


class Late(LocalStorage):
    """Storage of which one listing was made a while ago."""

    late: list[ObjectInfo] | None = None

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        found, self.late = self.late, None
        yield from super().list(folder) if found is None else found


def test_what_goes_wrong_while_it_tidies_is_told_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = parts_of(LocalStorage(tmp_path))
    names = filled(parts)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalStorage, "write", full)
    parts.tidy()
    assert "No space left on device" in capsys.readouterr().out
    assert ids(parts) == names


def test_a_folder_that_never_rests_is_told(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="said/ changes faster than it can be read"):
        ids(parts_of(Restless(tmp_path)))


class Restless(LocalStorage):
    """Storage in which each part that is listed is gone, and in another."""

    number = 0

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        self.number += 1
        yield ObjectInfo(f"{folder}{self.number}.jsonl", 1)


def test_a_damaged_part_stays_with_all_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = parts_of(LocalStorage(tmp_path))
    filled(parts)
    key = keys(parts)[3]
    parts.storage.write(key, b"{}\n")
    with pytest.raises(InputError, match=f"{key} line 1: "):
        parts.merge()
    parts.tidy()
    assert "verdicts stay in many parts" in capsys.readouterr().out
    assert len(keys(parts)) == COUNT


def test_what_later_versions_add_to_a_line_is_kept(tmp_path: Path) -> None:
    parts = parts_of(LocalStorage(tmp_path))
    parts.storage.write("said/new.jsonl", b'{"id": "x", "new": 1}\n')
    filled(parts)
    parts.merge()
    [key] = keys(parts)
    assert b'{"id": "x", "new": 1}\n' in parts.storage.read(key)
