"""What is in drawn pictures, and how many of them a classifier has called what they are."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def truth_of(folder: Path) -> dict[str, list[str]]:
    """Return the tags of each picture, which the board has never seen, by its file's name."""
    with (folder / "posts.jsonl").open(encoding="utf-8") as stream:
        return {Path(post["file"]).name: post["tags"] for post in map(json.loads, stream)}


def score(tag: str, predictions: Path, truth: Mapping[str, Sequence[str]]) -> str:
    """Return how many of the new pictures were called what they are."""
    with predictions.open(encoding="utf-8", newline="") as stream:
        rows = [
            row
            for row in csv.DictReader(stream)
            if (row["tag"], row["file"] in truth) == (tag, True)
        ]
    called = {row["file"]: row["decision"] == "true" for row in rows}  # others' are not judged
    have = {file for file in called if tag in truth[file]}
    found = {file for file, positive in called.items() if positive}
    right = len(called) - len(have ^ found)
    return (
        f"{tag}: right about {right} of {len(called)} new pictures: found in {len(have & found)} "
        f"of the {len(have)} that have it, and in {len(found - have)} of the "
        f"{len(called) - len(have)} that do not"
    )
