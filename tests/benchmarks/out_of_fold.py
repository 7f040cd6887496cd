"""How often a promise holds whose threshold is chosen on out-of-fold scores of a head.

    python -m tests.benchmarks.out_of_fold [--draws N] [WORLD ...]

Features are drawn, so that the true precision of any head at any threshold is known. Beside
pictures that are kept for the threshold: out-of-fold scores of all pictures, for the head that is
fitted to all of them. Each threshold is chosen as in use: the strength by cross-validation over
groups, labels balanced, one picture a group, the share of positives as it is among those that are
learned from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from imagetag.stats import LinearHead, fit_head
from imagetag.stats.contract import promise_precision

CONFIDENCES = (0.95, 0.8)
_KEPT = 0.2  # of the groups, for the threshold
_ALIKE = 0.8  # of what the pictures of a group have in common, beside the label
WAYS = ("held out", "out of fold")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Features of both labels are spread alike around two centers.

    Args:
        groups: of one label each.
        size: pictures of each group.
        share: of positives.
        distance: between the centers, in standard deviations.
        channels: of the features.
        precision: to be promised.
        wrong: share of the negatives that are spread like positives.

    """

    groups: int
    size: int
    share: float
    distance: float
    channels: int
    precision: float
    wrong: float = 0.0

    def draw(self, random: np.random.Generator) -> tuple[Floats, NDArray[np.bool_], list[str]]:
        """Return features, (pictures, 1, channels), labels, and groups."""
        labels = random.random(self.groups) < self.share
        like = labels | (random.random(self.groups) < self.wrong)
        common = random.normal(size=(self.groups, 1, self.channels))
        own = random.normal(size=(self.groups, self.size, self.channels))
        features = np.sqrt(_ALIKE) * common + np.sqrt(1 - _ALIKE) * own
        features[:, :, 0] += self.distance * like[:, None]
        names = [str(group) for group in range(self.groups) for _ in range(self.size)]
        return features.reshape(-1, 1, self.channels), np.repeat(labels, self.size), names

    def truth(self, weights: Floats, bias: float, threshold: float) -> float:
        """Return the precision of a head at a threshold."""
        spread = float(np.linalg.norm(weights)) or 1e-12
        away = (threshold - bias) / spread
        like = stats.norm.sf(away - self.distance * weights[0] / spread)
        unlike = stats.norm.sf(away)
        right = self.share * like
        wrong = (1 - self.share) * (self.wrong * like + (1 - self.wrong) * unlike)
        return float(right / (right + wrong))

    def recall(self, weights: Floats, bias: float, threshold: float) -> float:
        """Return the recall of a head at a threshold."""
        spread = float(np.linalg.norm(weights)) or 1e-12
        away = (threshold - bias - self.distance * weights[0]) / spread
        return float(stats.norm.sf(away))


def capped(share: float, level: float) -> float:
    """Return the share of wrong negatives with which no precision is above a level."""
    return share / (1 - share) * (1 - level) / level


class Outcome(NamedTuple):
    """What came of a threshold: whether it was promised, whether that is broken, and the recall."""

    made: bool = False
    broken: bool = False
    recall: float = 0.0


def judged(world: World, seed: int) -> list[list[Outcome]]:
    """Return what comes of a draw, by each way at each of `CONFIDENCES`."""
    random = np.random.default_rng(seed)
    features, labels, groups = world.draw(random)
    members = np.array(groups)
    kept = np.isin(members, np.unique(members)[random.random(world.groups) < _KEPT])
    some = fit_head(features[~kept], labels[~kept], list(members[~kept]))
    head = fit_head(features, labels, groups, as_in_folds=True)
    share = _one_a_group(labels[~kept], members[~kept]).mean()
    by_kept = some, labels[kept], some.logits(features[kept]), members[kept], share
    share = _one_a_group(labels, members).mean()
    by_all = head, labels, head.out_of_fold, members, share
    return [[_outcome(world, *way, at) for at in CONFIDENCES] for way in (by_kept, by_all)]


def _one_a_group(values: NDArray[Any], members: NDArray[np.str_]) -> NDArray[Any]:
    return values[np.unique(members, return_index=True)[1]]


def _outcome(
    world: World,
    head: LinearHead,
    labels: NDArray[np.bool_],
    logits: Floats,
    members: NDArray[np.str_],
    share: float,
    confidence: float,
) -> Outcome:
    truth = _one_a_group(labels, members)
    if not truth.any() or truth.all():
        return Outcome()
    promise = promise_precision(
        truth,
        _one_a_group(logits, members),
        min_precision=world.precision,
        confidence=confidence,
        share=share,
    )
    if not promise.met:
        return Outcome()
    precision = world.truth(head.weights, head.bias, promise.threshold)
    recall = world.recall(head.weights, head.bias, promise.threshold)
    return Outcome(made=True, broken=precision < world.precision, recall=recall)


WORLDS: dict[str, World] = {
    "wrong labels": World(300, 1, 0.5, 5.0, 64, 0.95, capped(0.5, 0.9495)),
    "fair": World(400, 1, 0.5, 3.0, 64, 0.95),
    "few, wrong labels": World(80, 1, 0.5, 5.0, 64, 0.8, capped(0.5, 0.7995)),
    "few": World(80, 1, 0.5, 3.0, 64, 0.8),
    "rare": World(400, 1, 0.2, 4.0, 64, 0.95),
    "groups": World(200, 3, 0.5, 3.5, 64, 0.95),
    "good": World(200, 1, 0.5, 5.0, 64, 0.95),
    "many channels": World(200, 1, 0.5, 6.0, 256, 0.95),
    "many": World(800, 1, 0.5, 4.0, 64, 0.95),
    "few, more channels": World(100, 1, 0.5, 8.0, 512, 0.8),
    "very few": World(24, 1, 0.5, 3.0, 16, 0.6),
    "rarer": World(400, 1, 0.1, 4.5, 64, 0.9),
    "very rare": World(400, 1, 0.05, 3.5, 64, 0.6),
}
"""Each has some cases of use; where labels are wrong, no threshold keeps the promise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of some worlds, or of all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.out_of_fold")
    parser.add_argument("worlds", nargs="*", metavar="WORLD", help=f"of {', '.join(WORLDS)}")
    parser.add_argument("--draws", type=int, default=300)
    given = parser.parse_args(argv)
    if unknown := set(given.worlds) - WORLDS.keys():
        parser.error(f"there is no world {', '.join(sorted(unknown))}")
    columns = "".join(f"| {way}: promised | broken | recall " for way in WAYS)
    print(
        f"{given.draws:,} draws; at a confidence of 0.95 a twentieth may break, at 0.8 a fifth\n"
        "\n"
        f"| world | groups | positive | channels | precision | confidence {columns}|\n| --- "
        + "| ---: " * (5 + 3 * len(WAYS))
        + "|"
    )
    with ProcessPoolExecutor() as pool:
        for name in given.worlds or WORLDS:
            world = WORLDS[name]
            found = pool.map(partial(judged, world), range(given.draws), chunksize=10)
            drawn = np.array(list(found))
            for place, confidence in enumerate(CONFIDENCES):
                cells = [name, world.groups, world.share, world.channels, world.precision]
                row = [*map(str, cells), str(confidence)]
                for made, broken, recall in drawn[:, :, place].transpose(1, 2, 0):
                    reached = recall[made > 0].mean() if made.any() else 0.0
                    row += [f"{100 * x:.1f} %" for x in (made.mean(), broken.mean(), reached)]
                print(f"| {' | '.join(row)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
