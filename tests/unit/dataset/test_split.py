"""The split: a pure function of the group, so that every pod and every later scrape agrees."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagetag.dataset.split import fraction_of, parts_of_groups, split_of
from imagetag.layout import LABELS, PARTS, Label, PartName

GROUPS = [f"safebooru:{number}" for number in range(20_000)]


@given(st.text(st.characters(codec="utf-8")))
def test_the_same_group_is_always_in_the_same_split(group: str) -> None:
    assert split_of(group, 0.2) == split_of(group, 0.2)
    assert 0 <= fraction_of("test", group) < 1


def test_another_process_finds_the_same() -> None:
    script = (
        "from imagetag.dataset.split import split_of; print(split_of('safebooru:1', 0.2), end=' ')"
    )
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


# ---- the parts of the train split


def counted(images: Sequence[tuple[str, Label]], *fractions: float) -> dict[PartName, Counter[str]]:
    parts = parts_of_groups(images, *fractions)
    found: dict[PartName, Counter[str]] = {part: Counter() for part in PARTS}
    for group, label in images:
        found[parts[group]][label] += 1
    return found


def test_parts_are_drawn_independently_of_test() -> None:
    train = [group for group in GROUPS if split_of(group, 0.2) == "train"]
    parts = parts_of_groups([(group, "positive") for group in GROUPS], 0.2, 0.2)
    share = sum(parts[group] == "validation" for group in train) / len(train)
    assert share == pytest.approx(0.2, abs=0.015)


@given(
    st.lists(st.tuples(st.integers(0, 500), st.sampled_from(LABELS)), min_size=1),
    st.randoms(use_true_random=False),
)
def test_parts_depend_on_which_images_there_are_and_on_nothing_else(
    drawn: list[tuple[int, Label]], random: Random
) -> None:
    images = [(f"board:{group}", label) for group, label in drawn]
    parts = parts_of_groups(images, 0.15, 0.2)
    assert parts.keys() == {group for group, _ in images}
    random.shuffle(images)
    assert parts_of_groups(images, 0.15, 0.2) == parts


@pytest.mark.parametrize("positives", [5, 20, 45, 300])
@pytest.mark.parametrize("negatives", [20, 45, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_each_part_has_its_share_of_both_labels(positives: int, negatives: int, seed: int) -> None:
    names = [f"board {seed}:{number}" for number in range(positives + negatives)]
    images: list[tuple[str, Label]] = [
        (name, "positive" if number < positives else "negative")
        for number, name in enumerate(names)
    ]
    found = counted(images, 0.15, 0.2)
    for label, total in (("positive", positives), ("negative", negatives)):
        assert found["validation"][label] == pytest.approx(0.15 * total, abs=0.51)
        assert found["threshold"][label] == pytest.approx(0.2 * total, abs=1)


def test_families_stay_together_and_shares_hold_to_half_a_family() -> None:
    images: list[tuple[str, Label]] = [
        (f"board:{number // 6}", "positive" if number % 6 < 2 else "negative")
        for number in range(600)
    ]
    found = counted(images, 0.2, 0.3)
    for label, each in (("positive", 2), ("negative", 4)):
        assert found["validation"][label] == pytest.approx(0.2 * 100 * each, abs=each)
        assert found["threshold"][label] == pytest.approx(0.3 * 100 * each, abs=each)


def test_more_images_move_but_few_groups() -> None:
    images: list[tuple[str, Label]] = [(group, "positive") for group in GROUPS[:1000]]
    before = parts_of_groups(images, 0.15, 0.2)
    after = parts_of_groups([(group, "positive") for group in GROUPS[:1100]], 0.15, 0.2)
    assert sum(after[group] != part for group, part in before.items()) < 50
