"""What a classifier's probabilities are worth, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import average_precision_score, classification_report, roc_auc_score

from imagetag.errors import InputError
from imagetag.manifest import Dataset, Row

Interval = tuple[float, float]

_Z_95 = 1.959964  # how many standard deviations hold 95 % of a normal distribution


@dataclass(frozen=True)
class Scored:
    """A picture, and the probability the model gives that the tag is in it."""

    row: Row
    probability: float


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Confusion(_Record):
    """How many pictures were called what: true and false positives and negatives."""

    tp: int
    fp: int
    fn: int
    tn: int


class BinaryMetrics(_Record):
    """How good probabilities are at a threshold.

    `precision` is None where nothing was called positive. An interval is the 95 % confidence
    interval of the number beside it (Wilson): with few pictures it is wide. `report` is
    scikit-learn's classification report, with None where a number is not defined.
    """

    threshold: float
    positives: int
    negatives: int
    accuracy: float
    accuracy_interval: Interval
    precision: float | None
    precision_interval: Interval | None
    recall: float
    recall_interval: Interval
    specificity: float
    f1: float
    average_precision: float
    roc_auc: float
    confusion: Confusion
    report: dict[str, Any]
    report_text: str


class Evaluation(_Record):
    """One run's metrics on the test split, with what led to them.

    `settings` is what the run was trained with, as names and values.
    """

    tag: str
    run: str
    settings: dict[str, Any]
    dataset: Dataset
    metrics: BinaryMetrics
    created: str
    software: str


def binary_metrics(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> BinaryMetrics:
    """Measure probabilities against labels.

    Args:
        labels: (images,), 1 or True where the tag is in the picture.
        probabilities: (images,), in [0, 1].
        threshold: a picture of at least this probability is called positive.

    Raises:
        InputError: if all pictures are of one label, or a probability is not a number.

    """
    truth = np.asarray(labels).astype(bool)
    scores = np.asarray(probabilities, dtype=np.float64)
    if truth.shape != scores.shape or truth.ndim != 1:
        raise ValueError(f"labels are {truth.shape} and probabilities {scores.shape}")
    _check(truth, scores)
    called = scores >= threshold
    tp, fp = int(np.sum(called & truth)), int(np.sum(called & ~truth))
    fn, tn = int(np.sum(~called & truth)), int(np.sum(~called & ~truth))
    report: dict[str, Any] = {
        "y_true": truth,
        "y_pred": called,
        "labels": [False, True],
        "target_names": ["negative", "positive"],
        "zero_division": np.nan,
    }
    return BinaryMetrics(
        threshold=threshold,
        positives=tp + fn,
        negatives=tn + fp,
        accuracy=(tp + tn) / truth.size,
        accuracy_interval=wilson_interval(tp + tn, truth.size),
        precision=tp / (tp + fp) if called.any() else None,
        precision_interval=wilson_interval(tp, tp + fp) if called.any() else None,
        recall=tp / (tp + fn),
        recall_interval=wilson_interval(tp, tp + fn),
        specificity=tn / (tn + fp),
        f1=2 * tp / (2 * tp + fp + fn),
        average_precision=float(average_precision_score(truth, scores)),
        roc_auc=float(roc_auc_score(truth, scores)),
        confusion=Confusion(tp=tp, fp=fp, fn=fn, tn=tn),
        report=_plain(classification_report(**report, output_dict=True)),
        report_text=classification_report(**report, digits=3),
    )


def wilson_interval(successes: int, total: int) -> Interval:
    """Return the 95 % confidence interval of a share, within [0, 1]; `total` is 1 or more."""
    share = successes / total
    spread = _Z_95**2 / total
    center = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))


def _check(truth: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> None:
    broken = int(np.count_nonzero(~np.isfinite(scores)))
    if broken:
        raise InputError(
            f"the model gives no number for {broken} of {scores.size} pictures: its training "
            "diverged; train again with a lower learning rate"
        )
    if truth.all() or not truth.any():
        kind = "no pictures" if not truth.size else f"only {'positive' if truth[0] else 'negative'}"
        raise InputError(
            f"the test split has {kind if not truth.size else kind + ' pictures'}, and metrics "
            "need both labels: scrape more images of the tag"
        )


def _plain(value: Any) -> Any:
    """Return numbers that JSON can hold: what is not a number becomes None."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    number = float(value)
    return None if math.isnan(number) else number
