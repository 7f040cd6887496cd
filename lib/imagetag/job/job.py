"""What every job does around its work: settings, logs, signals, exit codes, many tags."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from imagetag import log
from imagetag.counters import begin
from imagetag.errors import (
    EXIT_DEFECT,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_TRANSIENT,
    EXIT_USAGE,
    ImagetagError,
    InputError,
    Terminated,
    TransientError,
    UsageError,
    one_line,
)
from imagetag.job.command_line import log_format_of, parse_settings
from imagetag.job.heartbeat import Heartbeats
from imagetag.job.job_record import ENDED, record_in, store_record
from imagetag.job.metrics import Exporter, check_metrics, told_apart_by
from imagetag.job.next_step import told_last
from imagetag.job.settings import BatchSettings, JobSettings, Settings, TagSettings
from imagetag.job.stopping import leave, listening, stop_with_parent
from imagetag.pipes import stdout_has_reader
from imagetag.sentences import counted

SHORT_OF = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""Errors of a machine that is short of something: they pass."""

_M_ARENA_MAX = -8  # of malloc.h
_AT_ONCE = 16  # tags that are checked

# For jobs that store the work on a tag, or all of theirs, at its end.
_BEGINS_ANEW = "what was under way begins anew when it is run again"


def run_job(
    command: str,
    summary: str,
    settings_class: type[Settings],
    work: Callable[[Settings], None],
    argv: Sequence[str] | None = None,
    *,
    kept: str = _BEGINS_ANEW,
) -> int:
    """Run one job from its arguments to its exit code.

    SIGTERM raises `Terminated` in the main thread, and Ctrl-C KeyboardInterrupt: the work saves its
    state on the way out, and the process ends with 143 or 130 even where a thread of it is still
    waiting for a server. A second Ctrl-C waits for nothing.

    Args:
        command: the job's name.
        summary: of it, for `--help`.
        settings_class: its options.
        work: the job itself.
        argv: its arguments; by default those of the process.
        kept: what is kept of its work whenever it is stopped. The last line says so, unless a note
            to the exception (`add_note`) says what was saved on the way out.

    """
    # Else Python looks through all that was imported for garbage when it ends, for a tenth of a
    # second. Registered before what the work registers, this is called after it.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    with listening(kept):
        stop_with_parent()
        given = sys.argv[1:] if argv is None else argv
        code = _run(command, summary, settings_class, work, given, kept)
        if not stdout_has_reader():
            leave(code)  # Python would complain of what it cannot write at its end
        return code


def _run(
    command: str,
    summary: str,
    settings_class: type[Settings],
    work: Callable[[Settings], None],
    argv: Sequence[str],
    kept: str,
) -> int:
    log.configure(log_format_of(argv))  # for what is wrong with the settings
    logger = log.get_logger()
    debug = False
    telling = _Telling(command)
    try:
        settings = parse_settings(settings_class, argv, command=command, summary=summary)
        log.configure(settings.log_format, settings.log_level)
        debug = settings.log_level == "debug"
        with told_last():
            telling.begin(settings)
            work(settings)
            sys.stdout.flush()
            if told := telling.end(EXIT_DONE):
                logger.info(ENDED, **told)
    except ImagetagError as error:
        told = telling.end(error.exit_code)
        logger.error(one_line(error, None), **told, exc_info=debug)
        return error.exit_code
    except Terminated as stopped:
        told = telling.end(EXIT_TERMINATED)
        logger.warning(f"stopped by SIGTERM; {_kept(stopped, kept)}", **told)
        leave(EXIT_TERMINATED)
    except KeyboardInterrupt as stopped:
        told = telling.end(EXIT_INTERRUPTED)
        logger.warning(f"interrupted; {_kept(stopped, kept)}", **told)
        leave(EXIT_INTERRUPTED)
    except BrokenPipeError as error:
        if stdout_has_reader():
            return _defect(error, debug, telling)
        telling.end(EXIT_DONE)
        leave(EXIT_DONE)  # the reader of our output has seen enough
    except ModuleNotFoundError as error:
        if not error.name or error.name.split(".")[0] in ("imagetag", "jobs"):
            return _defect(error, debug, telling)
        logger.error(
            f"{error.name} is not installed here: run this job in the image that has it, or "
            "install image-tag-classification[train]",
            **telling.end(EXIT_USAGE),
            exc_info=debug,
        )
        return EXIT_USAGE
    except OSError as error:
        if error.errno not in SHORT_OF:
            return _defect(error, debug, telling)
        logger.error(
            f"this machine is short of something: {error}; run it again when there is more",
            **telling.end(EXIT_TRANSIENT),
            exc_info=debug,
        )
        return EXIT_TRANSIENT
    except Exception as error:
        return _defect(error, debug, telling)
    return EXIT_DONE


class _Telling:
    """Tells what a job has done, at its end and meanwhile: in its log, in storage, in metrics."""

    def __init__(self, job: str) -> None:
        self._job, self._shard = job, 0
        self._counters = begin()
        self._exporter: Exporter | None = None
        record_in(None)

    def begin(self, settings: JobSettings) -> None:
        """Begin to export metrics.

        Raises:
            UsageError: if they cannot be.

        """
        if not isinstance(settings, BatchSettings):
            return
        self._shard = getattr(settings, "worker_index", 0) or getattr(settings, "shard_index", 0)
        file = str(settings.metrics_file or "")
        check_metrics(file, settings.metrics_push)
        apart = told_apart_by(settings.storage, getattr(settings, "board", ""))
        self._exporter = Exporter(
            self._job, self._shard, apart, self._counters, file, settings.metrics_push
        )
        self._exporter.begin()

    def end(self, exit_code: int) -> dict[str, Any]:
        """Tell how it ended; return what its last line has, of a job that counts nothing nothing.

        A job that fails has no line of its own for it.
        """
        told = {} if exit_code == EXIT_DONE else {"exit_code": exit_code}
        if self._exporter is None:
            return told
        self._exporter.end(exit_code)
        self._exporter = None
        counted = self._counters.read()
        store_record(self._job, self._shard, counted, exit_code)
        return {"exit_code": exit_code, "summary": counted.summary()}


def share_memory_among_threads() -> None:
    """Let threads take memory from two common arenas, where the C library is glibc.

    By default it gives each of many threads its own, and what one has freed helps no other: with
    pictures of many megabytes in sixteen threads, that doubles what a scrape needs.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


class Failures:
    """The tags of this shard that failed, and why."""

    def __init__(self, settings: TagSettings) -> None:
        self.tags = settings.my_tags()
        self._debug = settings.log_level == "debug"
        self._found: dict[str, ImagetagError] = {}

    @contextlib.contextmanager
    def noted(self, tag: str) -> Iterator[None]:
        """Note what is wrong with a tag, and tell it at once where there are others.

        Raises:
            UsageError: as it is, as no other tag would fare better.

        """
        with structlog.contextvars.bound_contextvars(tag=tag):
            try:
                yield
            except UsageError:
                raise
            except ImagetagError as error:
                self._found[tag] = error
                if len(self.tags) > 1:
                    log.get_logger().error(
                        one_line(error, None), exit_code=error.exit_code, exc_info=self._debug
                    )

    def __contains__(self, tag: str) -> bool:
        """Tell whether a tag has failed."""
        return tag in self._found

    def tell(self) -> None:
        """Raise what is to be said of all that failed.

        Raises:
            TransientError: if a tag failed for a passing reason.
            InputError: if a tag's input cannot satisfy the job.

        """
        if not self._found:
            return
        if len(self.tags) == 1:
            raise self._found[self.tags[0]]
        passing = [error for error in self._found.values() if isinstance(error, TransientError)]
        kind = TransientError if passing else InputError
        failed = [tag for tag in self.tags if tag in self._found]
        names = ", ".join(failed[:10]) + (", ..." if len(failed) > 10 else "")
        raise kind(f"{len(failed)} of {counted(len(self.tags), 'tag')} failed: {names}")


def judge_tags(settings: TagSettings, check: Callable[[str], object]) -> Failures:
    """Check each of this shard's tags, from many threads, before anything slow.

    Returns:
        what is wrong with some of them.

    Raises:
        UsageError, TransientError, InputError: as `for_each_tag`, the latter if no tag is left.

    """
    failures = Failures(settings)

    def judge(tag: str) -> ImagetagError | None:
        with structlog.contextvars.bound_contextvars(tag=tag):
            try:
                check(tag)
            except ImagetagError as error:
                return error
        return None

    # One after the other, a thousand tags in a bucket would take a minute. Told is in their order.
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="judge") as pool:
        for tag, error in zip(failures.tags, pool.map(judge, failures.tags), strict=True):
            with failures.noted(tag):
                if error is not None:
                    raise error
    if all(tag in failures for tag in failures.tags):
        failures.tell()
    return failures


def for_each_tag(
    settings: TagSettings,
    work: Callable[[str], object],
    heartbeats: Heartbeats | None = None,
    failures: Failures | None = None,
) -> None:
    """Do the work for each of this shard's tags; a tag that fails does not stop the others.

    Of several tags, each that is done is logged, as each that fails is.

    Args:
        settings: with the tags.
        work: on one.
        heartbeats: tell storage how it goes, for `imagetag status`.
        failures: what `judge_tags` found: those tags are left out, and told of at the end.

    Raises:
        UsageError: at once, as no other tag would fare better.
        TransientError: at the end, if a tag failed for a passing reason.
        InputError: at the end, if a tag's input cannot satisfy the job.

    """
    failures = failures or Failures(settings)
    if not failures.tags:
        log.get_logger().info("nothing to do: more shards than tags", shard=settings.shard_index)
    with heartbeats or contextlib.nullcontext():
        for number, tag in enumerate(failures.tags, start=1):
            if tag in failures:
                continue
            telling = heartbeats.of(tag) if heartbeats else contextlib.nullcontext()
            with failures.noted(tag):
                with telling:
                    work(tag)
                if len(failures.tags) > 1:
                    log.get_logger().info("tag done", number=number, of=len(failures.tags))
    failures.tell()


def _kept(stopped: BaseException, always: str) -> str:
    return "; ".join(getattr(stopped, "__notes__", [always]))


def _defect(error: Exception, debug: bool, telling: _Telling) -> int:
    text = one_line(f"{type(error).__name__}: {error}", None)
    log.get_logger().error(
        f"unexpected {text[:500]}"
        + ("" if debug else "; run with --log-level debug for the traceback"),
        **telling.end(EXIT_DEFECT),
        exc_info=debug,
    )
    return EXIT_DEFECT
