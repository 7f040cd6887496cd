"""Pictures to predict that are named one by one: paths, URLs of storage, and URLs of servers."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from imagetag.boards import BadEntry, read_url
from imagetag.errors import InputError, UsageError
from imagetag.imaging import BadImage
from imagetag.predict.remote import MAX_BYTES, Fetched
from imagetag.predict.sources import Cursor, Picture, plain_file
from imagetag.storage import AccessDenied, ObjectNotFound, Storage, open_storage
from imagetag.web import Client

if TYPE_CHECKING:  # boto3: not where all pictures are here
    from imagetag.storage import S3Storage

_MAX_SHOWN = 300  # characters of a name that is none
WEB = ("http://", "https://")


class Named(Fetched):
    """The pictures of some names, in their order; one that is none is an error.

    Args:
        names: paths, `s3://bucket/key`, or URLs; a file of them has one a line, and is read once
            more for each look at the pictures.
        client: to fetch with; None where no name is a server's URL.
        keep: see `Fetched`.

    """

    def __init__(
        self, names: tuple[str, ...] | Path, client: Client | None, keep: Path | None = None
    ) -> None:
        super().__init__(keep)
        self._names, self._client = names, client
        self._storages: dict[str, Storage] = {}
        self._buckets: dict[str, S3Storage] = {}
        self._opening = threading.Lock()
        if isinstance(names, Path):
            self.identity: Mapping[str, Any] = {"names": "-"}  # their pictures tell them apart
        else:
            digest = hashlib.sha256("\n".join(names).encode(errors="replace")).hexdigest()
            self.identity = {"names": digest}
            self.local = not any("://" in name for name in names)

    def pictures(self, after: Cursor | None = None) -> Iterator[Picture]:  # noqa: ARG002 - has none
        """Yield the pictures, as the base class says."""
        found = False
        for name in self._all_names():
            found = True
            yield Picture(name, name, _version(name))
        if not found:
            raise InputError("--input -: standard input names no picture")

    def _all_names(self) -> Iterator[str]:
        if not isinstance(self._names, Path):
            yield from self._names
            return
        with self._names.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for line in lines:
                if line.strip():
                    yield line.rstrip("\n")

    def read(self, picture: Picture) -> bytes | Path:
        """Return a picture's file, as the base class says."""
        if _is_path(picture.file):
            return plain_file(_path(picture.file))
        return super().read(picture)

    def _fetch(self, picture: Picture) -> bytes:
        name = picture.file
        if not name.lower().startswith(WEB):
            storage, key = self.home(picture) or _no_place(name)
            try:
                with storage.open(key) as stream:
                    data = stream.read(MAX_BYTES + 1)
            except ObjectNotFound as error:
                raise BadImage("missing", "there is no such object") from error
            except AccessDenied as error:  # of one prefix, maybe, and not of others
                raise BadImage("denied", str(error)) from error
            if len(data) > MAX_BYTES:
                raise BadImage("too_large", f"more than {MAX_BYTES} bytes")
            return data
        try:
            url = read_url({"url": name})
        except BadEntry as error:
            raise BadImage("bad_url", f"no URL that can be asked for ({error.reason})") from error
        assert self._client is not None  # noqa: S101 - whoever names a server's URL gives one
        return self._client.get(url, max_bytes=MAX_BYTES, opt_out=True).content

    def _place(self, picture: Picture) -> str:
        return urlsplit(picture.file).netloc

    def save(self, picture: Picture, path: Path) -> None:
        """Copy a picture's file, or move it where it was kept, as the base class says."""
        if not _is_path(picture.file):
            super().save(picture, path)
            return
        try:
            shutil.copyfile(plain_file(_path(picture.file)), path)
        except FileNotFoundError as error:
            raise BadImage("missing", "gone since it was read") from error

    def home(self, picture: Picture) -> tuple[Storage, str] | None:
        """Return where a picture's file is, as the base class says."""
        name = picture.file
        if name.lower().startswith(WEB):
            return None
        if _is_path(name):
            path = Path(os.path.abspath(_path(name)))  # noqa: PTH100 - links stay what they are
            folder, key = str(path.parent), path.name
        else:
            folder, _, key = name.rpartition("/")
        try:
            with self._opening:
                if folder not in self._storages:
                    self._storages[folder] = self._opened(folder)
                return self._storages[folder], key
        except UsageError:
            return None

    def _opened(self, folder: str) -> Storage:
        if not folder.lower().startswith("s3://"):
            return open_storage(folder)
        bucket, _, prefix = folder[len("s3://") :].partition("/")
        if bucket not in self._buckets:
            self._buckets[bucket] = cast("S3Storage", open_storage(folder))
        return self._buckets[bucket].at(prefix)


def spooled(lines: Iterable[bytes], path: Path) -> Path:
    """Write a list of names, which can be read once, to a file.

    Raises:
        UsageError: if it is no text.

    """
    with path.open("wb") as file:
        for line in lines:
            if b"\0" in line:
                raise UsageError("--input -: standard input is no list of paths and URLs")
            file.write(line)
    return path


def _is_path(name: str) -> bool:
    return "://" not in name


def _path(name: str) -> Path:
    return Path(os.path.expanduser(name))  # noqa: PTH111 - a name without a home stays as it is


def _version(name: str) -> str:
    """Return what changes when a local file does; others would cost a request each."""
    if not _is_path(name):
        return ""
    try:
        found = _path(name).stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _no_place(name: str) -> tuple[Storage, str]:
    raise BadImage("bad_url", f"{name[:_MAX_SHOWN]!r} is no path, s3://bucket/key or http URL")


def grouped(names: list[tuple[str, bool]]) -> Iterator[tuple[bool, tuple[str, ...]]]:
    """Yield names with whether they name one picture each: those that do, together in a row."""
    for is_one, found in itertools.groupby(names, key=lambda item: item[1]):
        texts = tuple(name for name, _ in found)
        if is_one:
            yield True, texts
        else:
            yield from ((False, (text,)) for text in texts)
