"""The slots of all shards together keep the rate, whatever the clocks do."""

from __future__ import annotations

import bisect
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagetag.web import pace
from imagetag.web.pace import LATEST, Pace


class Clock:
    """Two clocks that a test sets: of the day, and the monotonic one."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ahead = 1.7e9

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def busiest_second(times: list[float]) -> int:
    times = sorted(times)
    return max(bisect.bisect_left(times, start + 1) - at for at, start in enumerate(times))


def starts(one: Pace, clock: Clock, count: int, host: str = "a") -> list[float]:
    """Return when so many requests may go at the earliest, each asking when the last one went."""
    found = []
    for _ in range(count):
        start = one.reserve(host)
        clock.now = max(clock.now, start)
        found.append(clock.now)
    return found


@pytest.mark.parametrize("rate", [1, 2, 20, 50, 1000, 2.5])
@pytest.mark.parametrize("shards", [1, 3, 8])
def test_no_second_has_more_than_the_rate(clock: Clock, rate: float, shards: int) -> None:
    times: list[float] = []
    for index in range(shards):
        clock.now = 1000.0 + index / 7
        shard = Pace(rate, index, shards)
        times += starts(shard, clock, max(5, int(5 * rate / shards)))
    # As late as may be, half of them.
    times = [moment + LATEST * (at % 2) for at, moment in enumerate(sorted(times))]
    assert busiest_second(times) <= -(-rate // 1)


def test_all_that_is_allowed_is_used(clock: Clock) -> None:
    for index in range(8):
        clock.now = 1000.0
        assert starts(Pace(100, index, 8), clock, 100)[-1] - 1000 < 8.5


def test_a_request_now_and_then_does_not_wait(clock: Clock) -> None:
    one = Pace(1000)
    for _ in range(1000):
        clock.now += random.uniform(0.002, 0.02)
        assert one.reserve("a") <= clock.now + 0.00106


def test_time_not_used_is_not_made_up_for(clock: Clock) -> None:
    one = Pace(20)
    starts(one, clock, 5)
    clock.now += 3600
    assert busiest_second(starts(one, clock, 100)) <= 20


@pytest.mark.parametrize("jump", [-86400.0, -1.0, -0.01, 0.01, 1.0, 86400.0])
def test_a_clock_that_is_set_neither_stalls_nor_bursts(clock: Clock, jump: float) -> None:
    one = Pace(20)
    one.set_interval("slow", 1.0)
    times = starts(one, clock, 50)
    slow = [one.reserve("slow") for _ in range(3)]
    clock.ahead += jump
    slow += [one.reserve("slow") for _ in range(3)]
    assert all(1 <= late - early < 2.2 for early, late in pairwise(slow))
    times += starts(one, clock, 50)
    assert busiest_second(times) <= 20
    assert times[-1] - times[0] < 120 / 20 * 1.05


def test_clocks_that_run_apart_are_followed(clock: Clock) -> None:
    # A pod whose clock is slowed down by NTP ends up in the slots of the others' time of day.
    slewed = Pace(20, 0, 8)
    for _ in range(100):
        clock.ahead -= 0.004
        clock.now += 1
        slewed.reserve("a")
    clock.now += 10
    fresh = Pace(20, 0, 8)
    assert slewed.reserve("a") == pytest.approx(fresh.reserve("a"), abs=0.005)


@given(
    rate=st.sampled_from([0.5, 2, 5, 20, 100]),
    shards=st.integers(1, 12),
    interval=st.floats(0, 5),
)
def test_an_interval_holds_over_all_shards(rate: float, shards: int, interval: float) -> None:
    times = []
    for index in range(shards):
        shard = Pace(rate, index, shards)
        shard.set_interval("a", interval)
        shard.set_interval("a", interval / 2)  # a shorter one changes nothing
        times += [shard.reserve("a") for _ in range(3)]
    times.sort()
    gaps = [late - early for early, late in pairwise(times)]
    assert not gaps or min(gaps) >= min(interval, 1) * 0.99  # the shards began a moment apart
    assert len({round(moment, 4) for moment in times}) == len(times)


def test_a_slow_host_and_a_paused_one_keep_nobody_else_waiting(clock: Clock) -> None:
    one = Pace(10)
    one.set_interval("slow", 30.0)
    slow = [one.reserve("slow") for _ in range(5)]
    paused = [one.reserve("paused", clock.now + 50) for _ in range(5)]
    others = [one.reserve("a") for _ in range(600)]
    assert others[-1] - others[0] < 610 * 0.105
    assert min(paused) >= clock.now + 50
    assert min(late - early for early, late in pairwise(slow)) >= 30
    everything = [round(moment, 6) for moment in slow + paused + others]
    assert len(set(everything)) == len(everything), "no slot is given out twice"
    assert busiest_second(everything) <= 10


def test_what_was_given_out_long_ago_is_forgotten(clock: Clock) -> None:
    one = Pace(1000)
    one.set_interval("slow", 0.5)
    for _ in range(5000):
        clock.now = max(clock.now, one.reserve("slow"))
    assert len(one._taken) <= 1001


def test_how_long_it_will_take_is_told_without_taking_it(clock: Clock) -> None:
    one = Pace(1)
    one.reserve("a")
    assert one.wait("a") == one.wait("a")
    assert clock.now + one.wait("a") == pytest.approx(one.reserve("a"))
