"""About how many more verdicts it takes until a precision can be promised."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from imagetag.review.scores import Scored
from imagetag.sentences import counted
from imagetag.stats import Promise, lower_bound
from imagetag.verdicts import Answer

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Outlook:
    """Tells what is still to be judged of the pictures that a run's threshold is chosen on.

    The pictures are ranked by score, and a promise needs a number of highest ranks of which enough
    have the tag. Where all of those are judged, it stands on what people saw. The estimate is the
    fewest verdicts with which that can come true, if the labels that nobody has judged are wrong as
    often as those that were judged. It is no promise: evaluate makes that, of all verdicts.

    Args:
        scores: of the pictures that the threshold is chosen on.
        promise: what could be promised of them by their labels.

    """

    def __init__(self, scores: Sequence[Scored], promise: Promise) -> None:
        self._scores = sorted(scores, key=lambda one: (-one.logit, one.md5))
        self._promise = promise
        # As evaluate counts: one picture of each group, the first by its md5.
        first: dict[str, str] = {}
        for one in sorted(self._scores, key=lambda one: one.md5):
            first.setdefault(one.group, one.md5)
        self._single = np.array([first[one.group] == one.md5 for one in self._scores])
        self._known: tuple[tuple[Answer | None, ...], str] | None = None
        self._lock = threading.Lock()

    def sentence(self, answers: Mapping[str, Answer]) -> str:
        """Return the estimate as a sentence.

        Args:
            answers: what people said of pictures, by md5.

        """
        given = tuple(answers.get(one.md5) for one in self._scores)
        with self._lock:
            if self._known is None or self._known[0] != given:
                self._known = given, self._sentence(given)
            return self._known[1]

    def _sentence(self, given: Sequence[Answer | None]) -> str:
        wanted = f"{self._promise.min_precision:g}"
        if all(given):
            return f"all pictures on which {wanted} is to be promised are judged"
        positive = np.array([one.label == "positive" for one in self._scores])
        judged = np.array([answer is not None for answer in given])
        right = np.array([answer == "yes" for answer in given])
        # An unjudged label is right as often as those that were judged turned out to be.
        of_positives = _share(right, judged & positive, 1.0)
        of_negatives = _share(right, judged & ~positive, 0.0)
        expected = np.where(judged, right, np.where(positive, of_positives, of_negatives))
        counts = self._single & [answer != "unclear" for answer in given]
        found = self._fewest(expected, judged, counts)
        if found == 0:
            return f"by what is judged, {wanted} can be promised: evaluate will tell"
        if found is not None:
            return f"{_verdicts(found)} until {wanted} can be promised"
        best = self._fewest(np.where(judged, right, 1.0), judged, counts)
        if best is None:
            return (
                f"no verdicts on these pictures can promise {wanted}: it takes more pictures, or a "
                "better model"
            )
        return (
            f"{_verdicts(best)} until {wanted} can be promised, if what is left turns out better "
            "than what is judged"
        )

    def _fewest(self, right: Floats | Bools, judged: Bools, counts: Bools) -> int | None:
        """Return the fewest verdicts after which a promise can be made, None if none can.

        Args:
            right: whether each picture has the tag, or how probable that is, (pictures,).
            judged: which are judged.
            counts: of which that is asked.

        """
        called = np.cumsum(counts)
        good = np.floor(np.cumsum(np.where(counts, right, 0.0)) + 1e-9)
        bounds = lower_bound(good, called, self._promise.level)
        passing = np.flatnonzero(bounds >= self._promise.min_precision)
        if not passing.size:
            return None
        return int(np.cumsum(~judged)[passing].min())


def _share(right: Bools, among: Bools, otherwise: float) -> float:
    return float(right[among].mean()) if among.any() else otherwise


def _verdicts(number: int) -> str:
    return f"about {counted(number, 'more verdict')} of the queue promise"
