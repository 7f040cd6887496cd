"""What a person reads on a terminal: events of the log as sentences, and bars of long work.

An event is a mapping as in the log's JSON lines: `event`, `level`, `timestamp`, and fields. Whoever
has such lines, of this process or of another, gets the same text for them here.
"""

from __future__ import annotations

import errno
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
WIDEST = 1000  # columns where it is no terminal: no table is folded in a file or a pipe
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
        name, unit = Text(clean(task.description)), task.fields["unit"]
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
    """Return a time as it is said: `40 s`, `3 min`, `1 h 20 min`, `3 days`."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    if hours >= 48:
        return f"{hours / 24:.0f} days"
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
        f"val {fields['val_loss']:.3f}{best}"
    ) + (f" · {duration(fields['seconds_left'])} left" if fields["seconds_left"] else "")


def _labels(counts: Event) -> str:
    return " + ".join(f"{count:,} {name}" for name, count in counts.items())


def _split(counts: Event) -> str:
    return ", ".join(f"{name} {_labels(labels)}" for name, labels in counts.items())


def counted(number: int, one: str) -> str:
    """Return a number of things: `1 epoch`, `2 epochs`."""
    return f"{number:,} {one}{'s' * (number != 1)}"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _training(fields: Event) -> str:
    precision = fields.get("precision")
    return (
        f"training {fields['model']} at {fields['size']} pixels on {_split(fields['images'])} "
        f"images, in batches of {fields['batch']}"
        + (f", {_words(precision)}" if precision not in (None, "float32") else "")
        + f"; run {fields['run']}"
    )


def _devices(fields: Event) -> str:
    text = f"computing on {_value(fields['devices'])}"
    if fields["workers"] > 1:
        text += f", worker {fields['worker']} of {fields['workers']}"
    return text


def _phase(fields: Event) -> str:
    what = {
        "head": "the head alone",
        "fine-tune": "the top of the backbone too",
        "all": "the whole model",
    }.get(fields["phase"], fields["phase"])
    return f"{what}: {fields['trainable']:,} weights, {counted(fields['steps'], 'step')} an epoch"


def _resumed(fields: Event) -> str:
    return f"going on from the checkpoint in epoch {fields['epoch']}, step {fields['step']}"


def _trained(fields: Event) -> str:
    return (
        f"trained {counted(fields['epochs'], 'epoch')} in {duration(fields['seconds'])}; the best "
        f"is epoch {fields['best_epoch']}: validation loss {fields['validation_loss']:.3f}, "
        f"accuracy {fields['validation_accuracy']:.3f}; model in {fields['storage']}"
    )


def _complete(fields: Event) -> str:
    text = f"dataset complete: {_split(fields['images'])} images, {size(fields['bytes'])}"
    parts = [f"{text}, {counted(fields['requests'], 'request')}"]
    for name, verb in (
        ("copied", "copied from other tags"),
        ("failures", "failed"),
        ("skipped", "skipped"),
    ):
        if value := fields.get(name):
            parts.append(f"{verb}: {_value(value)}")
    return "; ".join([*parts, f"in {fields['storage']}"])


def _already_complete(fields: Event) -> str:
    return f"dataset already complete: {_split(fields['images'])} images"


def _going_on(fields: Event) -> str:
    if isinstance(fields.get("rows"), Mapping):
        return f"going on: {_labels(fields['rows'])} images are stored already"
    if "missing" in fields:
        return f"going on: {fields['missing']:,} of {fields['shards']:,} shards are missing"
    return f"going on: {counted(fields['rows'], 'row')} are there already"


def _curated(fields: Event) -> str:
    found = []
    if fields["dropped"]:
        found.append(f"{counted(fields['dropped'], 'near-duplicate')} dropped")
    if fields["groups"]:
        found.append(f"{counted(fields['groups'], 'group')} of near-duplicates kept together")
    if fields["conflicting"]:
        found.append(f"{counted(fields['conflicting'], 'image')} with both labels")
    if not found:
        return "curated: no near-duplicates"
    return f"curated: {', '.join(found)}; now {_split(fields['images'])} images"


def _explored(fields: Event) -> str:
    what = f"explored {fields['images']:,} images" if "images" in fields else "already explored"
    return f"{what}: train at {fields['height']}x{fields['width']} pixels; page {fields['report']}"


def _shortcut(fields: Event) -> str:
    return (
        f"a shortcut: the label can be told without a look at the pictures, by {fields['by']} "
        f"(ROC AUC {fields['roc_auc']:.2f}): {fields['how']}. {fields['advice']}"
    )


def _packed(fields: Event) -> str:
    text = (
        f"packed {_split(fields['images'])} images in {counted(fields['shards'], 'shard')}, "
        f"{size(fields['bytes'])}; pack {fields['name']}"
    )
    return f"{text}; left out: {_value(fields['left_out'])}" if fields["left_out"] else text


def _evaluated(fields: Event) -> str:
    return (
        f"evaluated on {fields['images']:,} test images: precision {_share(fields['precision'])}, "
        f"recall {_share(fields['recall'])}, accuracy {_share(fields['accuracy'])}, from "
        f"probability {fields['threshold']:g} on; page {fields['report']}"
    )


def _evidence(fields: Event) -> str:
    return (
        f"{fields['right']:,} of {fields['called']:,} calls were right on images kept for this, "
        f"so precision is at least {fields['bound']:.3f} with {100 * fields['confidence']:g} % "
        "confidence"
    )


def _promised(fields: Event) -> str:
    return f"a precision of {fields['min_precision']:g} is promised: {_evidence(fields)}"


def _not_promised(fields: Event) -> str:
    return (
        f"a precision of {fields['min_precision']:g} cannot be promised: {_evidence(fields)}; "
        f"{fields['advice']}"
    )


def _judged(fields: Event) -> str:
    return (
        f"labels judged of {fields['images']:,} images: {fields['suspect_positives']:,} positives "
        f"and {fields['suspect_negatives']:,} negatives are probably wrong"
    )


def _found(fields: Event) -> str:
    text = f"predicted {counted(fields['images'], 'image')}: {fields['positives']:,} "
    if fields.get("tags", 1) == 1 and fields.get("rows", fields["images"]) == fields["images"]:
        return text + "have the tag"
    return text + "times an image has one of the tags"


def _predicted(fields: Event) -> str:
    text = _found(fields)
    if fields.get("errors"):
        text += f"; {fields['errors']:,} could not be read ({_value(fields['reasons'])})"
    return text if fields["output"] == "-" else f"{text}; {fields['output']}"


def _already_predicted(fields: Event) -> str:
    return f"already {_found(fields)}; {fields['output']}"


def _read_list(fields: Event) -> str:
    more = {"joined": fields["joined"], "of unknown rating": fields["rating_unknown"]}
    told = [f"{count:,} {what}" for what, count in more.items() if count]
    return f"read {fields['board']}: {', '.join([counted(fields['posts'], 'picture'), *told])}"


def _reported(fields: Event) -> str:
    return f"{fields['headline'].rstrip('.')}; page {fields['report']}"


def _left_out(fields: Event) -> str:
    what = fields.get("file") or fields.get("md5") or fields.get("run")
    why = fields.get("detail") or fields["reason"]
    return f"left out: {what}: {why}" if what else f"left out: {why}"


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
    "already complete": _already_complete,
    "already curated": lambda fields: f"already {_curated(fields)}",
    "already evaluated": lambda fields: f"already evaluated; page {fields['report']}",
    "already explored": _explored,
    "already packed": lambda fields: f"already packed: {fields['name']}",
    "already predicted": _already_predicted,
    "already trained": lambda fields: f"already trained; model in {fields['storage']}",
    "curated": _curated,
    "dataset complete": _complete,
    "devices": _devices,
    "epoch": _epoch,
    "evaluated": _evaluated,
    "explored": _explored,
    "evaluate could promise no precision at this threshold": lambda fields: (
        f"evaluate could not promise a precision of {fields['min_precision']:g}: it is at least "
        f"{fields['bound']:.3f}"
    ),
    "fewer than asked for": lambda fields: (
        f"{fields['images']:,} of {fields['wanted']:,} {fields['label']} images: "
        f"{fields.get('source', 'the board')} has no more that fit"
    ),
    "going on": _going_on,
    "host answers again": lambda fields: f"{fields['host']} answers again",
    "host paused": lambda fields: (
        f"{fields['host']} is left alone for {duration(fields['seconds'])}: {fields['error']}"
    ),
    "labels judged": _judged,
    "left out": _left_out,
    "packed": _packed,
    "phase": _phase,
    "no label is judged": lambda fields: f"no label is judged: {fields['reason']}",
    "precision cannot be promised": _not_promised,
    "precision promised": _promised,
    "predicted": _predicted,
    "reading the board": lambda fields: f"reading {fields['board']} ({fields['by']})",
    "read the list": _read_list,
    "reported": _reported,
    "resumed": _resumed,
    "serving": lambda fields: (
        f"serving {counted(fields['posts'], 'post')} as a board of engine {fields['engine']}; "
        "Ctrl-C ends it"
    ),
    "shortcut: the label can be told without a look at the pictures": _shortcut,
    "tag done": lambda fields: f"done, {fields['number']} of {counted(fields['of'], 'tag')}",
    "went wrong while stopping": lambda fields: (
        f"while stopping this went wrong too: {fields['error']}"
    ),
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
