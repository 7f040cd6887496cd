"""The engines that speak JSON: their answers as real boards give them, and all that is odd."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from imagetag.boards.base import Board, BoardError, Login, Post, Query
from imagetag.boards.sites import open_board
from imagetag.errors import TransientError, UsageError
from imagetag.web.client import Answer, Client
from tests.boards import check, damaged, values
from tests.scripted import Reply, Request, Server, serving

MD5 = "b1946ac92492d2347c6235b4d2611184"
NO_LOGIN = Login()
LOGIN = Login("somebody", "k3y-of-somebody")
ALL = Query()

GELBOORU_POST: dict[str, Any] = {
    "id": 7158520,
    "created_at": "Sat Oct 22 02:02:12 -0500 2011",
    "score": 5,
    "width": 1000,
    "height": 1414,
    "md5": MD5,
    "directory": "b1/94",
    "image": f"{MD5}.jpg",
    "rating": "sensitive",
    "source": "https://example.org/art/1",
    "change": 1649864021,
    "owner": "somebody",
    "creator_id": 6498,
    "parent_id": 7158519,
    "sample": 1,
    "preview_height": 250,
    "preview_width": 176,
    "tags": "1girl &gt;_&lt; it&#039;s re:zero",
    "title": "",
    "has_notes": "false",
    "has_comments": "false",
    "file_url": f"https://img3.board.example/images/b1/94/{MD5}.jpg",
    "preview_url": f"https://img3.board.example/thumbnails/b1/94/thumbnail_{MD5}.jpg",
    "sample_url": f"https://img3.board.example/samples/b1/94/sample_{MD5}.jpg",
    "sample_height": 1202,
    "sample_width": 850,
    "status": "active",
    "post_locked": 0,
    "has_children": "false",
}
DANBOORU_POST: dict[str, Any] = {
    "id": 6814021,
    "created_at": "2023-11-05T17:11:03.190-05:00",
    "uploader_id": 508240,
    "score": -3,
    "source": "https://example.org/art/1",
    "md5": MD5,
    "last_comment_bumped_at": None,
    "rating": "s",
    "image_width": 1000,
    "image_height": 1414,
    "tag_string": "1girl >_< it's re:zero",
    "fav_count": 12,
    "file_ext": "jpg",
    "last_noted_at": None,
    "parent_id": 6814020,
    "has_children": False,
    "approver_id": None,
    "tag_count_general": 2,
    "tag_count_artist": 1,
    "tag_count_character": 0,
    "tag_count_copyright": 1,
    "file_size": 312000,
    "up_score": 1,
    "down_score": -4,
    "is_pending": False,
    "is_flagged": False,
    "is_deleted": False,
    "tag_count": 4,
    "updated_at": "2023-11-06T01:00:00.000-05:00",
    "is_banned": False,
    "pixiv_id": None,
    "last_commented_at": None,
    "has_active_children": False,
    "bit_flags": 0,
    "tag_count_meta": 0,
    "has_large": True,
    "has_visible_children": False,
    "media_asset": {"id": 1, "md5": MD5, "variants": [{"type": "180x180", "url": "https://a/b"}]},
    "tag_string_general": "1girl >_<",
    "tag_string_character": "",
    "tag_string_copyright": "re:zero",
    "tag_string_artist": "it's",
    "tag_string_meta": "",
    "file_url": f"https://cdn.board.example/original/b1/94/{MD5}.jpg",
    "large_file_url": f"https://cdn.board.example/sample/b1/94/sample-{MD5}.jpg",
    "preview_file_url": f"https://cdn.board.example/180x180/b1/94/{MD5}.jpg",
}
MOEBOORU_POST: dict[str, Any] = {
    "id": 1100123,
    "tags": "1girl >_< it's re:zero",
    "created_at": 1319266932,
    "updated_at": 1319270000,
    "creator_id": 1305,
    "approver_id": None,
    "author": "somebody",
    "change": 5500000,
    "source": "",
    "score": 42,
    "md5": MD5,
    "file_size": 5120000,
    "file_ext": "png",
    "file_url": f"https://files.board.example/image/{MD5}/1100123.png",
    "is_shown_in_index": True,
    "preview_url": f"https://assets.board.example/data/preview/b1/94/{MD5}.jpg",
    "preview_width": 106,
    "preview_height": 150,
    "actual_preview_width": 212,
    "actual_preview_height": 300,
    "sample_url": f"https://files.board.example/sample/{MD5}/1100123.jpg",
    "sample_width": 1061,
    "sample_height": 1500,
    "sample_file_size": 400000,
    "jpeg_url": f"https://files.board.example/jpeg/{MD5}/1100123.jpg",
    "jpeg_width": 1000,
    "jpeg_height": 1414,
    "jpeg_file_size": 900000,
    "rating": "s",
    "is_rating_locked": False,
    "has_children": False,
    "parent_id": 1100122,
    "status": "active",
    "is_pending": False,
    "width": 1000,
    "height": 1414,
    "is_held": False,
    "frames_pending_string": "",
    "frames_pending": [],
    "frames_string": "",
    "frames": [],
    "flag_detail": None,
}
E621_POST: dict[str, Any] = {
    "id": 4400123,
    "created_at": "2023-11-05T17:11:03.190-05:00",
    "updated_at": "2023-11-06T01:00:00.000-05:00",
    "file": {
        "width": 1000,
        "height": 1414,
        "ext": "png",
        "size": 512000,
        "md5": MD5,
        "url": f"https://static1.board.example/data/b1/94/{MD5}.png",
    },
    "preview": {"width": 106, "height": 150, "url": "https://static1.board.example/p.jpg"},
    "sample": {"has": True, "height": 1200, "width": 850, "url": "https://a/s.jpg"},
    "score": {"up": 20, "down": -3, "total": 17},
    "tags": {
        "general": ["1girl", ">_<"],
        "artist": ["it's"],
        "copyright": ["re:zero"],
        "character": [],
        "species": ["1girl"],
        "invalid": [],
        "meta": [],
        "lore": [],
    },
    "locked_tags": [],
    "change_seq": 50000000,
    "flags": {"pending": False, "flagged": False, "deleted": False},
    "rating": "s",
    "fav_count": 30,
    "sources": ["https://example.org/art/1"],
    "pools": [],
    "relationships": {
        "parent_id": 4400122,
        "has_children": False,
        "has_active_children": False,
        "children": [],
    },
    "approver_id": None,
    "uploader_id": 3,
    "description": "",
    "comment_count": 0,
    "is_favorited": False,
    "has_notes": False,
    "duration": None,
}
PHILOMENA_IMAGE: dict[str, Any] = {
    "id": 3250123,
    "created_at": "2023-11-05T22:11:03Z",
    "updated_at": "2023-11-06T00:00:00Z",
    "first_seen_at": "2023-11-05T22:11:03Z",
    "width": 1000,
    "height": 1414,
    "mime_type": "image/png",
    "size": 512000,
    "duration": 0.04,
    "animated": False,
    "format": "png",
    "aspect_ratio": 0.7072135785007072,
    "name": "picture.png",
    "sha512_hash": "a" * 128,
    "orig_sha512_hash": "b" * 128,
    "tags": ["1girl", ">_<", "artist:it's", "long hair", "suggestive"],
    "tag_ids": [1, 2, 3, 4, 5],
    "uploader": None,
    "uploader_id": None,
    "wilson_score": 0.9,
    "intensities": {"ne": 1.5, "nw": 2.5, "se": 3.5, "sw": 4.5},
    "score": 17,
    "upvotes": 20,
    "downvotes": 3,
    "faves": 9,
    "comment_count": 1,
    "tag_count": 5,
    "description": "",
    "source_url": "https://example.org/art/1",
    "source_urls": ["https://example.org/art/1"],
    "view_url": "https://cdn.board.example/img/view/2023/11/5/3250123.png",
    "representations": {
        "full": "https://cdn.board.example/img/view/2023/11/5/3250123.png",
        "large": "https://cdn.board.example/img/2023/11/5/3250123/large.png",
        "medium": "https://cdn.board.example/img/2023/11/5/3250123/medium.png",
        "small": "https://cdn.board.example/img/2023/11/5/3250123/small.png",
        "tall": "https://cdn.board.example/img/2023/11/5/3250123/tall.png",
        "thumb": "https://cdn.board.example/img/2023/11/5/3250123/thumb.png",
        "thumb_small": "https://cdn.board.example/img/2023/11/5/3250123/thumb_small.png",
        "thumb_tiny": "https://cdn.board.example/img/2023/11/5/3250123/thumb_tiny.png",
    },
    "thumbnails_generated": True,
    "processed": True,
    "deletion_reason": None,
    "duplicate_of": None,
    "hidden_from_users": False,
    "spoilered": False,
}
TAGS = ("1girl", ">_<", "it's", "re:zero")
OCTOBER = datetime(2011, 10, 22, 7, 2, 12, tzinfo=UTC)
NOVEMBER = datetime(2023, 11, 5, 22, 11, 3, 190_000, tzinfo=UTC)


def between(query: dict[str, str], ids: set[int], pattern: str) -> set[int]:
    """The ids within the bounds that a pattern with a sign and a number finds in a search."""
    for sign, bound in re.findall(pattern, query.get("tags", query.get("q", ""))):
        below = sign in ("<", "lt")
        ids = {i for i in ids if (i < int(bound) if below else i > int(bound))}
    return ids


def by_page(query: dict[str, str], ids: set[int]) -> set[int]:
    page = re.fullmatch(r"b(\d+)", query.get("page", "b999999999"))
    assert page, "not a page that goes by id"
    return {i for i in between(query, ids, r"(?:^| )id:([<>])(\d+)") if i < int(page[1])}


def by_the_last_term(query: dict[str, str], ids: set[int]) -> set[int]:
    """As Moebooru does: of several terms about ids it minds only the last."""
    found = re.findall(r"(?:^| )id:(\S+)", query["tags"])
    if not found:
        return ids
    first, dots, last = found[-1].partition("..")
    if dots:
        return {i for i in ids if int(first) <= i <= int(last)}
    return between({"tags": "id:" + found[-1]}, ids, r"id:([<>])(\d+)")


@dataclass(frozen=True)
class Api:
    """An engine's API: where it is, a post as it tells it, and how it finds posts by their ids."""

    engine: str
    path: str
    post: dict[str, Any]
    expected: dict[str, Any]
    wrap: Callable[[list[Any]], Any]
    find: Callable[[dict[str, str], set[int]], set[int]]
    most: int
    size: str = "limit"

    def __str__(self) -> str:
        return self.engine

    def answer(self, *posts: Any) -> str:
        return json.dumps(self.wrap(list(posts)))

    def slim(self, post_id: int) -> dict[str, Any]:
        names = {"id", "tags", "tag_string", "file", "file_url", "representations"}
        return {name: self.post[name] for name in names & self.post.keys()} | {"id": post_id}


APIS = [
    Api(
        "gelbooru",
        "/index.php",
        GELBOORU_POST,
        {
            "page_url": "/index.php?page=post&s=view&id=7158520",
            "file_url": GELBOORU_POST["file_url"],
            "rating": "sensitive",
            "parent_id": 7158519,
            "score": 5,
            "created_at": OCTOBER,
        },
        lambda posts: {
            "@attributes": {"limit": 100, "offset": 0, "count": len(posts)},
            **({"post": posts} if posts else {}),
        },
        lambda query, ids: between(query, ids, r"(?:^| )id:([<>])(\d+)"),
        100,
    ),
    Api(
        "danbooru",
        "/posts.json",
        DANBOORU_POST,
        {
            "page_url": "/posts/6814021",
            "file_url": DANBOORU_POST["file_url"],
            "rating": "sensitive",
            "parent_id": 6814020,
            "score": -3,
            "created_at": NOVEMBER,
        },
        lambda posts: posts,
        by_page,
        200,
    ),
    Api(
        "moebooru",
        "/post.json",
        MOEBOORU_POST,
        {
            "page_url": "/post/show/1100123",
            "file_url": MOEBOORU_POST["file_url"],
            "rating": "general",
            "parent_id": 1100122,
            "score": 42,
            "created_at": OCTOBER,
        },
        lambda posts: posts,
        by_the_last_term,
        1000,
    ),
    Api(
        "e621",
        "/posts.json",
        E621_POST,
        {
            "page_url": "/posts/4400123",
            "file_url": E621_POST["file"]["url"],
            "rating": "general",
            "parent_id": 4400122,
            "score": 17,
            "created_at": NOVEMBER,
        },
        lambda posts: {"posts": posts},
        by_page,
        320,
    ),
    Api(
        "philomena",
        "/api/v1/json/search/images",
        PHILOMENA_IMAGE,
        {
            "page_url": "/images/3250123",
            "file_url": PHILOMENA_IMAGE["view_url"],
            "md5": None,
            "tags": ("1girl", ">_<", "artist:it's", "long_hair", "suggestive"),
            "rating": "sensitive",
            "parent_id": None,
            "score": 17,
            "created_at": NOVEMBER.replace(microsecond=0),
        },
        lambda posts: {"images": posts, "interactions": [], "total": len(posts)},
        lambda query, ids: between(query, ids, r"(?:^|, )id\.([lg]t):(\d+)"),
        50,
        "per_page",
    ),
]
BY_ENGINE = {api.engine: api for api in APIS}
engines = pytest.mark.parametrize("api", APIS, ids=str)


def reply(content: Any) -> Reply:
    body = content.encode() if isinstance(content, str) else content
    found = body if isinstance(body, Reply) else Reply(body)
    return dataclasses.replace(found, headers={"Connection": "close"} | found.headers)


@contextlib.contextmanager
def board_that(api: Api, says: Any, login: Login = NO_LOGIN) -> Iterator[tuple[Board, Server]]:
    """A board that answers its API's path as said, by a function or always the same."""

    def answer(request: Request) -> Reply:
        if request.path != api.path:
            return Reply(status=404)
        return reply(says(request) if callable(says) else says)

    with serving(answer) as server:
        client = Client(rate=10_000, allow_private_hosts=True)
        yield open_board(f"{api.engine}+{server.url}", client, login), server


def asked_of(server: Server) -> list[dict[str, str]]:
    """What the board was asked, but for what else a client wants to know of a host."""
    return [request.query for request in server.requests if request.path != "/robots.txt"]


def page(board: Board, query: Query = ALL, limit: int = 1000) -> list[Post]:
    return board.page(query, below=None, limit=limit)


def only(api: Api, fields: dict[str, Any]) -> Post:
    with board_that(api, api.answer(api.post | fields)) as (board, _):
        (post,) = page(board)
    return post


# --- What a post says -------------------------------------------------------------------------


@engines
def test_a_post_as_the_board_tells_it(api: Api) -> None:
    with board_that(api, api.answer(api.post)) as (board, server):
        (post,) = page(board)
    expected: dict[str, Any] = {"md5": MD5, "tags": TAGS, "width": 1000, "height": 1414}
    expected |= api.expected | {"id": api.post["id"], "board": urlsplit(server.url).netloc}
    expected["page_url"] = server.url + api.expected["page_url"]
    assert post == Post(**expected)
    assert board.complete(post) is post
    check(post)


@pytest.mark.parametrize("before", ["", "\n\n", "\ufeff", "\n\ufeff\r\n"])
def test_gelbooru_in_xml_tells_the_same(before: str) -> None:
    api = BY_ENGINE["gelbooru"]
    elements = "".join(
        f"<{name}>{str(value).replace('&', '&amp;')}</{name}>" for name, value in api.post.items()
    )
    xml = f'{before}<?xml version="1.0"?><posts limit="1" count="1"><post>{elements}</post></posts>'
    with board_that(api, xml) as (board, _):
        found = page(board)
    with board_that(api, api.answer(api.post)) as (board, _):
        (told,) = page(board)
    (post,) = found
    assert dataclasses.replace(post, board="", page_url="") == dataclasses.replace(
        told, board="", page_url=""
    )


def test_gelbooru_with_one_post_may_leave_out_the_list() -> None:
    api = BY_ENGINE["gelbooru"]
    with board_that(api, json.dumps({"@attributes": {}, "post": api.post})) as (board, _):
        assert [post.id for post in page(board)] == [api.post["id"]]


FILES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "gelbooru": lambda url: {"file_url": url, "image": None},
    "danbooru": lambda url: {"file_url": url},
    "moebooru": lambda url: {"file_url": url},
    "e621": lambda url: {"file": E621_POST["file"] | {"url": url}},
    "philomena": lambda url: {"representations": {"full": url}, "view_url": None},
}


@engines
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/i/1.png", "https://a.example/i/1.png"),
        ("//a.example/i/1.png", "http://a.example/i/1.png"),
        ("/data/1.png", "ROOT/data/1.png"),
        ("data/1.png", "ROOT/data/1.png"),
        (None, ""),
        ("", ""),
    ],
)
def test_urls_of_files(api: Api, url: str | None, expected: str) -> None:
    post = api.post | FILES[api.engine](url)
    with board_that(api, api.answer(post)) as (board, server):
        (found,) = page(board)
    assert found.file_url == expected.replace("ROOT", server.url)


@pytest.mark.parametrize(
    ("engine", "without"),
    [
        ("danbooru", ("file_url", "large_file_url", "preview_file_url", "md5")),
        ("moebooru", ("file_url", "sample_url", "jpeg_url")),
        ("e621", ("file",)),
    ],
)
def test_a_post_whose_file_is_withheld_has_none(engine: str, without: tuple[str, ...]) -> None:
    api = BY_ENGINE[engine]
    left = {name: value for name, value in api.post.items() if name not in without}
    with board_that(api, api.answer(left)) as (board, _):
        (post,) = page(board)
    assert (post.file_url, post.tags) == ("", TAGS)
    assert post.md5 == (MD5 if engine == "moebooru" else None)


@pytest.mark.parametrize(("reason", "duplicate"), [("Rule #1", None), (None, 99)])
def test_a_hidden_image_of_philomena_has_no_file(reason: str | None, duplicate: Any) -> None:
    image = {
        "id": 5,
        "created_at": "2023-11-05T22:11:03Z",
        "updated_at": "2023-11-05T22:11:03Z",
        "first_seen_at": "2023-11-05T22:11:03Z",
        "deletion_reason": reason,
        "duplicate_of": duplicate,
        "hidden_from_users": True,
    }
    api = BY_ENGINE["philomena"]
    with board_that(api, api.answer(image)) as (board, _):
        (post,) = page(board)
    assert (post.id, post.file_url, post.tags, post.parent_id) == (5, "", (), duplicate)


def test_an_image_of_philomena_without_representations_has_the_one_it_shows() -> None:
    assert (
        only(BY_ENGINE["philomena"], {"representations": None}).file_url
        == (PHILOMENA_IMAGE["view_url"])
    )


@pytest.mark.parametrize(
    ("engine", "word", "rating"),
    [
        ("gelbooru", "general", "general"),
        ("gelbooru", "safe", "general"),
        ("gelbooru", "sensitive", "sensitive"),
        ("gelbooru", "questionable", "questionable"),
        ("gelbooru", "Explicit", "explicit"),
        ("gelbooru", "s", None),
        ("danbooru", "g", "general"),
        ("danbooru", "s", "sensitive"),
        ("danbooru", "q", "questionable"),
        ("danbooru", "e", "explicit"),
        ("danbooru", None, None),
        ("moebooru", "s", "general"),
        ("moebooru", "q", "questionable"),
        ("moebooru", "e", "explicit"),
        ("moebooru", "g", None),
        ("e621", "s", "general"),
        ("e621", "q", "questionable"),
        ("e621", "e", "explicit"),
        ("e621", ["s"], None),
    ],
)
def test_ratings(engine: str, word: Any, rating: str | None) -> None:
    assert only(BY_ENGINE[engine], {"rating": word}).rating == rating


@pytest.mark.parametrize(
    ("tags", "rating"),
    [
        (["safe"], "general"),
        (["suggestive"], "sensitive"),
        (["questionable"], "questionable"),
        (["explicit"], "explicit"),
        (["safe", "explicit"], "explicit"),
        (["grimdark"], None),
        ([], None),
    ],
)
def test_a_rating_of_philomena_is_a_tag(tags: list[str], rating: str | None) -> None:
    assert only(BY_ENGINE["philomena"], {"tags": tags}).rating == rating


@engines
def test_null_in_every_field_but_the_id_and_the_tags_is_no_defect(api: Api) -> None:
    kept = {"id", "tags", "tag_string"}
    post = only(api, {name: None for name in api.post if name not in kept})
    assert (post.file_url, post.md5, post.width, post.score) == ("", None, None, None)
    assert post.created_at is None


@engines
@pytest.mark.parametrize(
    "bad",
    [
        {"id": None},
        {"id": "x"},
        {"id": 0},
        {"id": -1},
        {"id": True},
        {"id": 1.5},
        {"id": 10**15},
        {"id": 10**40},
        {"id": float("inf")},
        {"id": float("nan")},
        {"id": [1]},
        {"tags": None, "tag_string": None},
        {"tags": 5, "tag_string": 5},
        {"tags": [5], "tag_string": ["a"]},
        {"tags": {"general": 5}, "tag_string": {}},
        {"tags": {"general": ["\ud800"]}, "tag_string": "\ud800"},
    ],
    ids=str,
)
def test_a_malformed_post_is_left_out_and_counted(api: Api, bad: dict[str, Any]) -> None:
    answer = api.answer(api.post | bad, api.slim(5), None, [], "x")
    with board_that(api, answer) as (board, _), structlog.testing.capture_logs() as logs:
        assert [post.id for post in page(board)] == [5]
    (warning,) = (entry for entry in logs if entry["log_level"] == "warning")
    assert warning["posts"] == 4


@engines
@pytest.mark.parametrize(
    "url", ["http://[", "http://a:99999/", "file:///etc/passwd", "javascript:1", "\ud800", 5, [1]]
)
def test_a_file_that_leads_nowhere_makes_a_malformed_post(api: Api, url: Any) -> None:
    post = api.post | FILES[api.engine](url)
    with board_that(api, api.answer(post, api.slim(5))) as (board, _):
        assert [post.id for post in page(board)] == [5]


@engines
def test_numbers_without_an_end_spoil_their_post_only(api: Api) -> None:
    answer = api.answer(api.slim(7), api.slim(5)).replace('"id": 7', '"id": ' + "9" * 5000)
    with board_that(api, answer) as (board, _):
        assert [post.id for post in page(board)] == [5]


@engines
def test_a_broken_byte_spoils_no_page(api: Api) -> None:
    answer = api.answer(api.slim(7), api.slim(5) | {"source": "@"}).encode()
    with board_that(api, answer.replace(b"@", b"\xff\xfe")) as (board, _):
        assert [post.id for post in page(board)] == [7, 5]


@engines
def test_posts_come_newest_first_and_once_each(api: Api) -> None:
    with board_that(api, api.answer(*map(api.slim, (3, 9, 5, 9)))) as (board, _):
        assert [post.id for post in page(board)] == [9, 5, 3]


# --- What an answer says ----------------------------------------------------------------------


@engines
def test_no_posts_are_no_error(api: Api) -> None:
    with board_that(api, api.answer()) as (board, server):
        assert page(board) == []
        assert list(board.walk(Query(("fox",)))) == []
    assert len(asked_of(server)) == 3, "a tag without posts is made sure of"


def test_an_empty_body_is_how_gelbooru_may_say_so() -> None:
    with board_that(BY_ENGINE["gelbooru"], "") as (board, _):
        assert page(board) == []


@engines
@pytest.mark.parametrize(
    "said",
    [
        "null",
        "7",
        '"nothing that is known"',
        '{"success": false, "reason": "the reason"}',
        '{"success": false, "error": "ArgumentError", "message": "the reason", "backtrace": []}',
        "{}",
        '{"posts": {}, "images": "none", "post": 5}',
        "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body></body></html>",
        '<?xml version="1.0"?><response success="false" reason="the reason"/>',
        "[" * 200_000,
        '{"posts": ' * 50_000,
        b"\xff\xfe\xfd",
        b"\x89PNG\r\n\x1a\n",
        '[{"id"',
        Reply(status=400, body=b'{"error": "bad search"}'),
    ],
    ids=lambda said: str(said)[:40],
)
def test_what_is_no_such_board_is_said_in_one_line(api: Api, said: Any) -> None:
    with board_that(api, said) as (board, server):
        with pytest.raises(BoardError) as caught:
            page(board)
    line = str(caught.value)
    assert server.url in line
    assert "check --board" in line
    assert "\n" not in line
    assert len(line) < 600
    if "success" in str(said) and (api.engine == "gelbooru" or not str(said).startswith("<")):
        assert "the reason" in line


@engines
@pytest.mark.parametrize(
    "said",
    [
        '"Missing authentication. Go to api.example.org for more information"',
        '{"success": false, "reason": "SessionLoader::AuthenticationFailure"}',
        '{"success": false, "reason": "Access Denied"}',
        '<?xml version="1.0"?><error>Missing authentication</error>',
        '{"posts": [], "images": [], "post": [], "message": "Anonymous search is disabled"}',
        '<!DOCTYPE html><title>Hello</title><form><input name=p type="password"></form>',
    ],
)
def test_a_complaint_about_credentials_names_the_settings(api: Api, said: str) -> None:
    for answer in (said, Reply(said.encode(), 401), Reply(said.encode(), 403)):
        with board_that(api, answer) as (board, server):
            with pytest.raises(UsageError) as caught:
                page(board)
            assert len(asked_of(server)) == 1
        assert ("IMAGETAG_BOARD_KEY" in str(caught.value)) == (api.engine != "moebooru")
        if isinstance(answer, str):
            assert re.search("(?i)authentication|access|log in|anonymous", str(caught.value))


@engines
@pytest.mark.parametrize(
    "said",
    [
        '"User throttled"',
        '{"success": false, "message": "Site under maintenance"}',
        '{"posts": [], "images": [], "post": [], "message": "Search is overloaded"}',
        '[{"message": "too many requests"}]',
        "<error>The search is temporarily unavailable</error>",
        "<html><title>Down for maintenance</title><body>We are back soon</body></html>",
        "Rate limit of your API key is reached",
    ],
)
def test_a_board_that_says_it_is_busy_may_be_asked_later(api: Api, said: str) -> None:
    for answer in (said, Reply(said.encode(), 403)):
        with board_that(api, answer) as (board, server):
            with pytest.raises(TransientError, match="cannot be listed") as caught:
                page(board)
            assert not isinstance(caught.value, BoardError)
            assert len(asked_of(server)) == 1


@engines
@pytest.mark.parametrize(
    "said",
    [
        '{"success": false, "message": "You cannot search for more than 2 tags at a time"}',
        '"Too deep! Pull it back some."',
        '{"success": false, "error": "PostQuery::TagLimitError"}',
    ],
)
def test_a_search_that_is_refused_is_told_in_the_boards_words(api: Api, said: str) -> None:
    words = re.search(r"more than 2 tags|Too deep|TagLimit", said)
    assert words is not None
    for answer in (said, Reply(said.encode(), 410)):
        with board_that(api, answer) as (board, _):
            with pytest.raises(UsageError, match=words[0]):
                page(board)


@engines
@pytest.mark.parametrize(
    "said", ["You have been banned.", "<html><title>You have been banned.</title></html>"]
)
def test_what_a_board_says_is_told_where_nobody_knows_what_it_means(api: Api, said: str) -> None:
    with board_that(api, said) as (board, _):
        with pytest.raises(BoardError, match=r"You have been banned\."):
            page(board)


@pytest.mark.parametrize("api", [api for api in APIS if api.engine != "gelbooru"], ids=str)
def test_an_empty_body_is_no_answer_elsewhere(api: Api) -> None:
    with board_that(api, "") as (board, _), pytest.raises(BoardError, match="not JSON"):
        page(board)


@engines
def test_a_gigantic_answer_is_not_read(api: Api) -> None:
    with board_that(api, Reply(b"[", length=10**9)) as (board, _):
        with pytest.raises(BoardError, match=r"more than \d+ bytes"):
            page(board)


@engines
def test_a_board_that_is_down_for_now_may_be_asked_later(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetag.web.client._ATTEMPTS", 1)
    with board_that(api, Reply(status=503)) as (board, _):
        with pytest.raises(TransientError, match="cannot be listed") as caught:
            page(board)
    assert not isinstance(caught.value, BoardError)


def test_a_throttled_user_may_ask_later() -> None:
    with board_that(BY_ENGINE["danbooru"], Reply(status=421)) as (board, _):
        with pytest.raises(TransientError, match="cannot be listed") as caught:
            page(board)
    assert not isinstance(caught.value, BoardError)


@engines
def test_a_private_board_is_refused_with_the_option_that_allows_it(api: Api) -> None:
    with board_that(api, api.answer()) as (_, server):
        board = open_board(f"{api.engine}+{server.url}", Client(rate=1000))
        with pytest.raises(UsageError, match="--allow-private-hosts"):
            page(board)
    assert asked_of(server) == []


# --- What is asked ----------------------------------------------------------------------------

NINE = {"below": 9, "limit": 5000}
ANIME = Query(("re:zero", "fox"), ("tree",), ("general", "sensitive"))
NEWEST = {"sf": "id", "sd": "desc", "filter_id": "2"}
DAPI = {"page": "dapi", "s": "post", "q": "index", "json": "1", "limit": "100"}


@pytest.mark.parametrize(
    ("engine", "query", "bounds", "asked"),
    [
        ("gelbooru", Query(), {}, DAPI | {"tags": ""}),
        (
            "gelbooru",
            ANIME,
            NINE,
            DAPI
            | {
                "tags": "re:zero fox -tree -rating:questionable -rating:explicit id:<9",
            },
        ),
        ("danbooru", Query(), {}, {"limit": "200", "tags": ""}),
        (
            "danbooru",
            Query(("re:zero",), ("tree",), ("general", "sensitive")),
            NINE,
            {"limit": "200", "page": "b9", "tags": "re:zero -tree rating:g,s"},
        ),
        ("moebooru", Query(), {}, {"limit": "1000", "tags": ""}),
        (
            "moebooru",
            ANIME,
            NINE,
            {"limit": "1000", "tags": "re:zero fox -tree rating:s id:<9"},
        ),
        (
            "moebooru",
            Query(("fox",), (), ("general", "questionable")),
            {"below": 9},
            {"limit": "1000", "tags": "fox -rating:e id:<9"},
        ),
        (
            "moebooru",
            Query(("fox",), (), ("general", "questionable", "explicit")),
            {"below": 3},
            {"limit": "1000", "tags": "fox id:<3"},
        ),
        ("moebooru", Query(tuple("abcdefgh")), {}, {"limit": "1000", "tags": "a b c d e f"}),
        ("e621", Query(), {}, {"limit": "320", "tags": ""}),
        (
            "e621",
            ANIME,
            NINE,
            {
                "limit": "320",
                "page": "b9",
                "tags": "re:zero fox -tree -rating:q -rating:e",
            },
        ),
        (
            "philomena",
            Query(),
            {},
            {"q": "*", "per_page": "50"} | NEWEST,
        ),
        (
            "philomena",
            Query(("Long_hair", "re:zero"), ("tree",), ("general", "sensitive")),
            NINE,
            {
                "q": r"long hair, re\:zero, -tree, -questionable, -explicit, id.lt:9",
                "per_page": "50",
            }
            | NEWEST,
        ),
        (
            "philomena",
            Query((r'-a(b),c*d?e~1"f"&&g||h!^2\i',)),
            {"limit": 7},
            {
                "q": r"\-a\(b\)\,c\*d\?e\~1\"f\"\&\&g\|\|h\!\^2\\i",
                "per_page": "7",
            }
            | NEWEST,
        ),
    ],
    ids=str,
)
def test_queries_as_the_engine_wants_them(
    engine: str, query: Query, bounds: dict[str, int], asked: dict[str, str]
) -> None:
    api = BY_ENGINE[engine]
    with board_that(api, api.answer()) as (board, server):
        board.page(
            query,
            below=bounds.get("below"),
            limit=bounds.get("limit", 5000),
        )
    assert asked_of(server)[0] == asked


def tags_asked(server: Server) -> list[str]:
    return [query["tags"] for query in asked_of(server)]


def test_danbooru_is_asked_for_two_tags_by_who_has_no_account() -> None:
    api = BY_ENGINE["danbooru"]
    query = Query(("rating:g", "a", "score:>5", "b", "c", "width:>5"), ("d",))
    with board_that(api, api.answer()) as (board, server):
        page(board, query)
        page(board, Query(("a",), ("b", "c")))
    assert tags_asked(server) == ["rating:g a score:>5 b width:>5", "a -b"]


def test_an_account_of_danbooru_may_be_worth_no_more() -> None:
    def answer(request: Request) -> Any:
        if len(request.query["tags"].split()) <= 2:
            return api.answer()
        return Reply(
            status=422,
            body=b'{"success":false,"error":"PostQuery::TagLimitError","message":'
            b'"You cannot search for more than 2 tags at a time.","backtrace":[]}',
        )

    api = BY_ENGINE["danbooru"]
    with board_that(api, answer, LOGIN) as (board, server):
        page(board, Query(("a", "b", "c")))
        page(board, Query(("a", "b", "d")))
    assert tags_asked(server) == ["a b c", "a b", "a b"]


@pytest.mark.parametrize(
    ("spec", "number"),
    [
        ("derpibooru", "56027"),
        ("ponybooru", "3"),
        ("furbooru", "2"),
        ("philomena+https://board.example", "2"),
    ],
)
def test_the_filter_of_a_philomena_hides_nothing(spec: str, number: str) -> None:
    asked: list[dict[str, str]] = []

    class Spy(Canned):
        def get(
            self, url: str, params: Any = None, *, max_bytes: int, opt_out: bool = False
        ) -> Answer:
            asked.append(params)
            return super().get(url, params, max_bytes=max_bytes)

    page(open_board(spec, Spy(b'{"images": []}')))
    assert asked[0]["filter_id"] == number


# --- Credentials ------------------------------------------------------------------------------

NAMES = {
    "gelbooru": {"user_id": LOGIN.user, "api_key": LOGIN.key},
    "danbooru": {"login": LOGIN.user, "api_key": LOGIN.key},
    "moebooru": {},
    "e621": {"login": LOGIN.user, "api_key": LOGIN.key},
    "philomena": {"key": LOGIN.key},
}


@engines
def test_credentials_are_sent_as_the_engine_wants_them(api: Api) -> None:
    with board_that(api, api.answer(), LOGIN) as (board, server):
        page(board)
    asked = asked_of(server)[0]
    assert {k: v for k, v in asked.items() if v in (LOGIN.user, LOGIN.key)} == NAMES[api.engine]


@engines
@pytest.mark.parametrize("status", [404, 405, 410])
def test_another_kind_of_site_is_a_wrong_setting(api: Api, status: int) -> None:
    with board_that(api, Reply(status=status)) as (board, server):
        with pytest.raises(UsageError, match="check --board") as caught:
            page(board)
        assert server.url in str(caught.value)


@engines
def test_a_board_that_answered_before_is_no_wrong_setting(api: Api) -> None:
    answers = iter([api.answer(), Reply(status=404)])
    with board_that(api, lambda _: next(answers)) as (board, _):
        page(board)
        with pytest.raises(BoardError, match="check --board"):
            page(board)


@engines
@pytest.mark.parametrize("status", [401, 403, 404, 400, 503])
def test_no_error_tells_credentials(api: Api, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetag.web.client._ATTEMPTS", 1)
    with board_that(api, Reply(status=status), LOGIN) as (board, _):
        with pytest.raises(
            TransientError if status not in (401, 403, 404) else UsageError
        ) as caught:
            page(board)
    text = "".join(traceback.format_exception(caught.value)) + repr(board.login)
    assert LOGIN.key not in text
    assert str(status) in str(caught.value)


@engines
def test_a_board_that_repeats_the_key_is_not_quoted_with_it(api: Api) -> None:
    said = json.dumps({"success": False, "reason": f"bad\nkey {LOGIN.key}"})
    with board_that(api, said, LOGIN) as (board, _), pytest.raises(BoardError) as caught:
        page(board)
    assert LOGIN.key not in str(caught.value)
    assert "bad key ..." in str(caught.value)


@engines
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_says_what_may_help(api: Api, status: int) -> None:
    with board_that(api, Reply(status=status)) as (board, _):
        with pytest.raises(UsageError) as caught:
            page(board)
    line = str(caught.value)
    assert f"status {status}" in line
    assert ("--board-user" in line) == (api.engine != "moebooru")
    with board_that(api, Reply(status=status), LOGIN) as (board, _):
        with pytest.raises(UsageError) as caught:
            page(board)
    assert ("check --board-user" in str(caught.value)) == (api.engine != "moebooru")


# --- Walking ----------------------------------------------------------------------------------


class Shelf:
    """A board's posts, which may come and go; it finds them by their ids only."""

    def __init__(self, api: Api, ids: range) -> None:
        self.api, self.ids = api, set(ids)
        self.broken: set[int] = set()

    def __call__(self, request: Request) -> str:
        size = min(int(request.query[self.api.size]), self.api.most)
        found = sorted(self.api.find(request.query, self.ids), reverse=True)[:size]
        return self.api.answer(*(self.post(post_id) for post_id in found))

    def post(self, post_id: int) -> dict[str, Any]:
        broken = {"tags": None, "tag_string": None} if post_id in self.broken else {}
        return self.api.slim(post_id) | broken


@engines
def test_walks_to_the_end_a_page_at_a_time_as_it_is_wanted(api: Api) -> None:
    with board_that(api, Shelf(api, range(1, 40))) as (board, server):
        walk = board.walk(Query(("a",)), limit=7)
        assert [next(walk).id for _ in range(7)] == list(range(39, 32, -1))
        assert len(asked_of(server)) == 1
        assert [post.id for post in walk] == list(range(32, 0, -1))
        assert len(asked_of(server)) == 8  # the end twice
        found = [post.id for post in board.walk(Query(), above=10, below=20, limit=4)]
    assert found == list(range(19, 10, -1))


@engines
def test_posts_that_come_and_go_make_no_gap_and_no_repeat(api: Api) -> None:
    shelf = Shelf(api, range(100, 200))
    with board_that(api, shelf) as (board, _):
        seen = []
        for number, post in enumerate(board.walk(Query(("a",)), limit=7)):
            seen.append(post.id)
            shelf.ids.add(200 + number)  # newer ones push the rest down
            if number % 3 == 0:  # and some go, seen or not
                shelf.ids -= {post.id, 100 + number}
    assert len(seen) == len(set(seen))
    assert {i for i in shelf.ids if i < 200} <= set(seen)


@engines
@pytest.mark.parametrize("broken", [{10}, {39}, {1}, set(range(8, 15)), {1, 39, 20, 21}])
def test_posts_that_cannot_be_read_do_not_end_the_walk(api: Api, broken: set[int]) -> None:
    shelf = Shelf(api, range(1, 40))
    shelf.broken = broken
    for size in (1, 7):
        with board_that(api, shelf) as (board, _):
            found = [post.id for post in board.walk(Query(), limit=size)]
        assert found == sorted(shelf.ids - broken, reverse=True)


@engines
def test_nothing_but_posts_that_cannot_be_read_is_an_error(api: Api) -> None:
    shelf = Shelf(api, range(1, 400))
    shelf.broken = set(range(1, 300))
    with board_that(api, shelf) as (board, server):
        found = []
        with pytest.raises(BoardError, match="fields of this engine"):
            found += [post.id for post in board.walk(Query(), limit=4)]
    assert len(asked_of(server)) < 40


@engines
def test_an_empty_page_after_a_full_one_is_asked_for_again(api: Api) -> None:
    shelf = Shelf(api, range(1, 31))
    asked = []

    def overloaded(request: Request) -> str:
        asked.append(request)
        return api.answer() if len(asked) == 2 else shelf(request)

    with board_that(api, overloaded) as (board, server):
        found = [post.id for post in board.walk(Query(), limit=10)]
    assert found == list(range(30, 0, -1))
    # A full one, the empty one, the rest, and the end, of which this board has to be asked often.
    assert len(asked_of(server)) == 8


@engines
@pytest.mark.parametrize(("wanted", "empty"), [(10, 3), (4, 2)])
def test_a_board_may_give_as_many_at_once_as_it_likes(api: Api, wanted: int, empty: int) -> None:
    shelf = Shelf(api, range(1, 31))
    told = []

    def overloaded(request: Request) -> str:
        told.append(request)
        request.query[api.size] = "6"
        return api.answer() if len(told) == empty else shelf(request)

    with board_that(api, overloaded) as (board, _):
        assert len(list(board.walk(Query(), limit=wanted))) == 30


@engines
def test_a_board_that_ignores_bounds_is_told_apart(api: Api) -> None:
    with board_that(api, api.answer(api.slim(9))) as (board, server):
        with pytest.raises(BoardError, match="ignores id:<N in searches"):
            list(board.walk(Query()))
    assert len(asked_of(server)) == 2


@engines
def test_many_posts_are_walked_with_few_in_memory(api: Api) -> None:
    count = 100_000 if api.engine == "moebooru" else 3000

    def newest(request: Request) -> str:
        ids = set(range(max(1, oldest - 1100), oldest)) | {count}
        size = int(request.query[api.size])
        found = sorted(api.find(request.query, ids), reverse=True)[:size]
        return api.answer(*map(api.slim, found))

    def alive() -> int:
        return sum(isinstance(thing, Post) for thing in gc.get_objects())

    oldest, before = count + 1, alive()  # what other tests of this process have left
    with board_that(api, newest) as (board, _):
        for number, post in enumerate(board.walk(Query())):
            oldest = post.id
            assert post.id == count - number
            if number % (count // 5) == 0:
                assert alive() - before <= 2 * api.most + 100
    assert oldest == 1


# --- Whatever comes ---------------------------------------------------------------------------


class Canned(Client):
    """A client that gets the same answer from everywhere, without a server."""

    def __init__(self, content: bytes) -> None:
        super().__init__(rate=1)
        self.content = content

    def get(self, url: str, params: Any = None, *, max_bytes: int, opt_out: bool = False) -> Answer:
        return Answer(url, self.content)


def says(api: Api, content: bytes) -> None:
    """The board gives sound posts, or says what is wrong."""
    board = open_board(f"{api.engine}+https://board.example", Canned(content))
    with contextlib.suppress(BoardError, TransientError, UsageError):
        for post in page(board):
            check(post)


odd = values | st.sampled_from(
    [
        *("http://[", "\ud800", "//a", "&#xD800; &lt", "a\u3000b\x1fc", "9" * 5000, "-5", "5"),
        *(10**400, -1, 5, True, ["a b", "\t"], ["safe", "\ud800"], {"s": 5}, {"total": 5}),
        *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "20231105", 10**12),
        *("Sat Oct 99 02:02:12 -0500 2011", "Sat Xxx 22 02:02:12 -9999 2011", "ftp://a/b"),
        *({"url": "/a.png", "md5": "A" * 32, "width": "5"}, {"full": "//a/b"}, {"general": ["a"]}),
    ]
)


@engines
@given(content=st.binary() | values.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=60)
def test_any_bytes_give_posts_or_a_board_error(api: Api, content: bytes) -> None:
    says(api, content)


@engines
@given(data=st.data())
@settings(max_examples=120)
def test_any_fields_give_posts_or_a_board_error(api: Api, data: st.DataObject) -> None:
    names = st.sampled_from(sorted(api.post))
    changes = data.draw(st.lists(st.dictionaries(names, odd, max_size=4), min_size=1, max_size=3))
    says(api, api.answer(*(api.post | change for change in changes)).encode())


@engines
@given(data=st.data())
@settings(max_examples=60)
def test_a_damaged_answer_gives_posts_or_a_board_error(api: Api, data: st.DataObject) -> None:
    says(api, data.draw(damaged(api.answer(api.post, api.slim(5)))))
