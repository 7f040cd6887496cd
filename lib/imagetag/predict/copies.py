"""Copies of pictures in a folder or below a prefix: what predict calls positive."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from imagetag.errors import UsageError
from imagetag.imaging import READ, BadImage
from imagetag.log import get_logger
from imagetag.predict.sources import Picture, Source, StoredPictures, place_of
from imagetag.storage import AccessDenied, ObjectNotFound, Storage, open_storage

_CHUNK = 1 << 20  # bytes
_MAX_STEM = 200  # bytes of a name before a sum is added to it
_THREADS = 8
_MOST_WAITING = 32 * _THREADS  # pictures, some of which wait with their files
_LOCKS = 64


class Copies:
    """Copies pictures in the background; as a context, it is left when none is under way.

    A stored picture keeps its key, with its folders; one that was named by itself has its name.
    Others, which are fetched, are named by the md5 of their content.
    Where a different file has the name, the copy gets its md5 behind it. So whatever is copied
    again, in part or in full, ends the same.

    Args:
        source: of the pictures.
        target: gets the copies.

    Attributes:
        target: the same.

    Raises:
        UsageError: if the target is inside the source, which would find its own copies.

    """

    def __init__(self, source: Source, target: Storage) -> None:
        self._source, self.target = source, target
        self._inside = None  # the storage that both are in, and the prefixes of their keys there
        for folder in source.folders():
            _refuse_inside(folder, target)
        if isinstance(source, StoredPictures):
            self._inside = _common(source.storage.url, target.url)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="copy")
        self._running: deque[Future[None]] = deque()
        # Pictures of several folders may have one name: each looks what is there by itself.
        self._of_name = [threading.Lock() for _ in range(_LOCKS)]

    def __enter__(self) -> Copies:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # After an error nobody waits for those under way.
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def add(self, picture: Picture) -> None:
        """Copy a picture, some time before `wait` returns; the first of many are waited for."""
        while len(self._running) >= _MOST_WAITING:
            self._running.popleft().result()
        self._running.append(self._pool.submit(self._copy, picture))

    def wait(self) -> None:
        """Wait for all copies that were asked for, and raise what went wrong."""
        while self._running:
            self._running.popleft().result()

    def _copy(self, picture: Picture) -> None:
        try:
            if not self._copied_inside(picture):
                self._carry(picture)
        except (BadImage, ObjectNotFound) as error:
            get_logger().warning("not copied", file=picture.file, detail=str(error))

    def _copied_inside(self, picture: Picture) -> bool:
        """Let the server copy a picture, if both places are its and nothing is there yet."""
        if self._inside is None or self.target.stat(picture.name) is not None:
            return False
        both, origin, goal = self._inside
        both.copy(origin + picture.name, goal + picture.name)
        return True

    def _carry(self, picture: Picture) -> None:
        with tempfile.TemporaryDirectory(prefix="imagetag-copy-") as scratch:
            path = Path(scratch) / "picture"
            self._source.save(picture, path)
            with path.open("rb") as file:
                md5 = hashlib.file_digest(file, _md5).hexdigest()
            home = self._source.home(picture)
            if home is None:
                key = f"{md5}.{_ending(path)}"
                if self.target.stat(key) is None:
                    self.target.upload(path, key)
                return
            with self._of_name[hash(home[1]) % _LOCKS]:
                self._upload(path, home[1], md5, picture)

    def _upload(self, path: Path, key: str, md5: str, picture: Picture) -> None:
        stored = self.target.stat(key)
        if stored is not None:
            if stored.size == path.stat().st_size and self._md5_of(key) == md5:
                return
            key = _beside(key, md5)
            get_logger().warning("a different file has that name", file=picture.name, copied_to=key)
            if self.target.stat(key) is not None:
                return
        self.target.upload(path, key)

    def _md5_of(self, key: str) -> str:
        digest = _md5()
        with self.target.open(key) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return str(digest.hexdigest())


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def _beside(key: str, md5: str) -> str:
    """Return the name for a picture that cannot have its own."""
    path = PurePosixPath(key)
    stem = path.stem.encode()[:_MAX_STEM].decode(errors="ignore")
    return str(path.with_name(f"{stem}-{md5}{path.suffix}"))


def _ending(path: Path) -> str:
    """Return the ending that a picture's format is stored under."""
    try:
        with Image.open(path, formats=tuple(READ)) as image:
            # A camera's MPO is a JPEG with previews behind it.
            return READ["JPEG" if image.format == "MPO" else str(image.format)]
    except Exception as error:  # it was read before
        raise BadImage("not_an_image", str(error)) from error


def _refuse_inside(source: Storage, target: Storage) -> None:
    if f"{place_of(target)}/".startswith(f"{place_of(source).rstrip('/')}/"):
        raise UsageError(
            f"--copy-to {target.url} is inside --input {source.url}: the copies would be "
            "predicted too; name a folder outside"
        )


def _common(source: str, target: str) -> tuple[Storage, str, str] | None:
    """Return the storage that has two prefixes of a bucket, and what they are there.

    None if they are not of one bucket, or what they have in common may not be listed.
    """
    if not (source.startswith("s3://") and target.startswith("s3://")):
        # A local copy is one of its own: nobody expects that two names are of one file.
        return None
    one, two = urlsplit(source), urlsplit(target)
    if one.netloc != two.netloc:
        return None
    parts = [part.strip("/").split("/") if part.strip("/") else [] for part in (one.path, two.path)]
    shared = 0
    while shared < min(map(len, parts)) and parts[0][shared] == parts[1][shared]:
        shared += 1
    origin, goal = ("".join(f"{name}/" for name in part[shared:]) for part in parts)
    try:
        both = open_storage("/".join([f"s3://{one.netloc}", *parts[0][:shared]]), _THREADS)
    except AccessDenied:
        return None
    return both, origin, goal
