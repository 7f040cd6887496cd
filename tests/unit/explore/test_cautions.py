"""What makes numbers too good is told in the same words wherever there are numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagetag.dataset.manifest import Mark, write_dataset
from imagetag.evaluate.page import Pictures, evaluation_page
from imagetag.explore.cautions import HeldOut, cautions, read_cautions
from imagetag.layout import Layout
from imagetag.report.leaderboard_json import _tag_json
from imagetag.report.leaderboard_page import LeaderboardPage
from imagetag.report.tag_ranking import rank_runs
from imagetag.runs.card import model_card
from imagetag.storage.opening import open_storage
from tests.builders.datasets import make_dataset
from tests.builders.evaluations import evaluation_of, scored
from tests.builders.explorations import explored_page
from tests.builders.rows import make_row
from tests.builders.runs import make_run
from tests.pages import Page

ROWS = [make_row(number, ext="png" if number % 2 else "jpg") for number in range(1, 161)]
MARK = Mark(tag="a<b>|people", negatives=1.0, positives=0.02, board=0.24)
TOLD = (
    "100% of the negatives have the tag 'a<b>|people', but 24% of all other pictures and 2% "
    "of the positives: a model may tell the labels apart by that tag.",
)
FEW = (
    "By default about 10 pictures of a label of the train split are kept to validate on: of fewer "
    "than 20, chance decides as well which epoch is the best.",
    "By default about 13 positives of the train split are kept to choose the threshold on: to "
    "prove a precision of 0.95 takes 59 at the least, all of them right.",
)


pytestmark = pytest.mark.usefixtures("quick_plots")


def words(page: str) -> str:
    return Page(page).text.replace("\N{NO-BREAK SPACE}", " ")


def test_cautions_are_told_on_every_page_in_the_same_words(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    dataset = make_dataset(ROWS, negatives_marked_by=(MARK,))
    write_dataset(storage, dataset)
    assert read_cautions(storage, dataset) == TOLD + FEW  # it is not explored
    exploration, page = explored_page(ROWS, dataset)
    key = Layout("robot").explore("explore.json")
    storage.write(key, exploration.model_dump_json().encode())
    told = read_cautions(storage, dataset)
    assert told[:1] == TOLD
    assert told[1].startswith("Format gives the label away without a look at the pictures: ROC AUC")
    assert told[2:] == FEW

    predictions = [
        scored(row, 0.9 if row.label == "positive" else 0.1) for row in ROWS if row.split == "test"
    ]
    evaluation = evaluation_of(predictions, dataset, cautions=told)
    board = rank_runs(storage, "robot", {}, "f1")
    assert _tag_json(board)["cautions"] == told
    leaderboard = LeaderboardPage("f1", None)
    leaderboard.add(board)
    card = model_card(make_run(), dataset, told)
    for text in (
        words(page),
        words(evaluation_page(evaluation, predictions, Pictures({}, {}))),
        words(leaderboard._single[0]),
    ):
        for caution in told:
            assert caution in text
    assert "people" in card
    assert told[1] in card


def held_out(positives: int, validated: int = 20, **promise: float) -> HeldOut:
    counts = ({"positive": count, "negative": count} for count in (validated, positives))
    run = make_run(images=dict(zip(("validation", "threshold"), counts, strict=True)))
    found = HeldOut.by(run)
    assert found is not None
    return found.for_promise(**promise) if promise else found


def test_a_run_is_judged_by_what_it_has_kept_and_is_to_promise() -> None:
    assert cautions((), None, held_out(59)) == ()
    assert cautions((), None, held_out(58, 19)) == (
        "The run first has 19 pictures of a label to validate on: of fewer than 20, chance "
        "decides as well which epoch is the best.",
        "The run first has 58 positives to choose the threshold on: to prove a precision of "
        "0.95 takes 59 at the least, all of them right.",
    )
    assert cautions((), None, held_out(29, min_precision=0.9)) == ()
    [told] = cautions((), None, held_out(303, min_precision=0.99))
    assert "303 positives" in told
    assert "0.99 takes 304" in told
    assert cautions((), None, held_out(5).for_promise(None)) == ()  # the threshold was given
    assert HeldOut.by(make_run()) is None  # of a version that kept none for it


def test_what_is_fair_has_no_cautions(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    rows = [make_row(number) for number in range(1, 801)]
    dataset = make_dataset(rows)
    exploration, page = explored_page(rows, dataset)
    key = Layout("robot").explore("explore.json")
    storage.write(key, exploration.model_dump_json().encode())
    assert read_cautions(storage, dataset) == ()
    assert "Caution" not in page + model_card(make_run(), dataset)
