"""Structured logs on standard error, and progress that suits a terminal as well as a pod's log."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any, Literal

import structlog
from rich.console import Console

from imagetag.console import Bars, open_console, show, tell
from imagetag.counters import Counters, counters

LogFormat = Literal["auto", "json", "console"]

get_logger = structlog.get_logger

# Told of each progress that begins in its context, to look at it as it goes on.
watcher: ContextVar[Callable[[Progress], None] | None] = ContextVar("watcher", default=None)
_terminal: Console | None = None  # where a person reads, if the log goes there
_bars: Bars | None = None  # on it, if it can show them
_outlives_reader = False


def configure(log_format: LogFormat = "auto", level: str = "info") -> None:
    """Send log lines to standard error: readable on a terminal, one JSON object a line elsewhere.

    Every JSON line has `timestamp` (UTC, ISO 8601), `level` and `event`, and the bound fields.
    """
    global _terminal, _bars
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.processors.format_exc_info,
    ]
    end_bars()
    _terminal = _bars = None
    if log_format == "console" or (log_format == "auto" and sys.stderr.isatty()):
        console = open_console()
        processors.append(lambda _logger, _method, event: ((event,), {}))
        write: Callable[..., None] = partial(show, console)
        if console.is_terminal:
            _terminal = console
        if console.is_interactive:
            _bars = Bars(console)
    else:
        processors.append(structlog.processors.JSONRenderer(ensure_ascii=False, default=str))
        write = _write
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: _Stderr(write),
        cache_logger_on_first_use=False,
    )
    debug = level == "debug"
    root = logging.getLogger()
    root.setLevel(logging.INFO if debug else logging.WARNING)
    root.handlers = [old for old in root.handlers if not isinstance(old, _FromLibraries)]
    root.addHandler(_FromLibraries(tracebacks=debug))
    logging.captureWarnings(True)


def outlive_reader() -> None:
    """Drop lines from now on that nobody reads any more, where they would end the work."""
    global _outlives_reader
    _outlives_reader = True


def end_bars() -> None:
    """Take progress bars off the terminal, as the process will end."""
    if _bars is not None:
        _bars.end()


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal what is being done, for as long as it takes; no log has a line of it.

    It is a stage of the job's counters.
    """
    bars = _bars
    bar = None if bars is None else bars.add(what, {}, None, "")
    try:
        with counters().stage(what):
            yield
    finally:
        if bars is not None and bar is not None:
            bars.remove(bar)


def tell_person(text: str, copied: str) -> None:
    """Tell who sits at a terminal something, and what can be copied on a line of its own."""
    if _terminal is not None:
        tell(_terminal, text, copied)


def _write(line: str) -> None:
    """Write a line in one piece."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        if not _outlives_reader:
            raise


class _Stderr:
    """Passes on what structlog has made of an event."""

    def __init__(self, write: Callable[..., None]) -> None:
        self.msg = write
        self.log = self.debug = self.info = self.warning = self.error = self.critical = write


class _FromLibraries(logging.Handler):
    """Passes on what libraries log, so that their lines have our form."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        try:
            get_logger().log(
                level,
                record.getMessage().strip(),
                logger=record.name,
                exc_info=record.exc_info if self._tracebacks else None,
            )
        except Exception:
            self.handleError(record)


class Progress:
    """Counts work done: a bar on a terminal, a log line every few seconds elsewhere.

    Safe to advance from many threads. `event`, `done`, `total` and `unit` say how far it is.

    Args:
        event: what is done, as the log names it.
        total: how much there is of it, if that is known.
        unit: of what is counted.
        every: seconds between lines.
        bar: show one on a terminal; not where rows are written to it.
        stage: of the job's counters, if not the event: one of a few names.
        fields: of the lines besides.

    """

    def __init__(
        self,
        event: str,
        total: int | None = None,
        unit: str = "images",
        every: float = 5.0,
        *,
        bar: bool = True,
        stage: str = "",
        **fields: Any,
    ) -> None:
        self.event, self.total, self.unit, self._every = event, total, unit, every
        self._log = get_logger().bind(**fields)
        self._lock = threading.Lock()
        self.done = 0
        self._extra: dict[str, int] = {}
        self._stage = stage or event
        self._counting: tuple[Counters, AbstractContextManager[None]] | None = None
        self._started = self._last = time.monotonic()
        self._bars, self._bar = _bars, None
        if self._bars is not None and bar:
            self._bar = self._bars.add(event, fields, total, unit)

    def skip(self, count: int) -> None:
        """Show `count` more as done, which were so before: they are none of this job's work."""
        self._advance(count, {})

    def advance(self, count: int = 1, **extra: int) -> None:
        """Count `count` more done, and show the other running totals beside it."""
        if self._counting is not None:
            self._counting[0].advance(self._stage, count)
        self._advance(count, extra)

    def _advance(self, count: int, extra: dict[str, int]) -> None:
        with self._lock:
            self.done += count
            self._extra.update(extra)
            if self._bars is not None:
                if self._bar is not None:
                    self._bars.advance(self._bar, count, self._extra)
            elif time.monotonic() - self._last >= self._every:
                self._last = time.monotonic()
                self._report()

    def _report(self) -> None:
        rate = self.done / max(time.monotonic() - self._started, 1e-9)
        self._log.info(
            self.event,
            done=self.done,
            total=self.total,
            unit=self.unit,
            per_second=round(rate, 1),
            **self._extra,
        )

    def __enter__(self) -> Progress:
        if (watch := watcher.get()) is not None:
            watch(self)
        counted = counters()
        self._counting = counted, counted.stage(self._stage, self.unit)
        self._counting[1].__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._counting is not None:
            self._counting[1].__exit__(None, None, None)
            self._counting = None
        if self._bars is not None and self._bar is not None:
            self._bars.remove(self._bar)
