"""From a model's logits to what is told of pictures, as evaluate has decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagetag.runs import Decision
from imagetag.stats import Calibration

RAW_THRESHOLD = 0.5  # where nothing was decided
DIGITS = 6  # of a probability

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Judge:
    """From logits to what is told of pictures.

    Attributes:
        probability: returns the probabilities that the tag is in them, of the same shape.
        positive: tells whether each is enough.

    """

    probability: Callable[[Floats], Floats]
    positive: Callable[[Floats], Bools]


def judge_of(decision: Decision | None, threshold: float | None = None) -> Judge:
    """Return how to go by what evaluate has decided, or without it by raw probabilities.

    Args:
        decision: of the run; None if it was not evaluated.
        threshold: the least probability of a positive; None for what was decided, or 0.5.

    """
    calibration = Calibration() if decision is None else decision.calibration
    probability = calibration.probabilities
    if decision is not None and threshold is None:
        return Judge(probability, lambda logits: logits >= decision.logit_threshold)
    least = RAW_THRESHOLD if threshold is None else threshold
    return Judge(probability, lambda logits: probability(logits) >= least)
