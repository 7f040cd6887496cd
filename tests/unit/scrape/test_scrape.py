"""Scraping: the marker says what is there, whatever was asked before and however late lists are."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from structlog.testing import capture_logs

from imagetag.boards.base import Board, File, Post, Query, Site
from imagetag.curate.curate import curate_tag
from imagetag.dataset.manifest import Dataset, Row, load_dataset, part_keys, read_rows, summarize
from imagetag.errors import InputError, TransientError
from imagetag.layout import LABELS, Layout
from imagetag.log import Progress
from imagetag.scrape import collect
from imagetag.scrape.collect import How
from imagetag.scrape.scrape import Scraper
from imagetag.scrape.selection import Selection
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from imagetag.web.client import Client
from imagetag.web.hosts import HttpError
from tests.builders.pictures import encoded
from tests.storages import Killed, Late, Mortal, Wrapped

LAYOUT = Layout("fox")
DAWN = datetime(2024, 1, 1, tzinfo=UTC)
WIDE: dict[str, Any] = {
    "board": "https://shelf",
    "limit": 12,
    "ratings": ("general", "explicit"),
    "extensions": ("jpg", "png"),
    "min_side": 8,
    "max_bytes": 10_000,
    "test_fraction": 0.3,
}


class Shelf(Board):
    """A board of 120 posts; every other is a fox, and all differ in what can be asked for."""

    certain = True

    def __init__(self, name: str = "shelf", root: str = "https://shelf") -> None:
        super().__init__(Site(name, "shelf", root), Client(rate=1e5))
        self.posts = [self._post(number) for number in range(120, 0, -1)]
        self.pages = 0
        self.asked: set[tuple[Query, int | None, int]] = set()
        self.fetched: list[int] = []
        self.gone: set[int] = set()
        self.refusal = HttpError("http_404", "not found", permanent=False)

    def _post(self, number: int) -> Post:
        tags = ["fox" if number % 2 else "owl", *(["sword"] if number % 3 == 0 else [])]
        return Post(
            id=number,
            board=self.site.name,
            page_url=f"{self.root}/{number}",
            file_url=f"{self.root}/{number}.{_ending(number)}",
            md5=None,
            width=None,
            height=None,
            tags=tuple(tags),
            rating="explicit" if number % 4 > 1 else "general",
            parent_id=None,
            score=number % 7,
            created_at=DAWN + timedelta(days=number),
        )

    def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
        self.pages += 1
        self.asked.add((query, below, limit))
        return [
            post
            for post in self.posts
            if (below is None or post.id < below)
            and set(query.tags) <= set(post.tags)
            and set(query.without).isdisjoint(post.tags)
        ][:limit]

    def fetch(self, post: Post, max_bytes: int) -> File:
        if post.id in self.gone:
            raise self.refusal
        self.fetched.append(post.id)
        # Of the boards, each has pictures of its own.
        colour = (2 * post.id, 50 * post.id % 256, sum(map(ord, self.root)) % 256)
        size = (40, 9) if post.id % 5 == 0 else (12, 12)
        kind = {"png": "PNG", "jpg": "JPEG"}[_ending(post.id)]
        return File(encoded(Image.new("RGB", size, colour), kind))


def _ending(number: int) -> str:
    return "jpg" if number % 11 < 3 else "png"


@pytest.fixture
def board() -> Shelf:
    return Shelf()


@pytest.fixture
def inner(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "data")


def scrape(storage: Storage, shelf: Board, **narrower: Any) -> Dataset:
    selection = Selection(**{**WIDE, **narrower})
    return Scraper(storage, shelf, selection, How(4)).scrape("fox")


def rows_of(storage: Storage) -> dict[int, Row]:
    """The rows of a complete dataset, of which everything that the marker says is true."""
    dataset = load_dataset(storage, "fox")
    rows = list(read_rows(storage, dataset))
    assert (dataset.images, dataset.bytes, dataset.fingerprint) == summarize(rows)
    for row in rows:
        key = LAYOUT.image(row.split, row.label, row.md5, row.ext)
        assert storage.stat(key) is not None
        assert (row.root, row.board) == (dataset.request["board"], dataset.board)
        assert Selection.model_validate(dataset.request).unfit_row(row) is None
    return {row.post_id: row for row in rows}


def count(rows: dict[int, Row]) -> tuple[int, int]:
    labels = [row.label for row in rows.values()]
    return labels.count("positive"), labels.count("negative")


# --- What is asked for in which order -------------------------------------------------------------


class Long(Shelf):
    """A board of 500 posts, of which every tenth is a fox; the last of 20 waits for pages."""

    def __init__(self) -> None:
        super().__init__()
        owl, fox = self._post(2), self._post(1)
        self.posts = [
            dataclasses.replace(
                owl if number % 10 else fox, id=number, file_url=f"{self.root}/{number}.png"
            )
            for number in range(500, 0, -1)
        ]
        self.listed: Counter[tuple[int | None, int]] = Counter()  # pages of posts of any kind
        self.awaited: set[tuple[int | None, int]] = set()
        self._there = threading.Condition()

    def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
        if not query.tags:
            with self._there:
                self.listed[below, limit] += 1
                self._there.notify_all()
        return super().page(query, below=below, limit=limit)

    def fetch(self, post: Post, max_bytes: int) -> File:
        if post.id in self.gone:
            raise HttpError("http_404", "not found", permanent=False)
        with self._there:
            if post.id == 500 - 10 * 19 and not self._there.wait_for(
                lambda: self.listed.keys() >= self.awaited, timeout=20
            ):
                raise HttpError("late", "nobody has listed what comes next", permanent=True)
        colour = (post.id % 256, post.id // 256, 0)
        return File(encoded(Image.new("RGB", (12, 12), colour), "PNG"))


def test_what_comes_after_the_positives_is_listed_while_the_last_are_under_way(
    tmp_path: Path,
) -> None:
    before, waiting = Long(), Long()
    dataset = scrape(LocalStorage(tmp_path / "before"), before, limit=20)
    assert len(before.listed) > 20
    waiting.awaited = set(before.listed)
    again = scrape(LocalStorage(tmp_path / "waiting"), waiting, limit=20)
    assert again.fingerprint == dataset.fingerprint
    assert dataset.failures == again.failures == {}
    assert waiting.listed == before.listed
    assert set(waiting.listed.values()) == {1}, "a page was asked for again"


@pytest.mark.parametrize("at_hand", [True, False])
def test_the_bar_is_of_no_more_than_a_list_at_hand_has(
    at_hand: bool, inner: LocalStorage, board: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = []

    def progress(event: str, total: int, **options: Any) -> Progress:
        totals.append(total)
        return Progress(event, total, **options)

    monkeypatch.setattr(collect, "Progress", progress)
    monkeypatch.setattr(board, "at_hand", at_hand)
    monkeypatch.setattr(board, "count", lambda query: len(board.page(query, below=None, limit=500)))
    scrape(inner, board, limit=500)
    assert totals[0] == (60 if at_hand else 500)


def test_nothing_is_listed_for_a_tag_of_which_nothing_can_be_had(inner: LocalStorage) -> None:
    board = Long()
    board.gone = set(range(500))
    board.gone.add(500)
    with pytest.raises(TransientError):
        scrape(inner, board, limit=20)
    assert not board.listed


# --- What is listed late, and what is lost --------------------------------------------------------


@pytest.mark.parametrize(
    "not_yet",
    [
        lambda key: "/manifest/" in key,
        lambda key: "/train/" in key or "/test/" in key,
        lambda _: True,
    ],
)
def test_a_late_listing_makes_no_smaller_dataset(
    inner: LocalStorage, board: Shelf, not_yet: Callable[[str], bool]
) -> None:
    board.gone = {119, 110}
    late = Late(inner, not_yet)
    dataset = scrape(late, board)
    assert count(rows_of(inner)) == (12, 12)
    assert dataset.failures["http_404"] >= 1
    assert len(dataset.failed_parts) >= 1
    # What a marker names need not be listed either.
    fetched = len(board.fetched)
    more = scrape(late, board, limit=14)
    assert count(rows_of(inner)) == (14, 14)
    assert len(board.fetched) == fetched + 4
    assert more.failures.keys() == {"http_404"}
    assert more.failures["http_404"] >= dataset.failures["http_404"]


def test_failures_that_are_listed_late_are_tried_again_all_the_same(
    inner: LocalStorage, board: Shelf
) -> None:
    board.gone = {119}
    late = Late(inner, lambda key: "/failed-" in key)
    assert scrape(late, board).failures == {"http_404": 1}
    board.gone = set()
    retried = Scraper(late, board, Selection(**WIDE), How()).retry("fox")
    assert retried.failures == {}
    assert 119 in rows_of(inner)


def test_a_curated_part_that_is_still_listed_is_not_named(
    inner: LocalStorage, board: Shelf
) -> None:
    late = Late(inner, still=lambda key: "/curated-" in key)
    scrape(late, board)
    curate_tag(late, "fox", threshold=0)  # nearly all of one colour: twins
    scrape(late, board, limit=14)
    curate_tag(late, "fox")
    scrape(late, board, limit=15)
    assert rows_of(inner)


class Losing(Wrapped):
    """Loses the parts of images that it has acknowledged."""

    def write(self, key: str, data: Any) -> None:
        if "/part-" not in key:
            super().write(key, data)


def test_a_marker_is_never_smaller_than_what_the_run_recorded(
    inner: LocalStorage, board: Shelf
) -> None:
    with pytest.raises(TransientError, match="24 images that were recorded are in no part"):
        scrape(Losing(inner), board)
    assert inner.stat(LAYOUT.dataset) is None
    scrape(inner, board)
    before = inner.read(LAYOUT.dataset)
    with pytest.raises(TransientError, match="4 images that were recorded are in no part"):
        scrape(Losing(inner), board, limit=14)
    assert inner.read(LAYOUT.dataset) == before


def lose(storage: LocalStorage, key: str, *, empty: bool) -> None:
    storage.write(key, b"") if empty else storage.delete(key)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("which", [0, -1, None])
@pytest.mark.parametrize("narrow", [False, True])
def test_a_part_that_is_lost_is_made_anew(
    inner: LocalStorage,
    board: Shelf,
    monkeypatch: pytest.MonkeyPatch,
    *,
    which: int | None,
    narrow: bool,
    empty: bool,
) -> None:
    monkeypatch.setattr("imagetag.scrape.part_writer._PART_ROWS", 5)
    how: dict[str, Any] = {"ratings": ("general",)} if narrow else {}
    if narrow:
        scrape(inner, board)
    first = scrape(inner, board, **how)
    rows, fetched = rows_of(inner), len(board.fetched)
    for key in first.parts if which is None else [first.parts[which]]:
        lose(inner, key, empty=empty)
    with pytest.raises(InputError, match="scrape the tag again"):
        list(read_rows(inner, first))
    with capture_logs() as logs:
        mended = scrape(inner, board, **how)
    assert "parts of the manifest are gone: made anew" in {entry["event"] for entry in logs}
    assert rows_of(inner).keys() == rows.keys()
    assert mended.fingerprint == first.fingerprint
    assert len(board.fetched) == fetched
    pages = board.pages
    assert scrape(inner, board, **how) == mended
    assert board.pages == pages


@pytest.mark.parametrize("empty", [False, True])
def test_a_curated_part_that_is_lost_is_made_anew(
    inner: LocalStorage, board: Shelf, *, empty: bool
) -> None:
    scrape(inner, board)
    first = curate_tag(inner, "fox")  # nearly all of one colour: twins
    assert first.curation is not None
    assert first.curation.dropped > 0
    [part] = first.curation.parts
    lose(inner, part, empty=empty)
    with pytest.raises(InputError, match="scrape the tag again"):
        curate_tag(inner, "fox")
    scrape(inner, board)
    again = curate_tag(inner, "fox")
    assert again.fingerprint == first.fingerprint
    assert again.curation is not None
    # What was dropped had to be fetched again, and has rows in another part now.
    covers = first.curation.covers
    assert again.curation.model_copy(update={"covers": covers}) == first.curation
    assert rows_of(inner)


def test_pictures_of_a_lost_part_stay_though_the_board_tells_no_more_of_them(
    inner: LocalStorage, board: Shelf
) -> None:
    [part] = scrape(inner, board).parts
    rows = rows_of(inner)
    inner.delete(part)
    board.posts = [post for post in board.posts if post.id < 100]
    scrape(inner, board)
    for row in rows.values():
        assert inner.stat(LAYOUT.image(row.split, row.label, row.md5, row.ext))
    assert count(rows_of(inner)) == (12, 12)


def test_a_tag_that_is_done_costs_two_listings_and_two_reads(
    inner: LocalStorage, board: Shelf
) -> None:
    scrape(inner, board)
    curate_tag(inner, "fox", threshold=0)
    watched, pages = Wrapped(inner), board.pages
    scrape(watched, board)
    assert watched.asked == {"list": 1, "open": 1}
    curate_tag(watched, "fox", threshold=0)
    # The verdicts, and what is left of the images that they drop, come on top.
    drops = bool(part_keys(inner, LAYOUT, "curated"))
    assert watched.asked == {"list": 2 + 4 * drops, "open": 2 + drops}
    assert board.pages == pages


# --- Other settings than before -------------------------------------------------------------------

NARROWER: list[dict[str, Any]] = [
    {"limit": 4},
    {"limit": 5, "negative_ratio": 2.0},
    {"negative_ratio": 0.5},
    {"ratings": ("general",)},
    {"blocked_tags": ("sword",)},
    {"min_score": 3},
    {"min_side": 10},
    {"max_pixels": 200},
    {"max_aspect": 2.0},
    {"extensions": ("png",)},
    {"max_bytes": 300},
    {"since": DAWN + timedelta(days=112), "limit": 4},
    {"negatives": "hard"},
    {"negatives": "mixed", "limit": 6, "ratings": ("explicit",)},
]


@pytest.mark.parametrize("narrower", NARROWER, ids=lambda each: "-".join(each))
def test_a_dataset_has_what_was_asked_for_and_nothing_stored_is_lost(
    inner: LocalStorage, board: Shelf, narrower: dict[str, Any]
) -> None:
    wide = scrape(inner, board)
    first, images = rows_of(inner), image_keys(inner)
    narrow = scrape(inner, board, **narrower)
    rows = rows_of(inner)
    asked = Selection(**{**WIDE, **narrower})
    assert narrow.request == asked.model_dump(mode="json")
    positives, negatives = count(rows)
    assert positives == asked.limit
    assert negatives == round(positives * asked.negative_ratio)
    assert images <= image_keys(inner)
    if set(narrower) <= {"limit", "negative_ratio"}:
        assert (
            sorted(i for i, row in rows.items() if row.label == "positive")
            == sorted((i for i, row in first.items() if row.label == "positive"), reverse=True)[
                : asked.limit
            ][::-1]
        )

    asked_for, fetched = set(board.asked), len(board.fetched)
    assert scrape(inner, board, **narrower) == narrow  # has nothing to do
    again = scrape(inner, board)
    assert rows_of(inner) == first
    assert (again.fingerprint, again.parts) == (wide.fingerprint, wide.parts)
    back = scrape(inner, board, **narrower)
    assert (back.fingerprint, rows_of(inner)) == (narrow.fingerprint, rows)
    # No page but of the sample of the board that negatives are compared with, and no picture.
    assert (board.asked - asked_for, len(board.fetched)) == (set(), fetched)


def image_keys(storage: Storage) -> set[str]:
    return {
        entry.key for split in ("train", "test") for entry in storage.list(f"{LAYOUT.root}{split}/")
    }


def test_what_is_left_out_is_told_by_reason(inner: LocalStorage, board: Shelf) -> None:
    scrape(inner, board)
    with capture_logs() as logs:
        scrape(inner, board, limit=4, ratings=("general",))
    [told] = [entry["images"] for entry in logs if "leave out" in entry["event"]]
    assert told.keys() == {"rating", "limit"}
    assert sum(told.values()) == 24 - 8


@pytest.mark.parametrize("name", ["other", "shelf"])  # two folders may be called the same
def test_a_dataset_is_of_one_board(inner: LocalStorage, board: Shelf, name: str) -> None:
    board.gone = {119}  # what failed on one board did not on the other
    wide = scrape(inner, board)
    assert wide.failures == {"http_404": 1}
    first, fetched = rows_of(inner), len(board.fetched)
    other = Shelf(name, "https://elsewhere")
    dataset = scrape(inner, other, board="https://elsewhere")
    assert (dataset.board, dataset.request["board"]) == (name, "https://elsewhere")
    assert dataset.failures == {}
    assert count(rows_of(inner)) == (12, 12)
    again = scrape(inner, board)
    assert rows_of(inner) == first
    assert again.failures == wide.failures
    assert len(board.fetched) == fetched


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("narrower", [{"limit": 4}, {"ratings": ("general",)}])
def test_killed_at_any_change_it_ends_with_the_same_dataset(
    tmp_path: Path, narrower: dict[str, Any]
) -> None:
    undisturbed = LocalStorage(tmp_path / "undisturbed")
    scrape(undisturbed, Shelf())
    end = scrape(undisturbed, Shelf(), **narrower)
    changes = 0
    while True:
        storage = LocalStorage(tmp_path / str(changes))
        wide = scrape(storage, Shelf())
        try:
            scrape(Mortal(storage, changes), Shelf(), **narrower)
        except Killed:
            assert load_dataset(storage, "fox") == wide
            assert rows_of(storage)
        else:
            break
        # What a process does after its end is not seen here: no thread of it may go on.
        assert scrape(storage, Shelf(), **narrower).fingerprint == end.fingerprint
        assert rows_of(storage) == rows_of(undisturbed)
        changes += 1
    assert changes >= 2


@pytest.mark.parametrize("narrower", [{"min_score": 3}, {"since": DAWN + timedelta(days=112)}])
def test_rows_from_before_scores_and_times_were_recorded_are_asked_for_again(
    inner: LocalStorage, board: Shelf, narrower: dict[str, Any]
) -> None:
    scrape(inner, board)
    for key in part_keys(inner, LAYOUT, "part"):
        rows = [json.loads(line) for line in inner.read(key).splitlines()]
        for row in rows:
            for name in ("score", "created_at", "root", "negatives", "request"):
                del row[name]
        inner.write(key, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    had = set(board.fetched)
    board.fetched.clear()
    scrape(inner, board, **narrower)
    assert rows_of(inner)
    assert not had & set(board.fetched)
    # By other settings they are judged as they are.
    scrape(inner, board, limit=6)
    dataset = load_dataset(inner, "fox")
    assert dataset.images == summarize(read_rows(inner, dataset))[0]


def test_a_retry_goes_by_the_settings_of_the_dataset(inner: LocalStorage, board: Shelf) -> None:
    scrape(inner, board)
    board.gone = set(range(1, 110, 4))
    narrow = scrape(inner, board, ratings=("general",))
    assert narrow.failures["http_404"] > 2
    had, board.gone = rows_of(inner).keys(), set()
    retried = Scraper(inner, board, Selection(**WIDE), How()).retry("fox")
    assert retried.request == narrow.request
    assert retried.failures == {}
    rows = rows_of(inner)
    assert had < rows.keys()
    assert {row.rating for row in rows.values()} == {"general"}


def test_a_retry_asks_once_for_each_post(inner: LocalStorage, board: Shelf) -> None:
    board.gone = {119, 117, 115}
    scrape(inner, board)
    board.gone.clear()
    board.asked.clear()
    assert Scraper(inner, board, Selection(**WIDE), How()).retry("fox").failures == {}
    asked = [below for _, below, limit in board.asked if limit == 1 and below is not None]
    assert sorted(asked) == [116, 118, 120]


def test_a_retry_that_was_killed_loses_nothing(inner: LocalStorage, board: Shelf) -> None:
    board.gone = {119, 117, 115}
    scrape(inner, board)
    scrape(inner, board, limit=6)
    board.gone = set()
    scraper = Scraper(Mortal(inner, 7), board, Selection(**WIDE), How(1))
    with pytest.raises(Killed):
        scraper.retry("fox")
    Scraper(inner, board, Selection(**WIDE), How()).retry("fox")
    assert {119, 117, 115} <= rows_of(inner).keys()
    assert count(rows_of(inner)) == (9, 6)


def test_a_failure_is_told_as_it_ended_last_and_what_is_for_good_without_hope(
    inner: LocalStorage, board: Shelf
) -> None:
    board.gone = {119}
    last = [("private_host", True), ("http_503", False), ("http_404", True)]
    for run, (reason, permanent) in enumerate(last):
        board.refusal = HttpError(reason, "of no use", permanent=permanent)
        with capture_logs() as told:
            if run:
                dataset = Scraper(inner, board, Selection(**WIDE), How()).retry("fox")
            else:
                dataset = scrape(inner, board)
        assert dataset.failures == {reason: 1}
        events = [line["event"] for line in told if "posts failed" in line["event"]]
        for_good = reason == "http_404"
        again = "posts failed: --retry-failed tries them again"
        assert events == ["posts failed for good" if for_good else again]
    board.refusal = HttpError("http_503", "of no use", permanent=False)
    # No scrape would try it again.
    assert Scraper(inner, board, Selection(**WIDE), How()).retry("fox").failures == {"http_404": 1}


def test_curation_is_of_the_rows_that_count(inner: LocalStorage, board: Shelf) -> None:
    scrape(inner, board)
    scrape(inner, board, ratings=("general",))
    narrow = curate_tag(inner, "fox")
    assert narrow.curation is not None
    rows = rows_of(inner)
    assert {row.rating for row in rows.values()} == {"general"}
    assert sum(narrow.images[split][label] for split in narrow.images for label in LABELS) == len(
        rows
    )
    wide = scrape(inner, board)
    wide = curate_tag(inner, "fox")
    assert rows.keys() & set(rows_of(inner))
    assert wide.curation is not None
    assert wide.curation.dropped >= narrow.curation.dropped
