"""What makes numbers too good is told in the same words wherever there are numbers."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from imagetag import plots
from imagetag.card import model_card
from imagetag.cautions import read_cautions
from imagetag.evaluation_page import Pictures, evaluation_page
from imagetag.layout import Layout
from imagetag.leaderboard import _board_json, _Page
from imagetag.manifest import Mark, write_dataset
from imagetag.standings import load_board
from imagetag.storage import open_storage
from tests.evaluations import evaluation_of, scored
from tests.explorations import explored_page, make_row
from tests.pages import Page
from tests.unit.test_card import make_run
from tests.unit.test_explore_page import make_dataset

ROWS = [make_row(number, ext="png" if number % 2 else "jpg") for number in range(1, 161)]
MARK = Mark(tag="a<b>|people", negatives=1.0, positives=0.02, board=0.24)
TOLD = (
    "100% of the negatives have the tag 'a<b>|people', but 24% of the board's other posts and 2% "
    "of the positives: a model may tell the labels apart by that tag.",
)
FEW = (
    "The train split has 64 pictures of a label, by default about 10 of them to validate on: of "
    "fewer than 20, chance decides as well which epoch is the best.",
    "The train split has 64 positives, by default about 13 of them to choose the threshold on: "
    "fewer than 59 cannot prove a precision of 0.95, were they all right.",
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without drawing: a plot is one pixel."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, format="PNG")
    chart = plots.Chart(*[buffer.getvalue()] * 4)
    monkeypatch.setattr(plots, "for_all_screens", lambda draw: chart)


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
    board = load_board(storage, "robot", {}, "f1")
    assert _board_json(board)["cautions"] == told
    leaderboard = _Page("f1", None)
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


def test_what_is_fair_has_no_cautions(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    rows = [make_row(number) for number in range(1, 801)]
    dataset = make_dataset(rows)
    exploration, page = explored_page(rows, dataset)
    key = Layout("robot").explore("explore.json")
    storage.write(key, exploration.model_dump_json().encode())
    assert read_cautions(storage, dataset) == ()
    assert "Caution" not in page + model_card(make_run(), dataset)
