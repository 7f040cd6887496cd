"""How many verdicts a promise takes where boards forget tags, and how often it does not hold.

    python -m tests.benchmarks.verdicts [WORLD ...]

Scores are drawn, so that the true precision at every threshold is known; a person who is always
right judges the pictures that choose the threshold, one after the other, until a promise can be
made, in three orders: from the highest score down, as in use; at random, where the pictures judged
so far are the sample that chooses, which is tried at each step, or at a few sizes with an allowance
for them; and by ActiveLab (cleanlab), scored once as nothing is learned from them. In the latter
order verdicts count by the rule in use, or correct labels as they come.

Another table is of a test split that is judged as a whole, where nobody can tell of some pictures,
mostly of those near the threshold: how its precision and recall differ from the true ones of the
same pictures, by what such pictures count as.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from cleanlab.multiannotator import get_active_learning_scores
from numpy.typing import NDArray
from scipy import stats

from imagetag.stats.contract import looks, lower_bound, search_level

_DRAWS = 500
_PICTURES = 400  # that choose the threshold
_SHARE = 0.5  # of them that have the tag
_FORGOTTEN = 0.1  # of the tags
_STEP = 5  # verdicts between two looks, where the labels change with each
_SIZES = (100, 150, 200, 300, 400)  # of samples that are tried, each at its share of the risk
_PRECISION = 0.95
_CONFIDENCE = 0.95

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """Scores of both labels are spread alike around two centers.

    Args:
        distance: between the centers, in standard deviations.
        alike: share of the negatives that are scored like positives.
        mistagged: share of those to which the board gives the tag.

    """

    distance: float
    alike: float = 0.0
    mistagged: float = 0.0

    def draw(self, random: np.random.Generator) -> tuple[Floats, Bools, Bools]:
        """Return scores, falling, what is true, and what the board says, all (pictures,)."""
        truth = random.random(_PICTURES) < _SHARE
        like = ~truth & (random.random(_PICTURES) < self.alike)
        scores = random.normal(size=_PICTURES) + self.distance * (truth | like)
        chance = np.where(truth, 1 - _FORGOTTEN, np.where(like, self.mistagged, 0.0))
        board = random.random(_PICTURES) < chance
        order = np.argsort(-scores)
        return scores[order], truth[order], board[order]

    @property
    def tagged(self) -> float:
        """The share of pictures to which the board gives the tag."""
        return _SHARE * (1 - _FORGOTTEN) + (1 - _SHARE) * self.alike * self.mistagged

    def precision(self, threshold: float) -> float:
        """Return the precision at a threshold."""
        like, unlike = stats.norm.sf(threshold - self.distance), stats.norm.sf(threshold)
        right = _SHARE * like
        wrong = (1 - _SHARE) * (self.alike * like + (1 - self.alike) * unlike)
        return float(right / (right + wrong))

    def probabilities(self, scores: Floats) -> Floats:
        """Return the probability of the tag at each score, as a calibrated model says."""
        like, unlike = stats.norm.pdf(scores - self.distance), stats.norm.pdf(scores)
        right = _SHARE * like
        wrong = (1 - _SHARE) * (self.alike * like + (1 - self.alike) * unlike)
        return np.asarray(right / (right + wrong), np.float64)


class Outcome(NamedTuple):
    """What comes of an order: whether and after how many verdicts a promise is made."""

    made: bool = False
    clicks: float = np.nan
    broken: bool = False
    recall: float = np.nan


@cache
def _tests(pictures: int, tagged: float, confidence: float) -> tuple[Ints, Ints]:
    """Return the looks at some pictures, and how many must be right at each to promise."""
    numbers = looks(pictures, _PRECISION, tagged)
    level = search_level(numbers, _PRECISION, confidence)
    bounds = (lower_bound(np.arange(k + 1), np.full(k + 1, k), level) for k in numbers)
    return numbers, np.array([int(np.sum(bound < _PRECISION)) for bound in bounds])


def _called(
    labels: Bools, tagged: float, confidence: float = _CONFIDENCE, *, first: bool = False
) -> int:
    """Return how many a promise calls, by labels from the highest score down; 0 for no promise.

    Args:
        labels: (pictures,).
        tagged: share of positives to expect.
        confidence: of the promise.
        first: take the fewest that pass, not the most that are right.

    """
    numbers, least = _tests(labels.size, tagged, confidence)
    right = np.cumsum(labels)[numbers - 1]
    passing = np.flatnonzero(right >= least)
    if not passing.size:
        return 0
    return int(numbers[passing[0] if first else passing[np.argmax(right[passing])]])


def _outcome(world: World, scores: Floats, called: int, clicks: int) -> Outcome:
    padded = np.append(scores, scores[-1])
    threshold = (padded[called - 1] + padded[called]) / 2
    recall = float(stats.norm.sf(threshold - world.distance))
    return Outcome(True, clicks, world.precision(threshold) < _PRECISION, recall)


def by_board(world: World, scores: Floats, board: Bools) -> Outcome:
    """Return what comes of the board's tags, without a verdict."""
    called = _called(board, world.tagged)
    return _outcome(world, scores, called, 0) if called else Outcome()


def from_the_highest(world: World, scores: Floats, truth: Bools) -> Outcome:
    """Return what comes of verdicts from the highest score down, as in use."""
    called = _called(truth, world.tagged, first=True)
    return _outcome(world, scores, called, called) if called else Outcome()


def at_random(
    world: World, scores: Floats, truth: Bools, order: Ints, sizes: Sequence[int], at: float
) -> Outcome:
    """Return what comes of a random sample that grows until it promises.

    Args:
        world: where.
        scores: (pictures,), falling.
        truth: (pictures,).
        order: in which pictures are judged, (pictures,).
        sizes: of the sample, at which a promise is tried.
        at: the confidence of each try.

    """
    for clicks in sizes:
        judged = np.sort(order[:clicks])
        called = _called(truth[judged], world.tagged, at)
        if called:
            return _outcome(world, scores[judged], called, clicks)
    return Outcome()


def active_order(world: World, scores: Floats, board: Bools) -> Ints:
    """Return the order in which ActiveLab would have pictures judged, (pictures,)."""
    chance = world.probabilities(scores)
    both = np.stack([1 - chance, chance], axis=1)
    value, _ = get_active_learning_scores(board[:, np.newaxis].astype(float), both)
    return np.argsort(value, kind="stable")


def by_rule(world: World, scores: Floats, truth: Bools, order: Ints) -> Outcome:
    """Return what comes of verdicts in an order that count from the highest score down."""
    called = _called(truth, world.tagged, first=True)
    if not called:
        return Outcome()
    places = np.empty_like(order)
    places[order] = np.arange(order.size)
    return _outcome(world, scores, called, int(places[:called].max()) + 1)


def as_they_come(world: World, scores: Floats, truth: Bools, board: Bools, order: Ints) -> Outcome:
    """Return what comes of verdicts in an order that correct labels at once."""
    labels = board.copy()
    for clicks in range(0, scores.size + 1, _STEP):
        judged = order[:clicks]
        labels[judged] = truth[judged]
        called = _called(labels, world.tagged)
        if called:
            return _outcome(world, scores, called, clicks)
    return Outcome()


WORLDS: dict[str, World] = {
    "good": World(5.0),
    "fair": World(3.5),
    "alike": World(5.0, alike=1 / 0.9495 - 1),
    "alike, tagged": World(5.0, alike=1 / 0.9495 - 1, mistagged=0.5),
}
"""Where negatives look alike, the precision is below 0.95 at every threshold."""

WAYS = (
    "the board's tags",
    "from the highest score",
    "at random, a sample at each step",
    "at random, a sample of 5 sizes",
    "ActiveLab's order, our rule",
    "ActiveLab's order, as they come",
)


def outcomes(world: World, seed: int) -> list[Outcome]:
    """Return what comes of a draw by each of `WAYS`."""
    random = np.random.default_rng(seed)
    scores, truth, board = world.draw(random)
    drawn, order = random.permutation(_PICTURES), active_order(world, scores, board)
    return [
        by_board(world, scores, board),
        from_the_highest(world, scores, truth),
        at_random(world, scores, truth, drawn, range(_STEP, _PICTURES + 1, _STEP), _CONFIDENCE),
        at_random(world, scores, truth, drawn, _SIZES, 1 - (1 - _CONFIDENCE) / len(_SIZES)),
        by_rule(world, scores, truth, order),
        as_they_come(world, scores, truth, board, order),
    ]


def _figures(called: Bools, labels: Bools) -> tuple[float, float]:
    """Return precision and recall."""
    right = float((called & labels).sum())
    return right / float(called.sum()), right / float(labels.sum())


def doubted(world: World) -> list[str]:
    """Return the rows of a world: how much better a test looks by what doubted pictures count as.

    None can tell of half of the pictures near the threshold, and of one in fifty of the others.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(_DRAWS):
        random = np.random.default_rng(seed)
        scores, truth, _ = world.draw(random)
        away = scores - 0.6 * world.distance
        called = away >= 0
        unclear = random.random(_PICTURES) < np.where(np.abs(away) < 0.5, 0.5, 0.02)
        precision, recall = _figures(called, truth)
        ways = {
            "without the tag": _figures(called, truth & ~unclear),
            "left out": _figures(called[~unclear], truth[~unclear]),
            "decided wrongly, in use": _figures(called, np.where(unclear, ~called, truth)),
        }
        for way, (one, other) in ways.items():
            found.setdefault(way, []).append((one - precision, other - recall))
    rows = []
    for way, gains in found.items():
        means, better = np.mean(gains, axis=0), np.mean(np.array(gains) > 0, axis=0)
        cells = (
            f"{100 * gain:+.1f} | {100 * share:.0f} %"
            for gain, share in zip(means, better, strict=True)
        )
        rows.append(" | ".join([way, *cells]))
    return rows


def _row(found: Iterable[Outcome]) -> str:
    made, clicks, broken, recall = np.array(list(found), np.float64).T
    if not made.any():
        return "0.0 % | 0.0 % | | "
    shares = [f"{100 * made.mean():.1f} %", f"{100 * broken.mean():.1f} %"]
    return " | ".join([*shares, f"{np.nanmedian(clicks):.0f}", f"{100 * np.nanmean(recall):.0f} %"])


def main(names: Sequence[str]) -> int:
    """Print the table of some worlds, or of all."""
    print(
        f"{_DRAWS:,} draws of {_PICTURES} pictures; {_FORGOTTEN:.0%} of the tags are forgotten; "
        f"{_PRECISION} at {_CONFIDENCE}\n\n"
        "| world | verdicts | promised | broken | verdicts, median | recall |\n"
        "| --- | --- | ---: | ---: | ---: | ---: |"
    )
    for name in names or WORLDS:
        drawn = [outcomes(WORLDS[name], seed) for seed in range(_DRAWS)]
        for way, found in zip(WAYS, zip(*drawn, strict=True), strict=True):
            print(f"| {name} | {way} | {_row(found)} |", flush=True)
    print(
        "\n| world | what none can tell is | precision looks better by, points | in | "
        "recall looks better by, points | in |\n| --- | --- | ---: | ---: | ---: | ---: |"
    )
    for name in [name for name in names or WORLDS if name in ("good", "fair")]:
        for row in doubted(WORLDS[name]):
            print(f"| {name} | {row} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
