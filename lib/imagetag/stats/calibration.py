"""Probabilities that mean what they say: of all pictures given 0.8, four in five have the tag.

Sources: C. Guo et al., On calibration of modern neural networks, ICML 2017 (temperature);
B. Zadrozny and C. Elkan, Transforming classifier scores into accurate multiclass probability
estimates, KDD 2002 (isotonic); A. P. Oron and N. Flournoy, Centered isotonic regression,
Statistics in Biopharmaceutical Research 9 (2017), which keeps apart what isotonic regression
makes equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict, Field, model_validator

from imagetag.record import Record
from imagetag.stats.intervals import share_interval
from imagetag.stats.metrics import numbered

Method = Literal["none", "temperature", "isotonic"]

_FOLDS = 5
_BINS = 10

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Calibration(Record):
    """How a logit becomes a probability; higher logits never get lower ones.

    `temperature` divides the logit before the sigmoid. `isotonic` interpolates between `points`,
    of (logit, probability). `log_loss` is that of each method on the pictures it was fitted to, in
    nats, cross-validated.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    method: Method = "none"
    temperature: float = Field(1.0, gt=0)
    points: tuple[tuple[float, float], ...] = ()
    log_loss: dict[Method, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_points(self) -> Self:
        if self.method == "isotonic" and not self.points:
            raise ValueError("it has no points")
        if any(not 0 <= probability <= 1 for _, probability in self.points) or any(
            before[0] > behind[0] or before[1] > behind[1]
            for before, behind in pairwise(self.points)
        ):
            raise ValueError("its points do not rise from 0 to 1")
        return self

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Return the probabilities of some logits, of the same shape."""
        values = np.asarray(logits, np.float64)
        if self.method == "isotonic":
            return np.asarray(np.interp(values, *self._steps), np.float64)
        from scipy import special  # slow, and whoever reads what was found does without

        return np.asarray(special.expit(values / self.temperature), np.float64)

    @cached_property
    def _steps(self) -> Floats:
        """The points as an array, (2, points)."""
        return np.array(self.points, np.float64).T


class Bin(Record):
    """Pictures of similar probability: their mean, and the share that has the tag."""

    probability: float
    share: float
    low: float
    high: float
    pictures: int


class Reliability(Record):
    """How far probabilities are from shares.

    `error` is the expected calibration error: the mean distance between the two, over all pictures.
    """

    bins: tuple[Bin, ...]
    error: float


def calibrate(
    labels: ArrayLike,
    logits: ArrayLike,
    groups: Sequence[str],
    *,
    method: Literal["auto", "none", "temperature", "isotonic"] = "auto",
) -> Calibration:
    """Fit how logits become probabilities; auto takes the method of the lowest log loss.

    The losses are cross-validated, and no group is on both sides. Where a label has too few groups
    for that, fewer than ten, auto takes the temperature, which has but one number to fit.

    Args:
        labels: (pictures,), 1 or True where the tag is in the picture; of both labels some.
        logits: (pictures,).
        groups: what belongs together, (pictures,).
        method: auto, or which.

    """
    truth, values = np.asarray(labels).astype(bool), np.asarray(logits, np.float64)
    names = np.asarray(groups)
    losses = _losses(truth, values, names)
    chosen: Method
    if method != "auto":
        chosen = method
    else:
        chosen = min(losses, key=lambda name: losses[name]) if losses else "temperature"
    return _fit(truth, values, chosen).model_copy(update={"log_loss": losses})


def reliability(labels: ArrayLike, probabilities: ArrayLike, groups: Sequence[str]) -> Reliability:
    """Compare probabilities with shares, in ten bins of equally many pictures.

    Args:
        labels: (pictures,), 1 or True where the tag is in the picture.
        probabilities: (pictures,), in [0, 1].
        groups: what belongs together, (pictures,).

    """
    truth, chances = np.asarray(labels).astype(bool), np.asarray(probabilities, np.float64)
    order, members = np.argsort(chances, kind="stable"), numbered(groups)
    bins, error = [], 0.0
    for part in np.array_split(order, min(_BINS, len(order))):
        mean, found = float(chances[part].mean()), truth[part]
        low, high = share_interval(found, np.ones(len(part)), members[part])
        share = float(found.mean())
        bins.append(Bin(probability=mean, share=share, low=low, high=high, pictures=len(part)))
        error += abs(mean - share) * len(part) / len(order)
    return Reliability(bins=tuple(bins), error=error)


def calibrated_gain(
    labels: ArrayLike,
    before: ArrayLike,
    after: ArrayLike,
    groups: Sequence[str],
    class_weights: tuple[float, float] = (1.0, 1.0),
) -> tuple[float, float]:
    """Return by how much other logits lower the log loss, and the standard error of that, in nats.

    Both have the temperature that is best for them: what is wrong with their scale alone is set
    right afterwards. The unit of the error are groups.

    Args:
        labels: `(pictures,)`, 1 or True where the tag is in the picture.
        before: logits, `(pictures,)`.
        after: the others, `(pictures,)`.
        groups: what belongs together, `(pictures,)`.
        class_weights: what (negatives, positives) count.

    """
    truth, members = np.asarray(labels).astype(bool), numbered(groups)
    counts = np.array(class_weights)[truth.astype(int)]
    losses = []
    for logits in (np.asarray(before, np.float64), np.asarray(after, np.float64)):
        signed = np.where(truth, -logits, logits) / _temperature(truth, logits, counts)
        losses.append(counts * np.logaddexp(0, signed))
    gains, total = losses[0] - losses[1], counts.sum()
    gain = float(gains.sum() / total)
    by_group = np.bincount(members, weights=gains - gain * counts)
    spread = float(by_group @ by_group) * len(by_group) / max(len(by_group) - 1, 1)
    return gain, float(np.sqrt(spread) / total)


def _losses(truth: Bools, logits: Floats, groups: NDArray[np.str_]) -> dict[Method, float]:
    least = min(len(np.unique(groups[truth])), len(np.unique(groups[~truth])))
    if least < 2 * _FOLDS:
        return {}
    from sklearn.model_selection import StratifiedGroupKFold

    methods: tuple[Method, ...] = ("none", "temperature", "isotonic")
    chances = {method: np.zeros(truth.size) for method in methods}
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    for known, asked in folds.split(logits, truth, groups):
        if truth[known].all() or not truth[known].any():
            return {}
        for method in methods:
            fitted = _fit(truth[known], logits[known], method)
            chances[method][asked] = fitted.probabilities(logits[asked])
    return {method: _log_loss(truth, found) for method, found in chances.items()}


def _fit(truth: Bools, logits: Floats, method: Method) -> Calibration:
    if method == "temperature":
        return Calibration(method=method, temperature=_temperature(truth, logits))
    if method == "isotonic":
        return Calibration(method=method, points=_points(truth, logits))
    return Calibration()


def _temperature(truth: Bools, logits: Floats, counts: Floats | None = None) -> float:
    from scipy import optimize

    signed = np.where(truth, -logits, logits)

    def loss(power: float) -> float:
        return float(np.average(np.logaddexp(0, signed * np.exp(-power)), weights=counts))

    # From 1/50 to 50: labels that the logits part entirely would want it to be zero.
    found = optimize.minimize_scalar(loss, bounds=(-np.log(50), np.log(50)), method="bounded")
    return float(np.exp(found.x))


def _points(truth: Bools, logits: Floats) -> tuple[tuple[float, float], ...]:
    """Return the centres of isotonic regression's steps, as (logit, probability)."""
    from sklearn.isotonic import isotonic_regression

    known, where, counts = np.unique(logits, return_inverse=True, return_counts=True)
    shares = np.bincount(where, weights=truth) / counts
    steps = isotonic_regression(shares, sample_weight=counts)
    # Beyond the last step is no certainty: as many pictures could be followed by one of the other.
    least = 1 / (truth.size + 2)
    centres = []
    for step in np.unique(steps):
        inside = steps == step
        centre = float(np.average(known[inside], weights=counts[inside]))
        centres.append((centre, float(np.clip(step, least, 1 - least))))
    return tuple(centres)


def _log_loss(truth: Bools, chances: Floats) -> float:
    safe = np.clip(chances, 1e-12, 1 - 1e-12)
    return float(-np.log(np.where(truth, safe, 1 - safe)).mean())
