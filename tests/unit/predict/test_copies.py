"""Copies of positives: by name, never over another file, and the same however often."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from imagetag.errors import TransientError, UsageError
from imagetag.predict import copies as copies_module
from imagetag.predict.copies import Copies
from imagetag.predict.sources import Cursor, Picture, Source, StoredPictures
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from imagetag.storage.opening import open_storage
from tests.predicting import noise, write


def copy(source: Source, target: Storage, pictures: list[Picture] | None = None) -> None:
    with Copies(source, target) as copies:
        for picture in source.pictures() if pictures is None else pictures:
            copies.add(picture)
        copies.wait()


def contents(storage: Storage) -> dict[str, bytes]:
    return {entry.key: storage.read(entry.key) for entry in storage.list()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(["a.png", "b/a.jpg", "b/c/d, e.webp"]):
        write(tmp_path / "in", name, noise(number))
    return tmp_path / "in"


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def test_files_keep_their_names_and_folders(folder: Path, tmp_path: Path) -> None:
    target = open_storage(str(tmp_path / "new" / "out"))
    for _ in range(2):
        copy(StoredPictures(open_storage(str(folder))), target)
        assert contents(target) == contents(LocalStorage(folder))
    # They are files of their own: a change of one is none of the other.
    assert not (folder / "a.png").samefile(Path(target.url) / "a.png")


def test_no_more_copies_wait_than_some_and_all_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies_module, "_MOST_WAITING", 2)
    for number in range(9):
        write(tmp_path / "in", f"{number}.png", noise(number))
    source = StoredPictures(open_storage(str(tmp_path / "in")))
    target = open_storage(str(tmp_path / "out"))
    with Copies(source, target) as copies:
        for picture in source.pictures():
            copies.add(picture)
            assert len(copies._running) <= 2
        copies.wait()
    assert contents(target) == contents(LocalStorage(tmp_path / "in"))


def test_a_different_file_is_never_replaced(folder: Path, tmp_path: Path) -> None:
    target = open_storage(str(tmp_path / "out"))
    mine = {"a.png": b"somebody's", "b/a.jpg": b"x" * len(noise(1))}
    for name, data in mine.items():
        target.write(name, data)
    for _ in range(2):
        with capture_logs() as logs:
            copy(StoredPictures(open_storage(str(folder))), target)
        beside = {
            f"a-{md5(noise(0))}.png": noise(0),
            f"b/a-{md5(noise(1))}.jpg": noise(1),
        }
        assert contents(target) == mine | beside | {"b/c/d, e.webp": noise(2)}
        told = {line["file"]: line["copied_to"] for line in logs}
        assert told == dict(zip(mine, beside, strict=True))


def test_a_name_at_its_longest_still_has_room_for_another(tmp_path: Path) -> None:
    name = "é" * 125 + ".png"
    write(tmp_path / "in", name, noise(0))
    target = open_storage(str(tmp_path / "out"))
    target.write(name, b"somebody's")
    copy(StoredPictures(open_storage(str(tmp_path / "in"))), target)
    assert len(contents(target)) == 2


@pytest.mark.parametrize("inside", ["", "/sub", "/sub/../b"])
def test_copies_into_the_input_are_refused(inside: str, folder: Path, tmp_path: Path) -> None:
    source = StoredPictures(open_storage(str(folder)))
    with pytest.raises(UsageError, match=r"--copy-to .* is inside --input .*: .*name a folder"):
        Copies(source, open_storage(f"{folder}{inside}"))
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UsageError, match="--copy-to"):
        Copies(source, open_storage(str(tmp_path / "link" / "sub")))
    # Beside it, or around it, there is no harm.
    with Copies(source, open_storage(f"{folder}-positives")):
        pass
    with Copies(source, open_storage(str(folder.parent))):
        pass


def test_a_file_that_is_gone_is_told_and_the_rest_copied(folder: Path, tmp_path: Path) -> None:
    source, target = StoredPictures(open_storage(str(folder))), open_storage(str(tmp_path / "out"))
    pictures = list(source.pictures())
    (folder / "a.png").unlink()
    with capture_logs() as logs:
        copy(source, target, pictures)
    assert [line["file"] for line in logs if line["event"] == "not copied"] == ["a.png"]
    assert len(contents(target)) == 2


class Kept(Source):
    """Pictures whose files are kept from when they were read, as fetched ones are."""

    def __init__(self, folder: Path, files: list[bytes]) -> None:
        self.identity = {}
        self._found = []
        for number, data in enumerate(files):
            name = f"https://example.org/../..//etc/{number}"
            picture = Picture(name, name, "", saved=write(folder, str(number), data))
            self._found.append(picture)

    def pictures(self, after: Cursor | None = None) -> Iterator[Picture]:
        return iter(self._found)

    def read(self, picture: Picture) -> Path:
        raise NotImplementedError

    def save(self, picture: Picture, path: Path) -> None:
        assert picture.saved is not None
        picture.saved.rename(path)
        picture.saved = None

    def forget(self, picture: Picture) -> None:
        if picture.saved is not None:
            picture.saved.unlink()


def test_what_was_fetched_is_named_by_its_content(tmp_path: Path) -> None:
    kept, target = tmp_path / "kept", open_storage(str(tmp_path / "out"))
    files = [noise(0), noise(1), noise(2), noise(1), b"no picture at all"]
    for _ in range(2):
        with capture_logs() as logs:
            copy(Kept(kept, files), target)
        assert contents(target) == {
            f"{md5(noise(number))}.{ending}": noise(number)
            for number, ending in enumerate(["png", "jpg", "webp"])
        }
        assert [line["event"] for line in logs] == ["not copied"]
        assert list(kept.iterdir()) == []


def test_what_goes_wrong_comes_out(folder: Path, tmp_path: Path) -> None:
    class Down(LocalStorage):
        def stat(self, key: str) -> None:
            raise TransientError("the storage is down")

    with pytest.raises(TransientError, match="the storage is down"):
        copy(StoredPictures(open_storage(str(folder))), Down(tmp_path / "out"))
