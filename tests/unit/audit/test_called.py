"""Which pictures files of predict call a tag, in each of their formats, and what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from imagetag.audit import Called, read_predictions
from imagetag.errors import InputError, UsageError
from imagetag.predict.writers import Kind, Shape
from tests.builders.audits import CREATED, predicted

NAMES = {"a.png": True, "=1+1.png": True, 'b "x", y.png': False, "c\n.png": True, "bad.png": None}


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("shape", get_args(Shape))
def test_each_format_says_the_same(tmp_path: Path, kind: Kind, shape: Shape) -> None:
    output = predicted(
        tmp_path / f"out.{kind}", NAMES, kind=kind, shape=shape, others=("fox",), base=tmp_path
    )
    found = read_predictions([str(output)], "robot")
    assert found.called == (
        Called("a.png", "https://board.example/0"),
        Called("=1+1.png", "https://board.example/1"),
        Called("c\n.png", "https://board.example/3"),
    )
    assert (found.run, found.trained, found.base) == ("first", CREATED, str(tmp_path))
    assert [one.file for one in read_predictions([str(output)], "fox").called] == ['b "x", y.png']


def test_shards_are_one_and_a_picture_counts_once(tmp_path: Path) -> None:
    one = predicted(tmp_path / "a.csv", {"a.png": True, "b.png": True})
    two = predicted(tmp_path / "b.csv", {"c.png": True, "a.png": True})
    found = read_predictions([str(one), str(two)], "robot")
    assert [called.file for called in found.called] == ["a.png", "b.png", "c.png"]
    other = predicted(tmp_path / "c.csv", {"d.png": True}, run="second")
    with pytest.raises(InputError, match="of different runs"):
        read_predictions([str(one), str(other)], "robot")


def test_without_its_about_the_run_is_not_known(tmp_path: Path) -> None:
    found = read_predictions([str(predicted(tmp_path / "a.csv", NAMES, about=False))], "robot")
    assert (found.run, found.base, len(found.called)) == ("", "", 3)


def test_what_is_wrong_is_one_line_that_says_where(tmp_path: Path) -> None:
    given = str(predicted(tmp_path / "a.csv", NAMES))
    for shape in get_args(Shape):
        other = str(predicted(tmp_path / f"{shape}.csv", NAMES, tag="fox", shape=shape))
        with pytest.raises(InputError, match="no decision on the tag 'robot'; it has those of fox"):
            read_predictions([other], "robot")
    none = str(predicted(tmp_path / "none.csv", {"a.png": False}))
    with pytest.raises(InputError, match="no picture is called 'robot'"):
        read_predictions([none], "robot")
    with pytest.raises(UsageError, match="there is no such file"):
        read_predictions([given + "x.csv"], "robot")
    with pytest.raises(UsageError, match=r"--predictions 'x.txt': the name must end in .csv"):
        read_predictions(["x.txt"], "robot")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "file,tag\na.png,robot\n"),
        ("a.csv", "file,decision,tag\na.png,true\n"),
        ("a.csv", "file,decision,tag\n,true,robot\n"),
        ("a.jsonl", '{"file": "a.png"\n'),
        ("a.jsonl", "[1]\n"),
        ("a.jsonl", '{"file": ["a"], "decision": true, "tag": "robot"}\n'),
        ("a.jsonl", '{"file": "\\ud800.png", "decision": true, "tag": "robot"}\n'),
        ("a.jsonl", '{"file": "\\u0000.png", "decision": true, "tag": "robot"}\n'),
        ("a.parquet", "PAR1 it is none"),
        ("a.csv", 'file,decision,tag\n"a.png,true,robot\n'),
    ],
)
def test_a_damaged_file_is_told_with_its_row(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=rf"{name}: row \d cannot be read"):
        read_predictions([str(path)], "robot")
