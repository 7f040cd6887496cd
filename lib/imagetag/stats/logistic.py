"""A linear head on features: logistic regression, its strength chosen by cross-validation.

All folds and all strengths are solved at once, to the optimum: each is a column of a matrix, in the
basis in which the bound of Boehning and Lindsay on the curvature is a diagonal, and accelerated
steps begin anew where they go uphill.

Few pictures tell little of how much a channel varies, and one that happens to vary little among
them would be blown up elsewhere. So the usual variance counts in each as one picture more.

Sources: D. Boehning and B. G. Lindsay, Monotonicity of quadratic-approximation algorithms, Annals
of the Institute of Statistical Mathematics 40 (1988); B. O'Donoghue and E. Candes, Adaptive restart
for accelerated gradient schemes, Foundations of Computational Mathematics 15 (2015); of variances
that are drawn together, G. K. Smyth, Linear models and empirical Bayes methods for assessing
differential expression in microarray experiments, Statistical Applications in Genetics and
Molecular Biology 3 (2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagetag.stats.metrics import numbered

STRENGTHS: tuple[float, ...] = tuple(
    float(f"{digit}e{power}") for power in range(-5, 1) for digit in (1, 3)
)
"""What there is to choose from: the C of scikit-learn, the smaller the smoother."""

_USUAL = 1e-2  # where the search begins, and ends where there are too few groups for one
_FOLDS = 5
_STEPS = 2000  # some 100 are usual: where more are needed, logits are large, and so are errors
_TOLERANCE = 1e-5  # keeps logits within some 1e-3 of the optimum's

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier of one tag on features.

    Attributes:
        weights: `(channels,)`, of the features as they are: standardization is folded in.
        bias: the logit is `features @ weights + bias`.
        strength: the C of scikit-learn's LogisticRegression that was chosen, of the folds' heads.
        out_of_fold: `(pictures,)`, the logit of each picture by a head of the same strength that
            has seen nothing of its fold; NaN where a label has one group alone; empty of a head
            from storage.
        folds: `(pictures,)`, the fold of each picture, which has the whole of its group; -1 where
            there is none; empty of a head from storage.

    """

    weights: Floats
    bias: float
    strength: float
    out_of_fold: Floats = field(default_factory=lambda: np.empty(0))
    folds: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def logits(self, features: ArrayLike) -> Floats:
        """Return the logit of each picture, `(pictures,)`: the mean over its views.

        Args:
            features: `(pictures, views, channels)`.

        """
        mean = np.asarray(features).mean(axis=1, dtype=np.float64)
        return np.asarray(mean @ self.weights + self.bias, np.float64)


def fit_head(
    features: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[str],
    *,
    strengths: Sequence[float] = STRENGTHS,
    balanced: bool = True,
    seed: int = 0,
    as_in_folds: bool = False,
) -> LinearHead:
    """Fit a head, of the strength that is best on pictures that it has not seen.

    Each view of a picture is learned from; the mean of their logits is the picture's. Features are
    standardized over all of them, and one picture more that varies as channels do. No group is on
    both sides of a fold.

    Args:
        features: `(pictures, views, channels)`, finite.
        labels: `(pictures,)`, 1 or True where the tag is in the picture.
        groups: what belongs together, `(pictures,)`.
        strengths: those to choose from.
        balanced: let both labels count alike, however many pictures they have.
        seed: of the folds.
        as_in_folds: regularize the head as strongly a picture as those of the folds, which have
            fewer. Its logits are then on the scale of `out_of_fold`, so that a threshold on those
            is one for it: else they are larger, by up to a quarter, and it calls too much.

    Raises:
        ValueError: if a label has no picture, or features are not finite.

    """
    views = np.asarray(features)
    truth, members = np.asarray(labels).astype(bool), numbered(groups)
    if truth.all() or not truth.any():
        raise ValueError("the pictures are all of one label")
    if not np.isfinite(views).all():
        raise ValueError("the features are not finite")
    share = truth.mean() if balanced else 0.5
    importance = np.where(truth, 0.5 / share, 0.5 / (1 - share))
    problem, folds = _Problem(views, truth, importance), _folds(truth, members, seed)
    strength, unseen = _chosen(problem, folds, sorted(strengths), members)
    known = 1 - 1 / len(folds) if as_in_folds and folds else 1.0
    weights, biases = problem.solve(np.ones((len(truth), 1)), np.array([known * strength]))
    head, bias = problem.folded(weights[:, 0], biases[0])
    fold_of = np.full(len(truth), -1)
    for number, asked in enumerate(folds):
        fold_of[asked] = number
    return LinearHead(head, bias, strength, unseen, fold_of)


def _chosen(
    problem: _Problem, folds: Sequence[Ints], strengths: Sequence[float], members: Ints
) -> tuple[float, Floats]:
    """Return the best strength, and the logits of all pictures by heads that have not seen them.

    From the usual one it goes on to the neighbours as long as they are better. The usual one stays
    where the best of them is not better by more than a standard error over groups: of few pictures
    chance alone would choose.
    """
    usual = place = int(np.argmin(np.abs(np.log(np.array(strengths) / _USUAL))))
    if not folds:
        return strengths[place], np.full(problem.pictures, np.nan)
    losses: dict[int, Floats] = {}
    logits: dict[int, Floats] = {}
    while True:
        near = [i for i in range(place - 1, place + 2) if 0 <= i < len(strengths)]
        new = [i for i in near if i not in losses]
        found = problem.cross_validated(folds, [strengths[i] for i in new])
        for i, column in zip(new, found.T, strict=True):
            losses[i], logits[i] = problem.losses(column), column
        best = min(near, key=lambda i: losses[i].sum())
        if best == place:
            break
        place = best
    if not _clearly_above_zero(losses[usual] - losses[place], members):
        place = usual
    return strengths[place], logits[place]


def _clearly_above_zero(gains: Floats, members: Ints) -> bool:
    """Tell whether a sum over pictures is above 0 by more than its standard error over groups."""
    by_group = np.bincount(members, weights=gains)
    count = len(by_group)
    return bool(by_group.sum() > by_group.std(ddof=1) * np.sqrt(count))


def _folds(truth: Bools, members: Ints, seed: int) -> list[Ints]:
    """Return the pictures of each fold; none if a label has but one group."""
    least = min(len(np.unique(members[truth])), len(np.unique(members[~truth])))
    if least < 2:
        return []
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import

    folds = StratifiedGroupKFold(min(_FOLDS, least), shuffle=True, random_state=seed)
    return _with_both_labels(
        [asked for _, asked in folds.split(truth, truth, members)], truth, members
    )


def _with_both_labels(folds: list[Ints], truth: Bools, members: Ints) -> list[Ints]:
    """Divide folds until both labels are in what is left by each: large groups may take all of one.

    A single group never does, as each label has two.
    """
    left, found = list(folds), []
    while left:
        fold = left.pop()
        known = np.delete(truth, fold)
        if known.any() and not known.all():
            found.append(fold)
            continue
        lacking = truth if not known.any() else ~truth
        alone = members[fold] == members[fold][lacking[fold]][0]
        left += [fold[alone], fold[~alone]]
    return found


class _Problem:
    """Standardized features in the basis of their principal axes, and what they are fitted to.

    Args:
        views: `(pictures, views, channels)`.
        truth: `(pictures,)`.
        importance: `(pictures,)`, what each counts in the loss.

    """

    def __init__(self, views: NDArray[np.floating], truth: Bools, importance: Floats) -> None:
        self.pictures, self._views = views.shape[:2]
        rows = views.reshape(-1, views.shape[2]).astype(np.float64)
        self._truth, self._importance = (
            np.repeat(values, self._views).astype(np.float64) for values in (truth, importance)
        )
        # The bias is not regularized: any center will do, and with this one the curvature has
        # nothing between the bias and the weights.
        self._center = self._importance @ rows / self._importance.sum()
        self._scale = _scales(rows.var(axis=0), self.pictures)
        rows -= self._center
        rows /= self._scale
        weights = np.sqrt(self._importance)[:, None]
        rows *= weights  # in place: of a large tag they are most of the memory
        if len(rows) > rows.shape[1]:
            squares, self._axes = np.linalg.eigh(rows.T @ rows)
        else:
            squares, sides = np.linalg.eigh(rows @ rows.T)
            there = squares > 1e-10 * squares[-1]
            squares = squares[there]
            self._axes = rows.T @ (sides[:, there] / np.sqrt(squares))
        self._squares = np.maximum(squares, 0)
        self._rows = rows @ self._axes
        self._rows /= weights

    def solve(self, known: Floats, strengths: Floats) -> tuple[Floats, Floats]:
        """Return the weights, `(axes, columns)`, and the biases, `(columns,)`, of the optimum.

        Args:
            known: `(pictures, columns)`, 1 for what each column learns from, else 0.
            strengths: `(columns,)`.

        """
        counts = np.repeat(known, self._views, axis=0) * self._importance[:, None]
        targets, penalty = self._truth[:, None], 1 / strengths
        # No less than the curvature anywhere: a logistic loss bends by a quarter at the most.
        bend, bias_bend = self._squares[:, None] / 4 + penalty, counts.sum(axis=0) / 4
        weights = np.zeros((self._rows.shape[1], len(strengths)))
        biases, pace = np.zeros(len(strengths)), np.ones(len(strengths))
        ahead, bias_ahead = weights.copy(), biases.copy()
        found, found_biases = weights.copy(), biases.copy()
        left = np.arange(len(strengths))
        for _ in range(_STEPS):
            if not left.size:
                break
            logits = self._rows @ ahead + bias_ahead
            residues = counts * (_sigmoid(logits) - targets)
            slope, bias_slope = self._rows.T @ residues + penalty * ahead, residues.sum(axis=0)
            step, bias_step = slope / bend, bias_slope / bias_bend
            error = np.sqrt((slope * step).sum(axis=0) + bias_slope * bias_step)
            new, bias_new = ahead - step, bias_ahead - bias_step
            uphill = (slope * (new - weights)).sum(axis=0) + bias_slope * (bias_new - biases) > 0
            pace = np.where(uphill, 1.0, pace)
            faster = (1 + np.sqrt(1 + 4 * pace**2)) / 2
            momentum = np.where(uphill, 0.0, (pace - 1) / faster)
            ahead = new + momentum * (new - weights)
            bias_ahead = bias_new + momentum * (bias_new - biases)
            weights, biases, pace = new, bias_new, faster
            going = error > _TOLERANCE * np.maximum(1, np.sqrt(penalty))
            found[:, left[~going]], found_biases[left[~going]] = weights[:, ~going], biases[~going]
            if going.all():
                continue
            # What has converged is left alone.
            left, pace, penalty = left[going], pace[going], penalty[going]
            weights, biases, ahead, bias_ahead = (
                values[..., going] for values in (weights, biases, ahead, bias_ahead)
            )
            counts, bend, bias_bend = counts[:, going], bend[:, going], bias_bend[going]
        found[:, left], found_biases[left] = weights, biases
        return found, found_biases

    def cross_validated(self, folds: Sequence[Ints], strengths: Sequence[float]) -> Floats:
        """Return the logits of all pictures, `(pictures, strengths)`, each by its fold's heads."""
        known = np.ones((self.pictures, len(folds), len(strengths)))
        for number, asked in enumerate(folds):
            known[asked, number] = 0
        columns = known.reshape(self.pictures, -1)
        weights, biases = self.solve(columns, np.tile(strengths, len(folds)))
        logits = np.empty((self.pictures, len(strengths)))
        for number, asked in enumerate(folds):
            mine = slice(number * len(strengths), (number + 1) * len(strengths))
            logits[asked] = self._logits(asked, weights[:, mine], biases[mine])
        return logits

    def losses(self, logits: Floats) -> Floats:
        """Return what each picture adds to the log loss, `(pictures,)`, from their logits."""
        signed = np.where(self._truth[:: self._views] > 0, -logits, logits)
        return np.asarray(self._importance[:: self._views] * np.logaddexp(0, signed), np.float64)

    def _logits(self, pictures: Ints, weights: Floats, biases: Floats) -> Floats:
        """Return the logits of some pictures, `(pictures, columns)`: the means over their views."""
        of_views = self._rows.reshape(self.pictures, self._views, self._rows.shape[1])
        rows = of_views[pictures].mean(axis=1)
        return np.asarray(rows @ weights + biases, np.float64)

    def folded(self, weights: Floats, bias: float) -> tuple[Floats, float]:
        """Return weights and bias for features as they are, from those for the principal axes."""
        plain = self._axes @ weights / self._scale
        return plain, float(bias - self._center @ plain)


def _scales(variances: Floats, pictures: int) -> Floats:
    """Return by what each channel is divided, `(channels,)`, nowhere 0.

    Args:
        variances: of each channel among the pictures, `(channels,)`.
        pictures: how many there are.

    """
    varying = variances[variances > 0]
    usual = np.median(varying) if varying.size else 1.0
    return np.asarray(np.sqrt((pictures * variances + usual) / (pictures + 1)), np.float64)


def _sigmoid(logits: Floats) -> Floats:
    # By the hyperbolic tangent nothing overflows.
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)), np.float64)
