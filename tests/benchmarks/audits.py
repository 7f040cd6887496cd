"""How many verdicts an audit takes, and how often what it proves does not hold.

    python -m tests.benchmarks.audits [CALLED ...]

Pictures that were called a tag are drawn without replacement and judged until a precision of 0.95
is proven or refuted with a confidence of 0.95. Beside the bounds in use: the betting sequences of
Waudby-Smith and Ramdas (Estimating means of bounded random variables by betting, 2024, section 5)
with two ways to bet, against the hardest precision that must be rejected alone; their package
confseq 0.0.11 has them, and must be compiled. And Clopper-Pearson's bound at each look, which is no
bound of many looks.

At last, two strata: the sure pictures, and the doubted ones, of low probability. They are drawn
from in proportion to their number, or twice or four times as often from the doubted, and what
proves the target is the same ratio over the numbers of wrong ones in either, against the likeliest
pair of numbers that must be rejected.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

from imagetag.stats import PrecisionBounds
from imagetag.stats.contract import lower_bound
from tests.walks import walked

TARGET, CONFIDENCE = 0.95, 0.95
_DRAWS = 2000
_CALLED = (100, 300, 1000, 10_000)
_EXACT = (100, 300)
_STRATA_DRAWS = 200
_STRATA = ((240, 60), (900, 100))  # sure and doubted pictures
_OFTEN = (1, 2, 4)  # how often doubted pictures are drawn, beside sure ones

Draws = NDArray[np.bool_]
Clicks = NDArray[np.float64]


def drawn(called: int, truth: float, seed: int) -> Draws:
    """Return which pictures are right, in orders of drawing, (draws, called)."""
    random = np.random.default_rng(seed)
    right = np.arange(called) < round(truth * called)
    return random.permuted(np.tile(right, (_DRAWS, 1)), axis=1)


class InUse:
    """The bounds in use; what proves and refutes is found out once for all draws."""

    def __init__(self, called: int) -> None:
        self._bounds = PrecisionBounds(called, CONFIDENCE)
        self._called = called

    def proven(self, right: Draws) -> Clicks:
        """Return after how many verdicts each draw proves the target; none is infinite."""
        return _first(np.cumsum(~right, axis=1) <= self._proving)

    def refuted(self, right: Draws) -> Clicks:
        """Return after how many verdicts each draw refutes the target."""
        return _first(np.cumsum(~right, axis=1) > self._standing)

    @cached_property
    def _proving(self) -> NDArray[np.int64]:
        return np.array(list(self._limits(lambda s, f: self._bounds.lower(s, f) >= TARGET)))

    @cached_property
    def _standing(self) -> NDArray[np.int64]:
        return np.array(list(self._limits(lambda s, f: self._bounds.upper(s, f) >= TARGET)))

    def _limits(self, holds: Callable[[int, int], bool]) -> Iterator[int]:
        """Yield with how many wrong ones at the most something holds, by the number of verdicts.

        Fewer wrong ones of as many do not end it, and one verdict more allows at most one more.
        """
        wrong = -1
        for seen in range(1, self._called + 1):
            while wrong < seen and holds(seen - wrong - 1, wrong + 1):
                wrong += 1
            while wrong >= 0 and not (wrong <= seen and holds(seen - wrong, wrong)):
                wrong -= 1
            yield wrong


class Betting:
    """A betting sequence, which needs the order in which the pictures came.

    Args:
        called: how many pictures there are.
        most: the part of the largest possible bet that is made at the most.
        grapa: bet what would have been best so far, instead of by the variance so far.

    """

    def __init__(self, called: int, most: float, *, grapa: bool) -> None:
        self._called, self._most, self._grapa = called, most, grapa

    def proven(self, right: Draws) -> Clicks:
        """Return after how many verdicts each draw proves the target."""
        return self._rejects(right.astype(float), math.ceil(TARGET * self._called - 1e-9) - 1)

    def refuted(self, right: Draws) -> Clicks:
        """Return after how many verdicts each draw refutes it: too many are wrong."""
        most = self._called - math.ceil(TARGET * self._called - 1e-9)
        return self._rejects((~right).astype(float), most)

    def _rejects(self, ones: NDArray[np.float64], count: int) -> Clicks:
        """Return when it is rejected that as few as `count` of all are ones."""
        capital, total = np.zeros(len(ones)), np.zeros(len(ones))
        squares = np.full(len(ones), 0.25)
        found = np.full(len(ones), np.inf)
        for seen in range(self._called):
            mean = (0.5 + total) / (seen + 1)
            variance = squares / (seen + 1)
            left = (count - total) / (self._called - seen)
            done = left <= 0  # there are as many already, and one more rejects it
            expected = np.clip(left, 1e-12, 1)
            if self._grapa:
                bet = (mean - expected) / (variance + (mean - expected) ** 2)
            else:
                level = 2 * math.log(1 / (1 - CONFIDENCE))
                bet = np.sqrt(level / (variance * (seen + 1) * math.log(seen + 2)))
            bet = np.clip(bet, 0, self._most / expected)
            value = ones[:, seen]
            with np.errstate(divide="ignore"):
                capital += np.log1p(bet * (value - expected))
            capital[done & (value > 0)] = np.inf
            total += value
            squares += (value - (0.5 + total) / (seen + 2)) ** 2
            found[np.isinf(found) & (capital >= -math.log(1 - CONFIDENCE))] = seen + 1
        return found


class EachLook:
    """Clopper-Pearson's bound at each look, as if it were the only one."""

    def __init__(self, called: int) -> None:
        self._called = called

    def proven(self, right: Draws) -> Clicks:
        """Return after how many verdicts each draw seems to prove the target."""
        seen = np.arange(1, self._called + 1)
        return _first(lower_bound(np.cumsum(right, axis=1), seen, CONFIDENCE) >= TARGET)

    def refuted(self, right: Draws) -> Clicks:
        """Return after how many verdicts each draw seems to refute it."""
        seen = np.arange(1, self._called + 1)
        return _first(1 - lower_bound(np.cumsum(~right, axis=1), seen, CONFIDENCE) < TARGET)


@cache
def methods(called: int) -> dict[str, InUse | Betting | EachLook]:
    """Return what is compared, by its name."""
    return {
        "in use": InUse(called),
        "betting, by the variance": Betting(called, 0.5, grapa=False),
        "betting, by growth": Betting(called, 0.9, grapa=True),
        "Clopper-Pearson at each look": EachLook(called),
    }


def missed(called: int) -> Iterator[list[str]]:
    """Yield a row: how often at the most a bound in use ever misses the truth, exactly."""
    bounds = PrecisionBounds(called, CONFIDENCE)
    table = {
        (right, seen - right): (
            bounds.lower(right, seen - right),
            bounds.upper(right, seen - right),
        )
        for seen in range(1, called + 1)
        for right in range(seen + 1)
    }
    worst = [0.0, 0.0]
    for truth in range(called + 1):
        value = truth / called
        lost = (
            walked(called, truth, lambda *told, value=value: table[told][0] > value),
            walked(called, truth, lambda *told, value=value: table[told][1] < value),
        )
        worst = [max(pair) for pair in zip(worst, lost, strict=True)]
    yield [f"{called:,}", *(f"{100 * one:.2f} %" for one in worst)]


def wrongly(numbers: Iterable[int]) -> Iterator[list[str]]:
    """Yield a row: how often a claim that just fails is proven / that just holds is refuted."""
    for called in numbers:
        below = (math.ceil(TARGET * called - 1e-9) - 1) / called
        fails, holds = drawn(called, below, 1), drawn(called, TARGET, 2)
        cells = [
            f"{100 * np.isfinite(method.proven(fails)).mean():.1f} / "
            f"{100 * np.isfinite(method.refuted(holds)).mean():.1f} %"
            for method in methods(called).values()
        ]
        yield [f"{called:,}", *cells]


def clicks(numbers: Iterable[int]) -> Iterator[list[str]]:
    """Yield a row a case: the mean number of verdicts, and in brackets the median."""
    for called in numbers:
        for truth in (1.0, 0.99, 0.97, 0.9):
            right = drawn(called, truth, 3)
            cells = []
            for method in methods(called).values():
                ends = method.refuted(right) if truth < TARGET else method.proven(right)
                ends = np.minimum(ends, called)
                cells.append(f"{ends.mean():.0f} ({np.median(ends):.0f})")
            what = "refuted" if truth < TARGET else "proven"
            yield [f"{called:,}", f"{truth:g}", what, *cells]


class Strata:
    """What proves the target by verdicts on two strata, however often either was drawn from."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        self._sizes, called = sizes, sum(sizes)
        self._most = called - math.ceil(TARGET * called - 1e-9)  # wrong ones, if it holds
        one, other = np.meshgrid(*(np.arange(self._most + 1) for _ in sizes), indexing="ij")
        holds = (one + other <= self._most) & (one <= sizes[0]) & (other <= sizes[1])
        self._wrong = one[holds], other[holds]
        weights = [-np.log(1 + number + called / 500) for number in self._wrong]
        self._weights = weights[0] + weights[1] - special.logsumexp(weights[0] + weights[1])
        rest = self._most + 1 - np.arange(self._most + 2)
        edge = (self._most + 1 - rest <= sizes[0]) & (rest <= sizes[1])
        self._fails = self._most + 1 - rest[edge], rest[edge]

    def proves(self, right: tuple[int, int], wrong: tuple[int, int]) -> bool:
        """Tell whether so many right and wrong ones of each prove the target."""
        likely = [self._likely(*one) for one in zip(self._sizes, right, wrong, strict=True)]
        if sum(int(one.argmax()) for one in likely) > self._most:
            return False
        mixed = sum(one[number] for one, number in zip(likely, self._wrong, strict=True))
        least = sum(one[number] for one, number in zip(likely, self._fails, strict=True))
        evidence = special.logsumexp(self._weights + mixed) - np.max(least, initial=-np.inf)
        return bool(evidence >= -math.log(1 - CONFIDENCE))

    @staticmethod
    def _likely(size: int, right: int, wrong: int) -> NDArray[np.float64]:
        """Return ln P(seen | wrong ones in the stratum), but for a constant, (size + 1,)."""
        number = np.arange(size + 1.0)
        of, left = special.gammaln(number + 1), special.gammaln(size - number + 1)
        with np.errstate(invalid="ignore"):
            found = of - special.gammaln(number - wrong + 1)
            found += left - special.gammaln(size - number - right + 1)
        found[(number < wrong) | (size - number < right)] = -np.inf
        return np.asarray(found, np.float64)

    def clicks(self, truths: Sequence[NDArray[np.bool_]], often: int) -> float:
        """Return after how many verdicts a draw proves the target; all, if none does.

        Args:
            truths: of each stratum, in the order of drawing.
            often: how often the doubted are drawn.

        """
        places = [
            ((place + 0.5) / (size * (often if stratum else 1)), stratum)
            for stratum, size in enumerate(self._sizes)
            for place in range(size)
        ]
        seen, wrong = [0, 0], [0, 0]
        for number, (_, stratum) in enumerate(sorted(places), 1):
            right = bool(truths[stratum][seen[stratum]])
            seen[stratum] += 1
            wrong[stratum] += not right
            if number >= 1 / (1 - TARGET) and right:
                rights = (seen[0] - wrong[0], seen[1] - wrong[1])
                if self.proves(rights, (wrong[0], wrong[1])):
                    return number
            if sum(wrong) > self._most:
                break
        return sum(self._sizes)


def strata() -> Iterator[list[str]]:
    """Yield a row a case: the mean number of verdicts without strata, and with each allocation."""
    for sizes in _STRATA:
        called, method, plain = sum(sizes), Strata(sizes), InUse(sum(sizes))
        for truth, of_doubted in ((1.0, 0.0), (0.99, 1.0), (0.97, 1.0), (0.97, 0.75), (0.97, 0.2)):
            wrong = round((1 - truth) * called)
            doubted = round(of_doubted * wrong)
            random = np.random.default_rng(4)
            found = []
            for _ in range(_STRATA_DRAWS):
                truths = [
                    random.permutation(np.arange(size) >= count)
                    for size, count in zip(sizes, (wrong - doubted, doubted), strict=True)
                ]
                once = plain.proven(random.permutation(np.concatenate(truths))[np.newaxis])
                found.append([min(float(once[0]), called)])
                found[-1] += [method.clicks(truths, often) for often in _OFTEN]
            means = np.mean(found, axis=0)
            where = "" if not wrong else f"{doubted} of {wrong}"
            yield [
                f"{sizes[0]} and {sizes[1]}", f"{truth:g}", where, *(f"{one:.0f}" for one in means)
            ]  # fmt: skip


def _first(there: Draws) -> Clicks:
    """Return the number of the first that is there of each row, from 1; infinity where none is."""
    return np.where(there.any(axis=1), there.argmax(axis=1) + 1.0, np.inf)


def _table(head: list[str], rows: Iterator[list[str]]) -> None:
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)


def main(words: Sequence[str]) -> int:
    """Print the tables, of some numbers of called pictures or of all."""
    numbers = [int(word) for word in words] or list(_CALLED)
    print("how often at the most, of all truths, a bound in use ever misses it, exactly")
    _table(
        ["called", "lower", "upper"],
        (row for called in _EXACT if called in numbers for row in missed(called)),
    )
    print(f"\n0.95 just fails and is proven / holds and is refuted, ever; {_DRAWS:,} draws")
    _table(["called", *methods(1)], wrongly(numbers))
    print(f"\nverdicts until 0.95 is proven or refuted: mean (median); {_DRAWS:,} draws")
    _table(["called", "true precision", "until", *methods(1)], clicks(numbers))
    if not words:
        print(f"\nverdicts until 0.95 is proven, with two strata: mean; {_STRATA_DRAWS:,} draws")
        cases = ["sure and doubted", "true precision", "wrong ones among the doubted"]
        drawn_from = (f"doubted {often} times as often" for often in _OFTEN)
        _table([*cases, "no strata, in use", *drawn_from], strata())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
