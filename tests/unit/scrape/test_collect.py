"""Collecting: the first posts that can be had, in their order, whatever ends first."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagetag.boards.base import Board, File, Post, Query, Site
from imagetag.dataset.manifest import Repeat, Row, part_keys, read_parts
from imagetag.errors import Terminated, TransientError
from imagetag.imaging import Thumbnails, perceptual_hashes, thumbnail
from imagetag.layout import Layout
from imagetag.scrape import collect, part_writer
from imagetag.scrape.collect import Collector, How
from imagetag.scrape.inventory import Known
from imagetag.scrape.selection import Selection
from imagetag.storage.base import Storage
from imagetag.storage.opening import open_storage
from imagetag.web.client import Client
from imagetag.web.hosts import HttpError
from tests.builders.pictures import encoded, plain
from tests.scripted import Reply, Request, Server, serving

LAYOUT = Layout("fox")
SELECTION = Selection(
    board="shelf",
    limit=10,
    ratings=("general",),
    extensions=("png",),
    min_side=8,
    max_bytes=10_000,
    test_fraction=0.2,
)


class Shelf(Board):
    """A board whose posts a test has put there."""

    def __init__(self, posts: Sequence[Post], url: str) -> None:
        super().__init__(
            Site("shelf", "shelf", url),
            Client(rate=1e5, allow_private_hosts=True, obey_robots=False),
        )
        self.posts = posts
        self.shown = 0

    def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
        found = [post for post in self.posts if below is None or post.id < below][:limit]
        self.shown += len(found)
        return found


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path))


@contextlib.contextmanager
def pictures(reply: Callable[[int], Reply | None] = lambda _: None) -> Iterator[Server]:
    """Serve a picture of its own for each post id, unless `reply` has another answer."""

    def answer(request: Request) -> Reply:
        post_id = int(request.path.strip("/").removesuffix(".png"))
        said = reply(post_id) or Reply(png(post_id))
        said.headers["Connection"] = "close"
        return said

    with serving(answer) as server:
        yield server


def png(number: int) -> bytes:
    return plain(9, 8, (number % 256, number // 256 % 256, 0))


def posts(url: str, count: int, tags: Callable[[int], str] = lambda _: "fox") -> list[Post]:
    """Posts with falling ids; the tags of the first are `tags(0)`."""
    return [
        Post(
            id=count - place,
            board="shelf",
            page_url=url,
            file_url=f"{url}/{count - place}.png",
            md5=None,
            width=None,
            height=None,
            tags=tuple(tags(place).split()),
            rating="general",
            parent_id=None,
        )
        for place in range(count)
    ]


def collector(storage: Storage, board: Board, concurrency: int = 8) -> Collector:
    known = Known.read(storage, LAYOUT, "shelf", SELECTION)
    return Collector(storage, board, LAYOUT, SELECTION, How(concurrency), known)


def test_a_thumbnail_of_the_same_decode_is_kept_for_who_asks_for_it(storage: Storage) -> None:
    kept, drawn = Thumbnails(), encoded(Image.linear_gradient("L").convert("RGB"))
    known = Known.read(storage, LAYOUT, "shelf", SELECTION)
    how = How(2, thumbnails=kept)
    with pictures(lambda _: Reply(drawn)) as server:
        board = Shelf(posts(server.url, 1), server.url)
        with Collector(storage, board, LAYOUT, SELECTION, how, known) as run:
            run.collect("positive", board.walk(Query(("fox",))), 1)
    [row] = read_parts(storage, part_keys(storage, LAYOUT, "part"), Row)
    assert row.phashes == perceptual_hashes(drawn)
    assert kept.get(row.md5) == thumbnail(drawn)


def collect_and_stop(storage: Storage) -> None:
    """Collect three posts, and be told to stop before their rows are written."""
    with pictures() as server:
        board = Shelf(posts(server.url, 3), server.url)
        with collector(storage, board) as run:
            run.collect("positive", board.walk(Query(("fox",))), 3)
            raise Terminated


def recorded(storage: Storage) -> list[int]:
    rows = read_parts(storage, part_keys(storage, LAYOUT, "part"), Row)
    return sorted((row.post_id for row in rows), reverse=True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_takes_the_first_that_can_be_had_whichever_ends_first(
    storage: Storage, seed: int, concurrency: int
) -> None:
    dice = random.Random(seed)
    gone = {post_id for post_id in range(1, 41) if dice.random() < 0.3}

    def reply(post_id: int) -> Reply | None:
        time.sleep(dice.random() / 50)
        return Reply(status=404) if post_id in gone else None

    with pictures(reply) as server:
        board = Shelf(posts(server.url, 40), server.url)
        with collector(storage, board, concurrency) as run:
            run.collect("positive", board.walk(Query(("fox",)), limit=7), 10)
    first = [post_id for post_id in range(40, 0, -1) if post_id not in gone][:10]
    assert recorded(storage) == first
    tried = [post_id for post_id in range(40, 0, -1) if post_id >= first[-1]]
    assert len(server.requests) == len(tried), "asked for more than it needed"
    assert run.failed == {"http_404": len(tried) - 10}


def test_a_row_tells_the_size_of_the_picture_as_it_is_seen(storage: Storage) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.new("RGB", (16, 8)), exif=exif)
    with pictures(lambda _: Reply(turned)) as server:
        board = Shelf(posts(server.url, 1), server.url)
        with collector(storage, board) as run:
            run.collect("positive", board.walk(Query(("fox",))), 1)
    [row] = read_parts(storage, part_keys(storage, LAYOUT, "part"), Row)
    assert (row.width, row.height) == (8, 16)


class Reposts(Shelf):
    """Posts of which three in a row are of one picture; of each three, the last comes first."""

    def __init__(self, found: Sequence[Post], *, hurry: bool = False) -> None:
        super().__init__(found, "http://host.example")
        self.came = {post.id: threading.Event() for post in found}
        if hurry:
            for event in self.came.values():
                event.set()

    def fetch(self, post: Post, max_bytes: int) -> File:
        later = self.came.get(post.id - 1)
        if post.id % 3 and later:
            later.wait(0.1)  # or as it comes, where that one is not asked for
        self.came[post.id].set()
        return File(png(post.id // 3))


def repeated(storage: Storage) -> list[int]:
    records = read_parts(storage, part_keys(storage, LAYOUT, "repeat"), Repeat)
    return sorted((record.post_id for record in records), reverse=True)


@pytest.mark.parametrize("stop_after", [None, 4, 20])
@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_of_one_picture_the_first_post_is_stored_whichever_comes_first(
    storage: Storage, concurrency: int, stop_after: int | None
) -> None:
    found = posts("http://host.example", 59)
    if stop_after is not None:
        with pytest.raises(Terminated), collector(storage, Reposts(found), concurrency) as run:
            run.collect("positive", stopping(found, stop_after), 12)
    with collector(storage, Reposts(found, hurry=concurrency == 1), concurrency) as run:
        run.collect("positive", iter(found), 12)
    firsts = range(59, 24, -3)
    assert recorded(storage) == list(firsts)
    assert run._known.repeats()["duplicate"] == len(repeated(storage)) >= 22
    assert not set(repeated(storage)) & set(firsts)


def stopping(found: Sequence[Post], after: int) -> Iterator[Post]:
    yield from found[:after]
    raise Terminated


class AtOnce(ThreadPoolExecutor):
    """Fetches at once, all but one post, which is under way meanwhile."""

    def submit(self, fetch: Any, post: Post, *given: Any) -> Future[Any]:  # type: ignore[override]
        if post.id == 6:
            return super().submit(fetch, post, *given)
        future: Future[Any] = Future()
        future.set_result(fetch(post, *given))
        return future


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, AtOnce])
def test_posts_that_tell_their_sums_wait_for_none(
    storage: Storage, pool: type[ThreadPoolExecutor]
) -> None:
    # The first comes last, and the others are recorded when the run is stopped meanwhile.
    told = [
        replace(post, md5=hashlib.md5(png(post.id)).hexdigest())
        for post in posts("http://host.example", 6)
    ]

    class Slow(Shelf):
        def fetch(self, post: Post, max_bytes: int) -> File:
            if post.id == 6:
                for _ in range(2000):
                    if run._parts.unrecorded == 5:
                        break
                    time.sleep(0.05)
            return File(png(post.id))

    with collector(storage, Slow(told, "http://host.example")) as run:
        run._pool = pool(6)
        run.collect("positive", iter(told), 6)
    [part] = part_keys(storage, LAYOUT, "part")
    assert [row.post_id for row in read_parts(storage, [part], Row)][-1] == 6


@pytest.mark.parametrize("moved", [False, True])
def test_what_many_posts_lead_to_is_left_out_and_makes_room(
    storage: Storage, *, moved: bool
) -> None:
    class Host(Shelf):
        def fetch(self, post: Post, max_bytes: int) -> File:
            if post.id % 3 == 0:
                return File(png(0), "http://host.example/removed.png" if moved else "")
            return File(png(post.id))

    found = posts("http://host.example", 30)
    board = Host(found, "http://host.example")
    with collector(storage, board) as run:
        run.collect("positive", iter(found), 10)
    good = [post_id for post_id in range(30, 0, -1) if post_id % 3][:10]
    assert [post_id for post_id in recorded(storage) if post_id != 30] == good
    known = Known.read(storage, LAYOUT, "shelf", SELECTION)
    assert known.rows == {"positive": 10}
    assert known.repeats() == run._known.repeats()
    assert known.repeats()["placeholder"] >= 5
    assert known.left_out == {hashlib.md5(png(0)).digest()}


def test_a_post_that_changed_its_label_says_so_and_is_not_fetched_again(storage: Storage) -> None:
    found = posts("http://host.example", 4)
    with collector(storage, Reposts(found, hurry=True)) as run:
        run.collect("positive", iter(found[:1]), 1)
        run.collect("negative", iter([replace(found[1], tags=("owl",))]), 2)
    assert len(recorded(storage)) == 1  # of one picture
    changed = [replace(found[0], tags=("owl",))]
    for _ in range(2):  # and once
        with collector(storage, Reposts([])) as run:
            run.collect("negative", iter(changed), 1)
    assert repeated(storage) == [4, 3]
    assert run._known.repeats() == {"conflicting": 2}


def test_lists_no_further_than_it_must(storage: Storage) -> None:
    with pictures() as server:
        board = Shelf(posts(server.url, 300), server.url)
        with collector(storage, board) as run:
            run.collect("positive", board.walk(Query(("fox",)), limit=20), 30)
    assert board.shown == 40


def test_an_alias_is_noticed_soon_and_nothing_else_is_taken_for_one(storage: Storage) -> None:
    with pictures() as server:
        board = Shelf(posts(server.url, 900, lambda _: "vixen solo"), server.url)
        with collector(storage, board) as run:
            run.collect("positive", board.walk(Query(("fox",))), 10)
        assert board.shown <= 300
        assert dict(run.tags_seen.most_common(2)) == {"vixen": 200, "solo": 200}

        # Posts without the tag in between, more than make an alias, while the first is fetched.
        mixed = posts(server.url, 900, lambda place: "vixen" if place % 300 else "fox")
        board = Shelf(mixed, server.url)
        with collector(storage, board) as run:
            run.collect("positive", board.walk(Query(("fox",))), 10)
    assert recorded(storage) == [900, 600, 300]
    assert run.skipped == {"tag_absent": 897}


def test_rows_are_written_as_it_goes(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_writer, "_PART_ROWS", 4)
    with pictures() as server:
        board = Shelf(posts(server.url, 10), server.url)
        with collector(storage, board) as run:
            run.collect("positive", board.walk(Query(("fox",))), 10)
            assert len(recorded(storage)) == 8
    assert len(recorded(storage)) == 10


def test_rows_do_not_wait_for_more_than_some_seconds(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_writer, "_PART_SECONDS", 0.0)
    with pictures() as server:
        board = Shelf(posts(server.url, 3), server.url)
        with collector(storage, board) as run:
            run.collect("positive", board.walk(Query(("fox",))), 10)
            assert len(recorded(storage)) == 3


@pytest.mark.parametrize(("gap", "stored"), [(22, [69, 46, 23]), (27, [84])])
def test_many_failures_in_a_row_are_an_outage_and_scattered_ones_are_not(
    storage: Storage, gap: int, stored: list[int]
) -> None:
    outage = pytest.raises(TransientError, match="25 posts in a row failed")
    with pictures(lambda i: Reply(status=404) if i % (gap + 1) else None) as server:
        board = Shelf(posts(server.url, 90), server.url)
        with outage if gap > 25 else contextlib.nullcontext():
            with collector(storage, board, concurrency=1) as run:
                run.collect("positive", board.walk(Query(("fox",))), 10)
    assert run.failed["http_404"] > 25
    assert recorded(storage) == stored


class Links(Shelf):
    """Posts of which the first 50 are on hosts that are gone."""

    scattered = True

    def fetch(self, post: Post, max_bytes: int) -> File:
        if post.id > 10:
            raise HttpError("http_403", "refused", permanent=True)
        return File(png(post.id))


@pytest.mark.parametrize("hosts", [1, 30])
def test_a_host_that_is_gone_is_no_outage_of_a_list_of_links(storage: Storage, hosts: int) -> None:
    outage = pytest.raises(TransientError, match="25 posts in a row failed")
    found = [
        replace(post, file_url=f"http://host{post.id % hosts}.example/{post.id}.png")
        for post in posts("http://host.example", 60)
    ]
    board = Links(found, "http://host.example")
    with outage if hosts > 25 else contextlib.nullcontext():
        with collector(storage, board) as run:
            run.collect("positive", board.walk(Query(("fox",))), 10)
    assert recorded(storage) == ([] if hosts > 25 else list(range(10, 0, -1)))


def test_whoever_stops_it_does_not_wait_for_a_storage_that_is_down(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, waited_for = threading.Event(), threading.Event()

    def stalled(*_: object) -> str:
        let_go.wait(20)
        waited_for.set()
        return ""

    monkeypatch.setattr(part_writer, "write_part", stalled)
    monkeypatch.setattr(collect, "_LAST_SECONDS", 0.1)
    with pytest.raises(Terminated) as stopped:
        collect_and_stop(storage)
    assert not waited_for.is_set()
    [note] = stopped.value.__notes__
    assert note == "0 images are stored and recorded, and 3 more are stored; run it again to go on"
    let_go.set()


def test_a_storage_that_is_down_does_not_hide_that_it_was_stopped(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> str:
        raise TransientError("down")

    monkeypatch.setattr(part_writer, "write_part", down)
    with pytest.raises(Terminated) as stopped:
        collect_and_stop(storage)
    assert ", and 3 more are stored; " in stopped.value.__notes__[0]


def test_whoever_stops_it_is_told_what_is_kept(storage: Storage) -> None:
    with pytest.raises(Terminated) as stopped:
        collect_and_stop(storage)
    assert stopped.value.__notes__ == ["3 images are stored and recorded; run it again to go on"]
    assert recorded(storage) == [3, 2, 1]
