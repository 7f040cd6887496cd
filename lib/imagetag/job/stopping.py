"""SIGTERM and Ctrl-C: the work stops and saves what it can; a second Ctrl-C waits for nothing.

A signal raises `Terminated` or KeyboardInterrupt in the main thread: at once, or where that would
be in the middle of a step, when the work looks. Whoever saves something on the way out adds a note
to the exception, and the job's last line tells it.

Python alone may miss a signal while the main thread waits: one that comes in the instant before it
falls asleep, or that the system gives to another thread, does not wake it, and what is raised in
the midst of a finalizer is dropped. So a thread sees to it that each is taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

from imagetag.errors import EXIT_INTERRUPTED, Terminated, one_line
from imagetag.log import end_bars, get_logger, outlive_reader

PARENT = "_IMAGETAG_PARENT"
"""The variable by which a process that runs a job as a child of its own tells who it is."""

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_LAST_SECONDS = 1.0  # for the last line, where nobody reads it
_NUDGE = signal.SIGURG  # wakes the main thread; others ignore it
_TAKEN_SECONDS = 0.2  # that it may need to take a signal by itself


class Stop:
    """What signals have asked for. There is one, as there is one handler of a signal.

    Attributes:
        asked: what is to be raised, None while the work may go on.
        dropped: whether that was raised where nobody could catch it.
        is_child: whether this process is a job that another runs.

    """

    def __init__(self) -> None:
        self.asked: type[BaseException] | None = None
        self.dropped = self.is_child = False
        self._noted = False

    def begin(self) -> None:
        """Forget what another job of this process was asked."""
        self.asked = None
        self.dropped = self.is_child = self._noted = False

    def ask(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal. What follows the first one must not disturb what is being saved."""
        if self.asked is None:
            self.asked = KeyboardInterrupt if number == signal.SIGINT else Terminated
            if not self._noted:
                raise self.asked

    def ask_again(self, _number: int, _frame: FrameType | None) -> None:
        """Raise what was dropped."""
        if self.dropped and self.asked is not None:
            self.dropped = False
            raise self.asked

    @contextlib.contextmanager
    def noted(self) -> Iterator[Stop]:
        """Raise nothing inside, but at its end, whatever else went wrong meanwhile."""
        self._noted, self.dropped = True, False
        try:
            yield self
        except BaseException as error:
            if self.asked is None or isinstance(error, self.asked):
                raise
            get_logger().warning("went wrong while stopping", error=one_line(error))
        finally:
            self._noted = False
        if self.asked is not None:
            raise self.asked


stop = Stop()


@contextlib.contextmanager
def listening(kept: str) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C stop what runs inside.

    Args:
        kept: what is kept whenever this is stopped; it is told at a second Ctrl-C.

    """
    stop.begin()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python's own handler waits for a step of TensorFlow to end, and takes two signals that came
    # meanwhile for one. What is written here by the system's does not.
    main = threading.get_ident()
    watcher = threading.Thread(
        target=_watch, args=(reader, main, kept), name="signals", daemon=True
    )
    watcher.start()
    previous_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    handlers = {signal.SIGTERM: stop.ask, _NUDGE: stop.ask_again}
    # A shell lets what it starts in the background ignore it.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        handlers[signal.SIGINT] = stop.ask
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    unraisable = sys.unraisablehook
    sys.unraisablehook = partial(_note_dropped, unraisable)
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_writer)
        os.close(writer)
        watcher.join()
        os.close(reader)


_children: set[subprocess.Popen[str]] = set()


@contextlib.contextmanager
def ending_with_this(process: subprocess.Popen[str]) -> Iterator[None]:
    """Let a second Ctrl-C end a child process too, inside this."""
    _children.add(process)
    try:
        yield
    finally:
        _children.discard(process)


def stop_with_parent() -> None:
    """Have this process stopped, as by SIGTERM, when the one that runs it as its child is killed.

    Else it would work on unseen, beside the one that is started in its parent's place. Where the
    system is not Linux, that is so. What it logs then has no reader any more, which must not keep
    it from saving its work.
    """
    parent = os.environ.pop(PARENT, "")
    if not parent:
        return
    stop.is_child = True
    with contextlib.suppress(OSError, AttributeError):
        if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) == 0:
            outlive_reader()
    if str(os.getppid()) != parent:  # it was killed before
        os.kill(os.getpid(), signal.SIGTERM)


def leave(code: int) -> None:
    """End the process at once, with what it has logged."""
    # Not sys.exit: that would wait for download threads, which may wait for a server.
    with contextlib.suppress(OSError):
        end_bars()
        sys.stderr.flush()
    os._exit(code)


def _note_dropped(
    otherwise: Callable[[sys.UnraisableHookArgs], object], what: sys.UnraisableHookArgs
) -> None:
    """Have raised again what a signal raised in a finalizer, which no exception leaves."""
    if stop.asked is not None and what.exc_type is stop.asked:
        stop.dropped = True
    else:
        otherwise(what)


def _watch(reader: int, main: int, kept: str) -> None:
    """See to it that a signal is taken; leave when a Ctrl-C is not the first one."""
    asked = False
    while True:
        if not select.select([reader], [], [], _TAKEN_SECONDS if asked else None)[0]:
            if stop.asked is None or stop.dropped:
                signal.pthread_kill(main, _NUDGE)
            continue
        if not (number := os.read(reader, 1)):
            return
        # A child has the Ctrl-C of its terminal as well as what its parent sends for it, in any
        # order; at a second one its parent ends it.
        if asked and number[0] == signal.SIGINT and not stop.is_child:
            _leave_at_once(kept)
        asked = asked or number[0] in (signal.SIGINT, signal.SIGTERM)


def _leave_at_once(kept: str) -> None:
    def tell() -> None:
        end_bars()
        get_logger().warning(
            f"interrupted again: left without saving what was under way; {kept}",
            exit_code=EXIT_INTERRUPTED,
        )

    # The main thread may be in the midst of a line, and wait for its reader.
    last = threading.Thread(target=tell, daemon=True)
    last.start()
    last.join(_LAST_SECONDS)
    # Not before: the main thread, which waits for a child, would tell that it has saved its work.
    for process in list(_children):
        process.kill()
    os._exit(EXIT_INTERRUPTED)
