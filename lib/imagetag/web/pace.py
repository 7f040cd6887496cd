"""One request rate for a job of many pods, kept without a word between them.

The pods share only the time of day. It is cut into slots of even length, dealt out to the shards
in turn; a request is sent at the start of a slot of its shard, or not at all.
"""

from __future__ import annotations

import math
import threading
import time

# Slots are this much longer than the rate allows, which leaves a second's window 50 ms to spare:
# 20 ms for whoever wakes late, the rest for clocks that differ and for the way to the server.
_MARGIN = 1.05
LATEST = 0.02  # seconds after a slot's start in which its request may still be sent
_CLOCK_STEP = 0.002  # seconds by which the time of day may differ from ours, before we follow it
_MANY = 1000


class Pace:
    """Gives out the slots of one shard. Safe to use from many threads.

    Args:
        rate: requests a second over all shards, over 0.
        shard_index: which shard this is, from 0.
        shard_count: how many there are.

    """

    def __init__(self, rate: float, shard_index: int = 0, shard_count: int = 1) -> None:
        self._spacing = _MARGIN / rate
        self._index = shard_index
        self._count = shard_count
        self._lock = threading.Lock()
        # Waiting goes by the monotonic clock, so that nobody waits for a time of day that was
        # taken back; slots are numbered by the time of day, which is that clock and this.
        self._offset = time.time() - time.monotonic()
        self._next = 0  # the first slot that was not passed over yet
        self._taken: set[int] = set()  # slots after it that are given out
        self._intervals: dict[str, _Interval] = {}

    def set_interval(self, host: str, seconds: float) -> None:
        """Let at least so many seconds pass between requests to a host, over all shards."""
        # Every n-th slot is the host's. With an n that has no factor in common with the number of
        # shards, all shards come by in turn, and no two of them are nearer than the interval.
        every = max(1, math.ceil((seconds + LATEST) / self._spacing))
        while math.gcd(every, self._count) != 1:
            every += 1
        mine = every * (self._index * pow(every, -1, self._count) % self._count)
        with self._lock:
            known = self._intervals.get(host)
            if known is None or every > known.every:
                self._intervals[host] = _Interval(every, every * self._count, mine)

    def wait(self, host: str, not_before: float = 0.0) -> float:
        """Return in how many seconds the slot begins that `reserve` would give; 0 if it has."""
        with self._lock:
            now = self._now()
            return max(0.0, self._find(host, now, not_before) * self._spacing - self._offset - now)

    def reserve(self, host: str, not_before: float = 0.0) -> float:
        """Take the next slot, and return when it starts, in seconds of the monotonic clock.

        Args:
            host: where the request will go.
            not_before: a time of the monotonic clock.

        """
        with self._lock:
            now = self._now()
            slot = self._find(host, now, not_before)
            interval = self._intervals.get(host)
            if interval is not None:
                interval.next = slot + interval.every
            if interval is None and not_before <= now:
                self._next = slot + 1
            else:  # it may be far ahead: others go on in the slots before it
                self._taken.add(slot)
                if len(self._taken) > _MANY:
                    self._taken = {taken for taken in self._taken if taken >= self._next}
            return slot * self._spacing - self._offset

    def _find(self, host: str, now: float, not_before: float) -> int:
        # A slot that has just begun will do: who needs no more than the rate need not wait.
        self._next = max(self._next, self._after(now - LATEST / 2))
        least = max(self._next, self._after(not_before))
        cycle, mine = self._count, self._index
        interval = self._intervals.get(host)
        if interval is not None:
            cycle, mine = interval.cycle, interval.mine
            least = max(least, interval.next)
        slot = least + (mine - least) % cycle
        while slot in self._taken:
            slot += cycle
        return slot

    def _after(self, moment: float) -> int:
        return math.ceil((moment + self._offset) / self._spacing)

    def _now(self) -> float:
        before = time.monotonic()
        offset = time.time() - before
        now = time.monotonic()
        change = offset - self._offset
        # If this thread was held up between the two clocks, they say nothing about each other.
        if now - before < _CLOCK_STEP / 2 and abs(change) > _CLOCK_STEP:
            self._renumber(change / self._spacing)
            self._offset = offset
        return now

    def _renumber(self, by: float) -> None:
        """Give slots the numbers of another time of day; they begin when they did, or later."""
        self._next = math.ceil(self._next + by)
        self._taken = {math.ceil(slot + by) for slot in self._taken}
        for interval in self._intervals.values():
            interval.next = math.ceil(interval.next + by)


class _Interval:
    """A host's own rule: every so many slots is one for it, and each `cycle` one of this shard."""

    def __init__(self, every: int, cycle: int, mine: int) -> None:
        self.every = every
        self.cycle = cycle
        self.mine = mine
        self.next = 0
