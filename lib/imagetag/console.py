"""What a person reads on a terminal: events of the log as lines, and bars of long work."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import cast

from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.spinner import Spinner
from rich.text import Text

from imagetag.sentences import Event, duration, label, rate, sentence

_INDENT = "    "  # of what follows the first line of an event
WIDEST = 1000  # columns where it is no terminal: no table is folded in a file or a pipe
_WIDE = 100  # columns from which on there is room for the time
_BAR = 20  # columns
_STYLES = {"debug": "dim", "warning": "yellow", "error": "bold red", "critical": "bold red"}


def line(event: Event, *, width: int | None = None) -> Text:
    """Return an event as what is printed: its level where that matters, tag, sentence, traceback.

    Args:
        event: it.
        width: columns to wrap at, between words alone, so that a path can be copied; None for
            lines of any length. Where there is room, the time comes first.

    """
    level = str(event.get("level", "info"))
    text = Text()
    if width is not None and width >= _WIDE:
        text.append(_clock(event.get("timestamp")), "dim")
    if level in ("warning", "error", "critical"):
        text.append("error: " if level == "critical" else f"{level}: ", _STYLES[level])
    if event.get("tag") is not None:
        text.append(f"{clean(str(event['tag']))}: ", "bold")
    text.append(clean(sentence(event)), _STYLES.get(level, ""))
    if width is not None:
        text = _wrapped(text, width)
    if event.get("exception"):
        text.append("\n" + str(event["exception"]).rstrip(), "dim")
    return text


def open_console() -> Console:
    """Return standard error as a console: with colours and bars if it is a terminal that can.

    Of a terminal it has a descriptor of its own: what is written to the process's standard error
    meanwhile may be sent elsewhere.
    """
    stream, terminal = sys.stderr, sys.stderr.isatty()
    if terminal:
        descriptor = os.dup(stream.fileno())
        stream = os.fdopen(descriptor, "w", encoding=stream.encoding, errors="backslashreplace")
    return _Console(
        file=stream, force_terminal=terminal, highlight=False, markup=False, emoji=False
    )


def open_output() -> Console:
    """Return standard output as a console for tables."""
    width = None if sys.stdout.isatty() else WIDEST
    return _Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


class _Console(Console):
    """One whose reader may leave: rich would end the process with 1, whatever of it that was."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def show(console: Console, event: Event) -> None:
    """Print an event, above the bars if there are some."""
    console.print(line(event, width=console.width if console.is_terminal else None), soft_wrap=True)


def tell(console: Console, text: str, copied: str) -> None:
    """Print a text, and below it what can be copied, which is never broken."""
    console.print(Text(clean(text), "bold"))
    console.print(Text(clean(copied), "cyan"), soft_wrap=True)


class Bars:
    """The bars of a terminal: one a work that is under way, below all that is printed.

    Safe to use from many threads.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._count = 0

    def add(self, work: str, fields: Event, total: int | None, unit: str) -> TaskID:
        """Show a bar; without a unit it tells for how long the work lasts."""
        with self._lock:
            if self._progress is None:
                self._progress = Progress(
                    BarLine(self._console),
                    console=self._console,
                    transient=True,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                self._progress.start()
                # It would stay hidden after a kill.
                self._console.show_cursor(True)
            self._count += 1
            return self._progress.add_task(label(work, fields), total=total, unit=unit, more={})

    def advance(self, bar: TaskID, count: int, more: Mapping[str, int]) -> None:
        """Count more of its work done; nothing where the bar is gone already."""
        with self._lock:
            if self._progress is not None and bar in self._progress.task_ids:
                self._progress.update(bar, advance=count, more=dict(more))

    def remove(self, bar: TaskID) -> None:
        """Take a bar away; with the last one, what is below the printed lines is gone."""
        with self._lock:
            if self._progress is None:
                return
            self._progress.remove_task(bar)
            self._count -= 1
            if not self._count:
                self._progress.stop()
                self._progress = None

    def end(self) -> None:
        """Take all bars away."""
        with self._lock:
            if self._progress is not None:
                self._progress.stop()
                self._progress, self._count = None, 0


class BarLine(ProgressColumn):
    """A bar's whole line: what there is room for, the most important first."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._spinner = Spinner("dots" if console.encoding.startswith("utf") else "line")

    def render(self, task: Task) -> Text:
        """Return the line of a bar that `Bars` has made."""
        room = self._console.width - 1  # a full line would break some terminals
        text = Text(no_wrap=True, overflow="ellipsis")
        if task.total is None:
            text.append_text(cast("Text", self._spinner.render(task.get_time())))
            text.append(" ")
        name, unit = Text(clean(task.description)), task.fields["unit"]
        done = f"{task.completed:,.0f}" + ("" if task.total is None else f"/{task.total:,.0f}")
        parts = [f" {done} {unit}" if unit else f" {duration(task.elapsed or 0)}"]
        name.truncate(max(1, room - text.cell_len - len(parts[0])), overflow="ellipsis")
        text.append_text(name)
        if task.time_remaining is not None:
            parts.append(f" · {duration(task.time_remaining)} left")
        if task.speed and unit:
            parts.append(f" · {rate(task.speed)}/s")
        parts += [f" · {value:,} {name}" for name, value in task.fields["more"].items() if value]
        for part in parts:
            if text.cell_len + len(part) <= room:
                text.append(part)
        if task.total and text.cell_len + _BAR + 1 <= room:
            full = min(_BAR, round(_BAR * task.completed / task.total))
            mark = "━" if self._console.encoding.startswith("utf") else "="
            bar = Text.assemble((mark * full, "green"), (mark * (_BAR - full), "dim"), " ")
            if self._console.color_system is None or self._console.no_color:
                bar = Text(mark * full + " " * (_BAR - full) + " ")
            return bar + text
        return text


def _clock(timestamp: object) -> str:
    """Return the time of day here, with a blank after it."""
    try:
        return f"{datetime.fromisoformat(str(timestamp)).astimezone():%H:%M:%S} "
    except ValueError:
        return ""


def clean(text: str) -> str:
    """Return a text on one line, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _wrapped(text: Text, width: int) -> Text:
    """Break a text at blanks alone, and indent what follows the first line."""
    breaks, column, place = [], 0, 0
    for word in text.plain.split(" "):
        columns = cell_len(word)
        if place and column + 1 + columns > width:
            breaks.append(place)
            column = len(_INDENT) + columns
        else:
            column += columns + (place > 0)
        place += len(word) + 1
    lines = text.divide(breaks)
    for each in lines:
        each.rstrip()
    return Text(f"\n{_INDENT}").join(lines)
