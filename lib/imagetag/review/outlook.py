"""About how many more verdicts it takes until a precision can be promised."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from imagetag.runs import StoredScore, one_of_each_group
from imagetag.sentences import counted
from imagetag.stats import Promise, looks, lower_bound
from imagetag.verdicts import Answer

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Outlook:
    """Tells what is still to be judged of the pictures that a run's threshold is chosen on.

    Evaluate counts verdicts on them from the highest score down to the first that is not judged,
    one picture of each group, and promises no lower threshold. The estimate is the fewest verdicts
    with which that can do, if the labels that nobody has judged are wrong as often as those that
    were judged. It is no promise.

    Args:
        scores: of the pictures that the threshold is chosen on.
        promise: what could be promised of them by their labels.

    """

    def __init__(self, scores: Sequence[StoredScore], promise: Promise) -> None:
        ranked = sorted(one_of_each_group(scores), key=lambda one: (-one.logit, one.md5))
        self._md5s = [one.md5 for one in ranked]
        self._positive = np.array([one.label == "positive" for one in ranked], bool)
        self._promise = promise
        # As the search tries them: with more, not even all positives would be right enough.
        share = float(self._positive.mean()) if ranked else 0.0
        self._numbers = looks(len(ranked), promise.min_precision, share)
        self._known: tuple[list[Answer | None], str] | None = None
        self._lock = threading.Lock()

    def sentence(self, answers: Mapping[str, Answer]) -> str:
        """Return the estimate as a sentence.

        Args:
            answers: what people said of pictures, by md5.

        """
        given = [answers.get(md5) for md5 in self._md5s]
        with self._lock:
            if self._known is None or self._known[0] != given:
                self._known = given, self._sentence(given)
            return self._known[1]

    def _sentence(self, given: Sequence[Answer | None]) -> str:
        wanted = f"{self._promise.min_precision:g}"
        judged = np.array([answer is not None for answer in given], bool)
        right = np.array([answer == "yes" for answer in given], bool)
        # Where none was judged, labels are taken to be right.
        of_positives = _share(right, judged & self._positive, 1.0)
        of_negatives = _share(right, judged & ~self._positive, 0.0)
        expected = np.where(self._positive, of_positives, of_negatives)
        found = self._fewest(np.where(judged, right, expected), judged)
        if found == 0:
            return f"by what is judged {wanted} can be promised: run evaluate again"
        if found is not None:
            return f"{_verdicts(found)} until {wanted} can be promised"
        best = self._fewest(np.where(judged, right, 1.0), judged)
        if best is None:
            return (
                f"no verdicts on these pictures can promise {wanted}: it takes more pictures, or a "
                "better model"
            )
        return f"{_verdicts(best)} until {wanted} can be promised, at best: if each is a yes"

    def _fewest(self, right: Floats, judged: Bools) -> int | None:
        """Return the fewest verdicts after which a promise can be made, None if none can.

        Args:
            right: whether each picture has the tag, or how probable that is, (pictures,).
            judged: which are judged.

        """
        good = np.floor(np.cumsum(right) + 1e-9)[self._numbers - 1]
        bounds = lower_bound(good, self._numbers, self._promise.level)
        passing = self._numbers[bounds >= self._promise.min_precision]
        return int(np.cumsum(~judged)[passing - 1].min()) if passing.size else None


def _share(right: Bools, among: Bools, otherwise: float) -> float:
    return float(right[among].mean()) if among.any() else otherwise


def _verdicts(number: int) -> str:
    return f"about {counted(number, 'more verdict')}, in the queue promise,"
