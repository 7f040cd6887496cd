"""Where pictures to predict come from: what a source is, and the one that is files in storage."""

from __future__ import annotations

import mimetypes
import os
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagetag.errors import InputError
from imagetag.imaging import EXTENSIONS, HEAD_BYTES, BadImage, is_picture
from imagetag.log import get_logger
from imagetag.storage import AccessDenied, LocalStorage, ObjectInfo, ObjectNotFound, Storage

_MAX_BYTES = 200_000_000  # of a file: more is no picture, and would fill the memory
# Endings of pictures, also of those that cannot be read: they are told of by an error.
_ENDINGS = EXTENSIONS | {
    *("apng", "avif", "avifs", "dib", "heic", "heif", "hif", "jfi", "jfif", "jif", "jp2", "jpe"),
    *("jxl", "pjp", "pjpeg", "tif", "tiff"),
}
_TYPES = mimetypes.MimeTypes()  # what Python itself knows: a machine may know more
_NAMES = 100  # told in one line of the log

Cursor = Mapping[str, int]


@dataclass(slots=True)
class Picture:
    """One of a source's pictures.

    Attributes:
        file: its key or URL; empty while it is not known, which reading it may change.
        name: what it is known by, also where `file` is not known yet.
        version: what changes when the picture does, as far as can be told without reading it.
        page_url: of the page that shows it, empty where there is none.
        cursor: where the source goes on behind it; None if it begins anew each time.
        origin: the source's own.
        saved: where its bytes are kept, if the source keeps them.
        source: which of several sources it is of.

    """

    file: str
    name: str
    version: str
    page_url: str = ""
    cursor: Cursor | None = None
    origin: Any = None
    saved: Path | None = None
    source: Source | None = None


class Source(ABC):
    """Pictures in an order. All but `pictures` is called from many threads.

    Attributes:
        identity: what tells one source from another; JSON can hold it.
        local: whether the files are on this machine.

    """

    identity: Mapping[str, Any]
    local: bool = False

    @abstractmethod
    def pictures(self, after: Cursor | None = None) -> Iterator[Picture]:
        """Yield the pictures, behind a cursor that one of them had.

        Raises:
            InputError: if there is none at all.

        """

    @abstractmethod
    def read(self, picture: Picture) -> bytes | Path:
        """Return a picture's file.

        Raises:
            BadImage: if it cannot be had.

        """

    @abstractmethod
    def save(self, picture: Picture, path: Path) -> None:
        """Write a picture's file, that was read before, to a path.

        Raises:
            BadImage: if it cannot be had any more.

        """

    def folders(self) -> Sequence[Storage]:
        """Return the storages that are listed for pictures."""
        return ()

    def home(self, picture: Picture) -> tuple[Storage, str] | None:  # noqa: ARG002 - has none
        """Return the storage that a picture's file is in, and its key there; None elsewhere."""
        return None

    @abstractmethod
    def forget(self, picture: Picture) -> None:
        """Keep nothing of a picture's file."""


class StoredPictures(Source):
    """The image files of a folder or a prefix, and of all below, in the order of their keys.

    A file is one if it is named like one, or if its name says nothing and it begins like one. What
    is hidden, by a dot before its name or a folder's, is none. Others are named in the log.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.identity = {"files": place_of(storage)}
        # A local file is opened by whoever decodes it, and never in memory whole.
        self._folder = Path(storage.url) if isinstance(storage, LocalStorage) else None
        self.local = self._folder is not None

    def pictures(self, after: Cursor | None = None) -> Iterator[Picture]:  # noqa: ARG002 - has none
        """Yield the pictures, as the base class says."""
        found = False
        others: list[str] = []
        for entry in self.storage.list():
            if self._is_picture(entry):
                found = True
                yield Picture(entry.key, entry.key, self._version(entry), origin=entry)
                continue
            others.append(entry.key)
            if len(others) == _NAMES:
                _tell(others)
                others = []
        if others:
            _tell(others)
        if not found:
            raise InputError(f"--input {self.storage.url}: no image there, by name or by content")

    def _is_picture(self, entry: ObjectInfo) -> bool:
        """Tell whether a file is to be read: by its name, or if that says nothing, its beginning.

        To look into each that is a text or a film by its name would cost a request each.
        """
        if entry.key.startswith(".") or "/." in entry.key:
            return False
        name = entry.key.rpartition("/")[2].lower()
        kind, packed = _TYPES.guess_type(f"/{name}")
        if name.rpartition(".")[2] in _ENDINGS:
            return True
        if kind or packed or entry.size > _MAX_BYTES:
            return bool(kind and kind.startswith("image/"))
        try:
            if self._folder is not None:
                plain_file(self._folder / entry.key)
            with self.storage.open(entry.key) as stream:
                return is_picture(stream.read(HEAD_BYTES))
        except (BadImage, ObjectNotFound, AccessDenied):
            return False

    def _version(self, entry: ObjectInfo) -> str:
        if self._folder is None:
            return str(entry.size)
        try:
            return f"{entry.size} {os.stat(self._folder / entry.key).st_mtime_ns}"  # noqa: PTH116 - of each file
        except OSError:
            return str(entry.size)

    def read(self, picture: Picture) -> bytes | Path:
        """Return a file, as the base class says."""
        entry: ObjectInfo = picture.origin
        if entry.size > _MAX_BYTES:
            raise BadImage("too_large", f"{entry.size} bytes")
        if self._folder is not None:
            return plain_file(self._folder / entry.key)
        try:
            with self.storage.open(entry.key) as stream:
                data = stream.read(_MAX_BYTES + 1)
        except ObjectNotFound as error:
            raise BadImage("missing", "gone since it was listed") from error
        if len(data) > _MAX_BYTES:
            raise BadImage("too_large", f"more than {_MAX_BYTES} bytes")
        return data

    def save(self, picture: Picture, path: Path) -> None:
        """Copy a file, as the base class says."""
        entry: ObjectInfo = picture.origin
        try:
            if self._folder is not None:
                shutil.copyfile(plain_file(self._folder / entry.key), path)
            else:
                self.storage.download(entry.key, path)
        except (ObjectNotFound, FileNotFoundError) as error:
            raise BadImage("missing", "gone since it was read") from error

    def folders(self) -> Sequence[Storage]:
        """Return the storage, as the base class says."""
        return (self.storage,)

    def home(self, picture: Picture) -> tuple[Storage, str]:
        """Return where a file is, as the base class says."""
        return self.storage, picture.origin.key

    def forget(self, picture: Picture) -> None:
        """Do nothing: it is the user's."""


class Several(Source):
    """The pictures of several sources, one source after the other.

    Args:
        sources: each with what its pictures' names begin with, so that they differ.

    """

    def __init__(self, sources: Sequence[tuple[str, Source]]) -> None:
        self._sources = sources
        self.identity = {"several": [dict(source.identity) for _, source in sources]}
        self.local = all(source.local for _, source in sources)

    def pictures(self, after: Cursor | None = None) -> Iterator[Picture]:  # noqa: ARG002 - has none
        """Yield the pictures, as the base class says; a source that has none is told of."""
        found = False
        for prefix, source in self._sources:
            try:
                for picture in source.pictures():
                    found = True
                    picture.source, picture.cursor = source, None
                    picture.name = prefix + picture.name
                    picture.file = prefix + picture.file
                    yield picture
            except InputError as error:
                get_logger().warning(str(error))
        if not found:
            raise InputError("none of the inputs has an image")

    def read(self, picture: Picture) -> bytes | Path:
        """Return a file, as the base class says."""
        return _own(picture).read(picture)

    def save(self, picture: Picture, path: Path) -> None:
        """Write a file, as the base class says."""
        _own(picture).save(picture, path)

    def folders(self) -> Sequence[Storage]:
        """Return the storages of all, as the base class says."""
        return [folder for _, source in self._sources for folder in source.folders()]

    def home(self, picture: Picture) -> tuple[Storage, str] | None:
        """Return where a file is, as the base class says."""
        return _own(picture).home(picture)

    def forget(self, picture: Picture) -> None:
        """Keep nothing of a file, as the base class says."""
        _own(picture).forget(picture)


def _own(picture: Picture) -> Source:
    assert picture.source is not None  # noqa: S101 - it is one of `Several.pictures`
    return picture.source


def named_like_a_picture(name: str) -> bool:
    """Tell whether a path or URL ends like a picture's."""
    ending = name.rpartition("/")[2].lower().rpartition(".")
    return bool(ending[1]) and ending[2] in _ENDINGS


def _tell(names: list[str]) -> None:
    get_logger().info(
        "files that are no images, or hidden, were passed over", files=len(names), names=names
    )


def place_of(storage: Storage) -> str:
    """Return the URL of a storage, or its whole path: what it is from wherever one looks."""
    # Not `resolve`, which fails where links lead round and round.
    return os.path.realpath(storage.url) if isinstance(storage, LocalStorage) else storage.url


def plain_file(path: Path) -> Path:
    """Return the path; a pipe or a device would be waited for.

    Raises:
        BadImage: if there is no plain file.

    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadImage("no_file", "it is no plain file")
    except OSError as error:
        raise BadImage("missing", "gone since it was listed") from error
    return path
