"""How a job ended: its exit code, its output, and the lines of its log."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any


def log_lines(text: str, *, chatter: bool = False, summary: bool = False) -> list[dict[str, Any]]:
    """Return the lines of a log, each a JSON object.

    A job's last line, of what it has done in all, is there with `summary` alone.

    With `chatter`, what libraries write between them, or a process has half written, is passed
    over; without, it fails the test.
    """
    lines = text.splitlines()
    if chatter:
        lines = [line for line in lines if line.startswith("{") and line.endswith("}")]
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
