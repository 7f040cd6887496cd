"""Score pictures in bulk with a trained model: one row a picture, in the order of the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from imagetag.decision import Decision, sigmoid
from imagetag.errors import one_line
from imagetag.images import BadImage
from imagetag.outputs import Prediction
from imagetag.scoring import Scorer
from imagetag.sources import Picture, Source

RAW_THRESHOLD = 0.5  # where nothing was decided
_DIGITS = 6
_MAX_ERROR = 500  # characters


@dataclass(frozen=True)
class Judge:
    """From a logit to what is told of a picture.

    Attributes:
        probability: returns the probability that the tag is in it.
        positive: tells whether that is enough.

    """

    probability: Callable[[float], float]
    positive: Callable[[float], bool]


def judge_of(decision: Decision | None, threshold: float | None = None) -> Judge:
    """Return how to go by what evaluate has decided, or without it by raw probabilities.

    Args:
        decision: of the run; None if it was not evaluated.
        threshold: the least probability of a positive; None for what was decided, or 0.5.

    """
    probability = sigmoid if decision is None else decision.probability
    if decision is not None and threshold is None:
        return Judge(probability, decision.positive)
    least = RAW_THRESHOLD if threshold is None else threshold
    return Judge(probability, lambda logit: probability(logit) >= least)


def predict(
    scorer: Scorer, judge: Judge, source: Source, pictures: Iterable[Picture]
) -> Iterator[tuple[Picture, Prediction]]:
    """Yield each picture with what is told of it, in their order.

    One that cannot be read is told of by its error.

    Args:
        scorer: has the model.
        judge: goes by its logits.
        source: has the pictures' files.
        pictures: of the source; they are taken as they are needed.

    """
    for picture, found in scorer.score(pictures, source.read):
        probability = decision = error = None
        if isinstance(found, BadImage):
            error = one_line(f"{found.reason}: {found}", _MAX_ERROR)
        elif math.isnan(found.logit):
            error = "no_number: the model gives none for this picture"
        else:
            probability = round(judge.probability(found.logit), _DIGITS)
            decision = judge.positive(found.logit)
        # Reading it may have told where it is.
        file = picture.file.encode(errors="replace").decode()
        yield picture, Prediction(file, picture.page_url, probability, decision, error)
