"""What the index page says of a tag, and reads of predictions that are beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagetag.report import read_predictions
from imagetag.report.index import TagEntry, make_index
from imagetag.report.results import load_result
from imagetag.storage.local import LocalStorage
from tests.builders.datasets import make_dataset
from tests.builders.results import make_logits, make_pictures, write_run
from tests.builders.rows import make_row
from tests.pages import Page

ROWS = """file,page_url,probability,decision,error,tag
a.png,,0.900000,true,,rei
b.png,,0.100000,false,,rei
"""
ESTIMATE = {"value": 0.031, "low": 0.009, "high": 0.062}
SHIFT = {
    "images": 4000,
    "share": ESTIMATE,
    "precision": {"value": 0.71, "low": 0.4, "high": 0.9},
    "wanted": 0.95,
    "fit": 0.3,
    "alike": True,
    "advice": "tighten",
    "threshold": 0.9931,
}


def test_what_was_estimated_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(ROWS)
    assert read_predictions(path)["rei"].advice == ""
    about = tmp_path / "predictions.csv.about.json"
    about.write_text(json.dumps({"advice": {"rei": SHIFT}}))
    found = read_predictions(path)["rei"]
    assert (found.rows, found.positives) == (2, 1)
    assert found.advice == (
        "about 3.1 % (0.9 to 6.2 %) of these 4,000 images have the tag; at this share the "
        "precision of what is called it is about 0.71 (0.40 to 0.90), and 0.95 was wanted: "
        "tighten the threshold by --threshold 0.9931, or audit it"
    )


@pytest.mark.parametrize(
    "about", [b"", b"[]", b"{}", b'{"advice": 3}', b'{"advice": {"rei": 3}}', b"\xff"]
)
def test_what_is_no_such_file_tells_nothing(about: bytes, tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(ROWS)
    (tmp_path / "predictions.csv.about.json").write_bytes(about)
    assert read_predictions(path)["rei"].advice == ""
    assert read_predictions(path)["rei"].rows == 2


def test_the_input_is_told_by_height_and_width_as_everywhere(tmp_path: Path) -> None:
    storage, pictures = LocalStorage(tmp_path), make_pictures(10, 10)
    write_run(storage, "rei", "v1", pictures, make_logits(pictures, 3, seed=0))
    found = load_result(storage, "rei", "v1")
    dataset = make_dataset([make_row(1)], tag="rei")
    entry = TagEntry("rei", dataset, training=found.training, evaluation=found.evaluation)
    make_index(storage, [entry])
    words = Page(storage.read("index.html").decode()).text
    assert "192 \N{MULTIPLICATION SIGN} 256 (height \N{MULTIPLICATION SIGN} width)" in words
