"""Standard output whose reader may leave before its end, as `head` does."""

from __future__ import annotations

import select
import sys


def stdout_has_reader() -> bool:
    """Return whether somebody may still read what is printed: False for a pipe that nobody does."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # no pipe at all
        return True
    return not any(event & select.POLLERR for _, event in poll.poll(0))
