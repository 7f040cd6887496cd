"""Jobs in one Python of their own, which has imported nothing before, and what they import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HEAVY = {"cleanlab", "keras", "matplotlib", "pandas", "scipy.stats", "seaborn", "sklearn"}
HEAVY |= {"tensorflow"}
_SCRIPT = """
import importlib, json, sys
for job, *arguments in json.loads(sys.argv[1]):
    code = importlib.import_module(f"jobs.{job}").main(arguments)
    assert code == 0, job
print(json.dumps(sorted(sys.modules)))
"""


def imported_by(*commands: Sequence[object]) -> set[str]:
    """Run jobs, each of which must succeed; return the names of all modules that they imported.

    Args:
        commands: of each job its name and its arguments.

    """
    given = json.dumps([[str(word) for word in words] for words in commands])
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, given],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))
