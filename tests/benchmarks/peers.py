"""Environments of their own for what the project is compared with.

Their pins do not go together with the project's: so they are no dependencies.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def peer_python(name: str) -> Path | None:
    """Return the Python of an environment with the pins of `NAME.txt`, made when it is not there.

    None if it cannot be installed, which is told.
    """
    folder, pins = _ROOT / ".venv-bench" / name, Path(__file__).with_name(f"{name}.txt")
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists() and ready.read_text() == pins.read_text():
        return python
    print(f"installing {name} into {folder}", file=sys.stderr)
    venv.create(folder, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(pins)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr[-500:]
        print(f"WARNING: NO {name} TO COMPARE WITH, no installation: {why}", file=sys.stderr)
        return None
    ready.write_text(pins.read_text())
    return python
