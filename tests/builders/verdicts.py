"""Verdicts, as the review page makes them."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from imagetag.verdicts import Answer, Verdict


def new_verdict(
    md5: str, answer: Answer, queue: str, *, chance: float | None = None, by: str = ""
) -> Verdict:
    """Return a verdict of now."""
    now, name = datetime.now(UTC), secrets.token_hex(8)
    return Verdict(md5=md5, answer=answer, queue=queue, chance=chance, at=now, by=by, id=name)
