"""`make bench`: run all benchmarks, or those that are named, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# What takes half an hour is run by itself.
_NO_PARTS = {"__init__", "__main__", "board", "peers", "spread", "out_of_fold"}


def main() -> int:
    """Run the parts named on the command line; returns how many failed."""
    known = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - _NO_PARTS)
    parts = sys.argv[1:] or known
    if unknown := set(parts) - set(known):
        print(f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(known)}")
        return 2
    failed = 0
    for part in parts:
        print(f"\n## {part}\n", flush=True)
        command = [sys.executable, "-m", f"tests.benchmarks.{part}"]
        failed += subprocess.run(command, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
