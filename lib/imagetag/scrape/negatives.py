"""Which posts stand for "without the tag": any, or those that look most like it.

All are drawn over the span of ids of the positives, evenly: an era has its style and its image
sizes, and taken all from today, negatives would be told by those. Where that span has too few, the
others are drawn over the whole board, as evenly: next to it all might be of one other tag.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from cachetools import LRUCache

from imagetag.boards import Board, Post, Query
from imagetag.dataset import Mark
from imagetag.layout import Label
from imagetag.log import get_logger
from imagetag.scrape.selection import Selection

_STRATA = 20  # stretches of ids that negatives come from, at the least, and
_STRATUM_POSTS = 20  # how many each gives before there are more of them
_AT_ONCE = 16  # pages asked for side by side
_PAGES = 1000  # pages of listings kept in memory
_ROOM = 3  # ids in the span for each negative, with fewer it is no choice
_SAMPLE = 400  # posts that stand for the board, when companions are sought
_STRATA_SAMPLED = 16  # stretches of the whole board, when what marks negatives is sought
_LEAST_MARKED = 0.2  # of the negatives that a mark is on
_LEAST_ODDS = 2.0  # how many times as high the odds of a mark are at least
_DEVIATIONS = 2.6  # standard deviations of the normal distribution, 99 % within
_MARKS = 5
_FINE = 64  # how exact the first post since a date is looked for, as a part of those since
_COMPANIONS = 6
_LEAST_SHARE = 0.1  # of the positives that a companion is on
_LEAST_LIFT = 2.0  # how many times as frequent it is there as on the board


class Span:
    """The ids of a tag's positives, from the oldest to the newest, cut in stretches.

    The cuts are at multiples of a power of two, so that most of them are the same for every tag,
    and what is listed for one serves the others.
    """

    def __init__(self, oldest: int, newest: int) -> None:
        self.oldest, self.newest = oldest, newest

    def length(self, count: int) -> int:
        """Return how many ids each of about `count` stretches has, but for the first and last."""
        length = 1
        while (self.newest - self.oldest + 1) / length > count:
            length *= 2
        return length

    def stretches(self, count: int) -> list[tuple[int, int]]:
        """Return about `count` stretches (half to all of them) as (first id, last id + 1).

        In an order of which any beginning is spread over the whole (van der Corput's).
        """
        length = self.length(count)
        first = self.oldest // length * length
        edges = [self.oldest, *range(first + length, self.newest + 1, length), self.newest + 1]
        stretches = list(enumerate(itertools.pairwise(edges)))
        stretches.sort(key=lambda numbered: f"{numbered[0]:064b}"[::-1])
        return [stretch for _, stretch in stretches]


class SharedListing(Board):
    """A board whose small pages are remembered, but for empty ones: those are asked for again.

    Tags whose negatives are drawn from the same stretches of ids share the requests.
    """

    def __init__(self, board: Board) -> None:
        super().__init__(board.site, board.client, board.login)
        self._board = board
        self.by_time = board.by_time
        self.certain, self.doubts = board.certain, board.doubts
        self._pages: LRUCache[tuple[object, ...], Future[list[Post]]] = LRUCache(_PAGES)
        self._lock = threading.Lock()  # of the pages
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="list")

    def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
        """Return a page, as the base class says, from memory where it was asked for before."""
        if limit > _STRATUM_POSTS:  # a walk on and on, of which memory could not hold much
            return self._board.page(query, below=below, limit=limit)
        key = (query, below, limit)
        answer = self._ask(*key)
        posts: list[Post] = []
        try:
            posts = answer.result()
        finally:
            if not posts:  # an error, or what an overloaded board says: the next may fare better
                with self._lock:
                    if self._pages.get(key) is answer:
                        del self._pages[key]
        return posts

    def prepare(self, query: Query, ends: Iterable[int], limit: int) -> None:
        """Ask for the first pages of many walks side by side: one by one they take their time."""
        for below in itertools.islice(ends, _PAGES // 2):
            self._ask(query, below, min(limit, self.site.page_size))

    def prepare_newest(self, query: Query, then: Callable[[Post], object]) -> None:
        """Ask for the newest post, and call `then` with it, in whichever thread; wait for neither.

        What `walk` asks for first with a limit of 1. `then` must not wait for pages.
        """

        def answered(answer: Future[list[Post]]) -> None:
            if not answer.exception() and (posts := answer.result()):
                then(posts[0])

        self._ask(query, None, 1).add_done_callback(answered)

    def _ask(self, query: Query, below: int | None, limit: int) -> Future[list[Post]]:
        key = (query, below, limit)
        with self._lock:
            answer = self._pages.get(key)
            if answer is None or (answer.done() and answer.exception()):  # it may fare better now
                page = partial(self._board.page, query, below=below, limit=limit)
                answer = self._pages[key] = self._pool.submit(page)
        return answer


def prepare(
    background: SharedListing, selection: Selection, wanted: int, missing: bool, span: Span
) -> None:
    """Ask in the background for what `candidates` and `sample_board` will begin with.

    To be called while the last positives are under way, so that nothing waits for it after them.
    Those that fail yet make the span longer: it is asked for where that will be cut in the same
    places though an eighth of them failed, so that then one request at the most is in vain. If more
    of them fail, all for the span may be: 40, or one for each ten negatives if they are more.

    Args:
        background: to ask.
        selection: what is asked for.
        wanted: how many negatives are to be found.
        missing: whether they are not stored already.
        span: of the positives, if none fails.

    """
    query = selection.query()
    first = wanted if selection.negatives == "random" else _SAMPLE  # of companions
    longer = Span(span.oldest - (span.newest - span.oldest) // 8, span.newest)
    same = longer.length(_strata(first - first // 8)) == span.length(_strata(first))
    if missing and same and _has_room(span, first):
        ends = (end for _, end in span.stretches(_strata(first)))
        background.prepare(query, ends, _STRATUM_POSTS)
    if selection.since is None or not background.by_time:  # else its span takes a search
        background.prepare_newest(
            query, lambda newest: _prepare_sample(background, query, Span(1, newest.id))
        )


def candidates(
    board: Board,
    background: SharedListing,
    tag: str,
    selection: Selection,
    wanted: int,
    span: Span,
    positives: Counter[str],
) -> Iterator[Post]:
    """Yield posts to take as negatives, the best first; the caller passes over what is unfit.

    Args:
        board: where to look for posts with companions of the tag.
        background: the same board, for posts of any kind.
        tag: what a negative must not have.
        selection: what is asked for, among it which negatives.
        wanted: how many are to be found.
        span: of the positives.
        positives: how many of them have each tag.

    """
    rest = _random(background, selection, wanted, span)
    if selection.negatives == "random":
        yield from rest
        return
    sample = itertools.islice(_random(background, selection, _SAMPLE, span, told=True), _SAMPLE)
    alike = companions(tag, positives, (post for post in sample if tag not in post.tags))
    if not alike:
        get_logger().warning("no companions found: negatives are drawn at random", tag=tag)
        yield from rest
        return
    get_logger().info("negatives share companions of the tag", companions=alike)
    hard = _counted(
        _distinct(_hard(board, tag, selection, alike, wanted, span)), tag, board.posts_called
    )
    if selection.negatives == "mixed":
        for pair in itertools.zip_longest(hard, rest):
            yield from (post for post in pair if post is not None)
        return
    yield from hard
    yield from rest


def companions(tag: str, positives: Counter[str], others: Iterable[Post]) -> list[str]:
    """Return the tags most typical of a tag's posts, such as a character's series or hair colour.

    The score of a companion is its part in the Kullback-Leibler divergence of the tag's posts
    from the board's: p log(p / q), p and q being the shares of posts with it.

    Args:
        tag: the tag itself, which is no companion.
        positives: how many posts of the tag have each tag.
        others: a sample of the board's posts without it.

    """
    total = positives[tag]
    elsewhere: Counter[str] = Counter()
    sample = 0
    for post in others:
        sample += 1
        elsewhere.update(set(post.tags))
    scores = {}
    for name, count in positives.items():
        # Add-one: a tag that the sample lacks is not infinitely typical.
        share, usual = (count + 1) / (total + 2), (elsewhere[name] + 1) / (sample + 2)
        if name != tag and count >= _LEAST_SHARE * total and share >= _LEAST_LIFT * usual:
            scores[name] = share * math.log(share / usual)
    return sorted(scores, key=lambda name: (-scores[name], name))[:_COMPANIONS]


def marks(
    tag: str,
    sample: Iterable[Post],
    tags: Mapping[Label, Counter[str]],
    images: Mapping[Label, int],
) -> tuple[Mark, ...]:
    """Return the tags that mark negatives: far more of them than of the board, and of positives.

    What is no chance (at 99 %, by the normal approximation of a log odds ratio) and on a fifth of
    the negatives at least, with twice the odds at least; the most frequent first.

    Args:
        tag: the tag of the dataset.
        sample: of the board's posts; those with the tag are passed over.
        tags: how many images of each label have each tag.
        images: how many there are.

    """
    others: Counter[str] = Counter()
    size = 0
    for post in sample:
        if tag not in post.tags:
            size += 1
            others.update(set(post.tags))
    total, negatives = images["negative"], tags["negative"]
    found = [
        Mark(
            tag=name,
            negatives=count / total,
            positives=tags["positive"][name] / max(1, images["positive"]),
            board=others[name] / max(1, size),
        )
        for name, count in negatives.items()
        if count >= _LEAST_MARKED * total
        and _exceeds(count, total, others[name], size)
        and _exceeds(count, total, tags["positive"][name], images["positive"])
    ]
    return tuple(sorted(found, key=lambda mark: (-mark.negatives, mark.tag))[:_MARKS])


def _exceeds(count: int, total: int, other: int, others: int) -> bool:
    """Tell whether the odds of one share are far above another's (Haldane and Anscombe's)."""
    cells = [cell + 0.5 for cell in (count, total - count, other, others - other)]
    log_odds = math.log(cells[0] * cells[3] / (cells[1] * cells[2]))
    deviation = math.sqrt(sum(1 / cell for cell in cells))
    return log_odds - _DEVIATIONS * deviation > math.log(_LEAST_ODDS)


def sample_board(background: SharedListing, selection: Selection) -> Iterator[Post]:
    """Yield some posts of all that may be taken, evenly over the whole board."""
    query = selection.query()
    stretches = _prepare_sample(background, query, _whole(background, selection))
    for walk in _walks(background, query, stretches):
        yield from itertools.islice(walk, _STRATUM_POSTS)


def _prepare_sample(background: SharedListing, query: Query, whole: Span) -> list[tuple[int, int]]:
    stretches = whole.stretches(_STRATA_SAMPLED)
    background.prepare(query, (end for _, end in stretches), _STRATUM_POSTS)
    return stretches


def _whole(background: SharedListing, selection: Selection) -> Span:
    """Return the span of all posts, but for those that are too old."""
    query = selection.query()
    first = next(background.walk(query, limit=1), None)
    newest = oldest = first.id if first else 1
    if selection.since is None or not background.by_time:
        return Span(1, newest)
    older = 0
    while oldest - older > max(1, (newest - older) // _FINE):
        middle = (older + oldest) // 2
        post = next(background.walk(query, below=middle, limit=1), None)
        if post is None or post.id <= older or selection.too_old(post):
            older = middle
        else:
            oldest = post.id
    return Span(oldest, newest)


def _random(
    background: SharedListing, selection: Selection, wanted: int, span: Span, *, told: bool = False
) -> Iterator[Post]:
    """Yield any posts, evenly over the span of ids, then over the whole board.

    A span that is short for so many would be taken as it is, whatever fills it: then all are of
    the whole board. That is logged, as age alone may tell those from the positives, unless `told`
    of already.
    """
    query = selection.query()
    background.doubts.note(span.oldest)  # a run that goes on has not listed it
    count = _strata(wanted)
    seen = Span(0, -1)
    if _has_room(span, wanted):
        stretches = span.stretches(count)
        background.prepare(query, (end for _, end in stretches), _STRATUM_POSTS)
        yield from _in_turn(_walks(background, query, stretches))
        seen = span
    if not told and background.by_time:  # else the span says nothing of their age
        get_logger().warning(
            "between the oldest and the newest positive are too few posts: negatives are drawn "
            "from the whole board, older and newer ones than all positives among them",
            ids=[span.oldest, span.newest],
        )
    whole = _whole(background, selection)
    # Of a small board, each as long as a page: where there is nothing, that is asked for twice.
    most = max(1, (whole.newest - whole.oldest + 1) // _STRATUM_POSTS)
    outside = [
        (first, end)
        for first, end in whole.stretches(min(count, most))
        if first < seen.oldest or end > seen.newest + 1
    ]
    # Asked for one after the other, as it may be few that are wanted.
    for post in _in_turn(_walks(background, query, outside)):
        if not seen.oldest <= post.id <= seen.newest:
            yield post
    yield from selection.recent(background, background.walk(query, below=whole.oldest))


def _strata(wanted: int) -> int:
    """Return how many stretches so many negatives are drawn from at the most."""
    # Twice, as there may be half; no more than are wanted.
    return min(2 * max(_STRATA, wanted // _STRATUM_POSTS), wanted)


def _has_room(span: Span, wanted: int) -> bool:
    """Tell whether so many negatives can be chosen from a span, rather than taken as it is."""
    return span.newest - span.oldest >= _ROOM * wanted


def _hard(
    board: Board, tag: str, selection: Selection, alike: list[str], wanted: int, span: Span
) -> Iterator[Post]:
    """Yield posts with a companion and without the tag, evenly over companions and the span."""
    count = min(2 * max(4, wanted // (_STRATUM_POSTS * len(alike))), wanted)
    stretches = span.stretches(count)
    yield from _in_turn(
        _in_turn(_walks(board, selection.query((name,), (tag,)), stretches)) for name in alike
    )


def _walks(
    board: Board, query: Query, stretches: list[tuple[int, int]]
) -> Iterator[Iterator[Post]]:
    for first, end in stretches:
        yield board.walk(query, above=first - 1, below=end, limit=_STRATUM_POSTS)


def _in_turn(listings: Iterable[Iterator[Post]]) -> Iterator[Post]:
    """Yield one post of each listing, then the second of each, until all are at their ends."""
    open_ones = list(listings)
    while open_ones:
        for listing in list(open_ones):
            post = next(listing, None)
            if post is None:
                open_ones.remove(listing)
            else:
                yield post


def _counted(posts: Iterable[Post], tag: str, called: str) -> Iterator[Post]:
    """Yield posts with companions, and say where they end, by what posts are called."""
    found = 0
    for post in posts:
        found += tag not in post.tags
        yield post
    get_logger().warning(
        f"{called} with companions are at an end: the rest is drawn at random", posts=found
    )


def _distinct(posts: Iterable[Post]) -> Iterator[Post]:
    """Yield each post once: it may have several companions."""
    seen: set[int] = set()
    for post in posts:
        if post.id not in seen:
            seen.add(post.id)
            yield post
