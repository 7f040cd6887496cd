"""All targets by their names, and the module that each is of."""

from __future__ import annotations

import importlib

from tests.fuzz.target import Target

KINDS = ("boards", "lists", "records", "models", "pictures", "keys", "answers")


def targets_of(kind: str) -> dict[str, Target]:
    """Return the targets of a module, by their names."""
    module = importlib.import_module(f"tests.fuzz.{kind}")
    return {target.name: target for target in module.TARGETS}


def kinds() -> dict[str, str]:
    """Return the module of each target, by the target's name."""
    return {name: kind for kind in KINDS for name in targets_of(kind)}
