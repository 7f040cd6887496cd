"""What a scrape has to record, written to the manifest in parts as it goes."""

from __future__ import annotations

import threading
import time

from imagetag.dataset import Failure, Repeat, Row, write_part
from imagetag.errors import ImagetagError, one_line
from imagetag.layout import Layout, PartKind
from imagetag.log import get_logger
from imagetag.storage import Storage

_PART_ROWS = 200  # records kept before a part is written, and
_PART_SECONDS = 15.0  # for how long at the most


class PartWriter:
    """Keeps records until they are enough for a part, or have waited long enough.

    Attributes:
        written: the keys of the parts.

    """

    def __init__(self, storage: Storage, layout: Layout) -> None:
        self._storage, self._layout = storage, layout
        self._waiting: dict[PartKind, list[Row | Repeat | Failure]] = {
            "part": [],
            "repeat": [],
            "failed": [],
        }
        self._flushed = time.monotonic()
        self.written: list[str] = []

    @property
    def unrecorded(self) -> int:
        """How many images no part has yet."""
        return len(self._waiting["part"])

    def add(self, kind: PartKind, record: Row | Repeat | Failure) -> None:
        """Take a record; `flush_if_due` writes it."""
        self._waiting[kind].append(record)

    def flush_if_due(self) -> None:
        """Write what waits, if it is time."""
        full = sum(map(len, self._waiting.values())) >= _PART_ROWS
        if full or time.monotonic() - self._flushed > _PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        for kind, records in self._waiting.items():
            if records:
                self.written.append(write_part(self._storage, self._layout, kind, records))
        for records in self._waiting.values():
            records.clear()
        self._flushed = time.monotonic()

    def flush_within(self, seconds: float) -> None:
        """Write what waits, or go on without: the storage may be down."""
        last = threading.Thread(target=self._flush_if_it_can, daemon=True)
        last.start()
        last.join(seconds)

    def _flush_if_it_can(self) -> None:
        try:
            self.flush()
        except ImagetagError as error:
            get_logger().warning("rows are not saved", error=one_line(error))
