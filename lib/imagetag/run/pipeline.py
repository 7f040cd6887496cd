"""Jobs one after the other for many tags: a tag that fails at one has no part in the next."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from imagetag.errors import EXIT_DONE, EXIT_INPUT, EXIT_TRANSIENT, EXIT_USAGE
from imagetag.run.child import Child
from imagetag.sentences import Event

_OPTION = re.compile(r"(?<![\w.-])--[a-z][a-z-]*[a-z]\b")

TAG_DONE = "tag done"
"""The event that a job logs when it is through with one of several tags."""


@dataclass(frozen=True)
class Stage:
    """A job and its options.

    Attributes:
        job: its name.
        argv: the options that do not depend on the tags.
        tags: makes the options of tags.
        secrets: variables for what must not be seen in the list of processes.
        at_once: it works on all tags together, and tells of each whether it is done or has failed:
            what came out is told of all.
        for_all: it is about all tags at once; that it fails stops none of them.
        called: what options are called in the command that runs the pipeline, where the job's
            advice names them.

    """

    job: str
    argv: Sequence[str]
    tags: Callable[[Sequence[str]], Sequence[str]] = lambda tags: ("--tags", ",".join(tags))
    secrets: Mapping[str, str] = field(default_factory=dict)
    at_once: bool = False
    for_all: bool = False
    called: Mapping[str, str] = field(default_factory=dict)

    def renamed(self, event: Event) -> Event:
        """Return an event with its options called as in the command that runs the pipeline."""
        if not self.called or event.get("level") not in ("warning", "error"):
            return event
        return {
            name: renamed(value, self.called) if isinstance(value, str) else value
            for name, value in event.items()
        }


def renamed(text: str, called: Mapping[str, str]) -> str:
    """Return a text with its options called as in the command that runs the pipeline."""
    return _OPTION.sub(lambda match: called.get(match[0], match[0]), text)


@dataclass(frozen=True)
class Failed:
    """Where a tag has failed, why, and with which exit code; below 0 it is of a signal."""

    job: str
    reason: str
    code: int


class View(Protocol):
    """What shows how it goes."""

    def begin(self, job: str, tags: Sequence[str]) -> None:
        """Show that a job starts for tags, or for all."""

    def event(self, job: str, tag: str | None, event: Event) -> None:
        """Show what it has logged of a tag, or of all."""

    def done(self, job: str, tag: str | None, seconds: float) -> None:
        """Show that it is through with a tag, or with all."""

    def failed(self, job: str, tag: str | None, reason: str) -> None:
        """Show that it has failed with a tag, or with all."""


class Pipeline:
    """Runs stages in turn.

    Attributes:
        failed: the tags that failed, and why.
        wrong: what failed of the stages that are for all tags.

    """

    def __init__(self, view: View, log: TextIO) -> None:
        self._view, self._log = view, log
        self.failed: dict[str, Failed] = {}
        self.wrong: list[Failed] = []

    @property
    def exit_code(self) -> int:
        """That of what went wrong; where it is not all the same, what must be mended first."""
        codes = {max(failed.code, 1) for failed in (*self.failed.values(), *self.wrong)}
        for code in (EXIT_USAGE, EXIT_TRANSIENT, EXIT_INPUT):
            if code in codes:
                return code
        return max(codes, default=EXIT_DONE)

    def run(self, stages: Iterable[Stage], tags: Sequence[str]) -> list[str]:
        """Run them, and return the tags that have passed all."""
        left = list(tags)
        for stage in stages:
            if not left:
                break
            if stage.for_all:
                self._for_all(stage, left)
                continue
            self._view.begin(stage.job, () if stage.at_once else left)
            waiting = left
            while waiting:
                settled = self._process(stage, waiting)
                waiting = [tag for tag in waiting if tag not in settled]
            left = [tag for tag in left if tag not in self.failed]
        return left

    def _for_all(self, stage: Stage, tags: Sequence[str]) -> None:
        self._view.begin(stage.job, ())
        started = time.monotonic()
        said: list[Event] = []

        def tell(event: Event) -> None:
            event = stage.renamed(event)
            if "exit_code" in event:
                said.append(event)
            self._view.event(stage.job, None, event)

        child = Child(stage.job, [*stage.argv, *stage.tags(tags)], self._log, stage.secrets)
        if code := child.run(tell):
            reason = str(said[-1]["event"]) if said else child.ending()
            self.wrong.append(Failed(stage.job, reason, code))
            self._view.failed(stage.job, None, reason)
        else:
            self._view.done(stage.job, None, time.monotonic() - started)

    def _process(self, stage: Stage, tags: Sequence[str]) -> set[str]:
        """Run a stage for tags in a process; return those that are done or have failed there."""
        known = set(tags)
        done: set[str] = set()
        failed: dict[str, Failed] = {}
        last: Failed | None = None
        touched = False
        begun = started = time.monotonic()

        def settle(tag: str, failure: Failed | None) -> None:
            nonlocal started
            seconds, started = time.monotonic() - started, time.monotonic()
            if failure is None:
                done.add(tag)
                if not stage.at_once:
                    self._view.done(stage.job, tag, seconds)
            else:
                failed[tag] = failure
                self._view.failed(stage.job, tag, failure.reason)

        def tell(event: Event) -> None:
            nonlocal last, touched
            event = stage.renamed(event)
            tag = event.get("tag")
            if tag not in known:
                tag = tags[0] if len(tags) == 1 and not stage.at_once else None
            touched = touched or tag is not None
            if event["event"] == TAG_DONE and tag is not None:
                settle(tag, None)
            elif "exit_code" in event:
                last = Failed(stage.job, str(event["event"]), int(event["exit_code"]))
                if tag is not None and len(tags) > 1:
                    settle(tag, last)
            else:
                self._view.event(stage.job, tag, event)

        child = Child(stage.job, [*stage.argv, *stage.tags(tags)], self._log, stage.secrets)
        code = child.run(tell)
        open_tags = [tag for tag in tags if tag not in done and tag not in failed]
        if code == EXIT_DONE:
            for tag in open_tags:
                settle(tag, None)
        elif open_tags:
            defect = code not in (EXIT_USAGE, EXIT_INPUT, EXIT_TRANSIENT)
            why = last if last and last.code == code else Failed(stage.job, child.ending(), code)
            # It has died of the tag whose turn it was: the others have a process of their own. In
            # all other cases none of them would fare better.
            lost = open_tags[:1] if defect and touched and not stage.at_once else open_tags
            failed.update(dict.fromkeys(lost, why))
            text = why.reason if len(lost) == 1 else f"{len(lost)} tags: {why.reason}"
            self._view.failed(stage.job, lost[0] if len(lost) == 1 else None, text)
        if stage.at_once and done:
            self._view.done(stage.job, None, time.monotonic() - begun)
        self.failed.update(failed)
        return done | failed.keys()
