"""What fails on a part of the test split is found, and what only looks like it is not."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from imagetag.dataset.manifest import Row
from imagetag.evaluate.breakdown import ALPHA, breakdown, fisher, holm, worst
from imagetag.runs.slices import Measure, Slice
from imagetag.stats.intervals import share_interval
from imagetag.stats.metrics import Confusion, Estimate
from tests.builders.rows import make_row
from tests.cost import processor_seconds
from tests.traced import traced

Group = tuple[int, str, bool, dict[str, Any]]


def of_test(number: int, **changes: Any) -> Row:
    side = {"width": 1000, "height": 1000}
    return make_row(number, **{**side, "split": "test", "label": "positive", **changes})


def make_rows(*counts: Group) -> tuple[list[Row], list[bool]]:
    """Return so many rows of a label, decision and what else they have; and the decisions."""
    rows: list[Row] = []
    called: list[bool] = []
    for count, label, decision, changes in counts:
        for _ in range(count):
            rows.append(of_test(len(rows), label=label, **changes))
            called.append(decision)
    return rows, called


def mixed(tp: int, fp: int, fn: int, tn: int, **changes: Any) -> list[Group]:
    return [
        (tp, "positive", True, changes),
        (fp, "negative", True, changes),
        (fn, "positive", False, changes),
        (tn, "negative", False, changes),
    ]


def names(slices: Sequence[Slice], kind: str) -> list[str]:
    return [part.name for part in slices if part.kind == kind]


def named(slices: Sequence[Slice], name: str) -> Slice:
    [found] = [part for part in slices if part.name == name]
    return found


def log_factorials(total: int) -> Any:
    return np.array([math.lgamma(number + 1) for number in range(total + 1)])


# ---- parts


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ((500, 499), "under 0.25 megapixels"),
        ((500, 500), "0.25 to 0.5 megapixels"),
        ((1000, 500), "0.5 to 1 megapixels"),
        ((1000, 1000), "1 to 2 megapixels"),
        ((2000, 1999), "2 to 4 megapixels"),
        ((2000, 2000), "4 megapixels and over"),
        ((30_000, 30_000), "4 megapixels and over"),
        ((1, 1), "under 0.25 megapixels"),
    ],
)
def test_sizes_are_of_the_pixels_of_the_picture(size: tuple[int, int], name: str) -> None:
    slices = breakdown([of_test(0, width=size[0], height=size[1])], [True])
    assert names(slices, "size") == [name]


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ((1, 9000), "tall"),
        ((66, 100), "tall"),
        ((67, 100), "portrait"),
        ((89, 100), "portrait"),
        ((90, 100), "square-ish"),
        ((100, 100), "square-ish"),
        ((100, 91), "square-ish"),
        ((100, 89), "landscape"),
        ((100, 68), "landscape"),
        ((100, 66), "wide"),
        ((9000, 1), "wide"),
    ],
)
def test_aspects_are_width_by_height(size: tuple[int, int], name: str) -> None:
    slices = breakdown([of_test(0, width=size[0], height=size[1])], [True])
    assert [found.partition(" (")[0] for found in names(slices, "aspect")] == [name]


def test_parts_come_by_kind_and_buckets_in_their_own_order() -> None:
    rows = [
        of_test(0, width=3000, height=3000, rating="explicit", ext="webp"),
        of_test(1, width=100, height=100, rating="questionable", ext="png"),
        of_test(2, width=900, height=600, rating="sensitive", ext="jpeg"),
        of_test(3, width=300, height=900, rating="general", ext="jpg"),
        of_test(4, width=1000, height=1800, rating="general", ext="tiff"),
    ]
    slices = breakdown(rows, [True] * 5)
    assert [(part.kind, part.name, part.pictures) for part in slices] == [
        ("size", "under 0.25 megapixels", 1),
        ("size", "0.25 to 0.5 megapixels", 1),
        ("size", "0.5 to 1 megapixels", 1),
        ("size", "1 to 2 megapixels", 1),
        ("size", "4 megapixels and over", 1),
        ("aspect", "tall (under 0.67)", 2),
        ("aspect", "square-ish (0.9 to 1.11)", 2),
        ("aspect", "wide (1.49 and over)", 1),
        ("rating", "general", 2),
        ("rating", "sensitive", 1),
        ("rating", "questionable", 1),
        ("rating", "explicit", 1),
        ("format", "JPEG", 2),
        ("format", "PNG", 1),
        ("format", "WEBP", 1),
        ("format", "other", 1),
    ]


def test_each_kind_but_the_tags_is_a_partition() -> None:
    random = np.random.default_rng(4)
    rows = [
        of_test(
            number,
            width=int(random.integers(1, 4000)),
            height=int(random.integers(1, 4000)),
            rating=random.choice(["general", "sensitive", "questionable", "explicit"]),
            ext=random.choice(["jpg", "jpeg", "png", "webp", "gif", "bmp", "avif"]),
            label=random.choice(["positive", "negative"]),
        )
        for number in range(300)
    ]
    slices = breakdown(rows, list(random.random(300) < 0.5))
    for kind in ("size", "aspect", "rating", "format"):
        assert sum(part.pictures for part in slices if part.kind == kind) == 300
        counts = [part.confusion for part in slices if part.kind == kind]
        assert sum(c.tp + c.fp + c.fn + c.tn for c in counts) == 300


def test_companions_are_the_most_frequent_tags_but_rare_ones() -> None:
    groups: list[Group] = [(12, "positive", True, {"tags": ("robot", "solo", "solo")})]
    groups += [(9, "negative", False, {"tags": ("rare",)})]
    groups += [(6, "negative", False, {"tags": ("twice", "twice")})]
    groups += [(10, "negative", False, {"tags": ("ten",)})]
    groups += [(15, "negative", False, {"tags": ("tree", "ten_more")})]
    rows, called = make_rows(*groups, (1, "positive", True, {"tags": ("robot",)}))
    slices = breakdown(rows, called)
    assert set(names(slices, "companion_tag")) == {"solo", "ten", "ten_more", "tree"}
    assert named(slices, "solo").pictures == 12
    assert set(names(breakdown(rows, called, most=3), "companion_tag")) == {
        *("solo", "ten_more", "tree")
    }
    assert set(names(breakdown(rows, called, least=9), "companion_tag")) == {
        *("rare", "solo", "ten", "ten_more", "tree")
    }
    assert not names(breakdown(rows, called, most=0), "companion_tag")


def test_neither_the_label_itself_nor_a_tag_of_all_is_a_companion() -> None:
    rows, called = make_rows(
        (20, "positive", True, {"tags": ("robot", "alias_of_robot", "drawn", "nearly")}),
        (1, "negative", False, {"tags": ("drawn", "nearly")}),
        (20, "negative", False, {"tags": ("drawn",)}),
    )
    assert names(breakdown(rows, called), "companion_tag") == ["nearly"]


# ---- their numbers


def test_numbers_are_those_counted_by_hand() -> None:
    rows, called = make_rows(
        *mixed(6, 2, 3, 9, tags=("hat",)), *mixed(10, 1, 0, 19, tags=("coat",), ext="png")
    )
    slices = breakdown(rows, called)
    hat = named(slices, "hat")
    assert (hat.kind, hat.pictures, hat.positives) == ("companion_tag", 20, 9)
    assert hat.confusion == Confusion(tp=6, fp=2, fn=3, tn=9)
    expected = {
        "precision": (6, 8),
        "recall": (6, 9),
        "false_positive_rate": (2, 11),
        "accuracy": (15, 20),
    }
    for name, (part, whole) in expected.items():
        estimate = getattr(hat, name)
        assert estimate.value == pytest.approx(part / whole)
        alone = share_interval(np.arange(whole) < part, np.ones(whole), np.arange(whole))
        assert estimate.interval == pytest.approx(alone)
    assert named(slices, "PNG").confusion == Confusion(tp=10, fp=1, fn=0, tn=19)
    assert named(slices, "1 to 2 megapixels").confusion == Confusion(tp=16, fp=3, fn=3, tn=28)


def test_what_is_not_defined_has_no_value() -> None:
    rows, called = make_rows(*mixed(0, 0, 0, 10, tags=("tree",)), *mixed(5, 1, 1, 5))
    tree = named(breakdown(rows, called), "tree")
    assert tree.precision.value is None
    assert tree.recall.value is None
    assert tree.recall.interval is None
    assert tree.false_positive_rate.value == 0
    assert tree.accuracy.value == 1
    assert not tree.differences


def test_nothing_is_no_parts() -> None:
    assert breakdown([], []) == []
    assert worst([]) is None


def test_other_numbers_of_rows_and_decisions_are_a_defect() -> None:
    with pytest.raises(ValueError, match="1 rows and 2 decisions"):
        breakdown([of_test(0)], [True, False])


def test_parts_go_to_json_and_back() -> None:
    rows, called = make_rows(*mixed(20, 1, 1, 20), *mixed(3, 20, 2, 20, tags=("hat",)))
    slices = breakdown(rows, called)
    assert any(part.differences for part in slices)
    for part in slices:
        text = part.model_dump_json()
        assert Slice.model_validate_json(text) == part
        json.loads(text, parse_constant=pytest.fail)


# ---- Fisher's test, and Holm's correction


@settings(max_examples=100)
@given(st.tuples(*[st.integers(0, 20)] * 4))
def test_fisher_agrees_with_the_reference(counts: tuple[int, int, int, int]) -> None:
    a, b, c, d = counts
    p, least = fisher(((a, b), (c, d)), log_factorials(sum(counts)))
    assert p == pytest.approx(stats.fisher_exact([[a, b], [c, d]]).pvalue, rel=1e-6)
    inside, hits = a + b, a + c
    possible = [
        stats.fisher_exact([[k, inside - k], [hits - k, sum(counts) - inside - hits + k]]).pvalue
        for k in range(max(0, inside + hits - sum(counts)), min(inside, hits) + 1)
    ]
    assert least == pytest.approx(min(possible), rel=1e-6)


def test_fisher_of_many_pictures_is_a_number() -> None:
    rows, called = make_rows(*mixed(9000, 100, 300, 9000), *mixed(500, 400, 100, 600, ext="png"))
    found = {d.measure: d.p for d in named(breakdown(rows, called), "PNG").differences}
    tables = {
        "precision": [[500, 400], [9000, 100]],
        "recall": [[500, 100], [9000, 300]],
        "false_positive_rate": [[400, 600], [100, 9000]],
    }
    # JPEG against PNG and PNG against JPEG: three comparisons each.
    pvalues = {name: stats.fisher_exact(table).pvalue for name, table in tables.items()}
    assert list(found) == list(pvalues)
    assert max(found.values()) < 1e-30
    assert found["recall"] == pytest.approx(2 * pvalues["recall"], rel=1e-6)


def test_p_values_are_corrected_by_holm() -> None:
    rows, called = make_rows(
        *mixed(40, 4, 4, 40), *mixed(10, 12, 10, 22, tags=("hat",)), *mixed(40, 4, 5, 40)
    )
    slices = breakdown(rows, called)
    hat = named(slices, "hat")
    found = {difference.measure: difference for difference in hat.differences}
    tables: dict[Measure, list[list[int]]] = {
        "precision": [[10, 12], [80, 8]],
        "recall": [[10, 10], [80, 9]],
        "false_positive_rate": [[12, 22], [8, 80]],
    }
    ordered = sorted(tables, key=lambda name: stats.fisher_exact(tables[name]).pvalue)
    # Nothing else is tested: of size, aspect, rating and format there is one part each.
    for rank, name in enumerate(ordered):
        p = stats.fisher_exact(tables[name]).pvalue
        assert found[name].p == pytest.approx((3 - rank) * p, rel=1e-6)
        assert found[name].worse
    assert found["precision"].elsewhere == pytest.approx(80 / 88)
    assert found["false_positive_rate"].elsewhere == pytest.approx(8 / 88)


def test_holms_correction_by_hand() -> None:
    tests = [(0.2, 0.001), (0.011, 0.001), (0.01, 0.001), (0.04, 0.04), (0.001, 0.06)]
    # The last one could not be significant: four are counted, and none is less than one before it.
    assert holm(tests) == pytest.approx([0.2, 0.04, 0.04, 0.08, 1])
    assert holm([]) == []
    assert holm([(0.9, 0.01), (0.8, 0.01)]) == [1, 1]


def test_what_could_not_be_significant_is_not_counted_as_tested() -> None:
    def differences(tagged: int, least: int) -> list[float]:
        rows, called = make_rows(
            *mixed(60, 5, 5, 60), *mixed(10, 12, 10, 22, tags=("hat",)), *mixed(30, 2, 2, 30)
        )
        for number in range(0, 4 * tagged, 4):
            rows[number] = rows[number].model_copy(update={"tags": ("found",)})
        slices = breakdown(rows, called, least=least)
        assert ("found" in names(slices, "companion_tag")) == (least == 1)
        return [difference.p for difference in named(slices, "hat").differences]

    # Of one positive that has a tag, no recall would be news; of nine, a low one would.
    assert differences(1, least=1) == differences(1, least=10)
    assert len(differences(1, least=1)) == 3
    more, before = differences(9, least=1), differences(9, least=10)
    assert min(more) == pytest.approx(min(before) * 4 / 3)


# ---- what is found


def test_a_companion_on_which_it_fails_is_found_and_comes_first() -> None:
    random = np.random.default_rng(1)
    others = [f"tag{number}" for number in range(25)]
    rows, called = [], []
    for number in range(1200):
        label = "positive" if random.random() < 0.5 else "negative"
        chosen = {str(tag) for tag in random.choice(others, 4)}
        right = 0.95
        if number % 12 == 0:  # a hundred pictures of red hair: it takes half of them for the tag
            chosen.add("red_hair")
            right = 0.95 if label == "positive" else 0.5
        rows.append(of_test(number, label=label, tags=tuple(sorted(chosen))))
        called.append((label == "positive") == (random.random() < right))
    slices = breakdown(rows, called)
    flagged = [part.name for part in slices if part.worse]
    assert flagged == ["red_hair"]
    tags = [part for part in slices if part.kind == "companion_tag"]
    first = tags[0]
    assert first.name == "red_hair"
    measures = {difference.measure for difference in first.differences}
    assert measures == {"precision", "false_positive_rate"}
    assert first.words == "pictures also tagged “red_hair”"
    assert [part.accuracy.value for part in tags[1:]] == sorted(
        part.accuracy.value or 0 for part in tags[1:]
    )
    sentence = worst(slices)
    assert sentence is not None
    assert sentence.startswith(
        "It fails most on pictures also tagged “red_hair”: the false positive rate is "
    )


def test_the_plainest_failure_comes_first_and_what_is_better_last() -> None:
    rows, called = make_rows(
        *mixed(80, 20, 20, 80),
        *mixed(20, 2, 30, 10, tags=("bad",)),
        *mixed(10, 2, 40, 150, tags=("awful",)),
        *mixed(2, 0, 3, 5, tags=("unlucky",)),
        *mixed(400, 0, 0, 30, tags=("easy",)),
    )
    slices = breakdown(rows, called)
    tags = [part for part in slices if part.kind == "companion_tag"]
    assert [part.name for part in tags] == ["awful", "bad", "unlucky", "easy"]
    assert [part.worse for part in tags] == [True, True, False, False]
    accuracies = [part.accuracy.value or 0 for part in tags]
    assert accuracies[0] > accuracies[2] > accuracies[1]  # which is not what they are sorted by
    [better] = [found for found in tags[-1].differences if found.measure == "recall"]
    assert not better.worse
    assert worst(slices) == (
        "It fails most on pictures also tagged “awful”: recall is 20 % (10 of 50), and 90.5 % "
        "elsewhere."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rating": "explicit"}, "pictures rated explicit"),
        ({"ext": "png"}, "pictures of format PNG"),
        ({"width": 100, "height": 100}, "pictures of under 0.25 megapixels"),
        ({"width": 3000, "height": 500}, "wide pictures"),
    ],
)
def test_the_worst_part_is_named_in_words(changes: dict[str, Any], words: str) -> None:
    rows, called = make_rows(*mixed(90, 5, 10, 95), *mixed(10, 30, 0, 40, **changes))
    slices = breakdown(rows, called)
    sentence = worst(slices)
    expected = "precision is 25 % (10 of 40), and 94.7 % elsewhere."
    assert sentence == f"It fails most on {words}: {expected}"
    # A sentence is of a page that was loaded, too.
    again = [Slice.model_validate_json(part.model_dump_json()) for part in slices]
    assert worst(again) == sentence


def test_the_precision_of_one_label_alone_is_no_news() -> None:
    # Whatever the model does, precision is 0 among trees and 1 among cats.
    rows, called = make_rows(
        *mixed(30, 10, 10, 50),
        *mixed(0, 10, 0, 50, tags=("tree",)),
        *mixed(30, 0, 10, 0, tags=("cat",)),
    )
    slices = breakdown(rows, called)
    assert named(slices, "tree").precision.value == 0
    assert not [part.name for part in slices if part.differences]
    assert worst(slices) is None


def test_pictures_of_one_group_are_one_trial() -> None:
    # Forty variants of one post, all of them mistaken: it is one mistake.
    common = mixed(60, 3, 3, 60)
    apart, called = make_rows(*common, *mixed(0, 40, 0, 10, tags=("variant",)))
    together = [
        row.model_copy(update={"group": "parent"}) if decision and row.tags else row
        for row, decision in zip(apart, called, strict=True)
    ]
    assert named(breakdown(apart, called), "variant").worse
    slices = breakdown(together, called)
    assert not any(part.differences for part in slices)
    assert named(slices, "variant").confusion.fp == 40  # they are counted all the same


def test_a_group_whose_others_say_the_opposite_says_nothing() -> None:
    rows, called = make_rows(*mixed(60, 3, 3, 60), *mixed(0, 20, 0, 20, tags=("hat",)))
    assert named(breakdown(rows, called), "hat").worse
    # Each mistake has variants that are none, whose md5 comes later.
    last = "f" * 26
    for number, row in enumerate(
        [row for row in rows if row.tags and row.label == "negative"][:20]
    ):
        for variant in range(40):
            changes = {"group": row.group, "md5": f"{last}{number:02x}{variant:04x}"}
            rows.append(of_test(1000 + number * 40 + variant, **{**changes, "label": "negative"}))
            rows[-1] = rows[-1].model_copy(update={"tags": ("hat",)})
            called.append(False)
    hat = named(breakdown(rows, called), "hat")
    assert hat.false_positive_rate.value == pytest.approx(20 / 840)
    assert not hat.differences


def test_the_order_of_the_rows_changes_nothing() -> None:
    random = np.random.default_rng(6)
    rows = [
        of_test(
            number,
            label="positive" if number % 2 else "negative",
            group=str(number // 3),
            tags=tuple(tag for tag in ("hat", "coat", "hair") if random.random() < 0.3),
        )
        for number in range(600)
    ]
    called = [
        bool(random.random() < (0.5 if "hat" in row.tags else 0.9 if number % 2 else 0.1))
        for number, row in enumerate(rows)
    ]
    slices = breakdown(rows, called)
    assert [part.name for part in slices if part.worse] == ["hat"]
    order = random.permutation(600)
    assert breakdown([rows[i] for i in order], [called[i] for i in order]) == slices


def test_random_labels_are_flagged_no_more_often_than_stated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Intervals decide nothing, and take most of the time.
    nothing = Estimate(value=None, low=None, high=None)
    monkeypatch.setattr("imagetag.evaluate.breakdown.share_of", lambda *_: nothing)
    random = np.random.default_rng(2024)
    tags = [f"tag{number}" for number in range(12)]
    rows = [
        of_test(
            number,
            tags=tuple(tag for tag in tags if random.random() < 0.3),
            width=int(random.integers(300, 2500)),
            height=int(random.integers(300, 2500)),
            rating="general" if random.random() < 0.6 else "sensitive",
            ext="jpg" if random.random() < 0.5 else "png",
        )
        for number in range(300)
    ]
    marked = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        labels = np.where(random.random(len(rows)) < 0.5, "positive", "negative")
        labelled = [
            row.model_copy(update={"label": str(label)})
            for row, label in zip(rows, labels, strict=True)
        ]
        # Decisions are right in 80 % of cases, whatever the picture.
        called = (labels == "positive") == (random.random(len(rows)) < 0.8)
        marked += any(part.differences for part in breakdown(labelled, list(called)))
    assert marked <= 200 * ALPHA


# ---- hostile tags


def test_hostile_tags_are_one_line_of_printable_text() -> None:
    tags = (
        "</script><script>alert(1)</script>",
        "line\nbreak\r\tand\0null",
        "\N{RIGHT-TO-LEFT OVERRIDE}turned",
        "x" * 100_000,
        " \n\u200b",
        "",
        "雪だるま",
    )
    rows, called = make_rows(*mixed(10, 2, 2, 10, tags=tags), *mixed(10, 2, 2, 10))
    found = names(breakdown(rows, called), "companion_tag")
    assert set(found) == {
        "</script><script>alert(1)</script>",  # which the page escapes, as any text
        "line break and null",
        "turned",
        "x" * 59 + "…",
        "雪だるま",
    }


def many_tags() -> tuple[list[Row], list[bool]]:
    """Rows with 60 tags each, most of them their own; and the decisions."""
    rows = [
        of_test(
            number,
            label="positive" if number % 2 else "negative",
            tags=tuple(f"{number}-{i}" for i in range(50)) + tuple(f"common{i}" for i in range(10)),
        )
        for number in range(5000)
    ]
    rows[0] = rows[0].model_copy(update={"tags": ()})
    return rows, [number % 3 == 0 for number in range(5000)]


def test_time_and_memory_grow_with_the_rows_alone() -> None:
    with processor_seconds(60):
        slices = breakdown(*many_tags())
    assert len(names(slices, "companion_tag")) == 10
    peak = traced(
        """
from imagetag.evaluate.breakdown import breakdown
from tests.unit.evaluate.test_breakdown import many_tags

given = many_tags()
tell(peak(lambda: breakdown(*given)))
"""
    )
    assert peak < 60e6
