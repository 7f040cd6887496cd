"""Which posts stand for "without the tag"."""

from __future__ import annotations

import gc
import itertools
import time
import weakref
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from imagetag.boards.base import Board, Post, Query, Site
from imagetag.layout import Label
from imagetag.scrape.negatives import (
    SharedListing,
    Span,
    candidates,
    companions,
    marks,
    prepare,
    sample_board,
)
from imagetag.web.client import Client
from imagetag.web.hosts import HttpError
from tests.unit.scrape.test_selection import post, select


class Listed(Board):
    """A board of posts in memory, which notes what it was asked."""

    def __init__(self, posts: list[Post]) -> None:
        super().__init__(Site("b", "none", "http://b.example"), Client(rate=1))
        self.posts = sorted(posts, key=lambda post: -post.id)
        self.asked: list[tuple[Query, int | None, int]] = []

    def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
        self.asked.append((query, below, limit))
        found = [
            post
            for post in self.posts
            if set(query.tags) <= set(post.tags)
            and not set(query.without) & set(post.tags)
            and (below is None or post.id < below)
        ]
        return found[:limit]


def listed(count: int, tags: Callable[[int], tuple[str, ...]]) -> Listed:
    return Listed([post(id=i, tags=tags(i)) for i in range(1, count + 1)])


def draw(board: Board, count: int, span: tuple[int, int], **options: Any) -> list[Post]:
    positives = Counter(options.pop("positives", {"fox": 1}))
    found = candidates(
        board,
        options.pop("background", None) or SharedListing(board),
        "fox",
        select(**options),
        count,
        Span(*span),
        positives,
    )
    return list(itertools.islice((p for p in found if "fox" not in p.tags), count))


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(1, 300))
def test_stretches_cover_a_span_once(oldest: int, length: int, count: int) -> None:
    ordered = Span(oldest, oldest + length).stretches(count)
    stretches = sorted(ordered)
    assert stretches[0][0] == oldest
    assert stretches[-1][1] == oldest + length + 1
    assert all(a[1] == b[0] for a, b in itertools.pairwise(stretches))
    assert all(first < end for first, end in stretches)
    inner = {end - first for first, end in stretches[1:-1]}
    assert len(inner) <= 1, "not of one length"
    if length >= count:
        assert count // 2 <= len(stretches) <= count + 1
    half = sum(first < oldest + length / 2 for first, _ in ordered[: len(ordered) // 2])
    assert abs(2 * half - len(ordered) // 2) <= 4, "the first of them are on one side"


def test_the_cuts_of_two_spans_are_the_same() -> None:
    ours = {end for _, end in Span(1000, 90_000).stretches(40)}
    theirs = {end for _, end in Span(3000, 93_210).stretches(40)}
    assert len(ours & theirs) >= len(ours) - 2


def test_random_negatives_are_spread_over_the_span() -> None:
    board = listed(10_000, lambda i: ("fox",) if i % 10 == 0 else ("owl",))
    found = draw(board, 200, (2000, 8000))
    assert len({p.id for p in found}) == 200
    quarters = Counter((p.id - 2000) * 4 // 6001 for p in found)
    assert set(quarters) == {0, 1, 2, 3}
    assert all(35 <= count <= 65 for count in quarters.values())


def test_where_the_span_has_too_few_others_follow_from_the_whole_board() -> None:
    # Only each tenth of a span is there, and next to it are owls alone, as where a user has posted
    # one thing after the other.
    def listing(i: int) -> tuple[str, ...]:
        if 2000 <= i < 3000:
            return ("fox", "red") if i % 10 else ("hen",)
        return ("owl",) if 1500 <= i < 3500 else ("cat",)

    board = listed(20_000, listing)
    found = draw(board, 300, (2000, 2999))
    assert {p.tags for p in found[:100]} == {("hen",)}
    rest = found[100:]
    assert len({p.id for p in rest}) == 200
    assert sum(p.tags == ("owl",) for p in rest) <= 30
    quarters = Counter(p.id * 4 // 20_001 for p in rest)
    assert all(30 <= quarters[quarter] <= 70 for quarter in range(4))


def test_a_span_that_is_short_is_not_taken_whole() -> None:
    board = listed(4000, lambda i: (("fox", "hen")[i % 2],) if 1000 <= i < 1300 else ("cat",))
    found = draw(board, 140, (1000, 1299))
    assert len({p.id for p in found}) == 140
    assert sum(p.tags == ("hen",) for p in found) <= 20
    quarters = Counter(p.id * 4 // 4001 for p in found)
    assert all(25 <= quarters[quarter] <= 45 for quarter in range(4))


def test_all_there_is_can_be_had() -> None:
    board = listed(100, lambda i: ("owl",))
    for span in ((40, 44), (1, 100)):
        found = [p.id for p in draw(board, 100, span)]
        assert sorted(found) == list(range(1, 101))
        assert draw(board, 101, span)[100:] == []


def test_what_was_posted_since_is_drawn_evenly_with_few_requests() -> None:
    since = datetime(2024, 1, 1, tzinfo=UTC)
    first = 70_003
    board = Listed(
        [
            post(id=i, tags=("owl",), created_at=since.replace(year=2024 if i >= first else 2010))
            for i in range(50_000, 90_001)
        ]
    )
    found = draw(board, 100, (80_000, 80_010), since=since)
    assert min(p.id for p in found) >= first - (90_001 - first) // 50
    quarters = Counter((p.id - first) * 4 // 20_000 for p in found)
    assert all(15 <= quarters[quarter] <= 40 for quarter in range(4))
    assert len(board.asked) <= 80


def marked(negatives: dict[str, int], board: Callable[[int], tuple[str, ...]]) -> list[str]:
    tags: dict[Label, Counter[str]] = {
        "positive": Counter({"fox": 100, "red": 60}),
        "negative": Counter(negatives),
    }
    sample = [post(id=i, tags=board(i)) for i in range(1, 301)]
    return [mark.tag for mark in marks("fox", sample, tags, {"positive": 100, "negative": 100})]


def test_a_tag_of_far_more_negatives_than_of_the_board_is_a_mark() -> None:
    def board(i: int) -> tuple[str, ...]:
        return ("people",) if i % 4 == 0 else ("red", "cat")

    assert marked({"people": 100, "cat": 70}, board) == ["people"]
    assert marked({"people": 25, "cat": 75}, board) == []  # as on the board
    assert marked({"people": 35, "cat": 75}, board) == []  # by chance
    assert marked({"red": 99}, lambda _: ("cat",)) == ["red"]
    assert marked({"red": 60}, lambda _: ("cat",)) == []  # as the positives: it tells nothing
    assert marked({"rare": 12}, lambda _: ("cat",)) == []  # it tells few
    # Half of the board are foxes, and what is left is people.
    assert marked({"people": 100}, lambda i: ("fox",) if i % 2 else ("people",)) == []


def test_a_few_negatives_prove_nothing() -> None:
    sample = [post(id=i, tags=("people",) if i % 4 == 0 else ()) for i in range(1, 301)]
    tags: dict[Label, Counter[str]] = {"positive": Counter(), "negative": Counter(people=5)}
    assert marks("fox", sample, tags, {"positive": 5, "negative": 5}) == ()
    assert marks("fox", [], tags, {"positive": 0, "negative": 5}) == ()


def test_the_sample_is_of_the_whole_board_and_shared_between_tags() -> None:
    board = listed(100_000, lambda i: ("fox",))
    background = SharedListing(board)
    ids = [p.id for p in sample_board(background, select())]
    assert 160 <= len(ids) <= 320
    assert set(Counter(i * 8 // 100_001 for i in ids)) == set(range(8))
    asked = len(board.asked)
    assert asked <= 20
    assert [p.id for p in sample_board(background, select())] == ids
    assert len(board.asked) == asked


def test_posts_from_before_since_are_not_listed_to_their_end() -> None:
    since = datetime(2024, 1, 1, tzinfo=UTC)
    dated = [post(id=i, tags=("owl",), created_at=since.replace(year=2010)) for i in range(1, 9961)]
    dated += [post(id=i, tags=("owl",), created_at=since) for i in range(9961, 10_001)]
    undated = [post(id=i, tags=("owl",), created_at=None) for i in range(1, 10_001)]
    for board in (Listed(dated), Listed(undated)):
        found = draw(board, 10_000, (9981, 9990), since=since)
        assert len(found) < 500
        assert {p.id for p in found} >= set(range(9961, 10_001))


def test_tags_share_the_listing() -> None:
    board = listed(100_000, lambda i: ("fox",) if i % 50 == 0 else ("owl",))
    background = SharedListing(board)
    draw(board, 400, (50, 100_000), background=background)
    first = len(board.asked)
    draw(board, 400, (150, 99_950), background=background)
    assert len(board.asked) - first <= 0.15 * first


@settings(max_examples=30)
@given(
    st.integers(100_000, 400_000),
    st.integers(100, 500_000),
    st.integers(0, 12) | st.integers(13, 99),
    st.integers(30, 900),
)
@example(125_000, 285_377, 99, 100)
@example(125_000, 279_430, 99, 900)
def test_what_is_asked_for_beforehand_is_what_is_asked_for_unless_many_fail(
    oldest: int, length: int, failed: int, wanted: int
) -> None:
    # So many of a hundred positives fail while it is asked for, and older ones take their place.
    span = Span(oldest, oldest + length)
    later = Span(max(1, oldest - length * failed // 100), span.newest)

    def asked(*, beforehand: bool) -> int:
        board = Spotted()
        background = SharedListing(board)
        if beforehand:
            prepare(background, select(), wanted, True, span)
        draw(
            board,
            wanted - wanted * failed // 100,
            (later.oldest, later.newest),
            background=background,
        )
        list(sample_board(background, select()))
        return len(board.asked)

    in_vain = 1 if failed <= 12 else max(40, wanted // 10)
    assert asked(beforehand=True) <= asked(beforehand=False) + in_vain


class Spotted(Listed):
    """A board of a million posts, which makes them when it is asked."""

    def __init__(self) -> None:
        super().__init__([])

    def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
        self.asked.append((query, below, limit))
        below = below or 1_000_001
        return [post(id=i, tags=("owl",)) for i in range(below - 1, max(0, below - 1 - limit), -1)]


def test_what_failed_in_the_background_is_asked_for_again() -> None:
    class Stumbling(Listed):
        def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
            found = super().page(query, below=below, limit=limit)
            if len(self.asked) == 1:
                raise HttpError("http_503", "busy", permanent=False)
            return found

    board = Stumbling(listed(500, lambda i: ("owl",)).posts)
    background = SharedListing(board)
    background.prepare(Query(), [401], 20)
    while not board.asked or any(not page.done() for page in background._pages.values()):
        time.sleep(0.001)
    walk = background.walk(Query(), below=401, limit=20)
    assert next(walk).id == 400
    assert len(board.asked) == 2


def test_a_listing_from_memory_is_the_same() -> None:
    board = listed(500, lambda i: ("owl",))
    background = SharedListing(board)
    for below, above in ((400, 100), (400, 390), (400, None), (None, 490), (401, 399)):
        ours = [p.id for p in background.walk(Query(), below=below, above=above, limit=20)]
        assert ours == [p.id for p in board.walk(Query(), below=below, above=above, limit=20)]


def test_a_walk_on_and_on_is_not_kept_in_memory() -> None:
    alive: weakref.WeakSet[_Noted] = weakref.WeakSet()
    board = Forgotten(alive)
    most = 0
    for seen, _ in enumerate(SharedListing(board).walk(Query(), below=50_000), 1):
        if seen % 5000 == 0:
            gc.collect()
            most = max(most, len(alive))
    assert seen == 49_999
    assert most <= 3000


class _Noted(Post):
    """A post of which it can be told whether anybody has it still: the base class has slots."""


class Forgotten(Board):
    """A board that makes its posts when it is asked, and notes which are still in memory."""

    def __init__(self, alive: weakref.WeakSet[_Noted]) -> None:
        super().__init__(Site("b", "none", "http://b.example", 1000), Client(rate=1))
        self.alive = alive

    def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
        assert below is not None
        found: list[Post] = []
        for post_id in range(below - 1, max(0, below - 1 - limit), -1):
            made = post(id=post_id)
            noted = _Noted(**{name: getattr(made, name) for name in Post.__dataclass_fields__})
            self.alive.add(noted)
            found.append(noted)
        return found


POSITIVES = {"fox": 100, "wood": 80, "red": 60, "1girl": 90, "rare": 5, "sky": 20}


def test_companions_are_typical_of_the_tag_and_not_of_the_board() -> None:
    others = [post(id=i + 1, tags=("1girl", "sky")) for i in range(90)]
    others += [post(id=i + 91, tags=("red",)) for i in range(10)]
    assert companions("fox", Counter(POSITIVES), others) == ["wood", "red"]


def test_the_most_telling_companions_first_and_not_too_many() -> None:
    positives = Counter({"fox": 100} | {f"t{i:02}": 90 - i for i in range(20)})
    others = [post(id=i + 1, tags=("owl",)) for i in range(100)]
    assert companions("fox", positives, others) == [f"t{i:02}" for i in range(6)]


def tags_of(i: int) -> tuple[str, ...]:
    if i % 20 == 0:
        return ("fox", "wood")
    return ("wood", "owl") if i % 20 == 1 else ("owl",)


def test_hard_negatives_share_a_companion() -> None:
    board = listed(20_000, tags_of)
    found = draw(
        board, 100, (1000, 19_000), negatives="hard", positives={"fox": 50, "wood": 50, "owl": 2}
    )
    assert len({p.id for p in found}) == 100
    assert all("wood" in p.tags for p in found)
    quarters = Counter((p.id - 1000) * 4 // 18_001 for p in found)
    assert all(15 <= quarters[quarter] <= 35 for quarter in range(4))
    queries = {query for query, _, _ in board.asked if query.tags}
    assert {(query.tags, query.without) for query in queries} == {(("wood",), ("fox",))}


def test_where_hard_ones_are_few_the_rest_is_random() -> None:
    board = listed(2000, lambda i: ("wood",) if i in (700, 800) else ("owl",))
    found = draw(board, 50, (500, 1500), negatives="hard", positives={"fox": 9, "wood": 9})
    assert [p.id for p in found[:2]] in ([700, 800], [800, 700])
    assert len({p.id for p in found}) >= 49  # the caller passes over what it has


def test_mixed_negatives_are_half_of_each() -> None:
    board = listed(20_000, tags_of)
    found = draw(board, 100, (1, 20_000), negatives="mixed", positives={"fox": 9, "wood": 9})
    assert 50 <= sum("wood" in p.tags for p in found) <= 60


@pytest.mark.parametrize("negatives", ["hard", "mixed"])
def test_what_hard_negatives_lack_is_told(negatives: str) -> None:
    board = listed(300, lambda i: ("forest",) if i % 100 == 0 else ("city",))
    with capture_logs() as logs:
        draw(board, 40, (1, 300), negatives=negatives, positives={"fox": 9, "forest": 9})
    [told] = [log for log in logs if log["event"].startswith("posts with companions are at an end")]
    assert told["posts"] == 3


def test_negatives_from_outside_the_span_are_told_of() -> None:
    board = listed(300, lambda i: ("fox",) if 100 < i <= 150 else ("owl",))
    with capture_logs() as logs:
        draw(board, 20, (90, 150))
    [told] = [log for log in logs if log["log_level"] == "warning"]
    assert told["ids"] == [90, 150]


@pytest.mark.parametrize("mode", ["hard", "mixed"])
def test_a_tag_without_companions_gets_random_ones(mode: str) -> None:
    board = listed(1000, lambda i: ("owl",))
    random = draw(board, 40, (1, 1000))
    found = draw(board, 40, (1, 1000), negatives=mode, positives={"fox": 9, "owl": 9})
    assert found == random
