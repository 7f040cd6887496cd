"""All ways in which pictures may be drawn and judged, one after the other, with their chances."""

from __future__ import annotations

from collections.abc import Callable


def walked(called: int, truth: int, misses: Callable[[int, int], bool]) -> float:
    """Return the probability that bounds miss at any look, of pictures drawn without replacement.

    `truth` of the `called` are right; `misses` tells whether they miss at so many right and wrong.
    """
    alive, missed = {0: 1.0}, 0.0
    for seen in range(called):
        after: dict[int, float] = {}
        for right, chance in alive.items():
            of_right = (truth - right) / (called - seen)
            for found, step in ((right + 1, of_right), (right, 1 - of_right)):
                if step > 0:
                    after[found] = after.get(found, 0.0) + chance * step
        alive = {}
        for right, chance in after.items():
            if misses(right, seen + 1 - right):
                missed += chance
            else:
                alive[right] = chance
    return missed
