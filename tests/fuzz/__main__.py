"""`make fuzz`: each target for some seconds, in a process of its own, and a table of what came."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.fuzz.fuzzing import FOUND
from tests.fuzz.targets import kinds


def main() -> int:
    """Fuzz the targets that are named, or all; returns 1 if anything was found."""
    known = kinds()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(known))
    parser.add_argument("--seconds", type=float, default=10, help="of each target")
    parser.add_argument("--hypothesis", action="store_true", help="not by coverage with atheris")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(known):
        parser.error(f"no target {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    means = "hypothesis" if given.hypothesis else ""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        told = list(
            pool.map(
                lambda name: fuzzed(known[name], name, given.seconds, means),
                given.targets or known,
            )
        )
    show(told)
    return int(any(one["found"] for one in told))


def fuzzed(kind: str, name: str, seconds: float, means: str) -> dict[str, Any]:
    """Fuzz a target in a process of its own, and return what came of it."""
    folder = FOUND / name
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.glob("ended-*"))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch, (folder / "log").open("wb") as log:
        result = Path(scratch) / "result"
        command = [sys.executable, "-m", "tests.fuzz.fuzzing"]
        given = [kind, name, str(seconds), str(result), means]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
        code = subprocess.run(
            [*command, *given], check=False, stderr=log, env=environment
        ).returncode
        if result.exists():
            return dict(json.loads(result.read_bytes()))
    by = [str(path) for path in set(folder.glob("ended-*")) - before] or [str(folder / "last")]
    return {
        "target": name,
        "means": "",
        "executions": 0,
        "taken": 0,
        "slowest": 0,
        "found": {f"the process ended with {code}: see {folder}/log": by[0]},
    }


def show(told: list[dict[str, Any]]) -> None:
    """Print a table of all targets, and what was found."""
    table = Table("target", box=None, header_style="")
    for column in ("executions", "taken", "slowest, s", "found"):
        table.add_column(column, justify="right")
    table.add_column("by")
    for one in told:
        numbers = f"{one['executions']:,}", f"{one['taken']:,}", f"{one['slowest']:.2f}"
        table.add_row(one["target"], *numbers, str(len(one["found"])), one["means"])
    total = sum(one["executions"] for one in told), sum(one["taken"] for one in told)
    found = sum(len(one["found"]) for one in told)
    table.add_row(f"{len(told)} targets", *(f"{n:,}" for n in total), "", str(found), "")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    for one in told:
        for place, path in one["found"].items():
            console.print(f"{one['target']}: {place}, by {path}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
