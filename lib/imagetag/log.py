"""Structured logs on standard error, and progress that suits a terminal as well as a pod's log."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal

import structlog
from tqdm import tqdm

LogFormat = Literal["auto", "json", "console"]

get_logger = structlog.get_logger

# Told of each progress that begins in its context, to look at it as it goes on.
watcher: ContextVar[Callable[[Progress], None] | None] = ContextVar("watcher", default=None)


def configure(log_format: LogFormat = "auto", level: str = "info") -> None:
    """Send log lines to standard error: readable on a terminal, one JSON object a line elsewhere.

    Every line has `timestamp` (UTC, ISO 8601), `level` and `event`, and the bound fields.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(
            fmt="%H:%M:%S" if console else "iso", utc=not console, key="timestamp"
        ),
    ]
    if console:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0))
    else:
        processors += [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: _Stderr(),
        cache_logger_on_first_use=False,
    )
    debug = level == "debug"
    root = logging.getLogger()
    root.setLevel(logging.INFO if debug else logging.WARNING)
    root.handlers = [old for old in root.handlers if not isinstance(old, _FromLibraries)]
    root.addHandler(_FromLibraries(tracebacks=debug))
    logging.captureWarnings(True)


class _Stderr:
    """Writes a log line in one piece, above a progress bar if there is one."""

    def msg(self, line: str) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    log = debug = info = warning = error = critical = msg


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
    """

    def __init__(
        self, event: str, total: int | None = None, unit: str = "images", every: float = 5.0
    ) -> None:
        self.event, self.total, self.unit, self._every = event, total, unit, every
        self._log = get_logger()
        self._lock = threading.Lock()
        self.done = 0
        self._extra: dict[str, int] = {}
        self._started = self._last = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=event, unit=" " + unit, leave=False)

    def advance(self, count: int = 1, **extra: int) -> None:
        """Count `count` more done, and show the other running totals beside it."""
        with self._lock:
            self.done += count
            self._extra.update(extra)
            if self._bar is not None:
                self._bar.update(count)
                if self._extra:
                    self._bar.set_postfix(self._extra, refresh=False)
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
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
