"""What a person, or a program, sees of a pipeline that runs: a line a tag and stage."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from imagetag.console import clean, line, open_console
from imagetag.log import LogFormat, get_logger
from imagetag.run.pipeline import TAG_DONE, View
from imagetag.sentences import Event, counted, duration, sentence

_JOB = 9  # columns, of a stage's name and a blank
_NAME = 30  # columns at the most, of a tag
_BAR = 16  # columns
_WIDE = 110  # columns from which on there is room for a bar
_TICKS = 8  # a second: how often the live line is drawn
_SHOWN = ("warning", "error", "critical")


def is_json(log_format: LogFormat) -> bool:
    """Tell whether log lines are for programs."""
    return log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())


@contextmanager
def open_view(log_format: LogFormat) -> Iterator[View]:
    """Give what shows a pipeline: lines with one that lives, plain lines, or JSON."""
    if is_json(log_format):
        yield JsonView()
        return
    console = open_console()
    if not console.is_terminal:
        yield PlainView(console)
        return
    view = LiveView(console)
    with Live(
        view,
        console=console,
        refresh_per_second=_TICKS,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield view


class JsonView:
    """Passes on what the jobs log, with the stage in each line, and adds how each ended."""

    def begin(self, job: str, tags: Sequence[str]) -> None:
        """Log it."""
        get_logger().info("stage begins", stage=job, tags=len(tags) or None)

    def event(self, job: str, tag: str | None, event: Event) -> None:
        """Pass on the line."""
        tagged = {"tag": tag} if tag is not None else {}
        sys.stderr.write(json.dumps({"stage": job, **tagged, **event}, ensure_ascii=False) + "\n")

    def done(self, job: str, tag: str | None, seconds: float) -> None:
        """Log it."""
        get_logger().info("stage done", stage=job, tag=tag, seconds=round(seconds, 1))

    def failed(self, job: str, tag: str | None, reason: str) -> None:
        """Log it."""
        get_logger().error("stage failed", stage=job, tag=tag, reason=reason)


class _Lines:
    """Prints a line when a tag is through a stage, and what is wrong at once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._wide = 0
        self._results: dict[tuple[str, str | None], str] = {}

    def begin(self, job: str, tags: Sequence[str]) -> None:  # noqa: ARG002 - it is a View's
        """Make room for the tags' names."""
        self._wide = max([self._wide, *(min(len(tag), _NAME) for tag in tags)])

    def event(self, job: str, tag: str | None, event: Event) -> None:
        """Print it if it is a warning; keep what tells the result."""
        if result := _result(event):
            self._results[job, tag] = result
        if event.get("level") in _SHOWN:
            untagged = {name: value for name, value in event.items() if name != "tag"}
            # One job may work on all tags at once, as predict does.
            self._print("!", job, tag or event.get("tag"), line(untagged), "yellow")

    def done(self, job: str, tag: str | None, seconds: float) -> None:
        """Print what came out."""
        result = self._results.pop((job, tag), "done")
        self._print("✓", job, tag, Text.assemble(result, (f" · {duration(seconds)}", "dim")))

    def failed(self, job: str, tag: str | None, reason: str) -> None:
        """Print why."""
        self._print("✗", job, tag, Text(clean(reason)), "bold red")

    def _print(
        self, mark: str, job: str, tag: str | None, text: Text, style: str = "green"
    ) -> None:
        if not self._console.encoding.startswith("utf"):
            mark = {"✓": "+", "✗": "x"}.get(mark, mark)
        name = clean(tag or "")
        row = Table.grid(padding=0)
        for width in (2, _JOB, self._wide + 2):
            row.add_column(width=width, no_wrap=True)
        row.add_column(overflow="fold")
        row.add_row(Text(mark, style), job, Text(name, "bold"), text)
        if self._console.is_terminal:
            self._console.print(row)
            return
        start = f"{mark} {job:{_JOB}}{name:{self._wide}}  "
        self._console.print(f"{start}{text.plain}", soft_wrap=True)


class PlainView(_Lines):
    """Lines alone, for a file: what a job says goes between them, a progress every few seconds."""

    def event(self, job: str, tag: str | None, event: Event) -> None:
        """Print it."""
        super().event(job, tag, event)
        if event.get("level") == "info" and event["event"] != TAG_DONE:
            self._print(" ", job, tag, Text(clean(sentence(event))))


class LiveView(_Lines):
    """A line below all others that tells what is under way: how much, how fast, how long yet."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._spinner = Spinner("dots" if console.encoding.startswith("utf") else "line")
        self._job, self._tag, self._said = "", "", ""
        self._done, self._total = 0, 0
        self._count, self._of = 0, 0
        self._started = time.monotonic()

    def begin(self, job: str, tags: Sequence[str]) -> None:
        """Show another stage."""
        super().begin(job, tags)
        self._job, self._count, self._of = job, 0, len(tags)
        self._next()

    def event(self, job: str, tag: str | None, event: Event) -> None:
        """Show what it says."""
        super().event(job, tag, event)
        if tag is not None:
            self._tag = clean(tag)
        if event.get("level") != "info" or event["event"] == TAG_DONE:
            return
        self._said = clean(sentence(event))
        if isinstance(event.get("done"), int) and isinstance(event.get("total"), int):
            self._done, self._total = event["done"], event["total"]
        else:
            self._total = 0

    def done(self, job: str, tag: str | None, seconds: float) -> None:
        """Print what came out, and show the next."""
        super().done(job, tag, seconds)
        self._count += 1
        self._next()

    def failed(self, job: str, tag: str | None, reason: str) -> None:
        """Print why, and show the next."""
        super().failed(job, tag, reason)
        if self._of or tag is None:  # else others are under way with it
            self._count += 1
            self._next()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._job or self._count > max(self._of - 1, 0):  # all that it began is told
            return
        room = options.max_width - 1  # a full line would break some terminals
        text = cast("Text", self._spinner.render(console.get_time()))
        text = Text.assemble(text, " ", (f"{self._job:{_JOB}}", "cyan"))
        if self._tag:
            text.append(f"{self._tag[:_NAME]:{self._wide + 2}}", "bold")
        if self._total and room >= _WIDE:
            full = min(_BAR, round(_BAR * self._done / self._total))
            mark = "━" if console.encoding.startswith("utf") else "="
            text.append(mark * full, "green").append(mark * (_BAR - full) + " ", "dim")
        of = f" · tag {self._count + 1} of {self._of}" if self._of > 1 else ""
        end = f"{of} · {duration(time.monotonic() - self._started)}"
        said = Text(self._said)
        said.truncate(max(room - text.cell_len - len(end), 10), overflow="ellipsis")
        text = Text.assemble(text, said, (end, "dim"))
        text.truncate(room, overflow="ellipsis")
        yield text

    def _next(self) -> None:
        self._tag, self._said, self._total = "", "starting", 0
        self._started = time.monotonic()


def _result(event: Event) -> str:
    """Return what a stage's last word on a tag says, in short; empty if it is no such event."""
    say = _RESULTS.get(str(event["event"]))
    try:
        return say(event) if say else ""
    except (KeyError, TypeError, ValueError, AttributeError):
        return ""  # of another version, which had other fields


def _dataset(event: Event) -> str:
    images = sum(sum(labels.values()) for labels in event["images"].values())
    failed = sum(event["failures"].values())
    already = "already there" if event["event"] == "already complete" else "stored"
    return f"{images:,} images {already}" + (f", {failed:,} failed" if failed else "")


def _trained(event: Event) -> str:
    if "epochs" not in event:
        return f"accuracy {event['validation_accuracy']:.3f} on images that were not learned from"
    return (
        f"{counted(event['epochs'], 'epoch')}, the best is {event['best_epoch']}; "
        f"validation accuracy {event['validation_accuracy']:.3f}"
    )


def _evaluated(event: Event) -> str:
    def share(name: str) -> str:
        return "none" if event[name] is None else f"{event[name]:.3f}"

    return f"test precision {share('precision')}, recall {share('recall')}"


def _embedded(event: Event) -> str:
    before = f", {event['already']:,} had features before" if event["already"] else ""
    return f"{counted(event['images'], 'image')} embedded{before}; extractor {event['extractor']}"


def _predicted(event: Event) -> str:
    if event.get("tags", 1) == 1:
        return f"{event['positives']:,} of {event['images']:,} called the tag"
    return f"{event['images']:,} images, and {event['positives']:,} times one has a tag"


_RESULTS: dict[str, Callable[[Event], str]] = {
    "already complete": _dataset,
    "dataset complete": _dataset,
    "explored": lambda event: f"train at {event['height']}x{event['width']} pixels",
    "already explored": lambda event: (
        f"train at {event['height']}x{event['width']} pixels, already explored"
    ),
    "embedded": _embedded,
    "trained": _trained,
    "already trained": lambda _: "already trained",
    "evaluated": _evaluated,
    "already evaluated": lambda _: "already evaluated",
    "reported": lambda event: (
        f"{event['evaluated']:,} of {event['runs']:,} runs evaluated, of {event['tags']:,} tags"
    ),
    "predicted": _predicted,
    "already predicted": lambda event: f"{_predicted(event)}, already predicted",
}
