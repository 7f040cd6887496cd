"""Predictions of a folder's pictures as predict leaves them, and audits of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagetag.predict.resumable import About
from imagetag.predict.writers import Answers, Kind, Shape, Table, write_file
from imagetag.verdicts import AuditResult

CREATED = "2026-01-01T00:00:00+00:00"


def predicted(
    output: Path,
    decisions: Mapping[str, bool | None],
    *,
    tag: str = "robot",
    others: tuple[str, ...] = (),
    base: Path | str | None = None,
    run: str = "first",
    kind: Kind = "csv",
    shape: Shape = "long",
    about: bool = True,
) -> Path:
    """Write what a run says of pictures by their names; None is one that cannot be read.

    Of `others` it says the opposite. `base` is the folder that the names are below.
    """
    tags = [tag, *others]
    pictures = [
        Answers(name, "", "truncated: 3 bytes")
        if decision is None
        else Answers(
            name,
            f"https://board.example/{place}",
            None,
            [0.9 if decision else 0.1] * len(tags),
            [decision, *[not decision] * len(others)],
        )
        for place, (name, decision) in enumerate(decisions.items())
    ]
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file(output, kind, Table(shape, tags), pictures)
    if about:
        told = About(
            request={
                "models": [[name, run, CREATED, None] for name in tags],
                "input": {} if base is None else {"files": str(base)},
            },
            pictures="a",
            newest="b",
            images=len(pictures),
            rows=len(pictures),
            positives=1,
            errors={},
            bytes=1,
            created=CREATED,
            software="imagetag",
        )
        output.with_name(output.name + ".about.json").write_text(told.model_dump_json())
    return output


def audit_result(**changes: Any) -> AuditResult:
    """Return what an audit has proven: 0.95 by 60 verdicts of yes, of 300 pictures."""
    values: dict[str, Any] = {
        "tag": "robot",
        "name": "0123456789ab",
        "run": "first",
        "trained": CREATED,
        "predictions": ("robots.csv",),
        "called": 300,
        "target": 0.95,
        "confidence": 0.95,
        "right": 60,
        "wrong": 0,
        "unclear": 0,
        "low": 0.95,
        "high": 1.0,
        "outcome": "proven",
        "updated": "2026-12-01T00:00:00+00:00",
    }
    return AuditResult(**{**values, **changes})
