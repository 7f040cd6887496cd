"""Where a board's listing ends: an empty page is an end only if it is confirmed."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from imagetag.boards.base import Board, BoardError, Post, Query, Site
from imagetag.scrape.collect import How
from imagetag.scrape.negatives import SharedListing, Span, candidates
from imagetag.scrape.scrape import Scraper
from imagetag.storage.opening import open_storage
from imagetag.web.client import Client
from tests.unit.scrape.test_selection import post, select

FOX = Query(("fox",))
Lie = Callable[[int, int | None, int], bool]


class Overloaded(Board):
    """A board that gives an empty page where a test says so, by its number, bound and length."""

    def __init__(self, posts: list[Post], lies: Lie = lambda *_: False, size: int = 1000) -> None:
        super().__init__(Site("b", "none", "http://b.example", size), Client(rate=1))
        self.posts = sorted(posts, key=lambda post: -post.id)
        self.lies = lies
        self.asked: list[tuple[int | None, int]] = []
        self.lock = threading.Lock()

    def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
        with self.lock:
            self.asked.append((below, limit))
            number = len(self.asked)
        if self.lies(number, below, limit):
            return []
        return [
            post
            for post in self.posts
            if set(query.tags) <= set(post.tags) and (below is None or post.id < below)
        ][:limit]


def foxes(count: int) -> list[Post]:
    return [post(id=i, tags=("fox",)) for i in range(1, count + 1)]


def ids(found: list[Post]) -> list[int]:
    return [post.id for post in found]


@pytest.mark.parametrize("empty", range(1, 7))
@pytest.mark.parametrize("size", [10, 1000])
@pytest.mark.parametrize("below", [None, 41])
def test_one_empty_page_ends_nothing(empty: int, size: int, below: int | None) -> None:
    board = Overloaded(foxes(40), lambda number, *_: number == empty, size)
    assert ids(list(board.walk(FOX, below=below, limit=10))) == list(range(40, 0, -1))


@pytest.mark.parametrize("count", [0, 7, 10, 40])
def test_an_end_costs_one_request_more_and_it_asks_for_another_length(count: int) -> None:
    for size in (1000, 10):
        board = Overloaded(foxes(count), size=size)
        assert len(list(board.walk(FOX, limit=10))) == count
        pages = -(-count // 10)
        assert len(board.asked) == pages + 2
        (below, first), (same, second) = board.asked[-2:]
        assert below == same
        assert first == 10
        assert second == (1000 if size == 1000 else 9)


def test_an_older_post_is_the_end_of_a_stretch() -> None:
    board = Overloaded(foxes(100))
    assert ids(list(board.walk(FOX, below=60, above=50, limit=20))) == list(range(59, 50, -1))
    assert len(board.asked) == 1


def test_posts_that_are_hidden_after_paging_do_not_end_a_listing() -> None:
    shown = [*foxes(20), *(post(id=i, tags=("fox",)) for i in range(100, 110))]

    class Hiding(Overloaded):
        def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
            found = super().page(query, below=below, limit=limit)
            return [post for post in found if not 50 < post.id < 100]

    hidden = [post(id=i, tags=("fox",)) for i in range(51, 100)]
    board = Hiding(shown + hidden)
    expected = [*range(109, 99, -1), *range(20, 0, -1)]
    assert ids(list(board.walk(FOX, limit=10))) == expected


def test_a_board_that_was_caught_is_asked_more_often() -> None:
    board = Overloaded(foxes(30), lambda number, *_: number == 2 or 9 <= number <= 11)
    assert len(list(board.walk(FOX, limit=15))) == 30
    assert len(board.asked) == 8  # one, the empty one, the rest, and the end five times
    assert len(list(board.walk(FOX, below=31, limit=15))) == 30


def drawn(board: Overloaded, count: int, span: tuple[int, int]) -> list[Post]:
    found = candidates(
        board, SharedListing(board), "fox", select(), count, Span(*span), Counter({"fox": 1})
    )
    return list(itertools.islice((p for p in found if "fox" not in p.tags), count))


@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize("wanted", [20, 50, 200])
def test_every_second_page_empty_costs_no_negative(parity: int, wanted: int) -> None:
    mixed = [post(id=i, tags=("fox",) if i % 2 else ("owl",)) for i in range(1, 401)]
    board = Overloaded(mixed, lambda number, *_: number % 2 == parity)
    try:
        found = drawn(board, wanted, (301, 399))
    except BoardError:
        return  # to be run again: no end was taken for true
    assert len({p.id for p in found}) == wanted


@pytest.mark.parametrize("listed_before", [True, False])
def test_a_board_that_gives_nothing_any_more_is_no_board_without_negatives(
    listed_before: bool,
) -> None:
    mixed = [post(id=i, tags=("fox",) if i % 2 else ("owl",)) for i in range(1, 401)]
    board = Overloaded(mixed, lambda *_: False)
    if listed_before:
        list(itertools.islice(board.walk(FOX, limit=50), 50))
    board.lies = lambda *_: True
    with pytest.raises(BoardError, match="overloaded; run this again later"):
        drawn(board, 20, (301, 399))


def test_few_posts_are_asked_for_few_times() -> None:
    board = Overloaded([post(id=i, tags=("owl",)) for i in range(301, 311)])
    assert len(drawn(board, 500, (301, 310))) == 10
    # A page for as many ids as it has posts, twice where it is empty.
    assert len(board.asked) <= 2 * 310 // 20


def test_posts_to_be_tried_again_are_asked_for_twice_before_they_are_gone(tmp_path: Path) -> None:
    here = [post(id=i, tags=("fox",)) for i in (2, 4, 6)]
    board = Overloaded(here, lambda number, *_: number in (1, 4))
    scraper = Scraper(open_storage(str(tmp_path)), board, select(), How())
    assert ids(list(scraper._posts(select(), [6, 5, 4, 2, 1]))) == [6, 4, 2]
