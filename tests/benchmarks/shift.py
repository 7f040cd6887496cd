"""What is estimated of new pictures without labels, and how often the advice on them is right.

    python -m tests.benchmarks shift

In each world the true share and the true precision at every threshold are known. A threshold is
chosen for a precision of 0.95 on some pictures, and tested on as many, half of both with the tag;
then 4,000 new pictures come, of which fewer have it, or whose pictures without it are of another
kind: they score higher. Beside it what is usual: to count the calls as the share ("classify and
count"), and to believe the rates of the test pictures as they are.

Advice is right if it is true: `keep` where the true precision is 0.95 or more; `tighten` where it
is less, and is 0.95 or more at the stricter threshold; `distrust` where it is less, or the pictures
are of another kind. It misleads where it keeps or names a threshold of a precision below 0.90.

The second table asks whether a test on features would help: of new pictures a part are look-alikes
without the tag, which score as if they had it, or all are of another style that changes no score.
Called pictures are compared with those of the test that were called, in each direction of features
beside the score's (Kolmogorov and Smirnov, at 1 % for all of them together); where they differ, the
advice is `distrust`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from imagetag.stats import Tried, estimate_shift, promise_precision

WANTED, CONFIDENCE = 0.95, 0.95
_MISLEADING = 0.9
_NEW = 4000
_SEEDS = 100
_CLASSIFIERS = {"good": 4.0, "fair": 3.0, "poor": 2.0}  # how far apart both labels score
_COUNTS = (200, 1000)
_SHARES, _SHARES_OF_OTHERS = (0.5, 0.1, 0.01), (0.1,)
_OTHER = 0.5  # how much higher pictures without the tag score, where they are of another kind

_CHANNELS = 16  # of features, of which the first is the score
_AWAY = 3.0  # how far look-alikes are from pictures with the tag, beside the score
_STYLES = (0.1, 0.25, 0.5)  # how far a style moves all pictures
_LOOK_ALIKES = (0.02, 0.05)  # which part of the new pictures they are

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Scores of both labels are normal: around `distance` with the tag, around 0 without it.

    New pictures without it are around `moved`, and a part `share` has it.
    """

    distance: float
    share: float
    moved: float = 0.0

    def tried(self, random: np.random.Generator, count: int) -> tuple[Tried, float]:
        """Return labelled pictures, twice as many as chose the threshold, and the threshold."""
        labels = np.tile(np.arange(count) < count // 2, 2)
        scores = random.normal(np.where(labels, self.distance, 0.0), 1)
        promise = promise_precision(
            labels[:count], scores[:count], min_precision=WANTED, confidence=CONFIDENCE
        )
        tried = Tried(
            labels=labels,
            scores=special.expit(scores),
            called=scores >= promise.threshold,
            groups=[str(number) for number in range(labels.size)],
            chose=np.arange(labels.size) < count,
        )
        return tried, promise.threshold

    def new(self, random: np.random.Generator) -> Floats:
        """Return scores of new pictures."""
        labels = random.random(_NEW) < self.share
        return random.normal(np.where(labels, self.distance, self.moved), 1)

    def precision(self, threshold: float) -> float:
        """Return the true one among new pictures."""
        right = self.share * stats.norm.sf(threshold - self.distance)
        return float(right / (right + (1 - self.share) * stats.norm.sf(threshold - self.moved)))

    def verdict(self, advice: str, now: float, then: float | None) -> tuple[bool, bool]:
        """Return whether advice is right, and whether it misleads."""
        true = self.precision(now)
        if advice == "keep":
            return true >= WANTED, true < _MISLEADING
        if advice == "tighten" and then is not None:
            stricter = self.precision(then)
            return true < WANTED <= stricter, stricter < _MISLEADING
        return bool(self.moved) or true < WANTED, False


def naively(tried: Tried, scores: Floats, threshold: float) -> tuple[float, str, float | None]:
    """Return what counting gives: a share, advice, and a stricter threshold."""
    share = float((scores >= threshold).mean())
    known = special.logit(tried.scores[~tried.chose])
    labels = tried.labels[~tried.chose]
    stricter = np.sort(known[labels & (known > threshold)])
    for least in (threshold, *stricter.tolist()):
        found, alarms = (float((known[label] >= least).mean()) for label in (labels, ~labels))
        right = share * found
        if right and right / (right + (1 - share) * alarms) >= WANTED:
            return (share, "keep", None) if least == threshold else (share, "tighten", least)
    return share, "distrust", None


def row(world: World, count: int) -> Iterator[str]:
    """Yield the cells of a case."""
    covered, errors, theirs = [], [], []
    given: list[str] = []
    verdicts: dict[str, list[tuple[bool, bool]]] = {"ours": [], "naive": []}
    for seed in range(_SEEDS):
        random = np.random.default_rng(seed)
        tried, threshold = world.tried(random, count)
        scores = world.new(random)
        shift = estimate_shift(tried, special.expit(scores), WANTED, seed=seed)
        share, precision = shift.share, shift.precision
        assert share.value is not None
        assert share.interval
        assert precision.interval
        assert shift.advice
        true = world.precision(threshold)
        covered.append(
            (
                share.interval[0] <= world.share <= share.interval[1],
                precision.interval[0] <= true <= precision.interval[1],
            )
        )
        then = None if shift.threshold is None else float(special.logit(shift.threshold))
        verdicts["ours"].append(world.verdict(shift.advice, threshold, then))
        given.append(shift.advice)
        counted, advice, stricter = naively(tried, scores, threshold)
        verdicts["naive"].append(world.verdict(advice, threshold, stricter))
        errors.append(abs(share.value - world.share))
        theirs.append(abs(counted - world.share))
    of_share, of_precision = np.mean(covered, axis=0)
    other = bool(world.moved)
    yield "" if other else _percent(of_share)
    yield "" if other else _percent(of_precision)
    yield f"{100 * np.mean(errors):.1f} / {100 * np.mean(theirs):.1f}"
    yield " / ".join(
        _percent(given.count(advice) / _SEEDS) for advice in ("keep", "tighten", "distrust")
    )
    for part in (0, 1):
        ours, naive = (np.mean(verdicts[who], axis=0)[part] for who in ("ours", "naive"))
        yield f"{_percent(ours)} / {_percent(naive)}"


def rows() -> Iterator[list[str]]:
    """Yield a row a case."""
    for moved in (0.0, _OTHER):
        for name, distance in _CLASSIFIERS.items():
            for count in _COUNTS:
                for share in _SHARES if not moved else _SHARES_OF_OTHERS:
                    what = f"{name}, others" if moved else name
                    cells = row(World(distance, share, moved), count)
                    yield [what, f"{count:,}", f"{100 * share:g} %", *cells]


@dataclass(frozen=True)
class Seen:
    """A good classifier's world, with features.

    A part of the new pictures are look-alikes, and all are moved by a style.
    """

    world: World
    look_alikes: float = 0.0
    style: float = 0.0

    def new(self, random: np.random.Generator) -> Floats:
        """Return features of new pictures, (pictures, channels)."""
        found = random.normal(size=(_NEW, _CHANNELS))
        alike = random.random(_NEW) < self.look_alikes
        found[:, 0] += self.world.distance * (alike | (random.random(_NEW) < self.world.share))
        found[:, 1] += _AWAY * alike
        found[:, 2] += self.style
        return found

    def precision(self, threshold: float) -> float:
        """Return the true one among new pictures."""
        high, low = stats.norm.sf(threshold - self.world.distance), stats.norm.sf(threshold)
        right = (1 - self.look_alikes) * self.world.share * high
        wrong = self.look_alikes * high + (1 - self.look_alikes) * (1 - self.world.share) * low
        return float(right / (right + wrong))

    def is_right(self, advice: str, now: float, then: float | None) -> bool:
        """Tell whether advice is right."""
        true = self.precision(now)
        if advice == "keep":
            return true >= WANTED
        if advice == "tighten" and then is not None:
            return true < WANTED <= self.precision(then)
        return true < WANTED


def with_features() -> Iterator[list[str]]:
    """Yield a row a case: advice by scores alone, and with a test on features."""
    half, rare = (World(_CLASSIFIERS["good"], share) for share in (0.5, 0.1))
    cases = {"half have the tag": Seen(half), "a tenth have it": Seen(rare)}
    cases |= {f"and {part:.0%} look-alikes": Seen(rare, part) for part in _LOOK_ALIKES}
    cases |= {f"half, a style {style:g} away": Seen(half, style=style) for style in _STYLES}
    for name, seen in cases.items():
        differ, right = [], []
        for seed in range(_SEEDS):
            random = np.random.default_rng(seed)
            tried, threshold = seen.world.tried(random, 1000)
            features = seen.new(random)
            shift = estimate_shift(tried, special.expit(features[:, 0]), WANTED, seed=seed)
            called = features[features[:, 0] >= threshold, 1:]
            # Beside the score, labelled pictures of both labels are alike.
            known = random.normal(size=(int((tried.called & ~tried.chose).sum()), _CHANNELS - 1))
            tests = [stats.ks_2samp(*pair).pvalue for pair in zip(called.T, known.T, strict=True)]
            differ.append(min(tests) < 0.01 / len(tests))
            then = None if shift.threshold is None else float(special.logit(shift.threshold))
            assert shift.advice
            advised = (shift.advice, "distrust" if differ[-1] else shift.advice)
            right.append([seen.is_right(advice, threshold, then) for advice in advised])
        yield [name, _percent(float(np.mean(differ))), *map(_percent, np.mean(right, axis=0))]


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def main() -> int:
    """Print the table."""
    head = [
        "classifier",
        "pictures that chose, and as many that tested",
        "have the tag",
        "share in its interval, %",
        "precision in its interval, %",
        "share is off by, points: ours / counted",
        "keep / tighten / don't trust, %",
        "right, %: ours / naive",
        "misleading, %: ours / naive",
    ]
    print(f"{_SEEDS} draws of {_NEW:,} new pictures each\n")
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for cells in rows():
        print(f"| {' | '.join(cells)} |", flush=True)
    print("\n| new pictures | features differ, % | right by scores, % | and by features, % |")
    print("| --- | ---: | ---: | ---: |")
    for cells in with_features():
        print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
