"""How often intervals hold the true value, and how wide they are, beside others.

    python -m tests.benchmarks intervals

Pictures stand alone, or belong to families of six that answer as one (`six, one answer`) or half of
the time (`six, half`). Beside the interval in use: Clopper-Pearson's and Wilson's by picture, and
percentiles of 1,000 bootstrap resamples of the groups.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from imagetag.stats import comparison
from imagetag.stats.intervals import share_interval
from imagetag.stats.metrics import Predictions, at_prevalence

_DRAWS = 2000
_RESAMPLES = 1000
_CALLED = (30, 40, 60, 100)
_TRUTHS = (0.8, 0.9, 0.95, 0.99)
_SHARED = {"alone": (1, 0.0), "six, half": (6, 0.5), "six, one answer": (6, 1.0)}

Limits = tuple[float, float]


def draw(
    random: np.random.Generator, pictures: int, family: int, shared: float, truth: float
) -> NDArray[np.bool_]:
    """Return which pictures of families are right, (families, family)."""
    common = random.random((pictures // family, 1)) < truth
    own = random.random((pictures // family, family)) < truth
    return np.where(random.random((pictures // family, 1)) < shared, common, own)


def ours(right: NDArray[np.bool_]) -> Limits:
    """Return the interval in use."""
    groups = np.repeat(np.arange(len(right)), right.shape[1])
    return share_interval(right.ravel(), np.ones(right.size), groups)


def by_picture(method: str) -> Callable[[NDArray[np.bool_]], Limits]:
    """Return SciPy's interval that takes each picture for itself."""

    def limits(right: NDArray[np.bool_]) -> Limits:
        found = stats.binomtest(int(right.sum()), right.size).proportion_ci(0.95, method)
        return float(found.low), float(found.high)

    return limits


def percentiles(right: NDArray[np.bool_]) -> Limits:
    """Return percentiles of bootstrap resamples of the families."""
    random, count = np.random.default_rng(0), len(right)
    weights = random.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    low, high = np.percentile(weights @ right.mean(axis=1) / count, (2.5, 97.5))
    return float(low), float(high)


METHODS = {
    "in use": ours,
    "Clopper-Pearson": by_picture("exact"),
    "Wilson": by_picture("wilson"),
    "bootstrap": percentiles,
}


def shares() -> Iterator[list[str]]:
    """Yield a row a case: how often each method holds the true share, and its mean width."""
    random = np.random.default_rng(1)
    for kind, (family, shared) in _SHARED.items():
        for called in _CALLED:
            for truth in _TRUTHS:
                sets = [draw(random, called, family, shared, truth) for _ in range(_DRAWS)]
                # Many sets are the same but for the order of their families.
                keys = [tuple(sorted(right.sum(axis=1).tolist())) for right in sets]
                first = dict(zip(keys, sets, strict=True))
                cells = [kind, str(sets[0].size), f"{truth:g}"]
                for method in METHODS.values():
                    found = {key: method(right) for key, right in first.items()}
                    limits = np.array([found[key] for key in keys])
                    cells.append(_cell(limits, truth))
                yield cells


def prevalences() -> Iterator[list[str]]:
    """Yield a row a case of the precision where 1 % have the tag."""
    random, rate, alarm = np.random.default_rng(2), 0.01, 0.05
    for kind, (family, shared) in _SHARED.items():
        for pictures in (60, 120, 300):
            for hit in (0.8, 0.95):
                truth = rate * hit / (rate * hit + (1 - rate) * alarm)
                limits = []
                for _ in range(_DRAWS // 2):
                    parts = [draw(random, pictures, family, shared, p) for p in (hit, alarm)]
                    called = np.concatenate([part.ravel() for part in parts])
                    labels = np.arange(called.size) < parts[0].size
                    groups = [str(number // family) for number in range(called.size)]
                    chances = called.astype(np.float64)
                    answers = Predictions(labels, chances, chances, called, groups)
                    found = at_prevalence(answers, rate).precision
                    limits.append((found.low or 0.0, 1.0 if found.high is None else found.high))
                yield [kind, str(parts[0].size), f"{hit:g}", _cell(np.array(limits), truth)]


def rankings() -> Iterator[list[str]]:
    """Yield a row a case of what the bootstrap is used for: average precision and ROC AUC."""
    random = np.random.default_rng(3)
    for positives in (30, 100):
        for distance in (2.0, 3.0):
            metrics: tuple[comparison.Metric, ...] = ("average-precision", "roc-auc")
            scores = {"average-precision": average_precision_score, "roc-auc": roc_auc_score}
            exam, run = _answers(random, 500_000, distance)
            for metric in metrics:
                truth = float(scores[metric](exam.labels, run.scores))
                limits = []
                for _ in range(200):
                    small, answers = _answers(random, positives, distance)
                    span = comparison.compare(small, [answers], metric)[0].value
                    if span is not None:
                        limits.append((span.low or 0.0, span.high or 1.0))
                yield [metric, str(positives), f"{truth:.3f}", _cell(np.array(limits), truth)]


def _answers(
    random: np.random.Generator, positives: int, distance: float
) -> tuple[comparison.Exam, comparison.Answers]:
    labels = np.arange(2 * positives) < positives
    scores = random.normal(size=labels.size) + distance * labels
    exam = comparison.Exam(labels, np.arange(labels.size))
    return exam, comparison.Answers(scores, labels.astype(np.float64), scores > distance / 2)


def _cell(limits: NDArray[np.float64], truth: float) -> str:
    low, high = limits.T
    held = np.mean((low <= truth + 1e-12) & (truth - 1e-12 <= high))
    return f"{100 * held:.1f} % ({np.mean(high - low):.3f})"


def _table(head: list[str], rows: Iterator[list[str]]) -> None:
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> int:
    """Print the tables."""
    print(f"how often the true value is held, and the mean width; {_DRAWS:,} draws a row")
    _table(["pictures", "called", "true share", *METHODS], shares())
    _table(
        ["pictures", "of each label", "recall", "precision where 1 % have the tag"], prevalences()
    )
    _table(["metric", "positives", "true value", "bootstrap, in use"], rankings())
    return 0


if __name__ == "__main__":
    sys.exit(main())
