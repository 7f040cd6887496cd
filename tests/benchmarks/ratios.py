"""The rows of the table of `make bench`: each a ratio of two things that were measured in one run.

A benchmark of the table is a module with a function `rows`, which yields them. `make bench` prints
all of them, and writes them into `docs/figures.md`, between two marks.
"""

from __future__ import annotations

import importlib
import math
import os
import platform
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Literal

from imagetag import log
from tests.benchmarks import OF_THE_TABLE

EXPONENT = 1.1
"""What grows faster than this power of its size has to say why."""

NAME = "make bench"
PAGE = Path(__file__).parents[2] / "docs" / "figures.md"
HEAD = ("what", "here", "beside", "ratio", "goal", "pairs", "`python -m tests.benchmarks`")
_MARKS = "<!-- figures of {} -->", "<!-- end of figures -->"
_REACHED = {True: "reached", False: "**missed**"}


@dataclass(frozen=True)
class Goal:
    """What a ratio is to be: at least or at the most so much."""

    value: float
    sense: Literal["at least", "at most"] = "at least"

    def reached(self, ratio: float) -> bool:
        """Tell whether a ratio is what it is to be."""
        return ratio >= self.value if self.sense == "at least" else ratio <= self.value


@dataclass(frozen=True)
class Ratio:
    """Two things that were measured in one run, as texts with their units, and their ratio.

    Attributes:
        what: was measured.
        here: what came of ours.
        beside: and of what it is compared with.
        ratio: of both, the median over the pairs; None where there is nothing to compare with.
        spread: the least and the greatest ratio of a pair.
        pairs: how often both were measured, in turn.
        goal: of the ratio, if there is one.
        exponent: of what grows: n to this power fits it best; None of all else.
        note: why it grows faster than it should, or why a peer is missing.

    """

    what: str
    here: str
    beside: str
    ratio: float | None
    spread: tuple[float, float] | None = None
    pairs: int = 1
    goal: Goal | None = None
    exponent: float | None = None
    note: str = ""

    def cells(self, command: str) -> list[str]:
        """Return what a line of the table has, given the benchmark that measured it."""
        return [self.what, self.here, self.beside, self._ratio(), self._goal(), *self._end(command)]

    def _ratio(self) -> str:
        if self.ratio is None:
            return "**not measured**"
        if self.exponent is not None:
            return f"{number(self.ratio)}: n^{self.exponent:.2f}"
        low, high = self.spread or (self.ratio, self.ratio)
        span = f" ({number(low)} to {number(high)})" if self.pairs > 1 else ""
        return number(self.ratio) + span

    def _goal(self) -> str:
        if self.exponent is not None:
            if self.exponent <= EXPONENT:
                return f"at most n^{EXPONENT:g}: reached"
            return f"at most n^{EXPONENT:g}: {self.note or '**missed, and not explained**'}"
        if self.goal is None:
            return ""
        told = f"{self.goal.sense} {self.goal.value:g}"
        return told if self.ratio is None else f"{told}: {_REACHED[self.goal.reached(self.ratio)]}"

    def _end(self, command: str) -> list[str]:
        return ["" if self.exponent is not None else str(self.pairs), f"`{command}`"]


def rows_of(name: str) -> tuple[list[Ratio], str]:
    """Return what a benchmark yields, and why it ended where it has failed; else nothing.

    To be called in a process of its own.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    log.configure(level="error")
    found: list[Ratio] = []
    try:
        found.extend(importlib.import_module(f"tests.benchmarks.{name}").rows())
    except Exception:
        return found, traceback.format_exc()
    return found, ""


def compared(
    what: str,
    here: Sequence[float],
    beside: Sequence[float],
    tell: Callable[[float], str],
    *,
    by: str,
    goal: Goal | None = None,
) -> Ratio:
    """Return a row of pairs: the ratio is ours by theirs, its median over the pairs.

    Args:
        what: was measured.
        here: ours, a number a pair.
        beside: theirs, in the same order.
        tell: gives such a number with its unit; the medians are told.
        by: what theirs is.
        goal: of the ratio.

    """
    ratios = [ours / theirs for ours, theirs in zip(here, beside, strict=True)]
    return Ratio(
        what,
        tell(median(here)),
        f"{by}: {tell(median(beside))}",
        median(ratios),
        (min(ratios), max(ratios)),
        len(ratios),
        goal,
    )


def missing(what: str, by: str, why: str) -> Ratio:
    """Return the row of a peer that is not to be had here."""
    told = " ".join(why.replace("|", " ").split())
    return Ratio(what, "", f"{by}: **could not be had**: {told}", None, pairs=0, note=told)


def grown(
    what: str, values: Mapping[int, float], of: str, tell: Callable[[float], str], why: str = ""
) -> Ratio:
    """Return a row of what grows with a size: the largest beside the smallest, and the exponent.

    Args:
        what: grows.
        values: by their sizes, rising.
        of: what the sizes count, such as tags.
        tell: gives a value with its unit.
        why: it grows faster than `EXPONENT`, where it does.

    """
    sizes = list(values)
    between = ", ".join(f"{size:,}" for size in sizes[1:-1])
    beside = f"{sizes[0]:,} {of}: {tell(values[sizes[0]])}"
    return Ratio(
        f"{what}: {sizes[-1]:,} {of}",
        tell(values[sizes[-1]]),
        beside + (f"; {between} between" if between else ""),
        values[sizes[-1]] / values[sizes[0]],
        exponent=(found := exponent(values)),
        note=why if found > EXPONENT else "",
    )


def exponent(values: Mapping[int, float]) -> float:
    """Return the b of a·n^b that fits values by their sizes n best, by least squares of logarithms.

    Raises:
        ValueError: if there are fewer than two sizes, or a value is not above 0.

    """
    x = [math.log(size) for size in values]
    y = [math.log(value) for value in values.values()]
    if len(x) < 2:
        raise ValueError("the growth of one size is not known")
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return above / sum((a - x_mean) ** 2 for a in x)


def number(value: float) -> str:
    """Return a number of three digits, or with all that are before its point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_unit(unit: str) -> Callable[[float], str]:
    """Return what gives a number with a unit."""
    return lambda value: f"{number(value)} {unit}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    shown = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in shown)


def section(rows: Sequence[Sequence[str]], machine: str) -> str:
    """Return what a page has of the cells of rows."""
    return f"{machine}\n\n{table(HEAD, rows)}"


def merged(before: Sequence[Sequence[str]], new: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return lines of the table, new ones in the place of all that their benchmarks had before."""
    measured = {line[-1] for line in new}
    lines = [line for line in before if line[-1] not in measured] + [*new]
    order = [f"`{name}`" for name in OF_THE_TABLE]
    return sorted(
        (line for line in lines if line[-1] in order), key=lambda line: order.index(line[-1])
    )


def machine(load: Sequence[float] = ()) -> str:
    """Return what the figures were measured on, in a sentence, without a date.

    Args:
        load: the system's, before and after: how many processes wanted a processor.

    """
    busy = " and ".join(f"{value:.1f}" for value in load)
    told = f"; {busy} processes wanted a processor before and after" if busy else ""
    with Path("/proc/meminfo").open() as lines:
        memory = int(next(lines).split()[1]) / 1e6
    return (
        f"On {len(os.sched_getaffinity(0))} processors and {memory:.0f} GB, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}, TensorFlow "
        f"{version('tensorflow')}{told}."
    )


def written(page: str, name: str, text: str) -> str:
    """Return a page with a section made anew.

    Raises:
        ValueError: if the page does not have the section's marks, once.

    """
    found = _section(name).findall(page)
    if len(found) != 1:
        raise ValueError(f"the page has {len(found)} sections of figures of {name}")
    begin, end = (mark.format(name) for mark in _MARKS)
    return _section(name).sub(lambda _: f"{begin}\n\n{text}\n{end}", page)


def read(page: str, name: str) -> list[list[str]]:
    """Return the cells of the table in a section of a page, without its head.

    Raises:
        ValueError: if there is no such section.

    """
    found = _section(name).search(page)
    if found is None:
        raise ValueError(f"the page has no figures of {name}")
    lines = [line for line in found[0].splitlines() if line.startswith("| ")]
    cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    return cells[2:]


def _section(name: str) -> re.Pattern[str]:
    begin, end = (re.escape(mark.format(name)) for mark in _MARKS)
    return re.compile(f"{begin}.*?{end}", re.DOTALL)
