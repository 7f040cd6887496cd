"""Means with their intervals, as the tables have them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_and_half(values: NDArray[np.float64]) -> str:
    """Return the mean of some draws, `(draws,)`, and half of its 95 % interval, Student's t."""
    from scipy.stats import t

    count = len(values)
    if count < 2:
        return f"{values.mean():.3f}"
    half = t.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5
    return f"{values.mean():.3f} ±{half:.3f}"
