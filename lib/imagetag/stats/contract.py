"""The threshold from which on a promised precision holds, chosen on pictures kept for that.

To try many thresholds until one looks good breaks a promise: among many, one looks good by chance.
So the pictures are ranked by score, the numbers of pictures that may be called positive are fixed
beforehand (`looks`), and each is tested at a level so strict that all of them together fail no more
often than promised. With the precision at its least allowed value, the number of true positives
among the first k is a binomial random walk in k, and the probability that it ever passes a test is
computed exactly; that is the worst case where precision falls with the threshold.

Sources: C. J. Clopper and E. S. Pearson, The use of confidence or fiducial limits illustrated in
the case of the binomial, Biometrika 26 (1934); P. Armitage, C. K. McPherson and B. C. Rowe,
Repeated significance tests on accumulating data, JRSS A 132 (1969); A. N. Angelopoulos et al.,
Learn then test, arXiv:2110.01052 (2021).
"""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict, Field

from imagetag.proof import least_right
from imagetag.record import Record

_RATIO = 1.02  # between two looks: finer would gain little recall, and each costs certainty
_NOTHING = 1e-20  # as a probability, beside those that are looked for
_MANY = 1000  # times as many pictures are as good as any number

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Inside = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=0)]


class Promise(Record):
    """A threshold, and what precision can be promised of it.

    With the probability `confidence`, a threshold is chosen whose precision is `min_precision` or
    more, or none is found (`met` is False). Of the pictures it was chosen on, `called` are at or
    above the threshold, and `right` of those have the tag. `bound` is the lower Clopper-Pearson
    bound of their precision at the confidence `level`, which is stricter than `confidence` to
    allow for the search; where the promise is not met it is the best there is. `judged` is how many
    of the highest scores people have judged, where those labels count, and no lower threshold may
    be chosen; None where all labels are the dataset's. `needed` is about
    how many positives among them the promise would take if the model does as well on them, None
    where it is met, or where no number would help.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    min_precision: Inside
    confidence: Inside
    level: Inside
    threshold: float
    met: bool
    bound: float = Field(ge=0, le=1)
    called: Count
    right: Count
    positives: Count
    negatives: Count
    judged: Count | None = None
    needed: Count | None = None

    @property
    def too_few(self) -> bool:
        """Whether it is not met, and would take more positives than there are."""
        least = least_right(self.min_precision, self.level)
        return not self.met and self.positives < max(least, self.needed or 0)

    @property
    def advice(self) -> str:
        """What it would take to keep a promise that cannot be made, in a sentence."""
        least = least_right(self.min_precision, self.level)
        if self.judged is not None and self.judged < self.positives + self.negatives:
            return (
                f"the {self.judged:,} pictures of the highest scores are judged: judge more, from "
                "there on, or promise less with --min-precision"
            )
        if self.needed is None and self.right == self.called:
            return (
                f"all that are called have the tag, and it takes {least:,} such at the least: "
                "scrape more, by a higher --limit or of a fuller folder, or promise less with "
                "--min-precision"
            )
        if self.needed is None and self.positives < least:
            return (
                f"there are {self.positives:,} positives to choose the threshold on, and it takes "
                f"{least:,} at the least, all of them right: scrape more, by a higher "
                "--limit or of a fuller folder, or promise less with --min-precision"
            )
        if self.needed is None:
            return (
                "at no threshold do enough pictures have the tag: train a better model, "
                "look at suspect labels, or promise less with --min-precision"
            )
        return (
            f"about {self.needed:,} positives to choose the threshold on are needed, and there are "
            f"{self.positives:,}: scrape {self.needed / max(1, self.positives):.1f} times as many, "
            "by --limit or of a fuller folder, or promise less with --min-precision"
        )


def lower_bound(right: ArrayLike, called: ArrayLike, confidence: float) -> Any:
    """Return the one-sided lower Clopper-Pearson bound of a precision, 0 where nothing is right.

    Args:
        right: how many of the called pictures have the tag; any shape.
        called: how many were called positive; the same shape.
        confidence: with which probability the precision is above the bound, in (0, 1).

    """
    from scipy import special  # slow, and whoever reads what was found does without

    good, total = np.asarray(right, np.float64), np.asarray(called, np.float64)
    bound = special.betaincinv(np.maximum(good, 1), total - good + 1, 1 - confidence)
    return np.where(good > 0, bound, 0.0)[()]


def looks(pictures: int, min_precision: float = 1.0, share: float = 1.0) -> Ints:
    """Return the numbers of called pictures at which a promise is tried: 1, 2, ...

    They grow by 2 % where that is more than one picture, to as many as could be right enough if
    all positives were among them: with more, not even those would do.

    Args:
        pictures: how many there are.
        min_precision: to be promised.
        share: of positives among the pictures, as far as is known without a look at their labels.

    """
    most = min(pictures, max(1, math.floor(math.ceil(share * pictures) / min_precision)))
    found = [1]
    while found[-1] < most:
        found.append(min(most, max(found[-1] + 1, round(found[-1] * _RATIO))))
    return np.array(found[: max(0, pictures)], np.int64)


def search_level(numbers: Ints, min_precision: float, confidence: float) -> float:
    """Return the confidence at which each look must be tested, so that all hold together.

    Args:
        numbers: of pictures called positive at each look, growing, (looks,).
        min_precision: in (0, 1).
        confidence: in (0, 1), that no look passes while the precision is `min_precision`.

    """
    low, high = 0.0, 1 - confidence  # between them is the answer
    for _ in range(20):
        middle = (low + high) / 2
        if _passes(numbers, min_precision, middle) <= 1 - confidence:
            low = middle
        else:
            high = middle
    return 1 - low


def least_called(
    pictures: int, *, min_precision: float, confidence: float, share: float = 1.0
) -> int | None:
    """Return how many pictures of the highest scores keep a promise, if all of them have the tag.

    Args:
        pictures: there are to choose the threshold on.
        min_precision: the precision to promise, in (0, 1).
        confidence: how often the promise must hold, in (0, 1).
        share: of positives to expect, as `promise_precision` takes it.

    Returns:
        None where not even all of them would do.

    """
    numbers = looks(pictures, min_precision, share)
    if not numbers.size:
        return None
    level = search_level(numbers, min_precision, confidence)
    enough = numbers[np.asarray(lower_bound(numbers, numbers, level)) >= min_precision]
    return int(enough[0]) if enough.size else None


def positives_needed(
    positives: int, pictures: int, *, min_precision: float, confidence: float
) -> int | None:
    """Return how many positives a promise takes at the least, None where there are as many.

    A model that errs needs more: here all that are called have the tag.

    Args:
        positives: among the pictures to choose the threshold on.
        pictures: of both labels; with more of them, the share of positives is taken to be the same.
        min_precision: the precision to promise, in (0, 1).
        confidence: how often the promise must hold, in (0, 1).

    """
    least = least_right(min_precision, confidence)
    others = pictures / positives - 1 if positives else 1.0  # for each positive
    if positives >= least and _can_promise(positives, pictures, min_precision, confidence):
        return None
    needed = max(least, positives + 1)
    while not _can_promise(needed, needed + round(needed * others), min_precision, confidence):
        needed += 1
    return needed


@functools.lru_cache(maxsize=1024)
def _can_promise(positives: int, pictures: int, precision: float, confidence: float) -> bool:
    """Tell whether a promise can be kept if so many positives have the highest scores."""
    numbers = looks(pictures, precision, positives / pictures)
    right = numbers[numbers <= positives]
    # To test each at its share of what may fail is stricter than the search, and known at once.
    level = 1 - (1 - confidence) / numbers.size
    if np.any(lower_bound(right, right, level) >= precision):
        return True
    level = search_level(numbers, precision, confidence)
    return bool(np.any(lower_bound(right, right, level) >= precision))


def promise_precision(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    min_precision: float,
    confidence: float,
    share: float = 1.0,
    judged: int | None = None,
) -> Promise:
    """Choose the threshold with the most recall of which the promised precision can be said.

    Where none can, it is the one with the highest bound. Pictures are taken as independent of each
    other, and as drawn like those that the threshold will be used on, both labels in the same
    proportion.

    Args:
        labels: (pictures,), 1 or True where the tag is in the picture.
        scores: (pictures,), higher where the tag is more probable.
        min_precision: the precision to promise, in (0, 1).
        confidence: how often the promise must hold, in (0, 1).
        share: of positives to expect, as other pictures have it: what could not be right enough
            then is not tried, so that the rest is tested less strictly. These labels must not
            decide it, as the number of looks would depend on them.
        judged: of the highest scores, whose labels are known; no threshold is tried that calls
            more. It may depend on those labels, as all looks hold together. None for all.

    Raises:
        ValueError: if the shapes differ, there are no pictures, a score is not a number, or too few
            are judged to look at any threshold.

    """
    truth, values = np.asarray(labels).astype(bool), np.asarray(scores, np.float64)
    if truth.shape != values.shape or truth.ndim != 1 or not truth.size:
        raise ValueError(f"labels are {truth.shape} and scores {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("a score is not a number")
    order = np.argsort(-values, kind="stable")
    truth, values = truth[order], values[order]
    positives = int(truth.sum())
    numbers = _whole_ties(looks(truth.size, min_precision, share), values)
    level = search_level(numbers, min_precision, confidence)
    if judged is not None:
        numbers = numbers[numbers <= judged]
        if not numbers.size:
            raise ValueError(f"{judged} judged pictures are too few")
    right = np.cumsum(truth)[numbers - 1]
    bounds = np.asarray(lower_bound(right, numbers, level))
    passing = np.flatnonzero(bounds >= min_precision)
    chosen = int(passing[np.argmax(right[passing])] if passing.size else np.argmax(bounds))
    called = _without_tail(truth[: numbers[chosen]], values)
    return Promise(
        min_precision=min_precision,
        confidence=confidence,
        level=level,
        threshold=_between(values, called),
        met=bool(passing.size),
        bound=float(lower_bound(right[chosen], called, level)),
        called=called,
        right=int(right[chosen]),
        positives=positives,
        negatives=int(truth.size) - positives,
        judged=judged,
        needed=None if passing.size else _needed(right, numbers, positives, min_precision, level),
    )


def _passes(numbers: Ints, precision: float, alpha: float) -> float:
    """Return how probable it is that any look passes a test of level `alpha`."""
    # What is next to it passes: a bound is computed otherwise, and may round a tie to the other
    # side.
    least = _least_rare(numbers, precision, alpha * (1 + 1e-9))
    passed = 0.0
    # Probabilities of `fewest`, `fewest` + 1, ... right ones, none of which has passed so far.
    fewest, alive, before = 0, np.ones(1), 0
    for number, limit in zip(numbers.tolist(), least.tolist(), strict=True):
        first, added = _right_ones(number - before, precision)
        fewest, alive, before = fewest + first, np.convolve(alive, added), number
        end = max(0, limit - fewest)
        passed += float(alive[end:].sum())
        first, alive = _without_rare(alive[:end])
        if not alive.size:
            break
        fewest += first
    return passed


def _least_rare(numbers: Ints, precision: float, alpha: float) -> Ints:
    """Return at each look the least number of right ones with P(X >= that) <= alpha.

    It is one more than there are pictures where not even all of them are as rare.
    """
    from scipy import special  # its distributions, in `stats`, take a second to import

    def rare(right: Ints) -> Bools:
        probable = special.betainc(right, np.maximum(numbers - right + 1, 1), precision)
        found: Bools = (right > numbers) | (probable <= alpha)
        return found

    about = np.nan_to_num(special.bdtrik(1 - alpha, numbers, precision))
    least: Ints = np.clip(np.ceil(about).astype(np.int64) + 1, 1, numbers + 1)
    while not (enough := rare(least)).all():
        least += ~enough
    while (more := (least > 1) & rare(np.maximum(least - 1, 1))).any():
        least -= more
    return least


@functools.lru_cache(maxsize=1024)  # the same steps at each of the levels that are tried
def _right_ones(pictures: int, precision: float) -> tuple[int, Floats]:
    """Return how probable each number of right ones is, from a first number on."""
    from scipy import special

    right = np.arange(pictures + 1)
    wrong = pictures - right
    ways = special.gammaln(pictures + 1) - special.gammaln(right + 1) - special.gammaln(wrong + 1)
    logs = ways + special.xlogy(right, precision) + special.xlog1py(wrong, -precision)
    return _without_rare(np.exp(logs))


def _without_rare(probabilities: Floats) -> tuple[int, Floats]:
    """Leave out the first ones that are nothing even in sum; return how many, and the rest.

    Of 100,000 pictures some hundred numbers of right ones are left.
    """
    first = int(np.searchsorted(probabilities.cumsum(), _NOTHING))
    return first, probabilities[first:]


def _whole_ties(numbers: Ints, values: Floats) -> Ints:
    """Move each look behind the last picture of the same score: a threshold cannot part them."""
    ends = np.searchsorted(-values, -values[numbers - 1], side="right")
    return np.unique(ends).astype(np.int64)


def _without_tail(called: Bools, values: Floats) -> int:
    """Return how many of the called are left without those behind the last that has the tag.

    The precision falls with the threshold, so what holds at one holds at any higher one.
    """
    if not called.any():
        return called.size
    last = np.flatnonzero(called)[-1:] + 1
    return int(_whole_ties(last, values)[0])


def _between(values: Floats, called: int) -> float:
    """Return a threshold that the first `called` of falling values reach, and no other."""
    last = float(values[called - 1])
    if called == values.size:
        return last
    middle = last / 2 + float(values[called]) / 2
    return middle if middle > values[called] else last


def _needed(
    right: Ints, numbers: Ints, positives: int, precision: float, level: float
) -> int | None:
    """Return how many positives would do if all looks stay as good with more pictures."""
    # A few that are all right are no proof of perfection: half a picture of doubt each way.
    good = (right + 0.5) / (numbers + 1)

    def enough(times: float) -> bool:
        bounds = lower_bound(times * numbers * good, times * numbers, level)
        return bool(np.any(bounds >= precision))

    if not enough(_MANY):
        return None
    low, high = 1.0, float(_MANY)
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return math.ceil(high * positives)
