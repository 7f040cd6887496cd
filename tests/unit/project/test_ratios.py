"""The table of `make bench`: what a line says, how growth is fitted, what docs/figures.md has."""

from __future__ import annotations

import re

import pytest

from tests.benchmarks import OF_THE_TABLE
from tests.benchmarks.ratios import (
    EXPONENT,
    HEAD,
    NAME,
    PAGE,
    Goal,
    compared,
    exponent,
    grown,
    merged,
    missing,
    read,
    section,
    table,
    with_unit,
    written,
)

MARKED = "<!-- figures of make bench -->\nold\n<!-- end of figures -->"
TEXT = f"# Figures\n\nBefore.\n\n{MARKED}\n\nAfter.\n"
LINES = [["a", "1 s", "b: 2 s", "0.5", "", "1", "`startup`"]]


def test_a_ratio_is_the_median_of_pairs_not_of_sides() -> None:
    row = compared("x", [10, 30, 80], [1, 6, 10], with_unit("s"), by="y", goal=Goal(8))
    assert row.ratio == 8  # of 10, 5 and 8
    told = ["x", "30 s", "y: 6 s", "8 (5 to 10)", "at least 8: reached", "3", "`startup`"]
    assert row.cells("startup") == told


@pytest.mark.parametrize(
    ("goal", "told"),
    [(Goal(1.9), "reached"), (Goal(2.1), "**missed**"), (Goal(1.9, "at most"), "**missed**")],
)
def test_a_goal_that_is_missed_is_told(goal: Goal, told: str) -> None:
    cells = compared("x", [2.0], [1.0], str, by="y", goal=goal).cells("startup")
    assert cells[4].endswith(f": {told}")


def test_a_peer_that_is_missing_is_told_in_its_line() -> None:
    cells = missing("x", "curl", "no | such\nprogram").cells("scrape")
    assert cells[2] == "curl: **could not be had**: no such program"
    assert cells[3] == "**not measured**"


def test_an_exponent_is_fitted() -> None:
    assert exponent({size: 7 * size**1.5 for size in (3, 50, 800)}) == pytest.approx(1.5)
    # log2: (0, 0), (1, 2), (2, 1): the line through them rises by a half.
    assert exponent({1: 1, 2: 4, 4: 2}) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="one size"):
        exponent({10: 1.0})


def test_what_grows_too_fast_has_to_say_why() -> None:
    values = {10: 1.0, 100: 20.0}
    assert "not explained" in grown("x", values, "rows", str).cells("growth")[4]
    assert "all pairs" in grown("x", values, "rows", str, "all pairs").cells("growth")[4]
    slow = grown("x", {10: 1.0, 100: 10.0}, "rows", str, "all pairs").cells("growth")
    assert slow[3:5] == ["10: n^1.00", "at most n^1.1: reached"]


def test_a_section_is_written_between_its_marks_and_read_again() -> None:
    page = written(TEXT, NAME, section(LINES, r"On a machine \1."))
    assert page.startswith("# Figures\n\nBefore.\n\n<!-- figures of make bench -->\n\nOn a machine")
    assert page.endswith("<!-- end of figures -->\n\nAfter.\n")
    assert "old" not in page
    assert read(page, NAME) == LINES
    assert written(page, NAME, section(LINES, r"On a machine \1.")) == page


def test_a_page_without_marks_is_not_written() -> None:
    with pytest.raises(ValueError, match="0 sections"):
        written("# Figures", NAME, "x")


def test_new_lines_take_the_place_of_all_that_their_benchmark_had() -> None:
    def line(what: str, command: str) -> list[str]:
        return [what, *[""] * (len(HEAD) - 2), f"`{command}`"]

    before = [line("a", "startup"), line("b", "scrape"), line("c", "scrape"), line("x", "gone")]
    found = merged(before, [line("e", "memory"), line("d", "scrape")])
    assert [cells[0] for cells in found] == ["a", "d", "e"]


def test_the_page_has_the_table_as_the_code_makes_it() -> None:
    page = PAGE.read_text()
    lines = read(page, NAME)
    assert {cells[-1].strip("`") for cells in lines} == set(OF_THE_TABLE)
    for cells in lines:
        assert len(cells) == len(HEAD), cells
        assert re.match(r"[\d,.]+(e[+-]\d+)?( \(| ?$|: n\^)|\*\*not measured", cells[3]), cells
    machine = re.search(f"<!-- figures of {NAME} -->\n\n(.*)\n\n", page)
    assert machine is not None
    assert re.match(r"On \d+ processors and \d+ GB, .+ Python 3\.\d+\.\d+, TensorFlow ", machine[1])
    assert not re.search(r"20\d\d-|20\d\d", machine[1])
    assert written(page, NAME, section(lines, machine[1])) == page


def test_what_grows_too_fast_is_explained_on_the_page() -> None:
    for cells in read(PAGE.read_text(), NAME):
        power = re.search(r"n\^([\d.]+)$", cells[3])
        if power and float(power[1]) > EXPONENT:
            assert "not explained" not in cells[4], cells


def test_a_table_has_its_head_first() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
