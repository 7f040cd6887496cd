"""How often a promised precision is promised, and how often it does not hold.

    python -m tests.benchmarks contract

Beside the search as it is: the same without allowance for having searched. In each world the true
precision at every threshold is known.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from imagetag import contract
from imagetag.contract import promise_precision, search_level

_SEEDS = 2000
_CASES = ((200, 0.95), (800, 0.95), (800, 0.8))
MIN_PRECISION = 0.95

Pictures = tuple[NDArray[np.int64], NDArray[np.float64]]
Draw = Callable[[np.random.Generator, int], Pictures]
Precision = Callable[[float], float]


def gaussian(distance: float, spread: float) -> tuple[Draw, Precision]:
    """Positives spread around `distance`, negatives more or less widely around zero."""

    def draw(random: np.random.Generator, count: int) -> Pictures:
        labels = np.repeat([1, 0], count // 2)
        noise = random.normal(size=count)
        return labels, noise * np.where(labels == 1, 1, spread) + distance * labels

    def precision(threshold: float) -> float:
        right, wrong = stats.norm.sf(threshold - distance), stats.norm.sf(threshold / spread)
        return float(right / (right + wrong))

    return draw, precision


def plateau(share: float, level: float) -> tuple[Draw, Precision]:
    """The upper part of all scores has one precision wherever it is cut, the rest a low one.

    As where some labels are wrong: this is what misleads a search the most.
    """
    rest = (0.5 - share * level) / (1 - share)

    def draw(random: np.random.Generator, count: int) -> Pictures:
        scores = random.random(count)
        chance = np.where(scores > 1 - share, level, rest)
        return (random.random(count) < chance).astype(int), scores

    def precision(threshold: float) -> float:
        above = 1 - threshold
        low = max(0.0, above - share)
        return float((min(above, share) * level + low * rest) / above)

    return draw, precision


WORLDS: dict[str, tuple[Draw, Precision]] = {
    "good": gaussian(3.5, 1.0),
    "fair": gaussian(2.5, 1.0),
    "heavy tails": gaussian(3.0, 1.3),
    "wrong labels": plateau(0.45, MIN_PRECISION - 0.0005),
    "more wrong labels": plateau(0.3, MIN_PRECISION - 0.0005),
}
"""Each draws labels and scores of some pictures, and tells the precision at a threshold."""


def simulate(
    world: str, pictures: int, confidence: float, seeds: int
) -> tuple[float, float, float]:
    """Return how often a promise was made, how often one that does not hold, and the recall."""
    draw, precision = WORLDS[world]
    broken, recalls = 0, []
    for seed in range(seeds):
        labels, scores = draw(np.random.default_rng(seed), pictures)
        found = promise_precision(
            labels, scores, min_precision=MIN_PRECISION, confidence=confidence
        )
        if found.met:
            broken += precision(found.threshold) < MIN_PRECISION
            recalls.append(found.right / found.positives)
    return len(recalls) / seeds, broken / seeds, float(np.mean(recalls or [0]))


def remembered(
    compute: Callable[[NDArray[np.int64], float, float], float] = search_level,
) -> Callable[[NDArray[np.int64], float, float], float]:
    """Return `search_level`, which computes each level once: thousands of draws share a few."""
    known: dict[Any, float] = {}

    def level(numbers: NDArray[np.int64], precision: float, confidence: float) -> float:
        key = (numbers.tobytes(), precision, confidence)
        if key not in known:
            known[key] = compute(numbers, precision, confidence)
        return known[key]

    return level


def _as_asked(_numbers: NDArray[np.int64], _precision: float, confidence: float) -> float:
    return confidence


def main() -> int:
    """Print the table."""
    print(
        f"promises of {MIN_PRECISION:g}, of {_SEEDS} draws; broken is to stay below 1 - confidence"
    )
    print("| world | pictures | confidence | made | broken | recall | naively made | broken |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    honest = remembered()
    for pictures, confidence in _CASES:
        for world in WORLDS:
            case = (world, pictures, confidence, _SEEDS)
            with patch.object(contract, "search_level", honest):
                made, broken, recall = simulate(*case)
            with patch.object(contract, "search_level", _as_asked):
                naive, lied, _ = simulate(*case)
            shares = (made, broken, recall, naive, lied)
            cells = [world, str(pictures), f"{confidence:g}", *(f"{100 * x:.1f} %" for x in shares)]
            print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
