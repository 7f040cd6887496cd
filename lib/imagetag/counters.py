"""What the job of this process has done so far, by stage: the one place where it is counted.

The last line of a job's log, its record in storage and its metrics for Prometheus are views of it.
Stages are named in the code alone, so that they are few, however many tags there are.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

Moved = Literal["fetched", "read", "written"]
"""Bytes from other servers than storage, out of objects of storage, and into them."""
MOVED: tuple[Moved, ...] = get_args(Moved)
TagResult = Literal["done", "failed"]


@dataclass
class Stage:
    """What was done in a stage: how much of a unit, in how many seconds, and the bytes moved.

    Of stages that run at the same time each has the bytes of all.
    """

    unit: str = ""
    done: int = 0
    failed: int = 0
    seconds: float = 0.0
    moved: Counter[Moved] = field(default_factory=Counter)


class Counters:
    """Counts of one job. Safe to use from many threads."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self._clock, self._processor = time.monotonic(), time.process_time()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._stages: dict[str, Stage] = {}
        self._open: dict[int, tuple[str, float, Counter[Moved]]] = {}
        self._moved: Counter[Moved] = Counter()
        self._requests = 0
        self._tags: Counter[TagResult] = Counter()

    def move(self, how: Moved, count: int) -> None:
        """Count bytes that were moved."""
        with self._lock:
            self._moved[how] += count

    def request(self) -> None:
        """Count a request to a server that is no storage."""
        with self._lock:
            self._requests += 1

    def tags(self, result: TagResult, count: int) -> None:
        """Count tags that the job is through with."""
        with self._lock:
            self._tags[result] += count

    @contextmanager
    def stage(self, name: str, unit: str = "") -> Iterator[None]:
        """Count the time, and the bytes moved, of the block to a stage."""
        with self._lock:
            self._stages.setdefault(name, Stage()).unit = unit
            number = next(self._numbers)
            self._open[number] = name, time.monotonic(), self._moved.copy()
        try:
            yield
        finally:
            with self._lock:
                _, begun, moved = self._open.pop(number)
                self._add(self._stages[name], begun, moved)

    def advance(self, name: str, done: int = 0, failed: int = 0) -> None:
        """Count what was done in a stage, and what could not be."""
        with self._lock:
            stage = self._stages.setdefault(name, Stage())
            stage.done += done
            stage.failed += failed

    def _add(self, stage: Stage, started: float, moved: Counter[Moved]) -> None:
        stage.seconds += time.monotonic() - started
        stage.moved += self._moved - moved

    def read(self) -> Counted:
        """Return all counts as they are now, those of stages that are under way among them."""
        with self._lock:
            stages = {
                name: Stage(one.unit, one.done, one.failed, one.seconds, one.moved.copy())
                for name, one in self._stages.items()
            }
            for name, begun, moved in self._open.values():
                self._add(stages[name], begun, moved)
            return Counted(
                self.started,
                time.monotonic() - self._clock,
                time.process_time() - self._processor,
                self._requests,
                self._moved.copy(),
                self._tags.copy(),
                stages,
            )


@dataclass(frozen=True)
class Counted:
    """The counts of a job at a moment; seconds of time, and of the processor in all threads."""

    started: datetime
    seconds: float
    processor_seconds: float
    requests: int
    moved: Counter[Moved]
    tags: Counter[TagResult]
    stages: dict[str, Stage]

    def summary(self) -> dict[str, Any]:
        """Return it for the log and for storage: without what is nothing, rates a second."""
        stages = {
            name: {"seconds": round(stage.seconds, 3)}
            | _told(
                {
                    stage.unit or "done": stage.done,
                    "failed": stage.failed,
                    "per_second": round(stage.done / stage.seconds, 1) if stage.seconds else 0,
                    **{f"{how}_bytes": stage.moved[how] for how in MOVED},
                }
            )
            for name, stage in self.stages.items()
        }
        return {
            "seconds": round(self.seconds, 3),
            "processor_seconds": round(self.processor_seconds, 3),
        } | _told(
            {
                "tags": dict(self.tags),
                "requests": self.requests,
                **{f"{how}_bytes": self.moved[how] for how in MOVED},
                "stages": stages,
            }
        )


def _told(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


_current = Counters()


def begin() -> Counters:
    """Let a new job of this process count from nothing; return its counts."""
    global _current
    _current = Counters()
    return _current


def counters() -> Counters:
    """Return the counts of the job that this process runs."""
    return _current
