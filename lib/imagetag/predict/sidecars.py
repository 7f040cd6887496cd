"""Sidecars: a text beside each picture with the tags that predict says are in it.

As hydrus reads them (`picture.png.txt`, a tag a line) or kohya's trainers and other tools of
captions (`picture.txt`, tags separated by commas, of which the first line counts).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import posixpath
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from imagetag.errors import UsageError, one_line
from imagetag.log import get_logger
from imagetag.predict.sources import Picture, Source
from imagetag.storage import AccessDenied, LocalStorage, ObjectNotFound, Storage

Style = Literal["hydrus", "kohya"]

_MAX_BYTES = 1 << 20  # of a sidecar that is there: more is none
_UNSAFE = re.compile(r"[^\w.()+-]+")


class Sidecars:
    """Writes sidecars; whatever a file there says stays, and tags are added once.

    A file that is no text, or larger than 1 MiB, is left alone and named in the log.

    Args:
        style: whose.
        source: of the pictures.
        folder: gets them, at the pictures' keys; None for beside the pictures.

    Attributes:
        identity: what tells some sidecars from others; JSON can hold it.

    """

    def __init__(self, style: Style, source: Source, folder: Storage | None = None) -> None:
        self._style, self._source, self._folder = style, source, folder
        self.identity = [style, folder.url if folder else ""]

    def add(self, picture: Picture, tags: Sequence[str]) -> None:
        """Have a picture's sidecar name some tags.

        Raises:
            UsageError: if the picture is on another's server, and there is no folder; or if
                nothing may be written there.
            TransientError: if storage cannot be reached.

        """
        storage, key = self._place(picture)
        try:
            before = storage.stat(key)
            if before is not None and before.size > _MAX_BYTES:
                raise ValueError(f"it has {before.size} bytes")
            text = "" if before is None else storage.read(key).decode()
            after = _with_tags(text, tags, self._style)
            if after != text:
                _write(storage, key, after.encode())
        except AccessDenied:
            raise
        except (ValueError, ObjectNotFound, UsageError) as error:  # also: no name for a file
            get_logger().warning(
                "no sidecar is written",
                file=picture.file,
                sidecar=key,
                reason=one_line(error, 200),
            )

    def _place(self, picture: Picture) -> tuple[Storage, str]:
        home = self._source.home(picture)
        if home is None and self._folder is None:
            raise UsageError(
                f"{picture.file[:200]!r} is on another's server: say with --sidecars-folder where "
                "its sidecar goes (IMAGETAG_SIDECARS_FOLDER)"
            )
        storage, key = home or (None, _name_of(picture))
        stem = key if self._style == "hydrus" else posixpath.splitext(key)[0]
        place = self._folder or storage
        assert place is not None  # noqa: S101 - one of them is there
        return place, f"{stem}.txt"


def _write(storage: Storage, key: str, data: bytes) -> None:
    """Write a file, whole or not at all."""
    if not isinstance(storage, LocalStorage):
        storage.write(key, data)
        return
    # Not by the storage, which would leave a folder of its own among somebody's pictures. What a
    # link leads to is written, so that it stays a link.
    path = Path(storage.url, key).resolve()
    if path.is_dir():
        raise ValueError("a folder has its name")
    # In containers, all that share a folder may have one process id.
    partial = path.with_name(f".imagetag-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    except (NotADirectoryError, FileExistsError) as error:
        raise ValueError("a file stands where its folder must be") from error
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            error.filename = str(path)
            raise
        raise AccessDenied(
            f"--sidecars: {path} cannot be written ({error.strerror}); check the folder's owner, "
            "or say --sidecars-folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _name_of(picture: Picture) -> str:
    """Return a name for a picture of a server: its URL's last part, or what stands for it."""
    name = _UNSAFE.sub("_", unquote(urlsplit(picture.file).path).rpartition("/")[2])[-100:]
    digest = hashlib.sha256(picture.name.encode(errors="replace")).hexdigest()
    return name.lstrip(".") or digest[:32]


def _with_tags(text: str, tags: Sequence[str], style: Style) -> str:
    """Return what a sidecar says once it has some tags."""
    if style == "hydrus":
        there = {line.strip() for line in text.removeprefix("\ufeff").splitlines()}
        added = [tag for tag in tags if tag not in there]
        return (
            text
            + ("\n" if text and added and not text.endswith("\n") else "")
            + "".join(f"{tag}\n" for tag in added)
        )
    first, end, rest = text.partition("\n")
    there = {part.strip() for part in first.removeprefix("\ufeff").split(",")}
    added = [tag for tag in tags if tag not in there]
    if not added:
        return text
    before = first.rstrip().rstrip(",")
    return ", ".join([*filter(None, [before]), *added]) + (end or "\n") + rest
