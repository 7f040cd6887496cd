"""What the shares of the pictures tell of tags: kept together, and by whom it is not lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagetag import layout
from imagetag.dataset.embedded import EmbeddedTags, embedded_tag, tell_share
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage

NAME = "tiny-24x32-0a1b2c3d"


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def files(storage: Storage) -> list[str]:
    return [entry.key for entry in storage.list(layout.feature_shares(NAME))]


def state(storage: Storage, tag: str, fingerprint: str = "ab") -> tuple[int, int] | None:
    found = embedded_tag(EmbeddedTags(storage).read().get(tag, []), fingerprint)
    return (found.done, found.count) if found else None


def test_a_share_keeps_one_file_that_has_all_its_tags(storage: LocalStorage) -> None:
    tell_share(storage, NAME, 0, 2, {"fox": "ab", "owl": "ab"})
    [first] = files(storage)
    tell_share(storage, NAME, 0, 2, {"fox": "ab"})
    assert files(storage) == [first], "nothing is new"
    tell_share(storage, NAME, 0, 2, {"owl": "cd", "cat": "ab"})
    assert len(files(storage)) == 1
    assert files(storage) != [first]
    found = {tag: state(storage, tag) for tag in ("fox", "owl", "cat", "dog")}
    assert found == {"fox": (1, 2), "owl": (0, 2), "cat": (1, 2), "dog": None}
    tell_share(storage, NAME, 1, 2, {"fox": "ab"})
    assert state(storage, "fox") == (2, 2)


def test_of_two_that_tell_at_once_neither_is_lost(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell_share(storage, NAME, 0, 1, {"fox": "ab"})
    write = LocalStorage.write

    def meanwhile(self: LocalStorage, key: str, data: bytes) -> None:
        monkeypatch.undo()
        tell_share(storage, NAME, 0, 1, {"owl": "ab"})
        write(self, key, data)

    monkeypatch.setattr(LocalStorage, "write", meanwhile)
    tell_share(storage, NAME, 0, 1, {"cat": "ab"})
    assert len(files(storage)) == 2
    assert [state(storage, tag) for tag in ("fox", "owl", "cat")] == [(1, 1)] * 3
    tell_share(storage, NAME, 0, 1, {})
    assert len(files(storage)) == 1
    assert [state(storage, tag) for tag in ("fox", "owl", "cat")] == [(1, 1)] * 3
