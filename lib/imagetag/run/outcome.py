"""What came out of a pipeline: a table for people, lines of the log for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagetag.errors import ImagetagError
from imagetag.log import get_logger
from imagetag.run.settings import PipelineSettings
from imagetag.run.view import is_json

if TYPE_CHECKING:
    from imagetag.report import TagEntry


@dataclass(frozen=True)
class Outcome:
    """What came out: what there is of each tag, the index page, and the error if any failed."""

    entries: Sequence[TagEntry]
    index: str
    error: ImagetagError | None


def tell(outcome: Outcome, settings: PipelineSettings) -> None:
    """Show what came out: a table for people, lines of the log for programs."""
    if is_json(settings.log_format):
        for entry in outcome.entries:
            get_logger().info("result", **_fields(entry, settings))
        get_logger().info("finished", index=outcome.index)
        return
    rows = [("tag", "images", "promise", "precision", "recall", "page")]
    for entry in outcome.entries:
        fields = _fields(entry, settings)
        precision, recall = (_number(fields[name]) for name in ("precision", "recall"))
        page = fields["page"] or entry.note
        if entry.failed:
            page = f"failed, see above{'; before: ' + page if fields['page'] else ''}"
        promise = entry.promise or "-"
        rows.append((entry.tag, _number(entry.images), promise, precision, recall, page))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    _say("")
    for row in rows:
        cells = [f"{row[0]:{widths[0]}}", f"{row[1]:>{widths[1]}}", f"{row[2]:{widths[2]}}"]
        cells += [f"{row[column]:>{widths[column]}}" for column in (3, 4)]
        _say("  ".join([*cells, row[5]]))
    # Those of an earlier run are told by the page alone.
    entries = outcome.entries if settings.input else ()
    predicted = [(entry.tag, entry.predictions) for entry in entries if entry.predictions]
    if predicted:
        _say("")
    for tag, found in predicted:
        unread = f", of which {found.errors:,} could not be read" if found.errors else ""
        _say(
            f"{tag}: in {found.positives:,} of {found.rows:,} new pictures{unread}; "
            f"rows: {found.path}"
        )
    _say(f"\nAll pages: {outcome.index}")


def _fields(entry: TagEntry, settings: PipelineSettings) -> dict[str, Any]:
    chosen = entry.evaluation and entry.evaluation.metrics.chosen
    return {
        "tag": entry.tag,
        "images": entry.images,
        "promise": entry.promise or None,
        "precision": chosen and chosen.precision.value,
        "recall": chosen and chosen.recall.value,
        "page": f"{settings.where}/{entry.page()}" if chosen else None,
        "failed": entry.failed or None,
    }


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - it is what this was run for
