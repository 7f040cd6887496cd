"""The leaderboard over the runs of many tags: a page that people read, and the same as JSON.

A tag at a time is read, compared and written; what is kept are a few numbers of each.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, urlsplit

from jinja2 import Environment

from imagetag import __version__
from imagetag.errors import InputError
from imagetag.layout import Layout, report
from imagetag.log import Progress, get_logger
from imagetag.pages import page_environment, store_tag_pages
from imagetag.report.ranking import Board, Entry, ModelTally, Summary, find_runs, load_board, signed
from imagetag.report.results import Estimate
from imagetag.stats import RESAMPLES, Metric, Span
from imagetag.storage import LocalStorage, Storage

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


@dataclass(frozen=True)
class Made:
    """What came out: where the page is, and the summary in words."""

    url: str
    summary: Summary
    headline: str


def make_leaderboard(
    storage: Storage, target: Storage, folder: str, tags: Sequence[str] | None, metric: Metric
) -> Made:
    """Compare the runs of tags, and store `leaderboard.html` and `leaderboard.json`.

    In the place where they belong, the pages of the tags lead to it from then on.

    Args:
        storage: has the runs.
        target: gets both files; may be the same.
        folder: of `target` to put them in (`""` or ending in `/`).
        tags: which; None for all in storage.
        metric: by which runs are ranked.

    Raises:
        InputError: if no run of any tag is evaluated.

    """
    found: list[str] = []
    summary, page = Summary(metric), _Page(metric, _way(storage, target, folder))
    with tempfile.TemporaryDirectory(prefix="imagetag-report-") as scratch:
        path = Path(scratch) / "leaderboard.json"
        with path.open("w", encoding="utf-8") as stream, Progress("compare", unit="tags") as done:
            table = _Json(stream, metric)
            for tag, runs in find_runs(storage, tags):
                board = load_board(storage, tag, runs, metric)
                if not runs:
                    get_logger().warning("no trained run", tag=tag)
                summary.add(board)
                table.add(board)
                page.add(board)
                found.append(tag)
                done.advance(runs=summary.runs)
            _check_any(storage, summary, tags)
            headline, ranking = summary.headline(), summary.ranking()
            table.end(summary, ranking, headline)
        target.upload(path, f"{folder}leaderboard.json")
    html = page.render(summary, ranking, headline)
    target.write(f"{folder}leaderboard.html", html.encode())
    if f"{target.url}/{folder}" == f"{storage.url}/{report('')}":
        store_tag_pages(storage, found)
    return Made(f"{target.url}/{folder}leaderboard.html", summary, headline)


def _check_any(storage: Storage, summary: Summary, tags: Sequence[str] | None) -> None:
    if summary.evaluated:
        return
    named = "of any tag" if tags is None else f"of {', '.join(tags[:10])}"
    if not summary.runs:
        raise InputError(
            f"no trained run {named} in {storage.url}: run imagetag train, then imagetag evaluate"
        )
    raise InputError(
        f"none of the {summary.runs} trained runs {named} in {storage.url} has an evaluation that "
        "can be read: run imagetag evaluate first"
    )


def _way(storage: Storage, target: Storage, folder: str) -> str | None:
    """Return the relative URL from the page to the root of storage, None if there is none."""
    here, there = _place(target), _place(storage)
    if here[:2] != there[:2]:
        return None
    path = os.path.relpath(there[2], f"{here[2]}/{folder}")
    return "" if path == "." else quote(path) + "/"


def _place(storage: Storage) -> tuple[str, str, str]:
    if isinstance(storage, LocalStorage):
        return "", "", os.path.realpath(storage.url)
    parts = urlsplit(storage.url)
    return parts.scheme, parts.netloc, parts.path or "/"


class _Json:
    """Writes the leaderboard as JSON, a line a tag."""

    def __init__(self, stream: TextIO, metric: Metric) -> None:
        self._stream = stream
        self._first = True
        stream.write(f'{{"version": 1, "metric": {json.dumps(metric)}, "tags": [\n')

    def add(self, board: Board) -> None:
        """Write a tag's runs."""
        self._stream.write(("" if self._first else ",\n") + _dumps(_board_json(board)))
        self._first = False

    def end(self, summary: Summary, ranking: Sequence[ModelTally], headline: str) -> None:
        """Write what there is over all tags."""
        rest = {
            "models": [_model_json(tally) for tally in ranking],
            "compared": summary.compared,
            "undecided": summary.undecided,
            "headline": headline,
            "created": _now(),
            "software": _software(),
        }
        self._stream.write("\n], " + _dumps(rest)[1:] + "\n")


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _board_json(board: Board) -> dict[str, Any]:
    return {
        "tag": board.tag,
        "verdict": verdict(board)[1],
        "winner": board.winner,
        "cautions": board.cautions,
        "pictures": {
            "positives": board.positives,
            "negatives": board.negatives,
            "groups": board.groups,
        },
        "runs": [_entry_json(entry) for entry in board.entries],
        "not_evaluated": [vars(missing) for missing in board.not_evaluated],
        "damaged": [vars(missing) for missing in board.damaged],
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    training, evaluation = entry.training, entry.evaluation
    metrics, promise = evaluation.metrics, evaluation.decision.promise
    chosen = metrics.chosen
    return {
        "run": training.run,
        "model": training.model,
        "place": entry.place,
        "value": entry.value and vars(entry.value),
        "behind": entry.behind and vars(entry.behind),
        "common_pictures_only": entry.partial,
        "not_compared": entry.reason or None,
        "pictures": metrics.positives + metrics.negatives,
        "precision": chosen.precision.model_dump(),
        "recall": chosen.recall.model_dump(),
        "f1": chosen.f1.model_dump(),
        "accuracy": chosen.accuracy.model_dump(),
        "average_precision": metrics.average_precision.model_dump(),
        "roc_auc": metrics.roc_auc.model_dump(),
        "brier": metrics.brier.model_dump(),
        "threshold": chosen.threshold,
        "promise": promise and {**promise.model_dump(), "outcome": entry.kept},
        "seconds": training.seconds,
        "parameters": training.parameters,
        "image_size": training.image_size,
        "trained": training.created,
        "evaluated": evaluation.created,
        "report": Layout(training.tag).run(training.run, "report.html"),
    }


def _model_json(tally: ModelTally) -> dict[str, Any]:
    return {
        "model": tally.model,
        "tags": tally.tags,
        "best": tally.best,
        "tied": tally.tied,
        "behind": tally.behind,
        "mean_rank": tally.mean_rank,
        "mean": tally.mean,
        "behind_the_first": tally.loss and vars(tally.loss),
    }


def verdict(board: Board) -> tuple[str, str]:
    """Return what came out for a tag, as a kind (clear, noise, single) and in words."""
    compared, first = board.compared, board.first
    models = list(dict.fromkeys(entry.training.model for entry in first))
    if not board.entries:
        return "single", "no run is evaluated"
    if len(compared) < 2:
        return "single", (
            f"one run to look at: {compared[0].training.model}"
            if compared
            else "no run can be compared"
        )
    if board.winner and len(first) == 1:
        return "clear", f"{board.winner} is best"
    if board.winner:
        return "clear", f"{board.winner} is best; {len(first)} of its runs cannot be told apart"
    if len(models) > 1:
        return "noise", f"{_listed(models)} cannot be told apart"
    if len(first) == 1:
        return "clear", f"{first[0].training.run} is the best run of {models[0]}"
    return "noise", f"{len(first)} runs of {models[0]} cannot be told apart"


def _listed(names: Sequence[str]) -> str:
    """Return names in words, four at the most."""
    shown = list(names) if len(names) <= 4 else [*names[:3], f"{len(names) - 3} others"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]])


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


class _Page:
    """Makes the page, a tag at a time, of less than 5 MB."""

    def __init__(self, metric: Metric, way: str | None) -> None:
        self._metric, self._way = metric, way
        self._tags: list[str] = []
        self._single: list[str] = []
        self._left = {"tables": _TABLES_BYTES, "lines": _LINES_BYTES}
        self._lines = self._unseen = 0
        self._kinds = {"clear": 0, "noise": 0, "single": 0}

    def add(self, board: Board) -> None:
        """Add a tag: with its table, in a line, or counted alone, as the page's size allows."""
        kind, words = verdict(board)
        self._kinds[kind] += 1
        fields: dict[str, Any] = {"board": board, "kind": kind, "words": words}
        if len(board.entries) < 2:
            html = self._row(board, fields)
            self._left["lines"] -= len(html.encode())
            if self._left["lines"] < 0:
                self._unseen += 1
            else:
                self._single.append(html)
            return
        if self._left["tables"] > 0:
            html = self._table(board, fields)
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

    def _row(self, board: Board, fields: dict[str, Any]) -> str:
        """Return the row of a tag with one evaluated run or none."""
        return (
            environment()
            .get_template("leaderboard_single.html")
            .render(
                fields,
                entry=board.entries[0] if board.entries else None,
                link=self._link,
                command=f"imagetag evaluate --tags {shlex.quote(board.tag)} --run",
            )
        )

    def _table(self, board: Board, fields: dict[str, Any]) -> str:
        values = [entry.value for entry in board.entries if entry.value is not None]
        losses = [entry.behind for entry in board.entries if entry.behind is not None]
        return (
            environment()
            .get_template("leaderboard_tag.html")
            .render(
                fields,
                entries=board.entries,
                axis=Axis.over(values) if values else None,
                losses=Axis.over(losses, zero=True) if len(losses) > 1 else None,
                metric=_METRICS[self._metric][0],
                link=self._link,
                command=f"imagetag evaluate --tags {shlex.quote(board.tag)} --run",
            )
        )

    def _link(self, entry: Entry) -> str | None:
        if self._way is None:
            return None
        # The key is percent-encoded already, and its percent signs are part of the file's name.
        key = Layout(entry.training.tag).run(entry.training.run, "report.html")
        return self._way + quote(key)

    def render(self, summary: Summary, ranking: Sequence[ModelTally], headline: str) -> str:
        """Return the whole page."""
        name, meaning = _METRICS[self._metric]
        few = len(self._tags) <= _OPEN
        tags = [
            html.replace("<details ", "<details open ", 1) if few else html for html in self._tags
        ]
        losses = [tally.loss for tally in ranking if tally.loss is not None]
        return (
            environment()
            .get_template("leaderboard.html")
            .render(
                summary=summary,
                ranking=ranking,
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
                resamples=RESAMPLES,
                created=f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
                software=_software(),
            )
        )


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _software() -> str:
    return f"imagetag {__version__}"
