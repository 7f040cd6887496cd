"""What a job's process does before the job: it makes haste, counts its writes, comes to harm.

All of it is of the process itself: a write to a file that ends it in the midst, or for which there
is no room on the disk; and a clock that jumps. Requests come to harm on their way, in the proxy.
"""

from __future__ import annotations

import builtins
import errno
import importlib
import io
import json
import os
import random
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from botocore.retries.bucket import TokenBucket

from imagetag.embed import embed
from imagetag.job import heartbeat
from imagetag.storage import s3
from imagetag.web.hosts import Breaker
from tests.faults.harm import Harm
from tests.integration.trainings import TINY
from tests.pages import undrawn

_DEVICES = ("/dev/", "/proc/", "/sys/")


def run(harm: str, job: str, arguments: list[str]) -> int:
    """Run a job to whatever end."""
    told = Harm(**json.loads(harm))
    _hasten()
    writes = _Writes(told)
    if told.jump:
        _jump(told.jump, told.jump_at)
    try:
        with undrawn():
            if job == "train":
                exec(TINY, {})
            code: int = importlib.import_module(f"jobs.{job}").main(arguments)
        return code
    finally:
        with writes.plainly(told.report, "w") as file:
            file.write(str(writes.count))


def _hasten() -> None:
    """Wait for nothing that is only waited for out of politeness, and have more to lose."""
    random.uniform = lambda a, b: a + 0.01 * (b - a)
    TokenBucket.acquire = lambda *_, **__: True
    s3._PAUSES = (0.02, 0.02, 0.02, 0.02, 0.02)
    Breaker.__init__.__defaults__ = (10, 0.1, 0.2, 100)
    embed.__dict__["PART"] = 8


class _Writes:
    """Counts what is written to files, in all threads, and does harm at one of them."""

    def __init__(self, harm: Harm) -> None:
        self.count = 0
        self.full = False
        self._harm = harm
        self._lock = threading.Lock()
        self.plainly = io.open
        builtins.open = io.open = self._open

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **how: Any) -> Any:
        named = isinstance(file, str | Path) and not str(file).startswith(_DEVICES)
        if not named or not set(mode) & set("wxa+"):
            return self.plainly(file, mode, buffering, *rest, **how)
        raw = _Raw(file, mode.replace("b", "").replace("t", ""), opener=how.pop("opener", None))
        raw.writes = self
        if buffering == 0:
            return raw
        stream = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return stream
        text = io.TextIOWrapper(stream, *rest, **how)
        text.reconfigure(line_buffering=buffering == 1)
        text.mode = mode  # type: ignore[misc]
        return text

    def before(self) -> str:
        """Count a write, and return what happens in the midst of it, if anything does."""
        with self._lock:
            self.count += 1
            now = self.count == self._harm.write
            self.full |= now and self._harm.what == "full"
            return "full" if self.full else self._harm.what if now else ""


class _Raw(io.FileIO):
    writes: _Writes

    def write(self, data: Any) -> int:
        what = self.writes.before()
        if what:
            super().write(memoryview(data)[: len(data) // 2])
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if what == "term":
            os.kill(os.getpid(), signal.SIGTERM)
            return len(data) // 2
        return super().write(data)


def _jump(seconds: float, at: int) -> None:
    """Let the clock be right for some looks, and then not any more."""
    looks, true, now = 0, time.time, heartbeat._now

    def wrong() -> bool:
        nonlocal looks
        looks += 1
        return looks >= at

    time.time = lambda: true() + (seconds if wrong() else 0)
    heartbeat._now = lambda: now() + timedelta(seconds=seconds if wrong() else 0)
