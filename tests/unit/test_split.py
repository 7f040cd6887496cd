"""The split: a pure function of the group, so that every pod and every later scrape agrees."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagetag.split import fraction_of, in_validation, split_of

GROUPS = [f"safebooru:{number}" for number in range(20_000)]


@given(st.text(st.characters(codec="utf-8")))
def test_the_same_group_is_always_in_the_same_split(group: str) -> None:
    assert split_of(group, 0.2) == split_of(group, 0.2)
    assert 0 <= fraction_of("test", group) < 1


def test_another_process_finds_the_same() -> None:
    script = "from imagetag.split import split_of; print(split_of('safebooru:1', 0.2), end=' ')"
    script += "; print(*(split_of(f'safebooru:{n}', 0.2) for n in range(50)))"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert found == [split_of(group, 0.2) for group in ["safebooru:1", *GROUPS[:50]]]


def test_stored_datasets_keep_their_split_in_later_versions() -> None:
    # Never change these: images would stand in both splits of datasets that are scraped again.
    in_test = [number for number in range(12) if split_of(GROUPS[number], 0.2) == "test"]
    assert in_test == [2, 3, 11]
    assert fraction_of("test", "safebooru:0") == pytest.approx(0.5926103334792677)


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_about_the_fraction_asked_for_is_in_test(fraction: float) -> None:
    share = sum(split_of(group, fraction) == "test" for group in GROUPS) / len(GROUPS)
    # Five standard deviations of a fair draw.
    assert share == pytest.approx(
        fraction, abs=5 * (fraction * (1 - fraction) / len(GROUPS)) ** 0.5
    )


@pytest.mark.parametrize(("fraction", "split"), [(0.0, "train"), (1.0, "test")])
def test_none_and_all_are_exact(fraction: float, split: str) -> None:
    assert {split_of(group, fraction) for group in GROUPS} == {split}


def test_a_larger_test_fraction_takes_nothing_out_of_test() -> None:
    small = {group for group in GROUPS if split_of(group, 0.1) == "test"}
    large = {group for group in GROUPS if split_of(group, 0.3) == "test"}
    assert small < large


def test_adding_groups_moves_nothing() -> None:
    before = {group: split_of(group, 0.2) for group in GROUPS[:1000]}
    after = {group: split_of(group, 0.2) for group in reversed(GROUPS)}
    assert all(after[group] == split for group, split in before.items())


def test_validation_is_drawn_independently_of_test() -> None:
    train = [group for group in GROUPS if split_of(group, 0.2) == "train"]
    share = sum(in_validation(group, 0.2) for group in train) / len(train)
    assert share == pytest.approx(0.2, abs=0.015)
