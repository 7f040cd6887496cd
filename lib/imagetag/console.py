"""What a person reads on a terminal: events of the log as sentences, and bars of long work.

An event is a mapping as in the log's JSON lines: `event`, `level`, `timestamp`, and fields. Whoever
has such lines, of this process or of another, gets the same text for them here.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, cast

from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.spinner import Spinner
from rich.text import Text

Event = Mapping[str, Any]

_INDENT = "    "  # of what follows the first line of an event
_WIDE = 100  # columns from which on there is room for the time
_BAR = 20  # columns
# What every line has, and what a program wants to know and no person.
_UNSAID = {"event", "level", "timestamp", "tag", "exception", "exit_code", "digest", "logger"}
_STYLES = {"debug": "dim", "warning": "yellow", "error": "bold red", "critical": "bold red"}


def sentence(event: Event) -> str:
    """Return an event as a sentence without its time, level and tag.

    An event that is not known here is shown with all its fields.
    """
    fields = {name: value for name, value in event.items() if name not in _UNSAID}
    name = str(event.get("event", ""))
    say = _SENTENCES.get(name)
    if say is not None:
        try:
            return say(fields)
        except (KeyError, TypeError, ValueError, AttributeError):
            pass  # of another version, which had other fields
    if "done" in fields and "per_second" in fields:
        return _progress(name, fields)
    if "logger" in event:
        name = f"{event['logger']}: {name}"
    return _with(name, fields)


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
        text.append(f"{_clean(str(event['tag']))}: ", "bold")
    text.append(_clean(sentence(event)), _STYLES.get(level, ""))
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
    return Console(file=stream, force_terminal=terminal, highlight=False, markup=False, emoji=False)


def show(console: Console, event: Event) -> None:
    """Print an event, above the bars if there are some."""
    console.print(line(event, width=console.width if console.is_terminal else None), soft_wrap=True)


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
        """Count more of its work done."""
        if self._progress is not None:
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


def label(event: str, fields: Event) -> str:
    """Return what a bar of some work is called, by the work's name in the log."""
    if event == "train" and "epochs" in fields:
        return f"epoch {fields['epoch']}/{fields['epochs']}"
    return _WORK.get(event, event)


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
        name, unit = Text(_clean(task.description)), task.fields["unit"]
        done = f"{task.completed:,.0f}" + ("" if task.total is None else f"/{task.total:,.0f}")
        parts = [f" {done} {unit}" if unit else f" {duration(task.elapsed or 0)}"]
        name.truncate(max(1, room - text.cell_len - len(parts[0])), overflow="ellipsis")
        text.append_text(name)
        if task.time_remaining is not None:
            parts.append(f" · {duration(task.time_remaining)} left")
        if task.speed and unit:
            parts.append(f" · {_rate(task.speed)}/s")
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


# --- Sentences


def duration(seconds: float) -> str:
    """Return a time as it is said: `40 s`, `3 min`, `1 h 20 min`."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def size(count: float) -> str:
    """Return bytes as they are said: `640 kB`, `1.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return (
                f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
            )
        count /= 1000
    return f"{count:.1f} TB"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(name)} {_value(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _with(text: str, fields: Event) -> str:
    """Return a text with the fields that say something, `name value` each, after it."""
    said = {name: value for name, value in fields.items() if value not in (None, "", {}, [], ())}
    if not said:
        return text
    return (
        f"{text} ({'; '.join(f'{_words(name)} {_value(value)}' for name, value in said.items())})"
    )


def _progress(name: str, fields: Event) -> str:
    of = "" if fields.get("total") is None else f" of {fields['total']:,}"
    more = {
        name: value
        for name, value in fields.items()
        if name not in ("done", "total", "unit", "per_second", "epoch", "epochs") and value
    }
    text = f"{label(name, fields)}: {fields['done']:,}{of} {fields['unit']}"
    rate = fields["per_second"]
    if fields.get("total") is not None and rate:
        left = max(0, fields["total"] - fields["done"]) / rate
        text += f" · {duration(left)} left"
    return " · ".join([text, f"{_rate(rate)}/s", *(f"{v:,} {_words(k)}" for k, v in more.items())])


def _epoch(fields: Event) -> str:
    digits = len(str(fields["epochs"]))
    best = ""
    if fields.get("best_val_loss") is not None:
        best = f" (best {fields['best_val_loss']:.3f}, epoch {fields['best_epoch']:{digits}})"
    return (
        f"epoch {fields['epoch']:{digits}}/{fields['epochs']} · loss {fields['loss']:.3f} · "
        f"val {fields['val_loss']:.3f}{best} · {duration(fields['seconds_left'])} left"
    )


def _labels(counts: Event) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _split(counts: Event) -> str:
    return "; ".join(f"{name} {_labels(labels)}" for name, labels in counts.items())


def _training(fields: Event) -> str:
    precision = fields.get("precision")
    return (
        f"training {fields['model']} at {fields['size']} pixels: {_split(fields['images'])}; "
        f"batches of {fields['batch']}"
        + (f", {precision}" if precision not in (None, "float32") else "")
        + f"; run {fields['run']}"
    )


def _devices(fields: Event) -> str:
    text = f"on {_value(fields['devices'])}"
    if fields["workers"] > 1:
        text += f", worker {fields['worker']} of {fields['workers']}"
    return text


def _phase(fields: Event) -> str:
    what = {
        "head": "the head alone",
        "fine-tune": "the top of the backbone too",
        "all": "all of the model",
    }.get(fields["phase"], fields["phase"])
    return f"training {what}: {fields['trainable']:,} weights, {fields['steps']:,} steps an epoch"


def _trained(fields: Event) -> str:
    return (
        f"trained in {duration(fields['seconds'])}, {fields['epochs']} epochs; the best is epoch "
        f"{fields['best_epoch']}, with validation loss {fields['validation_loss']:.3f} and "
        f"accuracy {fields['validation_accuracy']:.3f}; run {fields['run']}"
    )


def _complete(fields: Event) -> str:
    text = f"dataset complete: {_split(fields['images'])} images ({size(fields['bytes'])})"
    parts = [f"{fields['requests']:,} requests"]
    for name, verb in (
        ("copied", "copied from other tags"),
        ("failures", "failed"),
        ("skipped", "skipped"),
    ):
        if value := fields.get(name):
            parts.append(f"{verb}: {_value(value)}")
    return f"{text}; {'; '.join(parts)}; in {fields['storage']}"


def _explored(fields: Event) -> str:
    count = f" {fields['images']:,} images" if "images" in fields else ""
    page = f"; {fields['report']}" if "report" in fields else ""
    verb = "explored" if count else "already explored"
    size = f"train at {fields['height']}x{fields['width']} pixels"
    return f"{verb}{count}: {size}{page}"


def _evaluated(fields: Event) -> str:
    def share(name: str) -> str:
        return "none" if fields[name] is None else f"{fields[name]:.3f}"

    return (
        f"on {fields['images']:,} test images: precision {share('precision')}, recall "
        f"{share('recall')}, accuracy {share('accuracy')} from probability "
        f"{fields['threshold']:g} on; {fields['report']}"
    )


def _promised(fields: Event) -> str:
    return (
        f"precision of {fields['min_precision']:g} promised: {fields['right']:,} of "
        f"{fields['called']:,} calls were right on images kept for this, so it is at least "
        f"{fields['bound']:.3f} with {fields['confidence']:.0%} confidence"
    )


def _not_promised(fields: Event) -> str:
    return (
        f"precision of {fields['min_precision']:g} cannot be promised: {fields['right']:,} of "
        f"{fields['called']:,} calls were right on images kept for this, so it is at least "
        f"{fields['bound']:.3f} with {fields['confidence']:.0%} confidence. {fields['advice']}"
    )


def _predicted(fields: Event) -> str:
    text = f"{fields['images']:,} images predicted, {fields['positives']:,} of them positive"
    if fields.get("errors"):
        text += f"; {fields['errors']:,} could not be ({_value(fields['reasons'])})"
    return text if fields["output"] == "-" else f"{text}; {fields['output']}"


def _already_predicted(fields: Event) -> str:
    return (
        f"already predicted: {fields['images']:,} images, {fields['positives']:,} of them "
        f"positive; {fields['output']}"
    )


_WORK = {
    "compare": "comparing runs",
    "comparing": "comparing images",
    "drawing": "drawing pictures",
    "features": "what the backbone sees",
    "hashing": "hashing images",
    "pack": "packing",
    "predict": "predicting",
    "score": "scoring",
    "sync": "fetching images",
    "train": "training",
}

_SENTENCES: dict[str, Callable[[Event], str]] = {
    "already explored": _explored,
    "already predicted": _already_predicted,
    "dataset complete": _complete,
    "devices": _devices,
    "epoch": _epoch,
    "evaluated": _evaluated,
    "explored": _explored,
    "phase": _phase,
    "precision cannot be promised": _not_promised,
    "precision promised": _promised,
    "predicted": _predicted,
    "trained": _trained,
    "training": _training,
}


# --- Text


def _clock(timestamp: object) -> str:
    """Return the time of day here, with a blank after it."""
    try:
        return f"{datetime.fromisoformat(str(timestamp)).astimezone():%H:%M:%S} "
    except ValueError:
        return ""


def _clean(text: str) -> str:
    """Return a text on one line, without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split(" "))


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
