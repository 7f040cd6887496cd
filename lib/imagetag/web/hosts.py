"""What a client knows of each host: how many requests it has, whether it is down, when to ask."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from imagetag.errors import Terminated
from imagetag.log import get_logger
from imagetag.web.pace import LATEST, Pace

_PATIENCE = 300.0  # seconds; who asks to be left alone for longer is asked by the next run
_LONGEST_PAUSE = 86400.0  # seconds
_LEAD = 1.0  # seconds before a slot, in which its connection is looked after
_MANY = 1000  # hosts


class HttpError(Exception):
    """A request that failed for good or, after retries, for now.

    Attributes:
        reason: one word for counting, such as `http_404`, `timeout`, `too_large`.
        permanent: whether asking again is pointless.
        content: the first bytes that came with a refusal, which may say why; not in its text.

    """

    def __init__(self, reason: str, detail: str, *, permanent: bool, content: bytes = b"") -> None:
        super().__init__(detail)
        self.reason = reason
        self.permanent = permanent
        self.content = content


@dataclass(frozen=True)
class Breaker:
    """When a host counts as down, and how long it is left alone then.

    Attributes:
        failures: requests in a row, over all threads, that fail in a way that may pass, after
            which it is paused. One that is tried again counts once: it may be at fault itself.
        pause: seconds of the first pause; each further one is twice as long, and up to a quarter
            more by chance, so that pods do not come back together.
        longest: seconds of the longest.
        openings: pauses without a success between them, after which requests fail at once.

    """

    failures: int = 10
    pause: float = 30.0
    longest: float = 300.0
    openings: int = 5


class Stop:
    """Tells every waiting thread to end."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Make this and every later `check` and `sleep` raise."""
        self._event.set()

    def check(self) -> None:
        """Raise Terminated if it is time to stop."""
        if self._event.is_set():
            raise Terminated

    def sleep(self, seconds: float) -> None:
        """Wait, or raise Terminated."""
        if seconds > 0 and self._event.wait(seconds):
            raise Terminated


class Host:
    """One host, for all threads: its limit, its circuit breaker and what it asked for.

    Args:
        name: host and port, as `host_of` writes them.
        limit: how many requests it may have at once.
        breaker: when it counts as down.
        stop: ends all waiting.

    """

    def __init__(self, name: str, limit: int, breaker: Breaker, stop: Stop) -> None:
        self.name = name
        self.not_before = 0.0  # monotonic: until then it asked to be left alone
        self._limit = limit
        self._rule = breaker
        self._stop = stop
        self._changed = threading.Condition()
        self._active = 0
        self._failures = 0  # in a row
        self._openings = 0  # without a success since; over 0 means that it is down
        self._opened = 0.0
        self._closed_until = 0.0
        self._probing = False
        self._last: HttpError | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return not (self._active or self._failures) and self.not_before < time.monotonic()

    @contextmanager
    def visit(self, pace: Pace) -> Iterator[Visit]:
        """Wait until another request may be under way, and count it until the block ends.

        Raises:
            HttpError: if the host is down, or asked to be left alone for long.
            Terminated: if it is time to stop.

        """
        with self._changed:
            probe = self._admitted(waiting_for_place=True)
            self._active += 1
        visit = Visit(self, pace, self._stop, probe=probe)
        try:
            yield visit
        finally:
            with self._changed:
                self._active -= 1
                if visit.probe:  # it ended without telling anything: another has to find out
                    self._probing = False
                    self._changed.notify_all()
                else:
                    self._changed.notify()

    def admits(self, visit: Visit) -> bool:
        """Return whether a request may go now; if the host went down meanwhile, wait for it."""
        with self._changed:
            if self.not_before > time.monotonic():
                return False
            if visit.probe or not self._openings:
                return True
            visit.probe = self._admitted(waiting_for_place=False)
            return False

    def wake(self) -> None:
        """Make waiting threads look whether it is time to stop."""
        with self._changed:
            self._changed.notify_all()

    def ask_not_before(self, seconds: float) -> None:
        """Leave the host alone for so long, as it asked."""
        until = time.monotonic() + min(seconds, _LONGEST_PAUSE)
        with self._changed:
            self.not_before = max(self.not_before, until)

    def check_patience(self) -> None:
        """Raise HttpError if the host asked to be left alone for longer than anybody waits."""
        seconds = self.not_before - time.monotonic()
        if seconds > _PATIENCE:
            raise HttpError(
                "retry_after",
                f"{self.name} asks to be left alone for {seconds:.0f} s: run this again then",
                permanent=False,
            )

    def succeeded(self, *, probe: bool) -> None:
        """Count an answer that is one."""
        if not (probe or self._failures):
            return
        with self._changed:
            if self._openings and not probe:
                return  # it was asked before the host went down
            if self._openings:
                get_logger().info(
                    "host answers again",
                    host=self.name,
                    seconds=round(time.monotonic() - self._opened, 1),
                )
            self._failures = self._openings = 0
            self._probing = False
            self._changed.notify_all()

    def failed(self, error: HttpError, *, probe: bool, again: bool) -> None:
        """Count a passing failure; after some in a row the host is paused.

        Args:
            error: what failed.
            probe: whether it was the one request that a host which is down gets.
            again: whether the same request has failed before.

        """
        with self._changed:
            now = time.monotonic()
            # While it is paused, whatever was under way fails too, and says nothing new.
            if not probe and (self._openings or self.not_before > now):
                return
            if again and not probe:
                return
            self._failures += 1
            self._last = error
            if not probe and self._failures < self._rule.failures:
                return
            if not self._openings:
                self._opened = now
            seconds = min(self._rule.pause * 2**self._openings, self._rule.longest)
            seconds = random.uniform(seconds, seconds * 1.25)  # noqa: S311 - no secret
            self._openings += 1
            self._closed_until = now + seconds
            self._probing = False
            get_logger().warning(
                "host paused",
                host=self.name,
                seconds=round(seconds, 1),
                failures=self._failures,
                error=str(error),
            )
            self._changed.notify_all()

    def _admitted(self, *, waiting_for_place: bool) -> bool:
        """Wait, with the lock held, until a request may go; return whether it is the probe."""
        while True:
            self._stop.check()
            self.check_patience()
            place = not waiting_for_place or self._active < self._limit
            left = self._closed_until - time.monotonic()
            if not self._openings:
                if place:
                    return False
                self._changed.wait()
            elif left > 0 or self._probing or not place:
                if self._openings >= self._rule.openings:
                    raise self._given_up()
                self._changed.wait(left if left > 0 else None)
            else:
                self._probing = True
                return True

    def _given_up(self) -> HttpError:
        assert self._last is not None  # noqa: S101 - something opened it
        return HttpError(
            self._last.reason,
            f"{self.name} failed {self._failures} times in a row, over {self._openings} pauses, "
            f"and is given up for now; last {self._last}",
            permanent=False,
        )


class Visit:
    """A request to a host, from the wait for its place to its end."""

    def __init__(self, host: Host, pace: Pace, stop: Stop, *, probe: bool) -> None:
        self.host = host
        self.probe = probe  # the only request that a host which was down gets
        self.sent = False
        self._pace = pace
        self._stop = stop

    @property
    def is_near(self) -> bool:
        """Whether its slot would come so soon that its connection may be made already."""
        return self._pace.wait(self.host.name, self.host.not_before) < _LEAD

    def take(self) -> float:
        """Take a slot, wait until shortly before it, and return its start."""
        self.host.check_patience()
        start = self._pace.reserve(self.host.name, self.host.not_before)
        self._stop.sleep(start - _LEAD - time.monotonic())
        return start

    def keep(self, start: float) -> bool:
        """Wait for the slot; return whether the request may be sent, or needs another slot."""
        self._stop.sleep(start - time.monotonic())
        self._stop.check()
        if not self.host.admits(self) or time.monotonic() > start + LATEST:
            return False
        self.sent = True
        return True

    def succeeded(self) -> None:
        """Say that the host answered as it should."""
        probe, self.probe = self.probe, False
        self.host.succeeded(probe=probe)

    def failed(self, error: HttpError, *, again: bool) -> None:
        """Say that the host failed in a way that may pass; `again` if this request did before."""
        probe, self.probe = self.probe, False
        self.host.failed(error, probe=probe, again=again)


class Hosts:
    """All hosts that were asked, by name."""

    def __init__(self, limit: int, breaker: Breaker, stop: Stop) -> None:
        self._limit, self._breaker, self._stop = limit, breaker, stop
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}

    def __getitem__(self, name: str) -> Host:
        host = self._hosts.get(name)
        if host is not None:
            return host
        with self._lock:
            if len(self._hosts) >= _MANY:  # a board can name any number of them
                self._hosts = {
                    known.name: known for known in self._hosts.values() if not known.idle
                }
            return self._hosts.setdefault(name, Host(name, self._limit, self._breaker, self._stop))

    def wake(self) -> None:
        """Make waiting threads look whether it is time to stop."""
        with self._lock:
            hosts = list(self._hosts.values())
        for host in hosts:
            host.wake()
