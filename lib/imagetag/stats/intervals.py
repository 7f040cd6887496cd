"""Confidence intervals of shares, such as a precision, where groups of pictures are the unit.

A share is the sum of a part over the sum of a whole, both by group. Its lower limit follows Gaffke:
beside the groups stands one more of which nothing is right, all are weighed at random (Dirichlet),
and the limit is the quantile of the weighed share. The upper limit is the lower one of the rest.
With one picture a group this is the Clopper-Pearson interval exactly; it is computed from a beta
distribution of the same mean and variance. As nothing is taken from the number of mistakes alone,
pictures of a family count as much as they differ. It is conservative: the level is the least.

Sources: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934); N. Gaffke, Three test statistics for
a nonparametric one-sided hypothesis on the mean of a nonnegative variable, Mathematical Methods of
Statistics 14 (2005); E. L. Korn and B. I. Graubard, Confidence intervals for proportions with small
expected number of positive counts estimated from survey data, Survey Methodology 24 (1998), for the
beta distribution with an effective number of pictures; R. G. Newcombe, MOVER-R confidence intervals
for ratios and products of two independently estimated quantities, Statistical Methods in Medical
Research 25 (2016).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TAIL = 0.025  # on each side of a 95 % interval


def share_interval(part: NDArray[Any], whole: NDArray[Any], groups: Ints) -> Interval:
    """Return the 95 % interval of the share `part.sum() / whole.sum()`.

    The limits fall, or stay, when something right becomes a mistake. Where that parts a group, or
    groups are of different size, they may rise by a trifle (of ten groups or more 0.02 at most).

    Args:
        part: what each picture counts in the part, bool or number, (pictures,).
        whole: the same in the whole; no less than in the part, and of some picture above 0.
        groups: the number of each picture's group, (pictures,).

    """
    parts, wholes = (
        np.bincount(groups, weights=counts.astype(np.float64)).astype(np.float64)
        for counts in (part, whole)
    )
    value = float(parts.sum() / wholes.sum())
    low, high = _lower_limit(parts, wholes), 1 - _lower_limit(wholes - parts, wholes)
    return min(low, value), max(high, value)


def ratio_interval(first: float, ours: Interval, second: float, theirs: Interval) -> Interval:
    """Return the interval of `first / second` from those of both, which are independent (MOVER-R).

    Args:
        first: 0 or more.
        ours: its interval.
        second: 0 or more.
        theirs: its interval; the upper end is above 0.

    """
    product = first * second
    low, high = (end * (2 * first - end) for end in ours)
    other_high, other_low = (end * (2 * second - end) for end in reversed(theirs))
    root = math.sqrt(max(0.0, product**2 - low * other_high))
    least = low / (product + root) if low > 0 else 0.0
    root = math.sqrt(max(0.0, product**2 - high * other_low))
    return least, (product + root) / other_low if other_low > 0 else math.inf


def _lower_limit(part: Floats, whole: Floats) -> float:
    right = float(part.sum())
    if right <= 0:
        return 0.0
    from scipy import special  # slow, and whoever reads an interval does without

    # The group of which nothing is right is as large as that of a picture drawn at random.
    size = float((whole**2).sum() / whole.sum())
    total = float(whole.sum()) + size
    mean = right / total
    off = float(((part - mean * whole) ** 2).sum()) + (mean * size) ** 2
    number = mean * (1 - mean) * total * (total + size) / off - 1
    return float(special.betaincinv(mean * number, (1 - mean) * number, _TAIL))
