"""Whose verdicts count where figures are made: none that the judge has chosen by what is said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from imagetag.dataset.manifest import Row
from imagetag.evaluate.judged import (
    Pictures,
    is_unlearned,
    judged_test,
    judged_threshold,
    learned_labels,
)
from imagetag.inputs import Use, Used
from imagetag.layout import Label
from imagetag.models import Score
from imagetag.runs.evaluation import ByVerdicts, Judged, Request
from imagetag.runs.runs import Turned
from imagetag.stats.contract import least_called
from imagetag.verdicts import Answer, Verdict, Verdicts
from tests.builders.rows import make_row
from tests.builders.verdicts import new_verdict

REQUEST = Request()
NEEDED = least_called(200, min_precision=0.95, confidence=0.95, share=0.5) or 0


def scored(row: Row, logit: float) -> tuple[Row, Score]:
    return row, Score(np.array([logit], np.float32))


def pictures(count: int = 200, **changes: Any) -> list[tuple[Row, Score]]:
    """Return pictures from the highest score down, of which the board says one in two has it."""
    return [scored(make_row(number, **changes), -float(number)) for number in range(count)]


def said(rows: Iterable[Row], answer: Answer = "yes") -> dict[str, Verdict]:
    told = [new_verdict(row.md5, answer, "uncertain") for row in rows]
    return dict(Verdicts.of(told).standing)


def none_called(_logit: float) -> bool:
    return False


def rows_of(found: Pictures) -> list[Row]:
    return [row for row, _ in found]


def turned(before: Pictures, after: Pictures) -> list[int]:
    """Return the places of pictures whose label is another."""
    assert [row.md5 for row, _ in before] == [row.md5 for row, _ in after]
    pairs = zip(before, after, strict=True)
    return [place for place, (one, other) in enumerate(pairs) if one[0].label != other[0].label]


# ---- the test split


def test_verdicts_on_test_pictures_count_when_all_are_judged() -> None:
    before = pictures(20)
    standing = said(rows_of(before)[:19])
    found, judged = judged_test(before, standing, none_called)
    assert not turned(before, found)
    assert judged == Judged(pictures=20, judged=19, needed=20, left=1)
    found, judged = judged_test(before, standing | said(rows_of(before)[19:], "no"), none_called)
    assert turned(before, found) == [*range(0, 19, 2), 19]
    changed = Turned(to_positive=10, to_negative=1)
    assert judged == Judged(pictures=20, judged=20, counted=20, needed=20, turned=changed)


def test_what_none_can_tell_is_decided_wrongly_in_the_test() -> None:
    before = pictures(20)
    rows = rows_of(before)
    standing = said(rows[:4], "unclear") | said(rows[4:10]) | said(rows[10:], "unclear")
    found, judged = judged_test(before, standing, lambda logit: logit > -10)
    assert [row.label for row in rows_of(found)] == ["negative"] * 4 + ["positive"] * 16
    assert (judged.unclear, judged.turned) == (14, Turned(to_positive=3))
    [text] = ByVerdicts(test=judged).sentences
    assert text.endswith("Those of which none can tell count as decided wrongly: 14.")
    found, judged = judged_test(before, said(rows[:4], "unclear"), lambda logit: logit > -10)
    assert not turned(before, found)
    assert judged.unclear == 0, "none counts yet"


def test_what_none_can_tell_promises_nothing() -> None:
    before = pictures()
    standing = said(rows_of(before)[:NEEDED], "unclear")
    found, judged = judged_threshold(before, standing, REQUEST, 0.5)
    assert {row.label for row in rows_of(found)[:NEEDED]} == {"negative"}
    assert judged.unclear == NEEDED
    [text] = ByVerdicts(threshold=judged).sentences
    assert text.endswith(f"Those of which none can tell count as without the tag: {NEEDED}.")


def test_without_verdicts_nothing_is_judged() -> None:
    before = pictures(20)
    for found, judged in (
        judged_test(before, {}, none_called),
        judged_threshold(before, {}, REQUEST, 0.5),
    ):
        assert not turned(before, found)
        assert (judged.judged, judged.counted) == (0, 0)


# ---- the threshold


def test_from_the_highest_score_down_verdicts_count_once_they_could_promise() -> None:
    assert 59 <= NEEDED < 100
    before = pictures()
    few = said(rows_of(before)[: NEEDED - 1])
    found, judged = judged_threshold(before, few, REQUEST, 0.5)
    assert not turned(before, found)
    assert (judged.counted, judged.needed, judged.left) == (0, NEEDED, 1)
    enough = said(rows_of(before)[:NEEDED])
    found, judged = judged_threshold(before, enough, REQUEST, 0.5)
    assert turned(before, found) == list(range(0, NEEDED, 2))
    assert (judged.counted, judged.left) == (NEEDED, 0)
    assert judged.turned == Turned(to_positive=len(range(0, NEEDED, 2)))


def test_below_the_first_that_is_not_judged_no_verdict_counts() -> None:
    before = pictures()
    rows = rows_of(before)
    beyond = said(rows[:NEEDED] + rows[NEEDED + 1 :])
    found, judged = judged_threshold(before, beyond, REQUEST, 0.5)
    assert judged.counted == NEEDED
    assert max(turned(before, found)) < NEEDED
    holed = said(rows[:10] + rows[11:])
    found, judged = judged_threshold(before, holed, REQUEST, 0.5)
    assert not turned(before, found)
    assert (judged.judged, judged.counted, judged.left) == (199, 0, 1)


def test_pictures_of_one_score_count_together() -> None:
    before = [scored(make_row(number), -float(min(number, NEEDED - 1))) for number in range(200)]
    rows = rows_of(before)
    _, judged = judged_threshold(before, said(rows[:-1]), REQUEST, 0.5)
    assert judged.counted == 0
    _, judged = judged_threshold(before, said(rows), REQUEST, 0.5)
    assert judged.counted == 200


def test_one_picture_of_a_group_is_enough() -> None:
    first = pictures()
    also = [scored(make_row(1000 + n, group=str(n)), 500.0 - n) for n in range(200)]
    both = [*also, *first]
    lowest: dict[str, Row] = {}
    for row, _ in sorted(both, key=lambda item: item[0].md5):
        lowest.setdefault(row.group, row)
    assert {row.md5 for row in lowest.values()} & {row.md5 for row in rows_of(also)}
    _, judged = judged_threshold(both, said(lowest.values()), REQUEST, 0.5)
    assert (judged.pictures, judged.counted) == (200, 200)
    rest = [row for row in rows_of(both) if row.md5 != lowest[row.group].md5]
    _, judged = judged_threshold(both, said(rest), REQUEST, 0.5)
    assert judged.counted == 0


def test_where_no_number_could_promise_all_must_be_judged() -> None:
    before = pictures(20)
    _, judged = judged_threshold(before, said(rows_of(before)[:19]), REQUEST, 0.5)
    assert (judged.counted, judged.needed, judged.left) == (0, 20, 1)
    _, judged = judged_threshold(before, said(rows_of(before)), REQUEST, 0.5)
    assert judged.counted == 20


# ---- what was learned from


def test_of_what_was_learned_from_every_verdict_counts() -> None:
    before = pictures(20)
    rows = rows_of(before)
    found = learned_labels(before, said([rows[0]]) | said([rows[2]], "unclear"))
    assert [row.md5 for row, _ in found] == [row.md5 for row in rows if row != rows[2]]
    assert found[0][0].label == "positive"
    assert found[0][0].folder_label == "negative"
    assert [row for row, _ in found[1:]] == [rows[1], *rows[3:]]


# ---- what is said of it


@pytest.mark.parametrize(
    ("use", "label", "answer", "expected"),
    [
        ("train", "positive", "yes", False),
        ("train", "positive", "no", True),
        ("validation", "negative", "unclear", True),
        ("threshold", "negative", "yes", False),
        ("excluded", "negative", "unclear", False),
        ("excluded", "negative", "no", True),  # such as a suspect that is none
        ("excluded", "negative", "yes", True),
    ],
)
def test_a_training_is_of_yesterday_where_people_say_other_than_it_has_learned(
    use: Use, label: Label, answer: Answer, expected: bool
) -> None:
    row = make_row(0)
    assert is_unlearned(Used(use, label, label), row, said([row], answer)) is expected
    assert not is_unlearned(Used(use, label, label), row, {})
    assert not is_unlearned(None, row, said([row], answer))


def test_nothing_is_said_where_nothing_is() -> None:
    assert ByVerdicts().sentences == ()
    assert ByVerdicts(threshold=Judged(pictures=9), test=Judged(pictures=9)).sentences == ()


def test_what_counts_and_what_does_not_is_said_with_what_is_left() -> None:
    unused = Judged(pictures=200, judged=1, needed=78, left=77)
    changed = Turned(to_positive=3, to_negative=1)
    top = Judged(pictures=200, judged=90, counted=80, needed=78, turned=changed)
    whole = Judged(pictures=1200, judged=1200, counted=1200, needed=1200, turned=changed)
    learned = Turned(to_positive=1, left_out=2)
    texts = ByVerdicts(learned=learned, unlearned=1, threshold=unused, test=unused).sentences
    assert texts[0].startswith("Verdicts of people turned 1 label to positive and 0 to negative")
    assert "2 pictures of which none can tell" in texts[0]
    assert "on 1 picture that it has learned from or left out: train again" in texts[1]
    assert "1 verdict on what the threshold is chosen on did not count" in texts[2]
    assert "the 78 pictures of the highest scores, one of each group, are judged" in texts[2]
    assert "of which 77 are left" in texts[2]
    assert "1 verdict on test pictures did not count" in texts[3]
    assert "when all 200 are judged" in texts[3]
    texts = ByVerdicts(threshold=top, test=whole).sentences
    assert "the 80 highest scores have their label by people" in texts[0]
    assert "who turned 3 labels to positive and 1 to negative" in texts[0]
    assert texts[1].startswith("All 1,200 test pictures have their label by people")
    [text] = ByVerdicts(threshold=whole).sentences
    assert "one of each group, all have their label by people" in text


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_as_many_as_must_be_judged_are_enough_if_all_have_the_tag(share: float) -> None:
    from imagetag.stats.contract import promise_precision

    needed = least_called(400, min_precision=0.95, confidence=0.95, share=share)
    assert needed is not None
    labels, scores = [True] * needed + [False] * (400 - needed), -np.arange(400.0)
    for judged, met in ((needed, True), (needed - 1, False)):
        promise = promise_precision(
            labels, scores, min_precision=0.95, confidence=0.95, share=share, judged=judged
        )
        assert promise.met == met
        assert promise.called <= judged
