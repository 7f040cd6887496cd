"""Commands in processes of their own, and what they took."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_COUNTED = "BENCHMARK_COUNTED"  # the variable with the file that has the counts


@dataclass(frozen=True)
class Used:
    """What a command took.

    `seconds` by the clock, `processor` those of all cores, with its children's. Of our jobs there
    are the bytes of memory at the `peak`, and how many pictures were `decoded`.
    """

    seconds: float
    processor: float
    peak: int = 0
    decoded: int = 0


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Used:
    """Run a command to its end.

    Raises:
        RuntimeError: if it fails; what it said last is in it.

    """
    with tempfile.TemporaryFile() as out:
        begun = time.monotonic()
        process = subprocess.Popen(
            command, cwd=_ROOT, stdout=out, stderr=out, env=os.environ | (environment or {})
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            out.seek(0)
            told = out.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command[:5])} ended with {process.returncode}: {told}")
        return Used(seconds, used.ru_utime + used.ru_stime)


def run_job(job: str, options: Sequence[str], environment: Mapping[str, str] | None = None) -> Used:
    """Run a job of ours, and count what it decodes and takes of memory.

    Raises:
        RuntimeError: as `run`.

    """
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        counts = Path(scratch) / "counts"
        command = [sys.executable, "-m", "tests.benchmarks.commands", job, *options]
        used = run(command, {**(environment or {}), _COUNTED: str(counts)})
        decoded, peak = map(int, counts.read_text().split())
    return Used(used.seconds, used.processor, peak, decoded)


def _counted(job: str, options: list[str]) -> int:
    from imagetag.imaging import images

    decode, count = images._decoded, itertools.count()

    def decoded(*given: Any) -> Any:
        next(count)
        return decode(*given)

    images._decoded = decoded  # type: ignore[assignment]
    code: int = importlib.import_module(f"jobs.{job}").main(options)
    # Of this program: the peak that the system accounts for begins with that of its parent.
    status = Path("/proc/self/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    Path(os.environ[_COUNTED]).write_text(f"{next(count)} {int(peak) * 1024}")
    return code


if __name__ == "__main__":
    sys.exit(_counted(sys.argv[1], sys.argv[2:]))
