"""The interface of storage, and the four ways in which it fails."""

from __future__ import annotations

import mimetypes
import os
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from imagetag.errors import InputError, TransientError, UsageError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class ObjectNotFound(InputError):
    """There is no object of that key."""


class BucketNotFound(UsageError):
    """There is no such bucket, or the local storage is not a folder."""


class AccessDenied(UsageError):
    """The credentials are missing, wrong, or not allowed to do this."""


class CredentialsExpired(AccessDenied):
    """The credentials have been right, and their time is over."""


class EndpointUnreachable(TransientError):
    """The storage server does not answer."""


@dataclass(frozen=True)
class ObjectInfo:
    """An object's key and its size in bytes.

    `age` is how many seconds ago it was written, as a listing of a storage with a clock of its own
    tells; else None.
    """

    key: str
    size: int
    age: float | None = field(default=None, compare=False)


class Storage(ABC):
    """Objects by key. A key is path components joined by `/`; a write is atomic and replaces.

    As in a file system, the key of an object is not also the folder of another.
    Every method may raise AccessDenied, BucketNotFound or EndpointUnreachable. Safe to use from
    many threads.
    """

    url: str

    @abstractmethod
    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below a folder (`""` or ending in `/`), in the order of keys.

        Others' objects whose keys are none for us, such as the marks consoles leave for folders,
        are passed over. Pages are fetched as they are needed; the whole listing is never held.
        """

    @abstractmethod
    def folders(self, folder: str = "") -> Iterator[str]:
        """Yield the names of the folders directly in a folder that have any object, in order.

        What is in them is not listed: a bucket of a thousand tags is asked once, however many
        pictures they have.
        """

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo | None:
        """Return an object's size, None if there is none."""

    @abstractmethod
    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open an object to stream its bytes.

        Raises:
            ObjectNotFound: if there is none.

        """

    @abstractmethod
    def write(self, key: str, data: bytes | BinaryIO) -> None:
        """Store bytes, or a seekable file's content, under a key; all of it or nothing."""

    @abstractmethod
    def copy(self, source: str, key: str) -> None:
        """Store an object again under another key, without moving its bytes through here.

        Raises:
            ObjectNotFound: if there is no `source`.

        """

    def write_hint(self, key: str, data: bytes) -> None:
        """Write an object that nobody needs: where the machine ends soon after, it may be gone.

        Or it is empty then, where storage is the machine's.
        """
        self.write(key, data)

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; none of that key is no error."""

    def tidy(self) -> None:  # noqa: B027 - most leave nothing
        """Remove what writes leave beside the objects, where others look at them next."""

    def read(self, key: str) -> bytes:
        """Return an object's bytes.

        Raises:
            ObjectNotFound: if there is none.

        """
        with self.open(key) as stream:
            return stream.read()

    def download(self, key: str, path: Path) -> None:
        """Stream an object into a local file; the file appears only when it is whole.

        Raises:
            ObjectNotFound: if there is none.

        """
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with self.open(key) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def upload(self, path: Path, key: str) -> None:
        """Stream a local file into an object."""
        with path.open("rb") as source:
            self.write(key, source)


def content_type(key: str) -> str:
    """Return the media type that a key's ending stands for."""
    suffix = os.path.splitext(key)[1]  # noqa: PTH122 - a key is not a path
    known = {".jsonl": "application/x-ndjson", ".webp": "image/webp", "": "text/plain"}
    return known.get(suffix) or mimetypes.guess_type(key)[0] or "application/octet-stream"


def is_key(key: str) -> bool:
    """Tell whether `checked_key` lets a key pass."""
    try:
        checked_key(key)
    except ValueError:
        return False
    return True


def checked_key(key: str, *, folder: bool = False) -> str:
    """Return a key that means the same in S3 and as a path.

    Raises:
        ValueError: if a component is empty, `.`, `..` or longer than a file name may be, if there
            are control characters, or if a folder does not end in `/`.

    """
    if folder and key == "":
        return key
    parts = key.split("/")
    if folder and parts.pop() != "":
        raise ValueError(f"the folder {key!r} must end in '/'")
    if _CONTROL.search(key) or any(
        part in ("", ".", "..") or len(part.encode()) > 255 for part in parts
    ):
        raise ValueError(f"{key!r} is not a storage key")
    return key
