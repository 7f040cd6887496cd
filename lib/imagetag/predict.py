"""Score pictures in bulk with trained models: a row a picture and tag, in the input's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from imagetag.decision import Decision, sigmoid
from imagetag.errors import one_line
from imagetag.images import BadImage
from imagetag.outputs import Prediction
from imagetag.scoring import Scorer
from imagetag.sources import Picture, Source

RAW_THRESHOLD = 0.5  # where nothing was decided
_DIGITS = 6
_MAX_ERROR = 500  # characters
_NO_NUMBER = "no_number"


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


@dataclass(frozen=True)
class Classifier:
    """What answers for a tag.

    Attributes:
        tag: which.
        scorer: has its model.
        judge: goes by the model's logits.

    """

    tag: str
    scorer: Scorer
    judge: Judge


def predict(
    classifiers: Sequence[Classifier], source: Source, pictures: Iterator[Picture], chunk: int
) -> Iterator[tuple[Picture, list[Prediction]]]:
    """Yield each picture with what each classifier says of it, in their orders.

    One that cannot be read is told of by its error.

    Args:
        classifiers: one or more. Of several each reads a picture for itself, a chunk at a time.
        source: has the pictures' files.
        pictures: of the source; they are taken as they are needed.
        chunk: pictures.

    """
    if len(classifiers) == 1:
        for picture, row in _told(classifiers[0], source, pictures):
            yield picture, [row]
        return
    while some := list(islice(pictures, chunk)):
        rows: list[list[Prediction]] = [[] for _ in some]
        readable = list(range(len(some)))
        for place, classifier in enumerate(classifiers):
            answers = _told(classifier, source, [some[index] for index in readable])
            for index, (_, row) in zip(list(readable), answers, strict=True):
                rows[index].append(row)
            if place == 0:  # what is no picture to the first is none to the others
                readable = [index for index in readable if not _unreadable(rows[index][0])]
        for picture, found in zip(some, rows, strict=True):
            missing = classifiers[len(found) :]
            yield picture, found + [replace(found[0], tag=other.tag) for other in missing]


def _unreadable(row: Prediction) -> bool:
    return row.error is not None and not row.error.startswith(_NO_NUMBER)


def _told(
    classifier: Classifier, source: Source, pictures: Iterable[Picture]
) -> Iterator[tuple[Picture, Prediction]]:
    for picture, found in classifier.scorer.score(pictures, source.read):
        probability = decision = error = None
        if isinstance(found, BadImage):
            error = one_line(f"{found.reason}: {found}", _MAX_ERROR)
        elif math.isnan(found.logit):
            error = f"{_NO_NUMBER}: the model gives none for this picture"
        else:
            probability = round(classifier.judge.probability(found.logit), _DIGITS)
            decision = classifier.judge.positive(found.logit)
        # Reading it may have told where it is.
        file = picture.file.encode(errors="replace").decode()
        row = Prediction(file, picture.page_url, probability, decision, error, classifier.tag)
        yield picture, row
