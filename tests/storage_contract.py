"""What every storage promises; run against each kind by a subclass with a fixture `storage`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from imagetag.layout import Layout
from imagetag.storage.base import ObjectInfo, ObjectNotFound, Storage
from tests.cost import processor_seconds

ODD_KEYS = [
    "plain.jpg",
    "a b",
    " leading",
    "trailing ",
    "plus+and%20percent%",
    "quotes'\"`",
    "brackets[1]{2}(3)<4>",
    "semi;colon:comma,equals=and&question?hash#",
    "back\\slash",
    "tilde~star*dollar$pipe|caret^",
    "at@bang!",
    "-dash",
    ".hidden",
    "..two",
    "初音ミク/ひらがな",
    "e\u0301 combining and \u00e9 composed",
    "emoji 🎀",
    "x" * 255,
    "deep/" * 20 + "end",
]
BAD_KEYS = ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b", "a\nb", "\x7f"]
BAD_KEYS += ["x" * 256, "\ud800"]


class StorageContract:
    # What a read may end with while its object is replaced.
    broken_off: ClassVar[tuple[type[Exception], ...]] = ()

    @staticmethod
    def fill(storage: Storage, keys: Iterable[str]) -> None:
        """Put an object of one byte under each key."""
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda key: storage.write(key, b"x"), keys))

    def test_what_is_written_is_read(self, storage: Storage) -> None:
        data = bytes(range(256)) * 100
        storage.write("a/b.bin", data)
        assert storage.read("a/b.bin") == data
        assert storage.stat("a/b.bin") == ObjectInfo("a/b.bin", len(data))
        assert list(storage.list()) == [ObjectInfo("a/b.bin", len(data))]

    def test_a_file_is_written_from_where_it_stands_and_left_open(self, storage: Storage) -> None:
        file = io.BytesIO(b"header" + b"content")
        file.seek(6)
        storage.write("a", file)
        assert storage.read("a") == b"content"
        assert not file.closed

    def test_a_write_replaces_and_can_be_repeated(self, storage: Storage) -> None:
        for data in (b"a longer one", b"short", b"short"):
            storage.write("a", data)
            assert storage.read("a") == data
            assert storage.stat("a") == ObjectInfo("a", len(data))

    def test_an_empty_object_is_one(self, storage: Storage) -> None:
        storage.write("empty", b"")
        storage.write("empty file", io.BytesIO())
        assert storage.read("empty") == storage.read("empty file") == b""
        assert [entry.size for entry in storage.list()] == [0, 0]

    @pytest.mark.parametrize("key", ["b", "other/folder/b", "é/100% + a"])
    def test_a_copy_is_an_object_of_its_own(self, storage: Storage, key: str) -> None:
        storage.write("a 1%/ü", b"data")
        storage.write("b", b"what was there before")
        for _ in range(2):
            storage.copy("a 1%/ü", key)
            assert storage.read(key) == b"data"
        storage.write("a 1%/ü", b"new")
        assert storage.read(key) == b"data"
        storage.delete("a 1%/ü")
        assert storage.read(key) == b"data"
        assert {entry.key for entry in storage.list()} == {"b", key}
        with pytest.raises(ObjectNotFound):
            storage.copy("a 1%/ü", key)
        assert storage.read(key) == b"data"

    def test_what_is_not_there(self, storage: Storage, tmp_path: Path) -> None:
        storage.write("there/file", b"x")
        for key in ("none", "there", "there/none", "there/file/below", "there/file2"):
            assert storage.stat(key) is None
            storage.delete(key)
            with pytest.raises(ObjectNotFound) as error:
                storage.read(key)
            assert key in str(error.value)
            assert "\n" not in str(error.value)
            with pytest.raises(ObjectNotFound), storage.open(key):
                pass
            with pytest.raises(ObjectNotFound):
                storage.download(key, tmp_path / "copy" / "file")
        assert list((tmp_path / "copy").iterdir()) == []
        for folder in ("none/", "there/none/", "there/file/", "the/"):
            assert list(storage.list(folder)) == []
        assert storage.read("there/file") == b"x"

    def test_delete(self, storage: Storage) -> None:
        for key in ("a/1", "a/2"):
            storage.write(key, b"x")
        storage.delete("a/1")
        storage.delete("a/1")
        assert [entry.key for entry in storage.list()] == ["a/2"]
        storage.write("a/1", b"again")
        assert storage.read("a/1") == b"again"

    def test_a_listing_is_in_the_order_of_keys_and_of_one_folder(self, storage: Storage) -> None:
        keys = ["a-b/1", "a/1", "a/b/1", "a/b/2", "a/bc", "a.b", "aa/1", "B/1", "b/1", "é/1"]
        self.fill(storage, keys)
        # `a-b/` and `a.b` come before `a/`: it is the order of whole keys.
        assert [entry.key for entry in storage.list()] == sorted(keys, key=str.encode)
        assert [entry.key for entry in storage.list("a/")] == ["a/1", "a/b/1", "a/b/2", "a/bc"]
        assert [entry.key for entry in storage.list("a/b/")] == ["a/b/1", "a/b/2"]

    def test_a_listing_has_as_many_pages_as_it_takes(self, storage: Storage) -> None:
        keys = [f"many/{number:05}" for number in range(2_001)]
        self.fill(storage, keys)
        assert [entry.key for entry in storage.list("many/")] == keys
        listing = storage.list()
        assert next(iter(listing)).key == keys[0]

    def test_folders_in_a_folder_are_named_without_what_is_in_them(self, storage: Storage) -> None:
        keys = ["a-b/1", "a/1", "a/b/1", "a/b/c/2", "a.b", "é/1", "%2E/x", "a!/1", "only/a/file"]
        self.fill(storage, keys)
        assert list(storage.folders()) == ["%2E", "a!", "a-b", "a", "only", "é"]
        assert list(storage.folders("a/")) == ["b"]
        assert list(storage.folders("a/b/")) == ["c"]
        for none in ("a/b/c/", "none/", "a.b/", "a-/"):
            assert list(storage.folders(none)) == []
        storage.delete("only/a/file")
        assert "only" not in list(storage.folders())
        with pytest.raises(ValueError, match="folder"):
            list(storage.folders("a"))

    def test_folders_have_as_many_pages_as_they_take(self, storage: Storage) -> None:
        names = [f"tag_{number:04}" for number in range(1_001)]
        self.fill(storage, [f"many/{name}/x/{file}" for name in names for file in "ab"])
        assert list(storage.folders("many/")) == names

    def test_odd_keys(self, storage: Storage) -> None:
        for key in ODD_KEYS:
            storage.write(f"odd/{key}", key.encode())
        for key in ODD_KEYS:
            assert storage.read(f"odd/{key}") == key.encode()
            assert storage.stat(f"odd/{key}") is not None
        found = [entry.key for entry in storage.list("odd/")]
        assert found == sorted((f"odd/{key}" for key in ODD_KEYS), key=str.encode)
        for key in ODD_KEYS:
            storage.delete(f"odd/{key}")
        assert list(storage.list()) == []

    def test_keys_of_odd_tags(self, storage: Storage) -> None:
        for tag in ("fate/stay_night", "..", "jeanne_d'arc_(fate)", "100%", "初音ミク", "x\0y"):
            key = Layout(tag).image("train", "positive", "0" * 32, "jpg")
            storage.write(key, tag.encode())
            [entry] = storage.list(Layout(tag).root)
            assert entry.key == key
            assert storage.read(key) == tag.encode()

    def test_a_bad_key_is_refused_by_everything(self, storage: Storage, tmp_path: Path) -> None:
        uses: list[Any] = [storage.stat, storage.read, storage.open, storage.delete]
        uses += [lambda key: storage.write(key, b"x")]
        uses += [lambda key: storage.download(key, tmp_path / "copy")]
        for key in BAD_KEYS:
            for use in uses:
                with pytest.raises(ValueError):  # noqa: PT011 - the class is the promise
                    use(key)
        for folder in ("a", "/", "../", "a//", "/a/"):
            with pytest.raises(ValueError):  # noqa: PT011 - the class is the promise
                list(storage.list(folder))
        assert list(storage.list()) == []

    def test_an_object_is_streamed(self, storage: Storage) -> None:
        data = Random(1).randbytes(3_000_000)
        storage.write("big", data)
        with storage.open("big") as stream:
            assert stream.read(10) == data[:10]
            assert stream.read(1_000_000) == data[10:1_000_010]
            assert stream.read() == data[1_000_010:]
            assert stream.read() == b""
        with storage.open("big") as stream:  # left in the middle
            stream.read(5)
        with storage.open("big") as stream:
            digest = hashlib.md5()
            while block := stream.read(1 << 16):
                digest.update(block)
            assert digest.digest() == hashlib.md5(data).digest()

    def test_lines_are_read_as_fast_as_blocks(self, storage: Storage) -> None:
        line = b"x" * 500 + b"\n"
        storage.write("lines", line * 10_000)
        with storage.open("lines") as stream:
            # Byte by byte these five megabytes would take some ten seconds.
            with processor_seconds(5):
                assert stream.readline(20) == b"x" * 20
                assert stream.readline() == b"x" * 480 + b"\n"
                count = 0
                while stream.readline(1 << 20):
                    count += 1
        assert count == 9_999

    def test_an_error_of_the_reader_is_the_readers_own(self, storage: Storage) -> None:
        storage.write("a", b"x")
        with pytest.raises(ZeroDivisionError), storage.open("a"):
            raise ZeroDivisionError

    def test_files_go_up_and_come_down(self, storage: Storage, tmp_path: Path) -> None:
        data = Random(2).randbytes(500_000)
        (tmp_path / "source").write_bytes(data)
        storage.upload(tmp_path / "source", "model/weights.bin")
        target = tmp_path / "new" / "folder" / "copy"
        for _ in range(2):
            storage.download("model/weights.bin", target)
            assert target.read_bytes() == data
        assert [path.name for path in target.parent.iterdir()] == ["copy"]

    def test_many_threads_write_and_read_at_once(self, storage: Storage) -> None:
        def work(number: int) -> None:
            key = f"folder_{number % 3}/{number}"
            storage.write(key, str(number).encode() * 1000)
            assert storage.read(key) == str(number).encode() * 1000

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(100)))
        assert sum(1 for _ in storage.list()) == 100

    def test_writers_of_one_key_leave_one_of_their_objects_whole(self, storage: Storage) -> None:
        contents = [bytes([number]) * 100_000 for number in range(8)]
        storage.write("a", contents[0])
        stop = threading.Event()
        seen = set()

        def read() -> None:
            while not stop.is_set():
                with contextlib.suppress(*self.broken_off):
                    seen.add(storage.read("a"))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda data: storage.write("a", data), contents * 3))
        finally:
            stop.set()
            reader.join()
        assert seen <= set(contents)
        assert storage.read("a") in contents
        assert [entry.key for entry in storage.list()] == ["a"]
