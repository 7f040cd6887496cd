"""Which pictures a run's model calls the tag: how probable it must be, and how that was chosen.

Stored as the run's `decision.json`, by evaluate; predict goes by it.
"""

from __future__ import annotations

import math
import shlex
from typing import Literal

import numpy as np
from pydantic import ConfigDict, Field

from imagetag.layout import Layout
from imagetag.record import Record
from imagetag.stats import Calibration, Promise
from imagetag.storage import ObjectNotFound, Storage, load_record

_LARGE = 1e4  # a logit beyond all


class Decision(Record):
    """From a model's logit to a probability and to yes or no.

    A picture is called the tag if its logit is `logit_threshold` or more: here, and for who asks TF
    Serving. `threshold` is the same as a calibrated probability. `promise` is how it was chosen,
    None where it was given.

    The model's own probability is none to go by: in 32 bits it is 1 from a logit of 16.64 on. Older
    versions told a `raw_threshold` of it, which is no longer read.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    version: Literal[1] = 1
    tag: str
    run: str
    trained: str
    fingerprint: str
    calibration: Calibration
    promise: Promise | None
    logit_threshold: float
    threshold: float = Field(ge=0, le=1)
    created: str

    def probability(self, logit: float) -> float:
        """Return the calibrated probability that the tag is in the picture."""
        return float(self.calibration.probabilities(logit))

    def positive(self, logit: float) -> bool:
        """Tell whether the picture is called the tag."""
        return logit >= self.logit_threshold


def least_logit(threshold: float) -> np.float32:
    """Return the least logit of 32 bits that reaches a threshold."""
    least = np.float32(threshold)
    return np.nextafter(least, np.float32(np.inf)) if float(least) < threshold else least


def between_logits(threshold: float) -> float:
    """Return a threshold that the same logits of 32 bits reach, halfway between two of them.

    Neither rounding to 64 bits nor the decimals that TF Serving writes of a logit, which are of as
    many digits as tell it from its neighbours, then puts it on the other side.
    """
    least = least_logit(threshold)
    below = np.nextafter(least, np.float32(-np.inf))
    return (float(least) + float(below)) / 2


def logit_of(calibration: Calibration, probability: float) -> float:
    """Return the least logit whose calibrated probability is that or more.

    It is a logit beyond all if none is so probable.
    """
    low, high = -_LARGE, _LARGE
    if calibration.probabilities(high) < probability:
        return high
    while high - low > 1e-9 * max(1.0, abs(low)):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (
            (low, middle) if calibration.probabilities(middle) >= probability else (middle, high)
        )
    return high


def sigmoid(logit: float) -> float:
    """Return the probability of a logit without calibration."""
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0


def load_decision(storage: Storage, tag: str, run: str, trained: str) -> Decision | None:
    """Return what evaluate has decided for a run, None if it has not, or for an older model.

    Args:
        storage: has the run.
        tag: whose.
        run: the run's name.
        trained: when its model was made (`Run.created`).

    Raises:
        InputError: if it cannot be read.

    """
    key = Layout(tag).run(run, "decision.json")
    command = f"imagetag evaluate --tags {shlex.quote(tag)} --run {run}"
    advice = f"delete {storage.url}/{key} and run {command}"
    try:
        decision = load_record(storage, key, Decision, advice, run=run, tag=tag)
    except ObjectNotFound:
        return None
    return decision if decision.trained == trained else None
