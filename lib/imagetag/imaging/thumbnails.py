"""Thumbnails that are kept in memory, by the content of their pictures."""

from __future__ import annotations

import threading

from cachetools import LRUCache

_MOST = 1000  # of 48 kB


class Thumbnails:
    """The thumbnails that were made or used last. For any number of threads."""

    def __init__(self) -> None:
        self._kept: LRUCache[str, bytes] = LRUCache(_MOST)
        self._lock = threading.Lock()

    def get(self, md5: str) -> bytes | None:
        """Return the thumbnail of a picture, if it is kept."""
        with self._lock:
            return self._kept.get(md5)

    def keep(self, md5: str, thumbnail: bytes) -> None:
        """Keep the thumbnail of a picture, in place of the one that was not used for longest."""
        with self._lock:
            self._kept[md5] = thumbnail
