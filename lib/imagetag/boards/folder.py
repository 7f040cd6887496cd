"""A folder of pictures with labels, in the place of a board: `folder+PATH`.

Each folder below PATH is a tag of the pictures in it: `PATH/asuka_langley_soryu/1.jpg`. Side-car
files add tags: `1.txt`, `1.jpg.txt` or `1.caption` (see `read_tags` for how they are parted) and
`1.json` or `1.jpg.json` with `tags`, and perhaps `rating`, `score`, `created_at` and `parent_id`.

What imagetag itself has stored below PATH is no picture of the folder: pages, plots and datasets of
a storage that lies in it are left out.

In manifests the board is called `folder:NAME`, NAME being PATH's last component. An id is a hash
of the path below PATH: files that come or go move no other.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from imagetag.boards.base import NO_LOGIN, File, Login, Post, Site
from imagetag.boards.entries import BadEntry, Entry, clean_tag, read_entry, read_tags
from imagetag.boards.fields import load_json
from imagetag.boards.listed import ListedBoard
from imagetag.errors import UsageError
from imagetag.imaging import EXTENSIONS
from imagetag.layout import STATUS, TAG_FOLDERS, Layout, decode
from imagetag.log import get_logger
from imagetag.web import Client, HttpError

_MAX_SIDE_CAR = 1 << 20  # bytes
_MAX_DEPTH = 50  # folders within each other
_SAMPLE = 4096  # bytes that most files of one size differ in
_SIZES = 64  # whose posts stay in memory: files that are not compressed may all be of one
_ENDINGS = EXTENSIONS | {"avif", "jxl", "tif", "tiff"}  # the latter are left out by who asked
_SIDE_CARS = (".txt", ".caption", ".json")


class FolderBoard(ListedBoard):
    """A folder whose pictures are posts. `fetch` may be called from many threads.

    Raises:
        UsageError: if there is no such folder.
        InputError: if no picture with a tag is in it.
        TransientError: if there is no room for the index.

    """

    called = "the folder"

    @classmethod
    def check_place(cls, root: str) -> None:
        """Check that there is such a folder, as the base class says."""
        _existing(root)

    def __init__(self, site: Site, client: Client, login: Login = NO_LOGIN) -> None:
        self._folder = _existing(site.root)
        self._by_end = functools.lru_cache(_SIZES)(self._grouped_by_end)
        super().__init__(site, client, login)

    def fetch(self, post: Post, max_bytes: int) -> File:
        """Read a picture.

        Raises:
            HttpError: if it is missing, too large, no file, or a link that leads out of the
                folder.

        """
        return File(self._read(_path_of(post), max_bytes))

    def copies(self, post: Post, size: int, content: Callable[[], bytes]) -> list[Post]:
        """Return the other posts of the same file, as the base class says."""
        found = self._by_end(size)
        alike = found.get(_end_of(post), []) if found else []
        others = [other for other in alike if other.id != post.id]
        data = content() if others else b""
        return [other for other in others if self._is(other, data)]

    def _grouped_by_end(self, size: int) -> dict[bytes, list[Post]]:
        """Return the posts of files of a size by their ends: of many, few are read whole."""
        posts = self._posts_with("bytes", size)
        found: dict[bytes, list[Post]] = {}
        for post in posts if len(posts) > 1 else ():
            found.setdefault(_end_of(post), []).append(post)
        return found

    def _is(self, post: Post, content: bytes) -> bool:
        try:
            return self._read(_path_of(post), len(content)) == content
        except HttpError:
            return False

    def _file_url(self, name: str) -> str:
        return "file://" + quote(os.fsencode(self._folder / name))

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        storages: set[Path] = set()
        waiting: list[tuple[str, tuple[str, ...]]] = [("", ())]
        while waiting:
            folder, tags = waiting.pop()
            try:
                with os.scandir(self._folder / folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError:
                self._leave_out("unreadable", folder)
                continue
            # Not the folder that was named: who names a tag's in a storage wants its pictures.
            if folder and _is_stored(place := self._folder / folder):
                entries = [entry for entry in entries if entry.name not in TAG_FOLDERS]
                if place.parent not in storages:
                    storages.add(place.parent)
                    get_logger().info(
                        "left out: a storage of imagetag",
                        board=self.site.name,
                        at=str(place.parent),
                    )
            names = {entry.name for entry in entries}
            stems = Counter(Path(entry.name).stem for entry in entries if _is_picture(entry.name))
            for entry in entries:
                name = os.path.join(folder, entry.name)  # noqa: PTH118 - Path takes 20 times as long
                try:
                    if entry.name.startswith("."):
                        self._leave_out("hidden", name)
                    elif entry.is_dir(follow_symlinks=False):
                        if name.count(os.sep) >= _MAX_DEPTH:
                            raise BadEntry("too_deep")
                        waiting.append((name, (*tags, _folder_tag(entry.name))))
                    elif _is_picture(entry.name):
                        yield name, self._entry(entry, name, tags, names)
                    elif not _belongs_to(entry.name, names, stems):
                        self._leave_out("no_picture", name)
                except BadEntry as error:
                    self._leave_out(error.reason, name)
                except OSError:
                    self._leave_out("unreadable", name)

    def _entry(
        self, entry: os.DirEntry[str], name: str, tags: tuple[str, ...], names: set[str]
    ) -> Entry:
        """Read what folders and side-car files tell of a picture.

        Raises:
            BadEntry: if nothing is told: that says not even what it is no picture of.

        """
        try:
            entry.name.encode()
        except UnicodeEncodeError as error:
            raise BadEntry("name") from error
        if entry.is_symlink():
            self._check_inside(self._folder / name)
        told = Entry()
        stem = Path(entry.name).stem
        for side_car in (base + end for end in _SIDE_CARS for base in (entry.name, stem)):
            if side_car not in names:
                continue
            path = self._folder / os.path.dirname(name) / side_car  # noqa: PTH120 - as above
            more = self._side_car(path)
            kept = more if path.suffix == ".json" else told
            told = replace(kept, tags=told.tags + more.tags)
        tags = tuple(dict.fromkeys(filter(None, tags + told.tags)))
        if not tags:
            raise BadEntry("untagged")
        # What is told of size and sum was true of the file on the board; this one may differ. A
        # board's id is no id here, but still tells which posts belong together.
        return Entry(
            tags=tags,
            rating=told.rating,
            parent_id=told.parent_id or told.id,
            score=told.score,
            created_at=told.created_at,
            bytes=entry.stat().st_size,
        )

    def _side_car(self, path: Path) -> Entry:
        try:
            data = self._read(path, _MAX_SIDE_CAR)
            if path.suffix != ".json":
                return Entry(read_tags(data.decode("utf-8-sig")))
            fields: Any = load_json(data)
        except (HttpError, ValueError) as error:
            raise BadEntry("side_car") from error
        if not isinstance(fields, dict):
            raise BadEntry("side_car")
        return read_entry(fields, fields.get("tags") or fields.get("tag_string"))

    def _check_inside(self, link: Path) -> None:
        try:
            inside = link.resolve(strict=True).is_relative_to(self._folder)
        except (OSError, RuntimeError) as error:  # it leads nowhere, or round and round
            raise BadEntry("unreadable") from error
        if not inside:
            raise BadEntry("leads_outside")

    def _read(self, path: Path, max_bytes: int) -> bytes:
        """Return a file's bytes, if it is one, lies in the folder, and is not too large."""
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(self._folder):
                raise HttpError(
                    "leads_outside", f"{path}: leads out of {self._folder}", permanent=True
                )
            # A pipe or device would be waited for.
            handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(handle, "rb") as stream:  # noqa: PTH123 - it is open
                status = os.fstat(handle)
                if not stat.S_ISREG(status.st_mode):
                    raise HttpError("no_file", f"{path}: no plain file", permanent=True)
                data = stream.read(max_bytes + 1) if status.st_size <= max_bytes else None
        except FileNotFoundError as error:
            raise HttpError("missing", f"{path}: no such file", permanent=True) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise HttpError("unreadable", f"{path}: {error}", permanent=False) from error
        if data is None or len(data) > max_bytes:
            raise HttpError("too_large", f"{path}: more than {max_bytes} bytes", permanent=True)
        return data


def _path_of(post: Post) -> Path:
    return Path(unquote(urlsplit(post.file_url or "").path, errors="surrogateescape"))


def _end_of(post: Post) -> bytes:
    """Return a digest of a file's end; empty if it cannot be read."""
    try:
        with _path_of(post).open("rb") as stream:
            stream.seek(-min(_SAMPLE, os.fstat(stream.fileno()).st_size), os.SEEK_END)
            return hashlib.blake2b(stream.read(_SAMPLE), digest_size=16).digest()
    except OSError:  # it is gone
        return b""


def _existing(root: str) -> Path:
    """Return the folder that a path is of.

    Raises:
        UsageError: if there is none, or it cannot be read.

    """
    try:
        folder = Path(root).resolve(strict=True)
        os.listdir(folder)  # noqa: PTH208 - for its errors
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it cannot be read"
        raise UsageError(f"--board folder+{root}: {reason}; name a folder") from error
    return folder


def _is_stored(folder: Path) -> bool:
    """Tell whether imagetag has a tag's dataset in a folder, or is about to make one."""
    try:
        layout = Layout(decode(folder.name))
        # A run that was killed early has pictures there, and no part of the manifest yet.
        if (folder.parent / STATUS / folder.name).is_dir():
            return True
        parts = os.listdir(folder / "manifest")  # noqa: PTH208 - names are enough
    except (OSError, ValueError):
        return False
    return any(layout.part_kind(layout.manifest + name) for name in parts)


def _is_picture(name: str) -> bool:
    return name.rpartition(".")[2].lower() in _ENDINGS


def _belongs_to(name: str, names: set[str], stems: Counter[str]) -> bool:
    """Tell whether a file is a side-car of a picture in the same folder."""
    base, dot, ending = name.rpartition(".")
    return dot + ending in _SIDE_CARS and (base in names or stems[base] > 0)


def _folder_tag(name: str) -> str:
    """Return the tag that a folder's name stands for, also one that `layout` has encoded."""
    try:
        name.encode()
        return clean_tag(decode(name))
    except UnicodeEncodeError as error:
        raise BadEntry("name") from error
    except ValueError as error:
        if isinstance(error, BadEntry):
            raise
        return clean_tag(name)
