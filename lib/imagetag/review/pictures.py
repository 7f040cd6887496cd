"""Pictures as the page shows them: made anew as JPEGs, so that no stranger's bytes are served."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

from cachetools import LRUCache
from PIL import Image

from imagetag.imaging import BadImage, load_rgb
from imagetag.review.session import NoPicture
from imagetag.storage import ObjectNotFound, Storage

_MAX_FILE = 100 << 20  # bytes; larger ones are not looked at
_KEPT = 128 << 20  # bytes of JPEGs that are not made again
_QUALITY = 88


class Pictures:
    """JPEGs of pictures, of which the last that were asked for are kept.

    Args:
        read: returns a picture's file by its name.

    """

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self._kept: LRUCache[tuple[str, int], bytes] = LRUCache(_KEPT, getsizeof=len)
        self._lock = threading.Lock()

    def get(self, name: str, side: int) -> bytes:
        """Return a picture as a JPEG of up to `side` pixels a side; none grows.

        Raises:
            NoPicture: if its bytes are no picture.

        """
        with self._lock:
            found = self._kept.get((name, side))
        if found is not None:
            return found
        try:
            made = _jpeg(self._read(name), side)
        except BadImage as error:
            raise NoPicture(f"it cannot be decoded ({error.reason})") from error
        with self._lock:
            self._kept[name, side] = made
        return made


def read_bounded(storage: Storage, key: str) -> bytes:
    """Return a picture's file.

    Raises:
        NoPicture: if it is not there, or too large to be looked at.

    """
    try:
        with storage.open(key) as stream:
            data = stream.read(_MAX_FILE + 1)
    except ObjectNotFound as error:
        raise NoPicture("its file is not in storage") from error
    if len(data) > _MAX_FILE:
        raise NoPicture(f"its file is larger than {_MAX_FILE >> 20} MiB")
    return data


def _jpeg(data: bytes, side: int) -> bytes:
    picture = load_rgb(data, at_least=(side, side))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()
