"""Pictures from others' servers: what is listed, and what cannot be had."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from imagetag.boards.base import Board, BoardError, File, Post, Query, Site
from imagetag.errors import InputError, TransientError, UsageError
from imagetag.imaging.images import BadImage
from imagetag.predict.remote import FoundPosts, ListedUrls, read_query, shown
from imagetag.predict.sources import Picture, Source
from imagetag.web.client import Answer, Client
from imagetag.web.hosts import HttpError
from tests.predicting import write


class Web(Client):
    """A client that asks nobody."""

    def __init__(self, pages: Mapping[str, bytes | HttpError] | None = None) -> None:
        super().__init__(rate=1000)
        self.pages = pages or {}
        self.asked: list[str] = []
        self.wishes: list[tuple[int, bool]] = []

    def get(
        self,
        url: str,
        params: dict[str, str] | None = None,
        *,
        max_bytes: int,
        opt_out: bool = False,
    ) -> Answer:
        self.asked.append(url)
        self.wishes.append((max_bytes, opt_out))
        found = self.pages.get(url) or HttpError("http_404", f"{url}: status 404", permanent=True)
        if isinstance(found, HttpError):
            raise found
        return Answer(url, found)


def listed(path: Path, web: Web | None = None, keep: Path | None = None) -> ListedUrls:
    return ListedUrls(str(path), web or Web(), keep)


def files(source: Source) -> list[str]:
    return [picture.file for picture in source.pictures()]


URLS = [f"https://example.org/{number}.png" for number in (3, 1, 2, 1)]


# ---- lists of URLs


def test_a_text_has_a_url_a_line(tmp_path: Path) -> None:
    text = "\ufeff" + URLS[0] + "\r\n\n# a comment\n  " + "\n".join(URLS[1:])
    assert files(listed(write(tmp_path, "list.txt", text.encode()))) == URLS
    data = gzip.compress(text.encode())
    assert files(listed(write(tmp_path, "list.TXT.gz", data))) == URLS


def as_csv(path: Path) -> None:
    path.write_text("URL,other\n" + "".join(f"{url},x\n" for url in URLS))


def as_tsv(path: Path) -> None:
    path.write_text("tags\timage_url\n" + "".join(f"a b\t{url}\n" for url in URLS))


def as_json_lines(path: Path) -> None:
    path.write_text("".join(json.dumps({"file_url": url}) + "\n" for url in URLS))


def as_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"url": URLS}), path)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.csv", as_csv),
        ("a.tsv", as_tsv),
        ("a.jsonl", as_json_lines),
        ("a.ndjson", as_json_lines),
        ("a.parquet", as_parquet),
    ],
)
def test_lists_are_read_in_their_order_without_tags(
    name: str, make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / name)
    assert files(listed(tmp_path / name)) == URLS


def test_a_row_that_is_no_url_is_an_error_in_its_place(tmp_path: Path) -> None:
    lines = [
        *("url,id", URLS[0] + ",1", "ftp://example.org/a.png,2", ",3", "too,many,columns"),
        *("javascript:alert(1),5", f"https://{'x' * 5000}/,6", URLS[1] + ",7"),
    ]
    web = Web(dict.fromkeys(URLS, b"data"))
    source = listed(write(tmp_path, "list.csv", "\n".join(lines).encode()), web)
    pictures = list(source.pictures())
    assert [picture.file[:40] for picture in pictures] == [
        URLS[0],
        "ftp://example.org/a.png",
        "line 4",
        "line 5",
        "javascript:alert(1)",
        "https://" + "x" * 32,
        URLS[1],
    ]
    assert len(pictures[5].file) == 300
    assert source.read(pictures[0]) == source.read(pictures[-1]) == b"data"
    for picture in pictures[1:-1]:
        with pytest.raises(BadImage, match="no http URL that can be asked for") as caught:
            source.read(picture)
        assert caught.value.reason == "bad_url"
    assert web.asked == [URLS[0], URLS[1]]


def test_lines_without_end_are_errors(tmp_path: Path) -> None:
    long = b"https://example.org/" + b"a" * (3 << 20)
    path = write(tmp_path, "a.txt", b"\n".join([URLS[0].encode(), long, URLS[1].encode()]))
    assert files(listed(path)) == [URLS[0], "line 2", URLS[1]]
    path = write(tmp_path, "a.csv", b"\n".join([b"url", URLS[0].encode(), long, long]))
    assert files(listed(path)) == [URLS[0], "line 3", "line 4"]


@pytest.mark.parametrize(
    ("name", "data", "kind", "complaint"),
    [
        ("a.csv", b"name,tags\n", UsageError, r"--input .*a\.csv: it has no column of URLs"),
        ("a.txt", b"\n# nothing\n", InputError, r"--input .*a\.txt: it lists no URL"),
        ("a.csv", b"url\n", InputError, r"--input .*a\.csv: it lists no URL"),
        ("a.txt.gz", b"no gzip", InputError, r"--input .*a\.txt\.gz: it is damaged"),
        ("a.parquet", b"PAR1 no", InputError, r"--input .*a\.parquet: it is damaged"),
        ("a.txt", None, UsageError, r"--input .*a\.txt: No such file"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(
    name: str, data: bytes | None, kind: type[Exception], complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if data is not None:
        write(tmp_path, name, data)
    with pytest.raises(kind, match=complaint):
        files(listed(path))


def test_other_endings_are_no_lists(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in one of \.csv, .*\.txt"):
        listed(tmp_path / "list.doc")


def test_files_are_bounded_and_owners_may_opt_out(tmp_path: Path) -> None:
    web = Web({URLS[0]: b"data"})
    source = listed(write(tmp_path, "a.txt", URLS[0].encode()), web)
    [picture] = source.pictures()
    assert source.read(picture) == b"data"
    assert web.wishes == [(50_000_000, True)]


def test_a_video_is_not_fetched(tmp_path: Path) -> None:
    urls = [f"https://example.org/a.{end}" for end in ("mp4?x=1", "webm", "WEBM", "png?v=a.mp4")]
    web = Web({urls[-1]: b"data"})
    source = listed(write(tmp_path, "a.txt", "\n".join(urls).encode()), web)
    *videos, picture = source.pictures()
    for video in videos:
        with pytest.raises(BadImage) as caught:
            source.read(video)
        assert caught.value.reason == "video"
    assert source.read(picture) == b"data"
    assert web.asked == urls[-1:]


def test_files_are_kept_where_they_are_needed_again(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    web = Web({url: url.encode() for url in URLS})
    source = listed(write(tmp_path, "a.txt", "\n".join(URLS).encode()), web, keep)
    pictures = list(source.pictures())
    for picture in pictures:
        path = source.read(picture)
        assert isinstance(path, Path)
        assert path.read_bytes() == picture.file.encode()
    assert len(list(keep.iterdir())) == 4, "the same URL twice is two files"
    source.save(pictures[0], tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == URLS[0].encode()
    for picture in pictures:
        source.forget(picture)
        source.forget(picture)
    assert list(keep.iterdir()) == []
    assert (tmp_path / "saved").exists()


# ---- what cannot be had


def failing(reason: str, *, permanent: bool) -> HttpError:
    return HttpError(reason, f"what happened: {reason}", permanent=permanent)


def read_all(source: Source) -> list[str]:
    reasons = []
    for picture in source.pictures():
        try:
            source.read(picture)
            reasons.append("")
        except BadImage as error:
            reasons.append(error.reason)
    return reasons


def on_many_hosts(path: Path, count: int) -> list[str]:
    urls = [f"https://host{number}.example/{number}.png" for number in range(count)]
    write(path, "many.txt", "\n".join(urls).encode())
    return urls


def test_what_a_server_refuses_is_an_error_however_often(tmp_path: Path) -> None:
    urls = on_many_hosts(tmp_path, 100)
    reasons = ["http_404", "private_host", "robots", "opted_out", "too_large"] * 20
    errors = {
        url: failing(reason, permanent=True) for url, reason in zip(urls, reasons, strict=True)
    }
    assert read_all(listed(tmp_path / "many.txt", Web(errors))) == reasons


def test_many_hosts_in_a_row_that_do_not_answer_are_an_outage(tmp_path: Path) -> None:
    urls = on_many_hosts(tmp_path, 60)
    down: dict[str, bytes | HttpError] = {url: failing("timeout", permanent=False) for url in urls}
    web = Web(down)
    with pytest.raises(
        TransientError, match=r"25 pictures in a row .* what happened: timeout; run"
    ):
        read_all(listed(tmp_path / "many.txt", web))
    assert len(web.asked) == 25
    # With one between them that is had, there is none.
    web = Web(down | {urls[20]: b"data", urls[40]: b"data"})
    assert read_all(listed(tmp_path / "many.txt", web)).count("timeout") == 58


def test_one_host_that_is_down_is_no_outage_of_all(tmp_path: Path) -> None:
    urls = [f"https://example.org/{number}.png" for number in range(60)]
    path = write(tmp_path, "a.txt", "\n".join(urls).encode())
    web = Web({url: failing("timeout", permanent=False) for url in urls})
    assert read_all(listed(path, web)) == ["timeout"] * 60


# ---- a board's search


class Shelf(Board):
    """A board whose posts are in memory."""

    def __init__(self, posts: list[Post], engine: str = "gelbooru02", size: int = 7) -> None:
        super().__init__(Site("shelf", engine, "https://board.example", size), Web())
        self.posts = posts
        self.queries: list[tuple[Query, int | None, int]] = []
        self.broken: set[int] = set()
        self.fetched: list[int] = []

    def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
        self.queries.append((query, below, limit))
        found = [post for post in self.posts if below is None or post.id < below]
        return found[:limit]

    def complete(self, post: Post) -> Post:
        if post.file_url is None:
            return make_post(post.id, file_url=f"https://board.example/late/{post.id}.jpg")
        return post

    def fetch(self, post: Post, max_bytes: int) -> File:
        if post.id in self.broken:
            raise BoardError(f"the page of {post.id} is broken")
        self.fetched.append(post.id)
        return File(b"picture %d" % post.id)


def make_post(number: int, **fields: Any) -> Post:
    told: dict[str, Any] = {
        "id": number,
        "board": "shelf",
        "page_url": f"https://board.example/post/{number}",
        "file_url": f"https://board.example/images/{number}.png",
        "md5": f"{number:032x}",
        "width": 10,
        "height": 10,
        "tags": ("fox", "grass"),
        "rating": "general",
        "parent_id": None,
    }
    return Post(**told | fields)


POSTS = [make_post(number) for number in range(40, 0, -1)]
FOX = Query(("fox",))


def ids(pictures: Iterator[Picture]) -> list[int]:
    return [picture.origin.id for picture in pictures]


def test_posts_are_found_newest_first() -> None:
    board = Shelf(POSTS)
    source = FoundPosts(board, FOX)
    first, *rest = source.pictures()
    assert (first.file, first.page_url) == (POSTS[0].file_url, POSTS[0].page_url)
    assert ids(iter([first, *rest])) == list(range(40, 0, -1))
    assert source.read(first) == b"picture 40"
    assert {query for query, _, _ in board.queries} == {FOX}


def test_a_limit_is_of_the_posts_that_match() -> None:
    posts = [make_post(post.id, tags=("fox",) if post.id % 2 else ("owl",)) for post in POSTS]
    board = Shelf(posts)
    assert ids(FoundPosts(board, FOX, 5).pictures()) == [39, 37, 35, 33, 31]
    assert len(board.queries) == 2
    assert ids(FoundPosts(board, FOX, 500).pictures()) == list(range(39, 0, -2))


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (Query(("fox", "owl")), {"tags": ("fox", "owl")}),
        (Query(("fox",), ("grass",)), {"tags": ("fox",)}),
        (Query(("fox",), (), ("explicit",)), {"rating": "explicit"}),
        (Query(("fox",), (), ("explicit",)), {"rating": None}),
    ],
)
def test_what_a_board_lists_besides_is_passed_over(query: Query, fields: dict[str, Any]) -> None:
    wanted = make_post(20, **fields)
    board = Shelf([wanted if post.id == 20 else post for post in POSTS])
    assert ids(FoundPosts(board, query).pictures()) == [20]


def test_a_search_goes_on_where_it_was() -> None:
    board = Shelf(POSTS)
    found = list(FoundPosts(board, FOX, 30).pictures())
    # A new post has come, and two of those that were done are gone.
    board.posts = [make_post(41), *(post for post in POSTS if post.id not in (38, 35))]
    board.queries.clear()
    rest = FoundPosts(board, FOX, 30).pictures(found[9].cursor)
    assert ids(rest) == list(range(30, 10, -1))
    assert {below for _, below, _ in board.queries} == {31, 24, 17}
    # Nothing is left: that is no mistake now.
    assert ids(FoundPosts(board, FOX, 30).pictures(found[-1].cursor)) == []
    assert ids(FoundPosts(board, FOX).pictures({"below": 1, "taken": 40})) == []


def test_a_list_in_the_place_of_a_board_is_compared_instead() -> None:
    post = make_post(3, page_url="https://a.example/3.png", file_url="https://a.example/3.png")
    [picture] = FoundPosts(Shelf([post], engine="links"), FOX).pictures()
    assert (picture.cursor, picture.page_url) == (None, "")


def test_a_file_may_be_known_after_its_page_was_read() -> None:
    board = Shelf([make_post(3, file_url=None)])
    source = FoundPosts(board, FOX)
    [picture] = source.pictures()
    assert (picture.file, picture.name) == ("", "shelf 3")
    assert source.read(picture) == b"picture 3"
    assert picture.file == "https://board.example/late/3.jpg"


def test_what_comes_damaged_is_fetched_again_and_no_more_than_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    came = {2: [b"pic", b"damaged", b"picture 2"], 1: [b"another"] * 9}

    def fetch(post: Post, max_bytes: int) -> File:
        return File(came[post.id].pop(0))

    posts = [
        make_post(number, md5=hashlib.md5(b"picture %d" % number).hexdigest()) for number in (2, 1)
    ]
    board = Shelf(posts)
    monkeypatch.setattr(board, "fetch", fetch)
    source = FoundPosts(board, FOX)
    assert [source.read(picture) for picture in source.pictures()] == [b"picture 2", b"another"]
    assert (len(came[2]), len(came[1])) == (0, 6)


def test_a_post_without_a_picture_is_an_error() -> None:
    board = Shelf([make_post(2, file_url=""), make_post(1, file_url="https://b.example/1.webm")])
    assert read_all(FoundPosts(board, FOX)) == ["no_file", "video"]
    assert board.fetched == []


def test_a_broken_page_is_an_error_and_many_are_an_outage() -> None:
    board = Shelf(POSTS)
    board.broken = {40, 38}
    assert read_all(FoundPosts(board, FOX)) == ["page", "", "page", *[""] * 37]
    board.broken = set(range(41))
    with pytest.raises(TransientError, match=r"25 pictures in a row .* the page of 16 is broken"):
        read_all(FoundPosts(board, FOX))


@pytest.mark.parametrize(
    ("posts", "query", "complaint"),
    [
        ([], FOX, r"board\.example has no posts for --query 'fox'; check its spelling"),
        (POSTS, Query(("kitsune",)), r"none of them carries it: .*an alias; .*tags are fox, grass"),
        (POSTS, Query(("a", "b"), ("c",)), r"has no posts for --query 'a b -c'"),
    ],
)
def test_a_search_that_finds_nothing_is_told(
    posts: list[Post], query: Query, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        list(FoundPosts(Shelf(posts), query).pictures())


def test_an_alias_is_not_walked_to_its_end() -> None:
    board = Shelf([make_post(number) for number in range(1000, 0, -1)], size=100)
    with pytest.raises(InputError, match="an alias"):
        list(FoundPosts(board, Query(("kitsune",))).pictures())
    assert len(board.queries) == 2


def test_queries_are_read_as_boards_write_them() -> None:
    query = read_query(" fox  re:zero -owl fox rating:safe rating:explicit -owl rating:odd ")
    assert query == Query(("fox", "re:zero", "rating:odd"), ("owl",), ("general", "explicit"))
    assert shown(query) == "fox re:zero rating:odd -owl rating:general rating:explicit"
    assert read_query("") == Query()
    for text in ("fo*", "~fox", "-", "--fox", "fox \x07"):
        with pytest.raises(UsageError, match="not"):
            read_query(text)


def test_what_decides_the_posts_is_in_the_identity() -> None:
    base = FoundPosts(Shelf(POSTS), FOX).identity
    assert json.loads(json.dumps(base)) == base
    others = [
        FoundPosts(Shelf(POSTS), Query(("owl",))),
        FoundPosts(Shelf(POSTS), Query(("fox",), ("owl",))),
        FoundPosts(Shelf(POSTS), Query(("fox",), (), ("general",))),
        FoundPosts(Shelf(POSTS), FOX, 10),
    ]
    assert all(other.identity != base for other in others)
