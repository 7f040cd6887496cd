"""What a pipeline will take, as tables that people read and as JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

from rich.table import Table
from rich.text import Text

from imagetag.console import clean, open_output
from imagetag.plan.costs import Estimate, Settings, StageEstimate, TagEstimate
from imagetag.plan.counts import EstimatedStage
from imagetag.plan.rates import Rates
from imagetag.sentences import duration, size

_PAST: dict[EstimatedStage, str] = {
    "scrape": "scraped",
    "explore": "explored",
    "embed": "embedded",
    "train": "trained",
    "evaluate": "evaluated",
}
_STYLES = {"measured": "green", "given": "cyan", "assumed": "yellow"}


def show(
    made: Estimate, settings: Settings, rates: Rates, *, board: str, sent: int, as_json: bool
) -> None:
    """Print what tags will take.

    Args:
        made: of it.
        settings: that it is for.
        rates: that it stands on.
        board: where images come from.
        sent: requests that were made to find out.
        as_json: as one JSON document.

    """
    if as_json:
        found = document(made, settings, rates, board=board, sent=sent)
        print(json.dumps(found, ensure_ascii=False, allow_nan=False, indent=2))  # noqa: T201
        return
    console = open_output()
    console.print(_tags(made, settings.posts_called))
    console.print()
    console.print(_stages(made))
    console.print()
    console.print(_rates(rates))
    console.print()
    for line in sentences(made, settings, board=board, sent=sent):
        console.print(line, soft_wrap=not console.is_terminal)


def document(
    made: Estimate, settings: Settings, rates: Rates, *, board: str, sent: int
) -> dict[str, Any]:
    """Return all of it as JSON has it: bytes, seconds, and money in the currency of the prices."""
    return {
        "version": 1,
        "board": board,
        "requests_made": sent,
        "settings": dataclasses.asdict(settings),
        "rates": {name: dataclasses.asdict(rate) for name, rate in rates.of.items()},
        **dataclasses.asdict(made),
    }


def sentences(made: Estimate, settings: Settings, *, board: str, sent: int) -> list[str]:
    """Return what the tables do not say."""
    found = [tag for tag in made.tags if tag.images]
    least = (
        f"a precision of {settings.min_precision:g}, promised with {settings.confidence:.0%} "
        f"confidence, takes {made.needed:,} positives at the least to choose the threshold on, if "
        f"all of them are right: some {made.needed_images:,} images of a tag"
    )
    few = [tag for tag in found if not tag.enough]
    unknown = [tag for tag in found if tag.asked.posts is None]
    if few:
        least += (
            f". {len(few)} of {len(found)} tags have fewer: scrape more, by a higher --limit "
            "or of a fuller folder, or promise less with --min-precision"
        )
    elif found and not unknown:
        without = len(made.tags) - len(found)
        all_of = f"all of the {len(found)} that have images" if without else "all tags"
        least += f"; {all_of} have as many"
    if unknown:
        least += (
            f". How many posts there are of {len(unknown)} of {len(made.tags)} tags is not known: "
            "--limit is reckoned with"
        )
    lines = [f"{least}."]
    if settings.features:
        lines.append(f"features: of {settings.network}.")
    total = size(made.stored)
    money = "" if made.month is None else f", {made.month:,.2f} a month"
    lines.append(f"storage: {total} more{money}.")
    priced = [stage.money for stage in made.stages if stage.money is not None]
    if priced:
        lines.append(
            f"money, by the prices that were given alone: {sum(priced):,.2f} for the work"
            + ("" if made.month is None else f", and {made.month:,.2f} a month for what is stored")
            + "."
        )
    counts = Counter(stage for tag in made.tags for stage in tag.done)
    if counts:
        told = ", ".join(f"{count} {_PAST[stage]}" for stage, count in counts.items())
        lines.append(f"Of {len(made.tags)} tags {told} already: that is taken off.")
    asked = f"Asked of {board}: {sent:,} requests." if sent else f"{board} took no request."
    lines.append(
        f"{asked} Negatives are other {settings.posts_called} of it. Time is of working pods."
    )
    return lines


def _tags(made: Estimate, posts_called: str) -> Table:
    table = _table("tag", posts_called, "positives", "negatives", "for the threshold", "note")
    for tag in made.tags:
        enough = "" if tag.enough else "yellow"
        table.add_row(
            Text(clean(tag.asked.tag)),
            _posts(tag),
            f"{tag.positives:,}",
            f"{tag.negatives:,}",
            Text(f"{tag.promise:,}", enough),
            Text(clean(tag.trouble) or _already(tag)),
        )
    return table


def _already(tag: TagEstimate) -> str:
    return ", ".join(_PAST[stage] for stage in tag.done) + " already" * bool(tag.done)


def _posts(tag: TagEstimate) -> str:
    if "scrape" in tag.done:
        return "-"
    if tag.asked.posts is None:
        return "unknown"
    return f"{tag.asked.posts:,}"


def _stages(made: Estimate) -> Table:
    priced = any(stage.money is not None for stage in made.stages)
    names = ["stage", "images", "requests", "time", "fetched", "from storage", "writes", "reads"]
    names += ["processor h", "GPU h", *["money"] * priced]
    table = _table(*names)
    for stage in made.stages:
        table.add_row(*_stage(stage), *[f"{stage.money or 0:,.2f}"] * priced)
    return table


def _stage(stage: StageEstimate) -> list[str]:
    return [
        stage.stage,
        f"{stage.images:,}",
        f"{stage.requests:,}" if stage.requests else "-",
        duration(stage.seconds),
        size(stage.received) if stage.received else "-",
        size(stage.read) if stage.read else "-",
        f"{stage.puts:,}",
        f"{stage.gets:,}",
        _hours(stage.processor_hours),
        _hours(stage.gpu_hours),
    ]


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 0.05 else f"{hours:.2f}" if hours else "-"


def _rates(rates: Rates) -> Table:
    table = _table("rate", "value", "")
    for name, rate in rates.of.items():
        value = f"{rate.value:,.0f}" if rate.value >= 1000 else f"{rate.value:.3g}"
        told = Text.assemble((rate.origin, _STYLES[rate.origin]), f": {rate.why}")
        table.add_row(name, value, told)
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        left = name in ("tag", "note", "stage", "rate", "")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    return table
