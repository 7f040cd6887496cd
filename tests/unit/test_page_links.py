"""A tag's pages lead to each other, also where one was written before the other."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urljoin

from imagetag.layout import Layout, report
from imagetag.page_links import link_pages, with_links
from imagetag.storage import LocalStorage
from tests.pages import Page

TAG = "fate/stay_night"
EMPTY = "<header><!--pages--><!--/pages--></header>"


def targets(storage: LocalStorage, key: str) -> dict[str, bool]:
    """Return where a page's links lead, and whether something is there."""
    page = Page(storage.read(key).decode())
    base = (Path(storage.url) / key).as_uri()
    paths = [unquote(urljoin(base, link["href"]).removeprefix("file://")) for link in page.links]
    return {str(Path(path).relative_to(storage.url)): Path(path).is_file() for path in paths}


def test_pages_link_to_what_comes_later_and_to_nothing_that_is_not_there(tmp_path: Path) -> None:
    storage, layout = LocalStorage(tmp_path.resolve()), Layout(TAG)
    explored, evaluated = layout.explore("report.html"), layout.run("v1", "report.html")
    storage.write(explored, with_links(storage, TAG, explored, EMPTY).encode())
    assert targets(storage, explored) == {}

    storage.write(evaluated, with_links(storage, TAG, evaluated, EMPTY).encode())
    assert targets(storage, evaluated) == {explored: True}
    storage.write(layout.run("v1", "evaluation.json"), b"{}")
    link_pages(storage, TAG)
    assert targets(storage, explored) == {evaluated: True}

    board = report("leaderboard.html")
    storage.write(board, b"")
    link_pages(storage, TAG, runs=True)
    assert targets(storage, explored) == {evaluated: True, board: True}
    assert targets(storage, evaluated) == {explored: True, board: True}
    before = storage.read(explored)
    link_pages(storage, TAG, runs=True)
    assert storage.read(explored) == before


def test_a_page_without_a_place_for_links_stays_as_it_is(tmp_path: Path) -> None:
    storage, key = LocalStorage(tmp_path), Layout(TAG).explore("report.html")
    storage.write(key, b"<!doctype html>")
    link_pages(storage, TAG, runs=True)
    assert storage.read(key) == b"<!doctype html>"
