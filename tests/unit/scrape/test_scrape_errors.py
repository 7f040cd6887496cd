"""A tag that a source does not have is told in the words of that source, with the likest it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from jobs.scrape import main


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of a tag with pictures, and a list beside it."""
    for number in range(3):
        path = tmp_path / "pictures" / "fox" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 70 + number), (number, 9, 9)).save(path)
    (tmp_path / "list.csv").write_text("url,tags\nhttp://127.0.0.1:1/a.png,fox\n")
    return tmp_path


@pytest.mark.parametrize(
    ("board", "tag", "says"),
    [
        ("folder+pictures", "fx", "no pictures with the tag 'fx'; did you mean fox?"),
        ("links+list.csv", "fx", "no pictures with the tag 'fx'; did you mean fox?"),
        ("folder+pictures", "owl", "no pictures with the tag 'owl'; put them into a sub-folder"),
        ("links+list.csv", "owl", "no pictures with the tag 'owl'; no row of the list has that"),
    ],
)
def test_a_tag_that_a_folder_or_a_list_does_not_have(
    board: str,
    tag: str,
    says: str,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(pictures)
    assert main(["--storage", "data", "--tags", tag, "--board", board]) == 3
    line = json.loads(capfd.readouterr().err.splitlines()[-1])["event"]
    assert says in line
    assert "on the board" not in line


@pytest.mark.parametrize(
    ("board", "source"), [("folder+pictures", "the folder"), ("links+list.csv", "the list")]
)
def test_what_a_folder_or_a_list_has_too_little_of_is_told_in_its_words(
    board: str,
    source: str,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(pictures)
    monkeypatch.setenv("IMAGETAG_RATING", "general,sensitive,questionable,explicit")
    main(["--storage", "data", "--tags", "fox", "--board", board, "--log-format", "console"])
    told = capfd.readouterr().err
    assert f"positive images: {source} has no more that fit" in told
    assert "the board" not in told
    assert "post" not in told


def test_a_list_of_which_every_picture_is_refused_is_not_to_be_run_again_later(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pictures)
    monkeypatch.setenv("IMAGETAG_RATING", "general,sensitive,questionable,explicit")
    assert main(["--storage", "data", "--tags", "fox", "--board", "links+list.csv"]) == 2
    line = json.loads(capfd.readouterr().err.splitlines()[-1])["event"]
    assert "list.csv gives no picture (private_host 1)" in line
    assert "--allow-private-hosts" in line
    assert "later" not in line
