"""The end of a job: its counts as the last line of its log, and as a small record in storage.

A record is a job's of one share, and the next run of the same replaces it: there are as many as
jobs and pods, however many tags. It is a report and no marker.
"""

from __future__ import annotations

import platform
import threading
from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, Field

from imagetag import __version__, layout
from imagetag.counters import Counted
from imagetag.errors import one_line
from imagetag.log import get_logger
from imagetag.record import Record
from imagetag.storage import AccessDenied, Storage

ENDED = "ended"
"""The event of the last line of a job that is done."""

_LAST_SECONDS = 5.0  # that the end of a job waits for a storage
_storage: Storage | None = None  # of the job of this process, once it is open


class JobRecord(Record):
    """How a job ended, and what it did: `summary` is as in its log."""

    job: str
    shard: int = 0
    started: AwareDatetime
    ended: AwareDatetime
    exit_code: int
    summary: dict[str, Any] = Field(default_factory=dict)
    host: str = ""
    software: str = ""


def record_in(storage: Storage | None) -> None:
    """Say where the job of this process leaves its record; None: nowhere."""
    global _storage
    _storage = storage


def store_record(job: str, shard: int, counted: Counted, exit_code: int) -> None:
    """Store how the job of this process ended, where it has opened a storage.

    It waits some seconds for it, and fails nothing.
    """
    storage = _storage
    if storage is None:
        return
    record = JobRecord(
        job=job,
        shard=shard,
        started=counted.started,
        ended=datetime.now(UTC),
        exit_code=exit_code,
        summary=counted.summary(),
        host=platform.node(),
        software=f"imagetag {__version__}",
    )

    def write() -> None:
        try:
            storage.write(layout.job_record(job, shard), record.model_dump_json().encode() + b"\n")
        except Exception as error:
            expected = isinstance(error, AccessDenied)  # who predicts needs to read alone
            log = get_logger().debug if expected else get_logger().warning
            log("the job's record is not stored", error=one_line(error))

    thread = threading.Thread(target=write, name="record", daemon=True)
    thread.start()
    thread.join(_LAST_SECONDS)
