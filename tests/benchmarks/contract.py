"""How often a promised precision is promised, and how often it does not hold.

    python -m tests.benchmarks contract

Beside the search as it is: the same without allowance for having searched, and MAPIE's binary risk
control as it comes and with a fixed sequence. In each world the true precision at every threshold
is known. Then the same where the pictures are scored by 30 epochs and one is chosen on validation
pictures: the threshold chosen on those again, and on others that chose nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from imagetag.stats.contract import looks, lower_bound, search_level
from tests.benchmarks.peers import peer_python

_SEEDS = 5000
_SHARE = 0.5  # of positives, in all worlds
_PEER_SEEDS = 200  # of these: it takes 8 ms each
_EPOCHS = 30
_CORRELATION = 0.8  # of the scores of two epochs, as far as the label leaves them open
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
    world: str, pictures: int, confidence: float, seeds: int, *, naive: bool = False
) -> tuple[float, float, float]:
    """Return how often a promise was made, how often one that does not hold, and the recall."""
    draw, _ = WORLDS[world]
    drawn = [draw(np.random.default_rng(seed), pictures) for seed in range(seeds)]
    labels, scores = (np.array(column) for column in zip(*drawn, strict=True))
    return judged(world, *search(labels, scores, confidence, naive=naive))


def judged(
    world: str, thresholds: NDArray[np.float64], recalls: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return what `simulate` does, of the thresholds of draws; no number is no promise."""
    met = ~np.isnan(thresholds)
    broken = sum(WORLDS[world][1](float(found)) < MIN_PRECISION for found in thresholds[met])
    recall = float(recalls[met].mean()) if met.any() else 0.0
    return float(met.mean()), broken / met.size, recall


def search(
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    confidence: float,
    *,
    naive: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what `promise_precision` finds, of many draws at once.

    Args:
        labels: (draws, pictures).
        scores: (draws, pictures), no two of a draw equal.
        confidence: of the promise.
        naive: whether each look is tested at the confidence itself.

    Returns:
        The threshold and the recall of each draw, (draws,); no number where nothing is promised.

    """
    order = np.argsort(-scores, axis=1)
    values = np.take_along_axis(scores, order, axis=1)
    right = np.cumsum(np.take_along_axis(labels, order, axis=1), axis=1)
    numbers, least = _least(labels.shape[1], confidence, naive)
    seen = right[:, numbers - 1]
    most = np.where(seen >= least, seen, 0).max(axis=1)
    called = np.argmax(right >= most[:, np.newaxis], axis=1) + 1  # to the last that is right
    padded = np.concatenate([values, values[:, -1:]], axis=1)  # where all are called
    rows = np.arange(len(values))
    thresholds = (padded[rows, called - 1] + padded[rows, called]) / 2
    return np.where(most > 0, thresholds, np.nan), most / right[:, -1]


@cache
def _least(pictures: int, confidence: float, naive: bool) -> tuple[Any, Any]:
    """Return the looks, and how many must be right at each: one too many where all would not do."""
    numbers = looks(pictures, MIN_PRECISION, _SHARE)
    level = confidence if naive else search_level(numbers, MIN_PRECISION, confidence)
    bounds = [lower_bound(np.arange(k + 1), np.full(k + 1, k), level) for k in numbers]
    return numbers, np.array([int(np.sum(bound < MIN_PRECISION)) for bound in bounds])


def epochs(world: str, random: np.random.Generator, count: int) -> tuple[Any, Any]:
    """Return labels, (count,), and the scores of each epoch, (epochs, count).

    Each epoch's scores are those of the world, so that none is better than another.
    """
    normal = random.normal(size=(_EPOCHS + 1, count))
    latent = np.sqrt(_CORRELATION) * normal[0] + np.sqrt(1 - _CORRELATION) * normal[1:]
    if world == "good":
        labels = np.repeat([1, 0], count // 2)
        return labels, latent + 3.5 * labels
    share, level = {"wrong labels": 0.45, "more wrong labels": 0.3}[world], MIN_PRECISION - 0.0005
    labels = (random.random(count) < 0.5).astype(int)
    uniform = stats.norm.cdf(latent)
    # Of the positives, and of the negatives, so many are in the upper part of the scores.
    upper = np.where(labels == 1, 2 * share * level, 2 * share * (1 - level))
    rest = (1 - share) * uniform / (1 - upper)
    above = 1 - share * (1 - uniform) / upper
    return labels, np.where(uniform < 1 - upper, rest, above)


def after_epochs(world: str, count: int, confidence: float, *, apart: bool) -> list[float]:
    """Return how often a promise was made, how often one that does not hold, and the recall.

    Args:
        world: which.
        count: of validation pictures, and of those that the threshold is chosen on.
        confidence: of the promise.
        apart: whether these are others than those that chose the epoch.

    """
    cut = {"good": 1.75, "wrong labels": 0.55}.get(world, 0.7)
    drawn = []
    for seed in range(_SEEDS):
        random = np.random.default_rng(seed)
        labels, scores = epochs(world, random, count)
        best = int(np.argmax(((scores > cut) == labels).mean(axis=1)))
        if apart:
            labels, scores = epochs(world, random, count)
        drawn.append((labels, scores[best]))
    known, scored = (np.array(column) for column in zip(*drawn, strict=True))
    return list(judged(world, *search(known, scored, confidence)))


_MAPIE = """
import sys, warnings
import numpy as np
from mapie.risk_control import BinaryClassificationController
warnings.simplefilter("ignore")
data = np.load(sys.argv[1])
for options in ({}, {"fwer_method": "fixed_sequence"}):
    for labels, chances in zip(data["labels"], data["chances"]):
        control = BinaryClassificationController(
            lambda x: np.column_stack([1 - x[:, 0], x[:, 0]]),
            "precision", float(sys.argv[2]), confidence_level=float(sys.argv[3]), **options)
        control.calibrate(chances[:, np.newaxis], labels)
        best = control.best_predict_param
        print("nan" if best is None else float(best))
"""


def mapie(python: Path, world: str, pictures: int, confidence: float) -> list[float]:
    """Return how often MAPIE promises, and breaks it, as it comes and with a fixed sequence.

    It tries thresholds from 0 to 0.99, and is given probabilities: scores in the order they are.
    """
    draw, _ = WORLDS[world]
    drawn = [draw(np.random.default_rng(seed), pictures) for seed in range(_PEER_SEEDS)]
    labels, scores = (np.array(column) for column in zip(*drawn, strict=True))
    plain = scores.min() >= 0 and scores.max() <= 1
    chances = scores if plain else 1 / (1 + np.exp(-3 * (scores - 1.5)))
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as folder:
        path = Path(folder) / "draws.npz"
        np.savez(path, labels=labels, chances=chances)
        command = [str(python), "-c", _MAPIE, str(path), str(MIN_PRECISION), str(confidence)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = np.array(done.stdout.split(), np.float64)
    if not plain:
        with np.errstate(divide="ignore"):
            found = np.log(found / (1 - found)) / 3 + 1.5
    both = found.reshape(2, _PEER_SEEDS)
    return [rate for thresholds in both for rate in judged(world, thresholds, thresholds)[:2]]


def _row(cells: list[str], shares: list[float]) -> None:
    print(f"| {' | '.join([*cells, *(f'{100 * x:.1f} %' for x in shares)])} |", flush=True)


def main() -> int:
    """Print the tables."""
    python = peer_python("mapie")
    print(
        f"promises of {MIN_PRECISION:g}, of {_SEEDS:,} draws, of MAPIE {_PEER_SEEDS}; broken is to "
        "stay below 1 - confidence\n\n"
        "| world | pictures | confidence | made | broken | recall | naively made | broken "
        "| MAPIE made | broken | in sequence made | broken |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for pictures, confidence in _CASES:
        for world in WORLDS:
            shares = list(simulate(world, pictures, confidence, _SEEDS))
            shares += simulate(world, pictures, confidence, _SEEDS, naive=True)[:2]
            if python is not None:
                shares += mapie(python, world, pictures, confidence)
            _row([world, str(pictures), f"{confidence:g}"], shares)
    print(
        f"\none of {_EPOCHS} epochs was chosen on validation pictures\n\n"
        "| world | pictures | confidence | threshold on others made | broken | recall "
        "| on the same made | broken | recall |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for pictures, confidence in ((200, 0.95), (200, 0.5)):
        for world in ("good", "wrong labels", "more wrong labels"):
            shares = [
                share
                for apart in (True, False)
                for share in after_epochs(world, pictures, confidence, apart=apart)
            ]
            _row([world, str(pictures), f"{confidence:g}"], shares)
    return 0


if __name__ == "__main__":
    sys.exit(main())
