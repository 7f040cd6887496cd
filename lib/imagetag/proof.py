"""How many pictures it takes to prove a precision, where all of them are right."""

from __future__ import annotations

import math


def least_right(min_precision: float, confidence: float) -> int:
    """Return how many pictures, all with the tag, show a precision by Clopper and Pearson's bound.

    With one fewer, a precision below that would show the same more often than it may. It is the
    number of one threshold that was fixed beforehand: a search over several can take more, such as
    304 instead of 299 for 0.99 (`contract.positives_needed`), and a model that errs needs more.

    Args:
        min_precision: in (0, 1).
        confidence: in (0, 1).

    """
    # Less what logarithms round: 2 of 2 prove 0.5 at 0.75.
    return math.ceil(math.log(1 - confidence) / math.log(min_precision) - 1e-9)
