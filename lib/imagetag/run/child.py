"""A job as a child process: its events as they come, and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TextIO

from imagetag.errors import Terminated
from imagetag.job import ENV_PREFIX, PARENT, ending_with_this
from imagetag.sentences import Event


def command(job: str) -> list[str]:
    """Return what runs a job, without its options."""
    # Not from the folder that somebody is in: it may have a jobs.py, or a numpy.py.
    return [sys.executable, "-P", "-m", f"jobs.{job}"]


class Child:
    """A job that runs by the side of this process, which reads its log.

    What it logs is kept in a file, line by line, whatever is shown of it; what else it or a library
    writes is kept there as lines of level `debug`.
    """

    def __init__(
        self, job: str, argv: Sequence[str], log: TextIO, secrets: Mapping[str, str] | None = None
    ) -> None:
        """Start it.

        Args:
            job: its name.
            argv: its options, all of them: it gets no variable of ours, which have been read.
            log: gets its lines.
            secrets: variables for what must not be seen in the list of processes.

        """
        self._job, self._log = job, log
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._command = [*command(job), *argv, "--log-format", "json"]
        self._environment = {
            name: value for name, value in os.environ.items() if not _is_setting(name)
        } | {**(secrets or {}), PARENT: str(os.getpid())}
        self.returncode: int | None = None
        self.last_words = ""

    def run(self, tell: Callable[[Event], None]) -> int:
        """Run it, tell each line that it logs, and return its exit code.

        SIGTERM and Ctrl-C are passed on, and it is waited for: what it says is kept of its work
        becomes a note to the exception.
        """
        with subprocess.Popen(  # noqa: S603
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process:
            try:
                with ending_with_this(process):
                    assert process.stdout is not None  # noqa: S101 - as it is a pipe
                    reader = threading.Thread(target=self._read, args=(process.stdout,))
                    reader.start()
                    try:
                        for event in self._events():
                            tell(event)
                    except (KeyboardInterrupt, Terminated) as stopped:
                        # It may have had the same signal, or have it yet: both are one to it.
                        process.terminate()
                        for event in self._events():
                            if "exit_code" in event:
                                stopped.add_note(_kept(str(event["event"])))
                        raise
                    reader.join()
            except BaseException:
                process.terminate()
                raise
        self.returncode = process.returncode
        return process.returncode

    def ending(self) -> str:
        """Return how it ended, for whom it has told nothing."""
        code = self.returncode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
                short = ": is there enough memory?" if name == "SIGKILL" else ""
                return f"imagetag {self._job} was ended by {name}{short}"
        last = f": {self.last_words}" if self.last_words else ""
        return f"imagetag {self._job} ended with {code}{last}"

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def _events(self) -> Iterator[Event]:
        while (line := self._lines.get()) is not None:
            if not (text := line.strip()):
                continue
            try:
                event = json.loads(text)
            except ValueError:
                event = None
            if not (isinstance(event, dict) and isinstance(event.get("event"), str)):
                self.last_words = text[:300]
                event = {"level": "debug", "event": text}
            self._log.write(json.dumps({"job": self._job, **event}, ensure_ascii=False) + "\n")
            self._log.flush()
            yield event


def _kept(last_line: str) -> str:
    """Return what the last line of a job that was stopped says is kept."""
    return last_line.partition("; ")[2] or last_line


def _is_setting(name: str) -> bool:
    # Where an image has its weights is no option of a job.
    is_option = name.startswith(ENV_PREFIX) and name != "IMAGETAG_IMAGENET_FOLDER"
    return is_option or name == "JOB_COMPLETION_INDEX"
