"""Storage in a local folder: an object is a file, written beside and renamed into place.

A write that has returned, unless of a hint, survives the machine's end: file and folder are synced.
Serially that costs some 15 ms a file on an SSD, and with 16 threads, as jobs write, nothing that
can be measured.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from imagetag.counters import counters
from imagetag.log import get_logger
from imagetag.storage.base import (
    AccessDenied,
    BucketNotFound,
    ObjectInfo,
    ObjectNotFound,
    Storage,
    checked_key,
    is_key,
)

# Half-written files wait here, never beside the data: a reader of a label's folder sees no stray.
_PARTIAL = ".partial"
_PIECE = 1 << 20  # bytes of a stream that are written at once
_ABANDONED = 86400.0  # seconds, after which a half-written file is one of a killed process


class LocalStorage(Storage):
    """Objects as files below a folder, which is made when the first is written."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._partial = root / _PARTIAL
        self._writer = secrets.token_hex(8)
        self._writes = itertools.count()
        self.url = str(root)
        self._sweep()
        with self._errors(""):
            if root.exists() and not root.is_dir():
                raise BucketNotFound(f"{root}: this is a file, not a folder")

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        """Yield the files below a folder, as the base class says."""
        checked_key(folder, folder=True)
        with self._errors(folder):
            yield from self._walk(self._root / folder, folder, frozenset())

    def folders(self, folder: str = "") -> Iterator[str]:
        """Yield the names of the folders in a folder, as the base class says."""
        checked_key(folder, folder=True)
        with self._errors(folder):
            try:
                with os.scandir(self._root / folder) as entries:
                    names = [
                        entry.name
                        for entry in entries
                        if _listed(entry.name, folder) and _is_folder(entry)
                    ]
            except (FileNotFoundError, NotADirectoryError):
                return
            for name in sorted(names, key=lambda name: f"{name}/".encode()):
                below = self._walk(self._root / folder / name, f"{folder}{name}/", frozenset())
                if next(below, None) is not None:
                    yield name

    def _walk(
        self, path: Path, prefix: str, above: frozenset[tuple[int, int]]
    ) -> Iterator[ObjectInfo]:
        try:
            status = path.stat()
            here = (status.st_dev, status.st_ino)
            if here in above:
                _leave_out(prefix, "a symbolic link leads back to a folder above it")
                return
            with os.scandir(path) as entries:
                # The order of whole keys: a folder sorts as its name with the slash behind.
                found = sorted(
                    (entry for entry in entries if _listed(entry.name, prefix)),
                    key=lambda entry: (entry.name + "/" * _is_folder(entry)).encode(),
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in found:
            if _is_folder(entry):
                yield from self._walk(path / entry.name, f"{prefix}{entry.name}/", above | {here})
                continue
            try:
                size = entry.stat().st_size
            except FileNotFoundError:  # removed while we list, unless it is what a link leads to
                if entry.is_symlink():
                    _leave_out(prefix + entry.name, "a symbolic link leads nowhere")
                continue
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                _leave_out(prefix + entry.name, "symbolic links lead round and round")
                continue
            yield ObjectInfo(prefix + entry.name, size)

    def _sweep(self) -> None:
        """Remove what killed writers left."""
        with contextlib.suppress(OSError):
            for path in self._partial.iterdir():
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()

    def tidy(self) -> None:
        """Remove the folder for what is being written, if nothing is; a write makes it again."""
        with contextlib.suppress(OSError):
            self._partial.rmdir()

    def stat(self, key: str) -> ObjectInfo | None:
        """Return a file's size, None if there is no such file."""
        path = self._path(key)
        with self._errors(key):
            try:
                return ObjectInfo(key, path.stat().st_size) if path.is_file() else None
            except FileNotFoundError:
                return None

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open a file to read."""
        path = self._path(key)
        with self._errors(key):
            try:
                file = path.open("rb")
            except (IsADirectoryError, NotADirectoryError) as error:
                raise FileNotFoundError from error
            counters().move("read", os.fstat(file.fileno()).st_size)
            return file

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        """Write a file under another name, then rename it into place."""
        self._write(key, data, lasting=True)

    def write_hint(self, key: str, data: bytes) -> None:
        """Write a file that nobody needs, without a wait for the disk."""
        self._write(key, data, lasting=False)

    def _write(self, key: str, data: bytes | BinaryIO, *, lasting: bool) -> None:
        path = self._path(key)
        with self._errors(key), self._renamed(path, lasting=lasting) as partial:
            counters().move("written", self._fill(partial, data, lasting=lasting))

    def copy(self, source: str, key: str) -> None:
        """Give a file a second name, or a copy where the file system has no links.

        A file here is never written to, only replaced: two names of one do each other no harm.
        """
        origin, path = self._path(source), self._path(key)
        with self.open(source) as file, self._errors(key), self._renamed(path) as partial:
            partial.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(origin, partial)
            except OSError:
                self._fill(partial, file)
        # Where both names are of one file already, renaming does nothing.
        partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _renamed(self, path: Path, *, lasting: bool = True) -> Iterator[Path]:
        """Give a name to write to; what is there in the end is renamed into place."""
        # Of all writers to this folder, whatever process and machine they are on.
        partial = self._partial / f"{self._writer}-{next(self._writes)}"
        try:
            yield partial
            try:
                partial.replace(path)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial.replace(path)
            if lasting:
                _sync_folder(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    @staticmethod
    def _fill(path: Path, source: bytes | BinaryIO, *, lasting: bool = True) -> int:
        """Write a new file, which is on the disk then if it has to last; return its bytes."""
        try:
            target = path.open("xb", buffering=0)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            target = path.open("xb", buffering=0)
        with target:
            if isinstance(source, bytes):
                size = _write_all(target, source)
            else:
                pieces = iter(lambda: source.read(_PIECE), b"")
                size = sum(_write_all(target, piece) for piece in pieces)
            if lasting:
                _sync(target.fileno())
        return size

    def delete(self, key: str) -> None:
        """Remove a file, if it is there."""
        path = self._path(key)
        with (
            self._errors(key),
            contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError),
        ):
            path.unlink()

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        where = self._root / key
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectNotFound(f"{where}: there is no such file") from error
        except PermissionError as error:
            raise AccessDenied(f"{where}: permission denied; check the folder's owner") from error
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            raise BucketNotFound(
                f"{where}: a file stands where a folder must be, or a folder where the file"
            ) from error
        except OSError as error:
            if error.errno == errno.EROFS:
                raise AccessDenied(f"{where}: this file system is mounted read-only") from error
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                raise BucketNotFound(f"{where}: {error.strerror}; name another folder") from error
            if error.filename is None:  # of a write to what is open
                error.filename = str(where)
            raise


def _listed(name: str, prefix: str) -> bool:
    if name == _PARTIAL and not prefix:
        return False
    if is_key(name):
        return True
    _leave_out(prefix + name, "its name is no storage key")
    return False


def _leave_out(name: str, reason: str) -> None:
    shown = name.encode(errors="backslashreplace").decode()
    get_logger().warning("left out", file=shown, reason=reason)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # whoever asks for its size is told why
        return False


def _write_all(target: io.FileIO, data: bytes) -> int:
    """Write bytes, of which a file may take some at a time; return how many they were."""
    rest = memoryview(data)
    while rest:
        rest = rest[target.write(rest) :]
    return len(data)


def _sync_folder(path: Path) -> None:
    """Let the names in a folder survive the machine's end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have no such thing
            raise
