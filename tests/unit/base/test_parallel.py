"""Results ahead of who takes them: in order, in parallel, and not without bounds."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from imagetag.parallel import map_ahead


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number < 3 else 0)
        return number * number

    found = list(map_ahead(slow_at_first, range(20), threads=4, ahead=7))
    assert found == [(number, number * number) for number in range(20)]
    assert list(map_ahead(slow_at_first, [], threads=4, ahead=7)) == []


def test_calls_are_made_together() -> None:
    together = threading.Barrier(4, timeout=20)  # passes only four of them
    results = map_ahead(lambda _: together.wait() >= 0, range(8), threads=4, ahead=8)
    assert [passed for _, passed in results] == [True] * 8


@pytest.mark.parametrize("ahead", [1, 5])
def test_no_more_are_taken_than_are_wanted_ahead(ahead: int) -> None:
    taken = itertools.count()

    def items() -> Iterator[int]:
        while True:
            yield next(taken)

    results = map_ahead(lambda number: number, items(), threads=3, ahead=ahead)
    assert [number for number, _ in itertools.islice(results, 10)] == list(range(10))
    results.close()
    assert next(taken) == 10 + ahead - 1


def test_an_error_comes_in_its_place_and_stops_the_rest() -> None:
    called = []

    def fail_at_three(number: int) -> int:
        called.append(number)
        time.sleep(0.001)
        if number == 3:
            raise ValueError("three")
        return number

    results = map_ahead(fail_at_three, range(50_000), threads=2, ahead=40_000)
    assert [next(results)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(called) < 30_000
