"""How a job ended: its exit code, its output, and the lines of its log."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from typing import Any

# How lines of its logs begin: its own, those of Abseil, which it brings, and what is behind a line
# break of its own where a worker of several is gone.
_OF_TENSORFLOW = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWEF]|[IWEF]\d{4} \d\d:\d\d:[\d.]+ +\d+)"
    r" \S+\.(cc|h):\d+\] "
    r"|WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    r"|/job:\w+/replica:\d+/task:\d+$"
    r"|The tasks have crashed\. Check the task logs"
    r"|The error could be from a previous operation\. Restart your program to reset\."
    r"|(RPC: /tensorflow\.|Additional GRPC error information from remote target )"
)


def log_lines(text: str, *, chatter: bool = False, summary: bool = False) -> list[dict[str, Any]]:
    """Return the lines of a log, each a JSON object.

    A job's last line, of what it has done in all, is there with `summary` alone.

    What is no JSON fails the test. With `chatter`, lines of TensorFlow's C++ between them are
    passed over, and a last one that a process was killed in the midst of.
    """
    lines = text.splitlines()
    if chatter:
        if lines and lines[-1].startswith("{") and not text.endswith("\n"):
            lines.pop()
        lines = [line for line in lines if not _OF_TENSORFLOW.match(line)]
    found = [json.loads(line) for line in lines]
    return [line for line in found if summary or line["event"] != "ended"]


@dataclass(frozen=True)
class Ended:
    code: int
    lines: list[dict[str, Any]]
    stdout: str = ""

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]

    def line(self, event: str) -> dict[str, Any]:
        """Its only line of an event."""
        [found] = [line for line in self.lines if line["event"] == event]
        return found

    @property
    def errors(self) -> list[str]:
        return [line["event"] for line in self.lines if line["level"] == "error"]

    @property
    def complaint(self) -> str:
        """Its only error, which is its last line."""
        assert len(self.errors) == 1
        assert self.lines[-1]["level"] == "error"
        assert self.lines[-1]["exit_code"] == self.code
        assert "\n" not in self.errors[0]
        return self.errors[0]

    @property
    def rows(self) -> list[dict[str, str]]:
        """The table that it has written to its standard output."""
        return list(csv.DictReader(io.StringIO(self.stdout, newline="")))
