"""Where tags stand, as a table that people read and as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from imagetag.console import WIDEST, clean, open_output
from imagetag.job import JobRecord
from imagetag.layout import encode
from imagetag.sentences import duration
from imagetag.status.tag_status import StageStatus, State, TagStatus, stages_shown

_STYLES: dict[State, str] = {
    "none": "dim",
    "incomplete": "yellow",
    "running": "cyan",
    "lost": "yellow",
    "stopped": "yellow",
    "failed": "bold red",
    "outdated": "yellow",
    "complete": "green",
}


def show(
    tags: Sequence[TagStatus],
    url: str,
    *,
    as_json: bool,
    again: bool = False,
    jobs: Sequence[JobRecord] = (),
    jobs_left_out: int = 0,
) -> None:
    """Print where tags stand.

    Args:
        tags: to be told of.
        url: of the storage.
        as_json: as one JSON document, on one line if more will follow.
        jobs: how the last runs of jobs ended: for JSON.
        jobs_left_out: how many ended before those: for JSON.
        again: whether this is one look of several: a terminal is cleared before it.

    """
    if as_json:
        ended = [job.model_dump(mode="json") for job in jobs]
        text = json.dumps(
            {**document(tags, url), "jobs": ended, "jobs_left_out": jobs_left_out},
            ensure_ascii=False,
            allow_nan=False,
            indent=None if again else 2,
        )
        print(text, flush=True)  # noqa: T201
        return
    console = open_output()
    if again and console.is_terminal:
        console.clear()
    made = table(tags)
    narrow = (
        console.measure(made, options=console.options.update(width=WIDEST)).maximum > console.width
    )
    console.print(table(tags, pages=False) if narrow else made)
    for line in notes(tags):
        console.print(line, soft_wrap=not console.is_terminal)
    console.print(summary(tags, url), soft_wrap=True)
    if narrow:
        console.print("a wider terminal, or --json, shows the page of each tag too")
    if again:
        console.print(f"read at {datetime.now().astimezone():%H:%M:%S}; Ctrl-C ends this")
    sys.stdout.flush()


def document(tags: Sequence[TagStatus], url: str) -> dict[str, Any]:
    """Return what is known, as JSON has it."""
    return {
        "version": 1,
        "storage": url,
        "read": datetime.now(UTC).isoformat(timespec="seconds"),
        "summary": dict(_counts(tags)),
        "tags": [tag.model_dump(mode="json") for tag in tags],
    }


def table(tags: Sequence[TagStatus], *, pages: bool = True) -> Table:
    """Return a row a tag: each stage, the promise, precision and recall in test, and the page."""
    shown = stages_shown(tags)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("tag", *shown, "promise", "precision", "recall", *["page"] * pages):
        right = name in ("precision", "recall")
        made.add_column(name, justify="right" if right else "left", overflow="fold")
    for tag in tags:
        made.add_row(
            Text(clean(tag.tag)),
            *(_cell(tag.stages[stage]) for stage in shown),
            _promise(tag),
            _share(tag.precision),
            _share(tag.recall),
            *[_page(tag)] * pages,
        )
    return made


def notes(tags: Sequence[TagStatus]) -> list[Text]:
    """Return a line for whatever is not as it should be: which tag and stage, when, and why."""
    lines = []
    for tag in tags:
        for stage, found in tag.stages.items():
            if not found.reason:
                continue
            ago = "" if found.seconds is None else f" {duration(found.seconds)} ago"
            code = "" if found.exit_code is None else f" (exit code {found.exit_code})"
            head = f"{clean(tag.tag)}: {stage} {found.state}{ago}{code}: "
            lines.append(Text.assemble((head, _STYLES[found.state]), clean(found.reason)))
    return lines


def summary(tags: Sequence[TagStatus], url: str) -> str:
    """Return how many tags stand where, in a line."""
    told = ", ".join(f"{count} {where}" for where, count in _counts(tags).most_common())
    return f"{len(tags)} tag{'s' * (len(tags) != 1)} in {url}: {told}"


def _counts(tags: Sequence[TagStatus]) -> Counter[str]:
    return Counter(tag.furthest for tag in tags)


def _cell(found: StageStatus) -> Text:
    style = _STYLES[found.state]
    if found.state == "none":
        return Text("-", style)
    if found.state == "complete":
        return Text(clean(found.result) or "done", style)
    text: str = found.state
    if found.state in ("incomplete", "running", "lost") and found.done is not None:
        of = f"/{found.total}" if found.total else f" {found.unit}"
        text += f" {found.done}{of}"
        if found.total:
            text += f" {found.done / found.total:.0%}"
    return Text(clean(text), style)


def _promise(tag: TagStatus) -> Text:
    promise = tag.promise
    if promise is None:
        return Text("-", "dim")
    if promise.met:
        return Text(f"{promise.min_precision:g} kept", "green")
    bound = "" if promise.bound is None else f", {promise.bound:.2f}"
    return Text(f"{promise.min_precision:g} no{bound}", "yellow")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _page(tag: TagStatus) -> str:
    """Return the page that tells most, as it lies in storage."""
    url = tag.pages.get("evaluate") or tag.pages.get("explore") or ""
    where = url.rfind(f"/{encode(tag.tag)}/")
    return url[where + 1 :] or "-"
