"""Heartbeats: small records in storage of what a job does with a tag, how far it is, how it ended.

The state that a record tells is in its key, so that one listing tells those of all tags, and only
what is under way or has failed need be read. A record is a report and no marker: whether a dataset
or a model is complete is told by its own marker alone.
"""

from __future__ import annotations

import math
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, Field

from imagetag import __version__, layout
from imagetag.counters import counters
from imagetag.errors import (
    EXIT_DEFECT,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    ImagetagError,
    Terminated,
    one_line,
)
from imagetag.job.job_record import record_in
from imagetag.layout import Stage, StatusKey, WorkState
from imagetag.log import Progress, get_logger, watcher
from imagetag.pipes import stdout_has_reader
from imagetag.record import Record
from imagetag.storage import AccessDenied, LocalStorage, Storage

LEAST_MEASURED = 20
"""Images of a work at the least that its speed is measured on: what few took says little."""

EVERY = 30.0  # seconds between two records of one work
_GRACE = 2.0  # seconds that a work takes at least, before it is told that it is under way
_LAST_SECONDS = 5.0  # that the end of a job waits for a storage


class Beat(Record):
    """What a job tells of its work on a tag.

    `doing`, `done`, `total` and `unit` are its progress, `exit_code` and `reason` why it failed,
    `seconds` and `processor_seconds` what it has taken until `updated`, over all its threads.
    `measured` are numbers that a later plan can go by, where the work was not done already.
    """

    tag: str
    stage: Stage
    worker: int = 0
    state: WorkState
    started: AwareDatetime
    updated: AwareDatetime
    host: str = ""
    doing: str = ""
    done: int | None = None
    total: int | None = None
    unit: str = ""
    exit_code: int | None = None
    reason: str = ""
    seconds: float = 0.0
    processor_seconds: float = 0.0
    measured: dict[str, float | str] = Field(default_factory=dict)
    software: str = ""

    @property
    def stopped(self) -> bool:
        """Whether it ended because somebody stopped it, and not by a failure of its own."""
        return self.exit_code in (EXIT_TERMINATED, EXIT_INTERRUPTED)


@dataclass
class _Work:
    """A work that is under way; its clocks are in seconds, of time and of the processor's."""

    tags: tuple[str, ...]
    started: datetime
    clock: float = field(default_factory=time.monotonic)
    processor: float = field(default_factory=time.process_time)
    progress: Progress | None = None
    measured: dict[str, float | str] = field(default_factory=dict)

    def watch(self, progress: Progress) -> None:
        self.progress = progress


_current: ContextVar[_Work | None] = ContextVar("work", default=None)


def measured(**values: float | str) -> None:
    """Note what a work has measured, to be stored when it succeeds."""
    work = _current.get()
    if work is not None:
        work.measured |= values


class Heartbeats:
    """Tells storage how a job gets on with its tags, from a thread of its own.

    A storage that is slow costs the work nothing, and one that takes no record does not fail it.
    Used as a context: leaving it waits some seconds for the last records.

    Args:
        storage: gets the records.
        stage: the job.
        worker: which of several that work on each tag together, from 0.
        every: seconds between two records of one work.
        grace: seconds after which a work is first told to be under way.

    """

    def __init__(
        self,
        storage: Storage,
        stage: Stage,
        *,
        worker: int = 0,
        every: float = EVERY,
        grace: float = _GRACE,
    ) -> None:
        self._storage, self._stage, self._worker = storage, stage, worker
        self._every, self._grace = every, grace
        self._changed = threading.Condition()
        self._work: _Work | None = None
        self._ended: deque[Beat] = deque()
        self._closed = False
        self._warned = self._refused = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeats:
        if not self._is_missing():
            record_in(self._storage)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_LAST_SECONDS)

    @contextmanager
    def of(self, *tags: str) -> Iterator[None]:
        """Tell that a work on tags is under way while the block runs, and then how it ended.

        Of several tags at once each has the same record.
        """
        work = _Work(tags, _now())
        tokens = _current.set(work), watcher.set(work.watch)
        self._begin(work)
        try:
            yield
        except BaseException as error:
            counters().tags("failed", len(tags))
            enough = isinstance(error, BrokenPipeError) and not stdout_has_reader()
            self._end(self._beats(work, "done") if enough else self._failed(work, error))
            raise
        else:
            counters().tags("done", len(tags))
            self._end(self._beats(work, "done"))
        finally:
            _current.reset(tokens[0])
            watcher.reset(tokens[1])

    def fail(self, error: BaseException) -> None:
        """Tell that the work under way failed, before the process is left at once."""
        if self._work is not None:
            self._end(self._failed(self._work, error))
        self.__exit__()

    def _failed(self, work: _Work, error: BaseException) -> list[Beat]:
        return self._beats(work, "failed", exit_code=_exit_code(error), reason=_why(error))

    def _begin(self, work: _Work) -> None:
        with self._changed:
            self._work = work
            self._changed.notify()

    def _end(self, beats: Iterable[Beat]) -> None:
        with self._changed:
            self._work = None
            self._ended.extend(beats)
            self._changed.notify()

    def _run(self) -> None:
        told: _Work | None = None  # what was under way when last looked at
        due = math.inf  # when that is to be told again
        while True:
            with self._changed:
                if not self._ended and not self._closed and self._work is told:
                    self._changed.wait(_until(due))
                ended, work = list(self._ended), self._work
                self._ended.clear()
                if self._closed and not ended:
                    return
            for beat in ended:
                self._finish(beat)
            if work is not told:
                told, due = work, work.clock + self._grace if work else math.inf
            if work is not None and time.monotonic() >= due:
                due = time.monotonic() + self._every
                for beat in self._beats(work, "running"):
                    self._write(beat)

    def _finish(self, beat: Beat) -> None:
        """Store how a work ended, and take back what was told of it before."""
        stale: set[WorkState] = {"running", "failed"}
        if beat.state == "failed" or beat.measured:
            self._write(beat)
            stale.discard(beat.state)
        for state in sorted(stale):
            self._change(lambda key: self._storage.delete(key), self._key(beat.tag, state))

    def _write(self, beat: Beat) -> None:
        data = beat.model_dump_json().encode() + b"\n"
        key = self._key(beat.tag, beat.state)
        self._change(lambda key: self._storage.write(key, data), key)

    def _change(self, change: Callable[[str], None], key: str) -> None:
        if self._refused or self._is_missing():
            return
        try:
            change(key)
        except Exception as error:
            self._refused = isinstance(error, AccessDenied)
            # Who predicts needs to read the models' storage, and nothing else.
            expected = self._refused and self._stage == "predict"
            log = get_logger().debug if self._warned or expected else get_logger().warning
            self._warned = True
            log("imagetag status will not see this work", error=one_line(error))

    def _is_missing(self) -> bool:
        """Tell whether the storage is a folder that is not there: no record makes one.

        Of a name that was misspelt it would make a storage, which then is no mistake any more. A
        scrape is what begins one.
        """
        local = isinstance(self._storage, LocalStorage) and self._stage != "scrape"
        return local and not Path(self._storage.url).is_dir()

    def _key(self, tag: str, state: WorkState) -> str:
        return layout.status(StatusKey(tag, self._stage, self._worker, state))

    def _beats(
        self, work: _Work, state: WorkState, *, exit_code: int | None = None, reason: str = ""
    ) -> list[Beat]:
        """Return the record of a work, for each of its tags."""
        progress = work.progress
        beat = Beat(
            tag="",
            stage=self._stage,
            worker=self._worker,
            state=state,
            started=work.started,
            updated=_now(),
            host=platform.node(),
            doing=progress.event if progress else "",
            done=progress.done if progress else None,
            total=progress.total if progress else None,
            unit=progress.unit if progress else "",
            exit_code=exit_code,
            reason=reason,
            seconds=round(time.monotonic() - work.clock, 3),
            processor_seconds=round(time.process_time() - work.processor, 3),
            measured=work.measured if state == "done" else {},
            software=f"imagetag {__version__}",
        )
        return [beat.model_copy(update={"tag": tag}) for tag in work.tags]


def _until(due: float) -> float | None:
    """Return the seconds until a time of the monotonic clock; None for one that never comes."""
    return None if math.isinf(due) else max(0.0, due - time.monotonic())


def _exit_code(error: BaseException) -> int:
    if isinstance(error, ImagetagError | Terminated):
        return error.exit_code
    return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_DEFECT


def _why(error: BaseException) -> str:
    if isinstance(error, Terminated | KeyboardInterrupt):
        how = "SIGTERM" if isinstance(error, Terminated) else "Ctrl-C"
        return "; ".join([f"stopped by {how}", *getattr(error, "__notes__", ())])
    if isinstance(error, ImagetagError):
        return one_line(error, 1000)
    return one_line(f"unexpected {type(error).__name__}: {error}", 1000)


def _now() -> datetime:
    return datetime.now(UTC)
