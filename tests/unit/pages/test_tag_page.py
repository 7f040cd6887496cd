"""A tag's pages lead to its page, which leads to those that there are, whichever came last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urljoin

import pytest

from imagetag.layout import INDEX, Layout, report
from imagetag.pages.tag_page import store_tag_pages
from imagetag.report.leaderboard import make_leaderboard
from imagetag.stats import comparison
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from tests.builders.results import make_logits, make_pictures, write_run
from tests.pages import HOSTILE, Page
from tests.storages import Wrapped

TAG = "fate/stay_night"
BOARD = report("leaderboard.html")


def explore(storage: Storage, tag: str = TAG) -> str:
    key = Layout(tag).explore("report.html")
    storage.write(key, b"explored")
    return key


def evaluate(storage: Storage, run: str, tag: str = TAG) -> str:
    layout = Layout(tag)
    storage.write(layout.run(run, "report.html"), b"evaluated")
    storage.write(layout.run(run, "evaluation.json"), b"{}")
    return layout.run(run, "report.html")


def targets(storage: Storage, tag: str = TAG) -> list[str]:
    """Return the keys to which a tag's page leads, in their order."""
    key = Layout(tag).index
    base = (Path(storage.url) / key).as_uri()
    links = Page(storage.read(key).decode()).links
    paths = [unquote(urljoin(base, link["href"]).removeprefix("file://")) for link in links]
    return [str(Path(path).relative_to(storage.url)) for path in paths]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path.resolve())


@pytest.mark.parametrize("tag", [TAG, *HOSTILE])
def test_the_page_of_a_tag_leads_to_what_there_is_and_to_nothing_else(
    storage: LocalStorage, tag: str
) -> None:
    store_tag_pages(storage, [tag])
    assert not list(storage.list())  # a name that was misspelt gets no folder
    explored = explore(storage, tag)
    store_tag_pages(storage, [tag])
    assert targets(storage, tag) == [explored]
    storage.write(Layout(tag).run("v2", "report.html"), b"not complete")
    evaluated = evaluate(storage, "v1", tag)
    storage.write(BOARD, b"")
    store_tag_pages(storage, [tag])
    assert targets(storage, tag) == [explored, evaluated, BOARD]
    storage.write(INDEX, b"")
    store_tag_pages(storage, [tag])
    assert targets(storage, tag) == [explored, evaluated, BOARD, INDEX]
    page = Page(storage.read(Layout(tag).index).decode())
    assert " ".join(tag.split()) in page.text
    assert not {"script", "svg", "img"} & {name for name, _ in page.elements}


class Meanwhile(Wrapped):
    """Lets another job finish its work just before the first page of a tag is written."""

    def __init__(self, inner: Storage, job: Callable[[Storage], Any]) -> None:
        super().__init__(inner)
        self._jobs = [job]

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        while self._jobs:
            self._jobs.pop()(self.inner)
            store_tag_pages(self.inner, [TAG])
        super().write(key, data)


@pytest.mark.parametrize(
    "job",
    [
        explore,
        lambda storage: evaluate(storage, "v2"),
        lambda storage: storage.write(BOARD, b""),
        lambda storage: storage.write(INDEX, b""),
    ],
)
def test_an_older_page_hides_nothing_of_another_job(
    storage: LocalStorage, job: Callable[[Storage], Any]
) -> None:
    evaluate(storage, "v1")
    store_tag_pages(Meanwhile(storage, job), [TAG])
    found = storage.read(Layout(TAG).index)
    assert len(targets(storage)) == 2
    store_tag_pages(storage, [TAG])
    assert storage.read(Layout(TAG).index) == found


class Opened(Wrapped):
    """Notes which keys are read."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self.opened: list[str] = []

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        self.opened.append(key)
        return super().open(key)


def test_a_leaderboard_asks_storage_a_few_times_a_tag_and_reads_no_page(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 50)
    pictures = make_pictures(20, 20)
    asked: list[Counter[str]] = []
    for number in range(4):
        tag = f"tag {number}"
        explore(storage, tag)
        write_run(storage, tag, "v1", pictures, make_logits(pictures, 3, seed=1))
        for picture in range(5):
            storage.write(Layout(tag).image("train", "positive", f"{picture:032}", "jpg"), b"x")
        counted = Opened(storage)
        make_leaderboard(counted, counted, report(""), None, "average-precision")
        asked.append(counted.asked)
        assert len(counted.opened) == counted.asked["open"]
        assert not [key for key in counted.opened if key.endswith(".html")]
    # Of each tag: its runs and audits, and what its page leads to before and behind that.
    each = {"list": 4, "stat": 2, "open": 4, "change": 1}
    for fewer, more in pairwise(asked):
        assert more - fewer == Counter(each)
    assert asked[0] - Counter(each) == Counter({"list": 1, "stat": 5, "change": 2})
