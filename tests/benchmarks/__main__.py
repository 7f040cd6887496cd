"""The table of `make bench`, or of the benchmarks that are named; and those that stand alone.

    python -m tests.benchmarks                    all that are of the table
    python -m tests.benchmarks scrape uploads     these
    python -m tests.benchmarks --write            all, and into docs/figures.md
    python -m tests.benchmarks scrape --write     these, in the place of what they had there
    python -m tests.benchmarks contract           one that stands alone, as it is

Each has a process of its own. One that fails is told of, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from tests.benchmarks import ALONE, OF_THE_TABLE
from tests.benchmarks.ratios import (
    NAME,
    PAGE,
    machine,
    merged,
    read,
    rows_of,
    section,
    written,
)


def main() -> int:
    """Run them; returns 1 if one has failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(OF_THE_TABLE + ALONE))
    parser.add_argument("--write", action="store_true", help="the table into docs/figures.md")
    asked = parser.parse_args()
    if unknown := set(asked.names) - {*OF_THE_TABLE, *ALONE}:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    failed = [name for name in asked.names if name in ALONE and _alone(name)]
    names = [name for name in OF_THE_TABLE if not asked.names or name in asked.names]
    if names:
        before = os.getloadavg()[0]
        lines, lost = _measured(names)
        failed += lost
        told = machine((before, os.getloadavg()[0]))
        print(section(lines, told))
        if asked.write:
            lines = [line for line in lines if line[-1].strip("`") not in lost]
            page = PAGE.read_text()
            PAGE.write_text(written(page, NAME, section(merged(read(page, NAME), lines), told)))
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _measured(names: list[str]) -> tuple[list[list[str]], list[str]]:
    """Return the lines of the table of some benchmarks, and those that failed."""
    lines: list[list[str]] = []
    failed = []
    for name in names:
        begun = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        # A process of its own: what one imports is neither slow nor large for the next.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            try:
                found, why = pool.submit(rows_of, name).result()
            except BrokenProcessPool as error:
                found, why = [], str(error)
        for row in found:
            lines.append(row.cells(name))
            print(" | ".join(lines[-1]), file=sys.stderr)
            if row.ratio is None:
                print(f"WARNING: NOTHING TO COMPARE WITH: {row.note}", file=sys.stderr)
        if why:
            print(f"WARNING: {name} FAILED: {why}", file=sys.stderr)
            failed.append(name)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return lines, failed


def _alone(name: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}"], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
