"""Processes in which some packages cannot be imported."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

# Slow to import, and of no use before there is something to do.
SLOW = frozenset(
    {"cleanlab", "keras", "matplotlib", "pandas", "scipy", "seaborn", "sklearn", "tensorflow"}
)

# Python imports what is called sitecustomize by itself, before all else.
_SITE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ImportError(f"{{name}} is not to be imported here")

sys.meta_path.insert(0, Refuse())
"""


def refusing(names: Iterable[str], folder: Path) -> dict[str, str]:
    """Return the environment of a process that can import none of some packages, nor its children.

    Args:
        names: of the packages.
        folder: an empty one, which must be there as long as the process.

    """
    (folder / "sitecustomize.py").write_text(_SITE.format(names=sorted(names)))
    return os.environ | {"PYTHONPATH": str(folder)}
