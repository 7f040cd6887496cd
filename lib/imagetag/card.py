"""The model card of a run: what a model is for, how it came to be, and how far to trust it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from imagetag.manifest import Dataset
from imagetag.runs import Run

_LONGEST = 300  # characters of a value


def model_card(run: Run, dataset: Dataset, cautions: Sequence[str] = ()) -> str:
    """Return a run's model card, in Markdown with GitHub's tables.

    Its code expects to run in the run's folder.

    Args:
        run: what it tells of.
        dataset: what the run was trained on.
        cautions: what makes its numbers better than they are, a sentence each.

    """
    environment = Environment(
        loader=PackageLoader("imagetag"),
        autoescape=False,  # noqa: S701 - `finalize` escapes every value, for Markdown too
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md").render(
        run=run,
        dataset=dataset,
        cautions=cautions,
        test=dataset.images.get("test", {}),
        custom_layers=run.model == "alexnet",  # its local response normalization
    )


def _shown(value: Any) -> str:
    """Return a value as Markdown that means nothing but itself: numbers plain, all else as code."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if value is None or value in ("", [], (), {}):
        return "\N{EN DASH}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return _code(json.dumps(value, ensure_ascii=False, default=str))
    return _code(str(value))


def _code(text: str) -> str:
    # Line breaks, control characters and what turns the direction of writing are not printable.
    visible = "".join(letter if letter.isprintable() else " " for letter in text)
    words = " ".join(visible.split())
    if len(words) > _LONGEST:
        words = words[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
    if not words or not set(words) & set("`|<>"):
        return f"`{words or ' '}`"
    # What would end the code, the cell or the text is written as numbers, which never do.
    letters = (
        letter if letter.isalnum() or letter == " " else f"&#{ord(letter)};" for letter in words
    )
    return f"<code>{''.join(letters)}</code>"
