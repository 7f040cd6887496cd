"""Where a classifier fails: its test split by size, aspect, rating, format and companion tag.

Each part is compared with all pictures outside it by Fisher's exact test, two-sided: precision
among those that were called, recall among the positives, the false positive rate among the
negatives. One picture a group is tested, as those of a group are no independent trials. Of many
tests some come out by chance, so Holm's correction is made over all of them: where no part differs,
anything is marked in 5 % of reports at the most. A test that no outcome could make significant is
not counted among them, nor is there one of precision where a part has one label only. Otherwise
precision depends on how many of a part have the tag; the two rates do not.

Sources: R. A. Fisher, Statistical methods for research workers, 5th ed. (1934); S. Holm, A simple
sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 (1979);
R. E. Tarone, A modified Bonferroni method for discrete data, Biometrics 46 (1990).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from imagetag.dataset import Rating, Row
from imagetag.imaging import FORMATS
from imagetag.runs import Difference, Kind, Measure, Slice
from imagetag.stats import Confusion, numbered, share_of

ALPHA = 0.05  # how often anything is marked although no part differs, at the most

_SIZES = (0.25, 0.5, 1, 2, 4)  # megapixels: where a part ends and the next begins
_ASPECTS = (0.67, 0.9, 1 / 0.9, 1 / 0.67)  # width divided by height
_ASPECT_NAMES = (
    "tall (under 0.67)",
    "portrait (0.67 to 0.9)",
    "square-ish (0.9 to 1.11)",
    "landscape (1.11 to 1.49)",
    "wide (1.49 and over)",
)
_NO_TEST = (1.0, 1.0)
_LONGEST = 60  # characters of a tag that are shown

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Table = tuple[tuple[int, int], tuple[int, int]]  # hits and others, inside and outside


def breakdown(
    rows: Sequence[Row], called: Sequence[bool], *, least: int = 10, most: int = 30
) -> list[Slice]:
    """Measure decisions on each part of a test split, and compare it with the rest.

    A tag that all positives and no negatives have is the label itself under some name, and one that
    all pictures have makes no part: neither is a companion.

    Args:
        rows: of the pictures.
        called: which of them are called positive.
        least: companion tags of fewer pictures are left out.
        most: companion tags at the most, the most frequent ones.

    Returns:
        The parts that have a picture: by kind, buckets in their own order, of the companion tags
        first those that are worse than the rest, then by accuracy, the lowest first.

    """
    if len(rows) != len(called):
        raise ValueError(f"{len(rows)} rows and {len(called)} decisions")
    positive = np.array([row.label == "positive" for row in rows], bool)
    decided = np.array(called, bool)
    # Of which pictures each measure is a share, and of what.
    shares: dict[Measure, tuple[Bools, Bools]] = {
        "precision": (decided, positive),
        "recall": (positive, decided),
        "false_positive_rate": (~positive, decided),
    }
    single, members = _one_a_group(rows), numbered([row.group for row in rows])
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, len(rows) + 1)))])
    parts = [part for part in _parts(rows, positive, least, most) if part[2].any()]
    tests = [
        fisher(_table(whole & single, hit, inside), logs)
        if measure != "precision" or _is_mixed(positive, inside)
        else _NO_TEST
        for _, _, inside in parts
        for measure, (whole, hit) in shares.items()
    ]
    corrected = iter(holm(tests))
    slices = []
    for kind, name, inside in parts:
        differences: list[Difference] = []
        for measure, (whole, hit) in shares.items():
            p = next(corrected)
            if p <= ALPHA:
                tables = (_table(among, hit, inside) for among in (whole & single, whole))
                differences += _difference(measure, p, *tables)
        slices.append(
            _slice(kind, name, positive[inside], decided[inside], members[inside], differences)
        )
    kinds = get_args(Kind)
    # Those of equal rank stay in their order.
    return sorted(slices, key=lambda part: (kinds.index(part.kind), _rank(part)))


def marked(slices: Iterable[Slice]) -> list[Slice]:
    """Return the parts that differ from the rest, those that are worse first, the surest first."""
    found = [part for part in slices if part.differences]
    return sorted(
        found, key=lambda part: (not part.worse, min(item.p for item in part.differences))
    )


def worst(slices: Iterable[Slice]) -> str | None:
    """Return a sentence on the part whose failing is the least likely by chance, if any fails."""
    failing = [
        (difference.p, get_args(Measure).index(difference.measure), number, part, difference)
        for number, part in enumerate(slices)
        for difference in part.differences
        if difference.worse
    ]
    if not failing:
        return None
    *_, part, difference = min(failing, key=lambda item: item[:3])
    counts = part.confusion
    name, hits, others = {
        "precision": ("precision", counts.tp, counts.fp),
        "recall": ("recall", counts.tp, counts.fn),
        "false_positive_rate": ("the false positive rate", counts.fp, counts.tn),
    }[difference.measure]
    here, elsewhere = _percent(hits / (hits + others)), _percent(difference.elsewhere)
    return (
        f"It fails most on {part.words}: {name} is {here} ({hits:,} of {hits + others:,}), and "
        f"{elsewhere} elsewhere."
    )


def fisher(table: Table, logs: Floats) -> tuple[float, float]:
    """Return the p-value of Fisher's exact test, two-sided, and the least it could have been.

    Args:
        table: of counts: hits and others inside, hits and others outside.
        logs: the logarithms of 0!, 1!, ... up to the number of all.

    Returns:
        Both from the sum of all tables with the same totals that are no more likely than this one,
        and than the least likely one.

    """
    (hits_inside, others_inside), (hits_outside, others_outside) = table
    inside, hits = hits_inside + others_inside, hits_inside + hits_outside
    total = inside + hits_outside + others_outside
    low, high = max(0, inside + hits - total), min(inside, hits)
    drawn = np.arange(low, high + 1)
    chances = np.exp(
        _log_choose(hits, drawn, logs)
        + _log_choose(total - hits, inside - drawn, logs)
        - _log_choose(total, inside, logs)
    )

    def up_to(chance: float) -> float:
        return min(1.0, float(chances[chances <= chance * (1 + 1e-7)].sum()))  # but for rounding

    return up_to(chances[hits_inside - low]), up_to(chances.min())


def _is_mixed(positive: Bools, inside: Bools) -> bool:
    """Tell whether both labels are inside, and outside: else the precision is 0 or 1 anyhow."""
    return all(0 < part.sum() < part.size for part in (positive[inside], positive[~inside]))


def _log_choose(total: int, drawn: Ints | int, logs: Floats) -> Any:
    return logs[total] - logs[drawn] - logs[total - drawn]


def holm(tests: Sequence[tuple[float, float]]) -> list[float]:
    """Return the p-values of tests, corrected; 1 where none could be significant.

    Args:
        tests: each a p-value, and the least that it could have been.

    """
    corrected = [1.0] * len(tests)
    able = [number for number, (_, least) in enumerate(tests) if least <= ALPHA]
    so_far = 0.0
    for rank, number in enumerate(sorted(able, key=lambda number: tests[number][0])):
        so_far = max(so_far, min(1.0, (len(able) - rank) * tests[number][0]))
        corrected[number] = so_far
    return corrected


def _table(whole: Bools, hit: Bools, inside: Bools) -> Table:
    here, elsewhere = hit[whole & inside], hit[whole & ~inside]
    return (
        (int(here.sum()), int((~here).sum())),
        (int(elsewhere.sum()), int((~elsewhere).sum())),
    )


def _difference(measure: Measure, p: float, tested: Table, counted: Table) -> list[Difference]:
    """Return a difference that was found on one picture a group, as it is on all of them.

    There is none if the others of the groups turn it round.
    """
    (here, elsewhere), (here_tested, elsewhere_tested) = _shares(counted), _shares(tested)
    higher = here > elsewhere
    if higher != (here_tested > elsewhere_tested):
        return []
    worse = higher == (measure == "false_positive_rate")
    return [Difference(measure=measure, elsewhere=elsewhere, p=p, worse=worse)]


def _shares(table: Table) -> tuple[float, float]:
    (hits, others), (hits_outside, others_outside) = table
    return hits / (hits + others), hits_outside / (hits_outside + others_outside)


def _slice(
    kind: Kind,
    name: str,
    positive: Bools,
    called: Bools,
    members: Ints,
    differences: Sequence[Difference],
) -> Slice:
    right, wrong = called & positive, called & ~positive
    return Slice(
        kind=kind,
        name=name,
        pictures=positive.size,
        positives=int(positive.sum()),
        confusion=Confusion(
            tp=int(right.sum()),
            fp=int(wrong.sum()),
            fn=int((~called & positive).sum()),
            tn=int((~called & ~positive).sum()),
        ),
        precision=share_of(right, called, members),
        recall=share_of(right, positive, members),
        false_positive_rate=share_of(wrong, ~positive, members),
        accuracy=share_of(called == positive, np.ones(positive.size), members),
        differences=tuple(differences),
    )


def _rank(part: Slice) -> tuple[float, float, int]:
    """Return what companion tags are sorted by; of all else it is the same."""
    if part.kind != "companion_tag":
        return 0.0, 0.0, 0
    p = min((found.p for found in part.differences if found.worse), default=1.0)
    return p, part.accuracy.value or 0.0, -part.pictures


def _one_a_group(rows: Sequence[Row]) -> Bools:
    """Tell which rows are the first of their group by md5, (rows,)."""
    first: dict[str, int] = {}
    for number in sorted(range(len(rows)), key=lambda number: rows[number].md5):
        first.setdefault(rows[number].group, number)
    single = np.zeros(len(rows), bool)
    single[list(first.values())] = True
    return single


def _parts(
    rows: Sequence[Row], positive: Bools, least: int, most: int
) -> Iterator[tuple[Kind, str, Bools]]:
    """Yield parts of the rows, each with which of them are in it; some may be empty."""
    megapixels = [row.width * row.height / 1e6 for row in rows]
    edges = [f"{edge:g}" for edge in _SIZES]
    between = [f"{low} to {high} megapixels" for low, high in pairwise(edges)]
    names = [f"under {edges[0]} megapixels", *between, f"{edges[-1]} megapixels and over"]
    for number, name in enumerate(names):
        yield "size", name, np.digitize(megapixels, _SIZES) == number
    aspects = [row.width / row.height for row in rows]
    for number, name in enumerate(_ASPECT_NAMES):
        yield "aspect", name, np.digitize(aspects, _ASPECTS) == number
    ratings = np.array([row.rating for row in rows], str)
    for rating in get_args(Rating):
        yield "rating", rating, ratings == rating
    named = {ext: name for name, ext in FORMATS.items()} | {"jpeg": "JPEG"}
    formats = np.array([named.get(row.ext, "other") for row in rows], str)
    for name in (*FORMATS, "other"):
        yield "format", name, formats == name
    yield from _companions(rows, positive, least, most)


def _companions(
    rows: Sequence[Row], positive: Bools, least: int, most: int
) -> Iterator[tuple[Kind, str, Bools]]:
    counts: Counter[str] = Counter()
    of_positives: Counter[str] = Counter()
    for row in rows:
        counts.update(set(row.tags))
        if row.label == "positive":
            of_positives.update(set(row.tags))
    positives = int(positive.sum())
    able = (
        (-count, tag)
        for tag, count in counts.items()
        if least <= count < len(rows)
        and not (count == of_positives[tag] == positives)
        and _visible(tag)
    )
    chosen = [tag for _, tag in heapq.nsmallest(most, able)]
    places = {tag: place for place, tag in enumerate(chosen)}
    inside = np.zeros((len(chosen), len(rows)), bool)
    for number, row in enumerate(rows):
        for tag in row.tags:
            place = places.get(tag)
            if place is not None:
                inside[place, number] = True
    for tag, found in zip(chosen, inside, strict=True):
        yield "companion_tag", _visible(tag), found


def _visible(tag: str) -> str:
    """Return a tag on one line, without what cannot be seen or turns the direction of writing."""
    text = "".join(letter if letter.isprintable() else " " for letter in tag[: 10 * _LONGEST])
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + " %"
