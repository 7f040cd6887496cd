"""The learning rate of each step is a function of the step and the halvings, and of no more."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from imagetag.train.schedule import Schedule, ScheduleName

NAMES = get_args(ScheduleName)


@pytest.mark.parametrize("name", NAMES)
def test_a_warm_up_rises_evenly_to_the_rate_and_never_starts_at_zero(name: ScheduleName) -> None:
    schedule = Schedule(name, rate=0.8, warmup=7, steps=50)
    rates = [schedule.at(step) for step in range(8)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    # Standing still in the warm-up does not slow it.
    assert [schedule.at(step, halvings=2) for step in range(7)] == rates[:7]


@pytest.mark.parametrize("name", NAMES)
def test_without_a_warm_up_the_first_step_has_the_whole_rate(name: ScheduleName) -> None:
    assert Schedule(name, rate=0.3, warmup=0, steps=50).at(0) == pytest.approx(0.3)


def test_constant_stays_also_where_validation_stands_still() -> None:
    schedule = Schedule("constant", rate=0.3, warmup=5, steps=50)
    assert {schedule.at(step, halvings) for step in range(5, 60) for halvings in range(4)} == {0.3}


def test_plateau_is_halved_each_time() -> None:
    schedule = Schedule("plateau", rate=0.8, warmup=0, steps=50)
    assert [schedule.at(9, halvings) for halvings in range(4)] == [0.8, 0.4, 0.2, 0.1]
    assert schedule.at(49) == 0.8


@pytest.mark.parametrize("warmup", [0, 10])
def test_cosine_falls_from_the_rate_to_zero_over_the_phase(warmup: int) -> None:
    schedule = Schedule("cosine", rate=0.8, warmup=warmup, steps=50)
    rates = [schedule.at(step) for step in range(warmup, 51)]
    count = 50 - warmup
    assert rates == pytest.approx(
        [0.4 * (1 + math.cos(math.pi * i / count)) for i in range(count + 1)]
    )
    assert sorted(rates, reverse=True) == rates
    assert rates[count // 2] == pytest.approx(0.4)
    assert 0 < rates[-2] < 0.8 / 100
    assert rates[-1] == pytest.approx(0)
    assert [schedule.at(step, halvings=3) for step in range(warmup, 51)] == rates


def test_cosine_stays_at_zero_past_the_end_and_bears_a_warm_up_of_all_steps() -> None:
    assert Schedule("cosine", rate=1.0, warmup=2, steps=9).at(12) == pytest.approx(0)
    all_warm = Schedule("cosine", rate=1.0, warmup=9, steps=9)
    assert all_warm.at(8) == pytest.approx(0.9)
    assert all_warm.at(9) == pytest.approx(1)
