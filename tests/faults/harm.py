"""What is to befall a job's process, and the script that lets it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

SCRIPT = """
import sys
from tests.faults.preload import run
sys.exit(run(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


@dataclass(frozen=True)
class Harm:
    """What is to befall a process.

    Attributes:
        report: a file that gets how many writes there were, where the process comes to its end.
        write: the number of the write to a file, from 1, at which it happens.
        what: that happens there: `kill`, `term`, or `full`, from which on nothing can be written.
        jump: seconds by which the clock is wrong from the `jump_at`-th look at it on.
        jump_at: see `jump`; from 1.

    """

    report: str
    write: int = 0
    what: str = ""
    jump: float = 0.0
    jump_at: int = 0

    def __str__(self) -> str:
        return json.dumps(asdict(self))
