"""The leaderboard as a page, of less than 5 MB however many tags there are."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment

from imagetag import __version__
from imagetag.layout import INDEX, Layout
from imagetag.pages import page_environment
from imagetag.report.model_ranking import ModelTally, Summary, signed
from imagetag.report.results import Estimate
from imagetag.report.tag_ranking import Entry, TagRanking, verdict
from imagetag.stats import RESAMPLES, Metric, Span

MAX_PAGE_BYTES = 5_000_000

# What all tags of a page may take: with their tables, and beyond that in a line each.
_TABLES_BYTES = 3_700_000
_LINES_BYTES = 900_000
_OPEN = 6  # tags whose tables are open from the start
_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)

_METRICS: dict[Metric, tuple[str, str]] = {
    "average-precision": (
        "average precision",
        "the precision averaged over all recalls, whatever thresholds were chosen",
    ),
    "precision": ("precision", "how many of the pictures that a run calls the tag have it"),
    "recall": ("recall", "how many of the pictures with the tag a run finds"),
    "f1": ("F1", "the harmonic mean of precision and recall"),
    "accuracy": ("accuracy", "how many pictures a run calls what they are"),
    "roc-auc": (
        "area under the ROC curve",
        "how often a picture with the tag scores higher than one without it",
    ),
    "brier": (
        "Brier score",
        "the mean squared error of the probabilities: the lower the better",
    ),
}


class LeaderboardPage:
    """Makes the page, a tag at a time, of less than 5 MB."""

    def __init__(self, metric: Metric, way: str | None) -> None:
        self._metric, self._way = metric, way
        self._tags: list[str] = []
        self._single: list[str] = []
        self._left = {"tables": _TABLES_BYTES, "lines": _LINES_BYTES}
        self._lines = self._unseen = 0
        self._kinds = {"clear": 0, "noise": 0, "single": 0}

    def add(self, ranking: TagRanking) -> None:
        """Add a tag: with its table, in a line, or counted alone, as the page's size allows."""
        kind, words = verdict(ranking)
        self._kinds[kind] += 1
        fields: dict[str, Any] = {"ranking": ranking, "kind": kind, "words": words}
        if len(ranking.entries) < 2:
            html = self._row(ranking, fields)
            self._left["lines"] -= len(html.encode())
            if self._left["lines"] < 0:
                self._unseen += 1
            else:
                self._single.append(html)
            return
        if self._left["tables"] > 0:
            html = self._table(ranking, fields)
            if len(html.encode()) <= self._left["tables"]:
                self._left["tables"] -= len(html.encode())
                self._tags.append(html)
                return
            self._left["tables"] = 0  # no shorter one after a longer one: they are in order
        html = environment().get_template("leaderboard_tag.html").render(fields, entries=None)
        self._left["lines"] -= len(html.encode())
        if self._left["lines"] < 0:
            self._unseen += 1
        else:
            self._lines += 1
            self._tags.append(html)

    def _row(self, ranking: TagRanking, fields: dict[str, Any]) -> str:
        """Return the row of a tag with one evaluated run or none."""
        return (
            environment()
            .get_template("leaderboard_single.html")
            .render(
                fields,
                entry=ranking.entries[0] if ranking.entries else None,
                link=self._link,
                command=f"imagetag evaluate --tags {shlex.quote(ranking.tag)} --run",
            )
        )

    def _table(self, ranking: TagRanking, fields: dict[str, Any]) -> str:
        values = [entry.value for entry in ranking.entries if entry.value is not None]
        losses = [entry.behind for entry in ranking.entries if entry.behind is not None]
        return (
            environment()
            .get_template("leaderboard_tag.html")
            .render(
                fields,
                entries=ranking.entries,
                axis=Axis.over(values) if values else None,
                losses=Axis.over(losses, zero=True) if len(losses) > 1 else None,
                metric=_METRICS[self._metric][0],
                link=self._link,
                command=f"imagetag evaluate --tags {shlex.quote(ranking.tag)} --run",
            )
        )

    def _link(self, entry: Entry) -> str | None:
        if self._way is None:
            return None
        # The key is percent-encoded already, and its percent signs are part of the file's name.
        key = Layout(entry.training.tag).run(entry.training.run, "report.html")
        return self._way + quote(key)

    def render(
        self, summary: Summary, models: Sequence[ModelTally], headline: str, *, index: bool
    ) -> str:
        """Return the whole page; `index` tells whether the storage has a page of all tags."""
        name, meaning = _METRICS[self._metric]
        few = len(self._tags) <= _OPEN
        tags = [
            html.replace("<details ", "<details open ", 1) if few else html for html in self._tags
        ]
        losses = [tally.loss for tally in models if tally.loss is not None]
        return (
            environment()
            .get_template("leaderboard.html")
            .render(
                summary=summary,
                models=models,
                headline=headline,
                losses=Axis.over(losses, zero=True) if losses else None,
                metric=name,
                meaning=meaning,
                option=self._metric,
                tags=tags,
                single=self._single,
                several=self._kinds["clear"] + self._kinds["noise"],
                kinds=self._kinds,
                filtered=not few,
                lines=self._lines,
                unseen=self._unseen,
                linked=self._way is not None,
                index=None if self._way is None or not index else self._way + INDEX,
                resamples=RESAMPLES,
                created=f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
                software=f"imagetag {__version__}",
            )
        )


@dataclass(frozen=True)
class Axis:
    """A scale with its ticks, the ends among them."""

    ticks: tuple[float, ...]

    def place(self, value: float) -> str:
        """Return where a value is, in percent of the axis."""
        low, high = self.ticks[0], self.ticks[-1]
        return f"{100 * (min(max(value, low), high) - low) / (high - low):.1f}"

    def label(self, tick: float) -> str:
        """Return a tick's text, with as many digits as its neighbours need."""
        step = self.ticks[1] - self.ticks[0]
        digits = next(digits for digits in range(5) if abs(round(step, digits) - step) < 1e-9)
        return f"{tick:.{digits}f}".replace("-", "\N{MINUS SIGN}")

    @classmethod
    def over(cls, spans: Sequence[Span], *, zero: bool = False) -> Axis:
        """Return an axis with round ticks, four steps at the most, that shows some spans."""
        ends = [end for span in spans for end in (span.low, span.value, span.high)]
        numbers = [end for end in ends if end is not None] + ([0.0] if zero else [])
        low, high = min(numbers), max(numbers)
        high = max(high, low + 0.004) if low < 0.99 else high
        low = min(low, high - 0.004)
        step = next(step for step in _STEPS if _steps(low, high, step) <= 4)
        first, count = math.floor(low / step + 1e-9), _steps(low, high, step)
        return cls(tuple(round((first + tick) * step, 6) for tick in range(count + 1)))


def _steps(low: float, high: float, step: float) -> int:
    return math.ceil(high / step - 1e-9) - math.floor(low / step + 1e-9)


@cache
def environment() -> Environment:
    """Return the templates, without what the other pages need: it would take long to import."""
    return page_environment(
        decimal=_decimal, between=_between, count=_count, large=_large, duration=_duration
    )


def _decimal(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else signed(value)


def _between(span: Span | Estimate | None) -> str:
    """Return an interval in words, nothing where there is none."""
    if span is None or span.low is None or span.high is None:
        return ""
    return f"{_decimal(span.low)} to {_decimal(span.high)}"


def _count(number: int) -> str:
    return f"{number:,}"


def _large(number: int | None) -> str:
    """Return a large number as people read it."""
    if number is None:
        return "\N{EN DASH}"
    for power, unit in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g}\N{NO-BREAK SPACE}{unit}"
    return str(number)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "\N{EN DASH}"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:,.1f}\N{NO-BREAK SPACE}{unit}"
    return f"{seconds:.0f}\N{NO-BREAK SPACE}s"
