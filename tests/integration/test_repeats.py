"""Several records of one picture: what they say is joined, and what they dispute is told."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagetag.dataset.manifest import Dataset, Row, load_dataset, read_rows
from imagetag.storage.opening import open_storage
from jobs.explore import main as explore
from jobs.scrape import main as scrape
from tests.builders.pictures import encoded
from tests.ended import log_lines
from tests.scripted import Reply, Request, serving

ALL = ("--negative-ratio", "9")
Tell = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Tell:
    def read() -> list[dict[str, Any]]:
        return log_lines(capsys.readouterr().err)

    return read


def png(number: int, size: tuple[int, int] = (90, 80)) -> bytes:
    """Return a picture that is no near-duplicate of any other number's."""
    noise = random.Random(number).randbytes(12 * 10 * 3)
    return encoded(Image.frombytes("RGB", (12, 10), noise).resize(size))


def run(path: Path, board: str, limit: int = 30, *options: str) -> int:
    plain = ("--allow-private-hosts", "--ignore-robots", "--log-format", "json", *options)
    settings = ("--board", board, "--limit", str(limit), "--min-side", "16", "--max-rate", "1000")
    return scrape(["--storage", str(path / "store"), "--tags", "fox", *settings, *plain])


def stored(path: Path) -> tuple[Dataset, dict[str, Row]]:
    """Return the dataset, and its rows by the names of their files."""
    storage = open_storage(str(path / "store"))
    dataset = load_dataset(storage, "fox")
    return dataset, {row.page_url.rpartition("/")[2]: row for row in read_rows(storage, dataset)}


def folder(path: Path) -> str:
    """Make a folder of 20 foxes and 20 dogs, of which four are foxes too."""
    for number in range(40):
        tag = path / "set" / ("fox" if number % 2 else "dog")
        tag.mkdir(parents=True, exist_ok=True)
        (tag / f"{number}.png").write_bytes(png(number))
    for number in (0, 2, 4, 6):
        (path / "set" / "fox" / f"copy{number}.png").write_bytes(png(number))
    return f"folder+{path / 'set'}"


def test_a_file_in_two_classes_is_told_as_conflicting(tmp_path: Path, told: Tell) -> None:
    assert run(tmp_path, folder(tmp_path)) == 0
    [curated] = [line for line in told() if line["event"] == "curated"]
    dataset, rows = stored(tmp_path)
    assert dataset.skipped == {"conflicting": 4}
    assert dataset.curation
    assert dataset.curation.conflicting == curated["conflicting"] == 4
    assert {rows[f"copy{number}.png"].tags for number in (0, 2, 4, 6)} == {("fox", "dog")}
    assert not {f"{number}.png" for number in (0, 2, 4, 6)} & set(rows)
    assert explore(["--storage", str(tmp_path / "store"), "--tags", "fox"]) == 0
    explored = json.loads((tmp_path / "store" / "fox" / "explore" / "explore.json").read_text())
    in_train = [row for name, row in rows.items() if name[:4] == "copy" and row.split == "train"]
    assert 0 < len(in_train) <= explored["families"]["conflicting"] <= 4


def test_a_negative_is_none_where_a_fox_beyond_the_limit_has_its_bytes(tmp_path: Path) -> None:
    assert run(tmp_path, folder(tmp_path), 2, "--negative-ratio", "10") == 0
    _, rows = stored(tmp_path)
    negatives = {name for name, row in rows.items() if row.label == "negative"}
    assert negatives
    assert not negatives & {f"{number}.png" for number in (0, 2, 4, 6)}
    assert sum(row.label == "positive" for row in rows.values()) == 2


def test_a_negative_that_gets_the_tag_later_is_dropped_and_told(tmp_path: Path, told: Tell) -> None:
    board = folder(tmp_path)
    assert run(tmp_path, board) == 0
    told()
    side_car = tmp_path / "set" / "dog" / "8.txt"
    side_car.write_text("fox")
    assert run(tmp_path, board, 31) == 0
    lines = told()
    dataset, rows = stored(tmp_path)
    assert "8.png" not in rows
    assert dataset.curation
    assert (dataset.curation.dropped, dataset.curation.conflicting) == (1, 5)
    assert any("differ in the tag" in line["event"] for line in lines)
    assert not list(
        (tmp_path / "store" / "fox").glob(f"*/not_fox/{hashlib.md5(png(8)).hexdigest()}.png")
    )


def links(path: Path, root: str, columns: str = "", of: Callable[[int], str] = lambda _: "") -> str:
    rows = [
        f"{root}/{number}.png,{'fox' if number % 2 else 'dog'}{of(number)}" for number in range(60)
    ]
    (path / "list.csv").write_text("\n".join([f"url,tags{columns}", *rows]))
    return f"links+{path / 'list.csv'}"


@pytest.mark.parametrize("how", ["redirect", "answer", "sizes"])
def test_a_host_with_one_picture_for_what_is_gone_gives_none(tmp_path: Path, how: str) -> None:
    gone = {number for number in range(60) if number % (3 if how == "answer" else 29) == 1}

    def answer(request: Request) -> Reply:
        name = request.path.strip("/").removesuffix(".png")
        if name == "removed":
            return Reply(png(999, (161, 81)))
        if int(name) not in gone:
            return Reply(png(int(name)))
        if how == "redirect":
            return Reply(status=302, headers={"Location": "/removed.png"})
        return Reply(png(999, (161, 81)))

    with serving(answer) as server:
        sizes = (lambda i: f",{200 + i},80" if i in gone else ",90,80") if how == "sizes" else None
        columns = ",width,height" if sizes else ""
        board = links(tmp_path, server.url, columns, sizes or (lambda _: ""))
        assert run(tmp_path, board, 30, *ALL) == 0
    dataset, rows = stored(tmp_path)
    assert not {f"{number}.png" for number in gone} & set(rows)
    assert dataset.skipped == {"placeholder": len(gone)}
    images = sorted((tmp_path / "store" / "fox").glob("t*/*/*.png"))
    assert len(images) == len(rows) == 60 - len(gone)
    # Nor does a row in any part, nor a later run, have it.
    parts = (tmp_path / "store" / "fox" / "manifest").glob("part-*")
    assert not any('"width":161' in part.read_text() for part in parts)
    with serving(answer):
        assert run(tmp_path, board, 31, *ALL) == 0
    assert stored(tmp_path)[0].fingerprint == dataset.fingerprint


def test_a_host_that_gives_nothing_else_is_an_input_that_cannot_satisfy(
    tmp_path: Path, told: Tell
) -> None:
    with serving(lambda _: Reply(png(999))) as server:
        assert run(tmp_path, links(tmp_path, server.url)) == 3
    assert "placeholder 30" in told()[-1]["event"]


def test_what_is_posted_three_times_stays(tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        return Reply(png(int(request.path.strip("/").removesuffix(".png")) % 20))

    with serving(answer) as server:
        assert run(tmp_path, links(tmp_path, server.url), 30, *ALL) == 0
    dataset, rows = stored(tmp_path)
    assert len(rows) == 20
    assert dataset.skipped == {"duplicate": 40}
