"""Boards: what every answer of a Gelbooru 0.2 board means, however odd or hostile it is."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
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
from imagetag.web.client import Client
from imagetag.web.hosts import HttpError
from tests.boards import check, damaged, values
from tests.cost import processor_seconds
from tests.scripted import Reply, Request, Server, serving

Content = bytes | str | Reply
Answers = dict[str, Content | Callable[[Request], Content]]

# The API's answers as they are on boards of this engine, shortened only in number.
POST: dict[str, Any] = {
    "preview_url": "https://board.example/thumbnails/5060/thumbnail_e1.jpg",
    "sample_url": "https://board.example/samples/5060/sample_e1.jpg",
    "file_url": "https://img.board.example//images/5060/e1b7e7d1e552af0d11aa22bb33cc44dd55ee66ff.jpg",
    "directory": 5060,
    "hash": "30232dd98b426c1b2bb7e7d1e552af0d",
    "width": 1124,
    "height": 1754,
    "id": 5060123,
    "image": "e1b7e7d1e552af0d11aa22bb33cc44dd55ee66ff.jpg",
    "change": 1717171717,
    "owner": "danbooru",
    "parent_id": 5060100,
    "rating": "safe",
    "sample": True,
    "sample_height": 1326,
    "sample_width": 850,
    "score": None,
    "tags": "1girl &gt;_&lt; fate/stay_night it&#039;s re:zero",
    "source": "https://example.org/1",
    "status": "active",
    "has_notes": False,
    "comment_count": 0,
}
TAGS = ("1girl", ">_<", "fate/stay_night", "it's", "re:zero")
POSTED = datetime(2024, 5, 31, 16, 8, 37, tzinfo=UTC)
XML = """<?xml version="1.0" encoding="UTF-8"?>
<posts count="1" offset="0"><post height="1754" score="" \
file_url="https://img.board.example//images/5060/e1b7e7d1e552af0d11aa22bb33cc44dd55ee66ff.jpg" \
parent_id="5060100" sample_url="https://board.example/samples/5060/sample_e1.jpg" \
sample_width="850" sample_height="1326" \
preview_url="https://board.example/thumbnails/5060/thumbnail_e1.jpg" rating="s" \
tags=" 1girl &amp;gt;_&amp;lt; fate/stay_night it&amp;#039;s re:zero " id="5060123" width="1124" \
change="1717171717" md5="30232dd98b426c1b2bb7e7d1e552af0d" creator_id="6498" has_children="false" \
created_at="Fri May 31 16:08:37 +0000 2024" status="active" source="https://example.org/1" \
has_notes="false" has_comments="false" preview_width="96" preview_height="150"/></posts>"""
NO_XML = '<?xml version="1.0" encoding="UTF-8"?><posts count="0" offset="0"/>'
CLOSED = (
    '<?xml version="1.0" encoding="UTF-8"?><response success="false" reason="Search error: API '
    'offline. Feel free to browse the site the old fashioned way for now."/>'
)
NO_KEY = '"Missing authentication. Go to the account options for more information"'
LIST = """<!DOCTYPE html><html><head><title>board</title></head><body><div id="header"></div>
<div id="content"><div id="post-list"><div class="sidebar"><h5>Tags</h5><ul id="tag-sidebar">
<li class="tag-type-general tag"><a href="index.php?page=post&amp;s=list&amp;tags=1girl">1girl</a>
<span class="tag-count">1</span></ul></div><div class="content"><div class="image-list">
<span id="s5060123" class="thumb"><a id="p5060123" \
href="index.php?page=post&amp;s=view&amp;id=5060123" ><img \
src="https://board.example/thumbnails/5060/thumbnail_e1.jpg?5060123" \
title=" 1girl &gt;_&lt; fate/stay_night it&#039;s re:zero score:0 rating:Safe" alt="post" \
class="preview" border="0"/></a></span>
<span class="thumb" id="s5060100"><a id="p5060100" \
href="index.php?page=post&amp;s=view&amp;id=5060100"><img src="x.jpg" alt="1girl rating:Explicit"/>\
</a></span></div><div id="paginator"><b>1</b></div></div></div></div></body></html>"""
NO_LIST = (
    '<html><body><div id="post-list"><h1>Nobody here but us chickens!</h1></div></body></html>'
)
VIEW = """<!DOCTYPE html><html><body><div id="content"><div id="post-view"><div class="sidebar">
<ul id="tag-sidebar"><li class="tag-type-general tag">
<a href="index.php?page=post&amp;s=list&amp;tags=1girl">1girl</a></li></ul>
<div id="stats"><h5>Statistics</h5><ul><li>Id: 5060123</li><li>Posted: 2024-05-31 16:08:37<br/> by
<a href="index.php?page=account&amp;s=profile&amp;uname=danbooru">danbooru</a></li>
<li>Size: 1124x1754</li><li>Source: <a href="https://example.org/1">example.org/1</a></li>
<li>Rating: Safe</li><li>Score: <span id="psc5060123">0</span></li></ul></div>
<div><h5>Options</h5><ul><li><a href="#" onclick="return false;">Edit</a></li>
<li><a href="//img.board.example//images/5060/e1b7.jpg?5060123" style="font-weight: bold;">\
Original image</a></li></ul></div></div><div class="content" id="right-col">
<div class="status-notice">This post belongs to a
<a href="index.php?page=post&amp;s=list&amp;tags=parent%3A5060100">parent post</a>.</div>
<img alt="1girl" src="https://board.example//samples/5060/sample_e1.jpg?5060123" id="image" \
width="850" height="1326"/></div></div></div></body></html>"""
API_PAGE = '<html><body><div id="content"><h1>API</h1><p>Documentation</p></div></body></html>'
LOGIN_PAGE = "<html><title>Hello</title><form><input type='password' name='p'></form></html>"
CHALLENGE = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body></body></html>"


def as_json(*posts: Any) -> str:
    return json.dumps(posts)


@contextlib.contextmanager
def board_that(**answers: Content | Callable[[Request], Content]) -> Iterator[tuple[Board, Server]]:
    """A board that answers `json`, `xml`, `list` and `view` as said, and 404 to the rest."""

    def answer(request: Request) -> Reply:
        said = answers.get(kind_of(request), Reply(status=404))
        content = said(request) if callable(said) else said
        reply = content if isinstance(content, Reply) else Reply(as_bytes(content))
        # A connection that is kept costs the client 40 ms an answer: head and body are two writes.
        return dataclasses.replace(reply, headers={"Connection": "close"} | reply.headers)

    with serving(answer) as server:
        yield board_at(server.url), server


def as_bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


def board_at(url: str) -> Board:
    return open_board(f"gelbooru02+{url}", Client(rate=10_000, allow_private_hosts=True))


def kind_of(request: Request) -> str:
    if request.query.get("page") == "dapi":
        return "json" if request.query.get("json") == "1" else "xml"
    return request.query.get("s", "")


def asked(server: Server) -> list[Request]:
    """What the board was asked, but for what else a client wants to know of a host."""
    return [request for request in server.requests if request.path != "/robots.txt"]


def kinds(server: Server) -> list[str]:
    return [kind_of(request) for request in asked(server)]


def page(board: Board, *tags: str, limit: int = 100, dated: bool = False) -> list[Post]:
    return board.page(Query(tags, dated=dated), below=None, limit=limit)


def only(**answers: Content) -> Post:
    """The one post that a board lists that answers so."""
    with board_that(**answers) as (board, _):
        (post,) = page(board)
    return post


# --- What a post says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        {"json": as_json(POST)},
        {"json": json.dumps({"@attributes": {"limit": 100, "count": 1}, "post": [POST]})},
        {"xml": XML},
        {"json": "\n\ufeff\n" + as_json(POST)},
        {"xml": "\r\n\r\n" + XML},
        {"xml": "\ufeff" + XML},
    ],
    ids=["json", "json with attributes", "xml", "blank json", "blank xml", "xml with a BOM"],
)
def test_every_kind_of_answer_tells_the_same(answers: dict[str, Content]) -> None:
    with board_that(**answers) as (board, server):
        (post,) = page(board)
    assert post == Post(
        id=5060123,
        board=urlsplit(server.url).netloc,
        page_url=f"{server.url}/index.php?page=post&s=view&id=5060123",
        file_url=POST["file_url"],
        md5="30232dd98b426c1b2bb7e7d1e552af0d",
        width=1124,
        height=1754,
        tags=TAGS,
        rating="general",
        parent_id=5060100,
        created_at=POSTED if "xml" in answers else None,
    )
    assert post.group == f"{post.board}:5060100"
    assert board.complete(post) is post


def test_pages_tell_what_the_api_would() -> None:
    with board_that(list=LIST, view=VIEW) as (board, server):
        listed, other = page(board)
        post = board.complete(listed)
    assert (listed.id, listed.tags, listed.rating, listed.file_url) == (
        5060123,
        TAGS,
        "general",
        None,
    )
    assert (other.id, other.tags, other.rating) == (5060100, ("1girl",), "explicit")
    assert post.file_url == "http://img.board.example//images/5060/e1b7.jpg?5060123"
    assert (post.width, post.height, post.rating) == (1124, 1754, "general")
    assert (post.parent_id, post.group) == (5060100, f"{post.board}:5060100")
    assert (listed.score, post.score, listed.created_at, post.created_at) == (0, 0, None, POSTED)
    assert post.page_url == f"{server.url}/index.php?page=post&s=view&id=5060123"
    assert asked(server)[-1].query == {"page": "post", "s": "view", "id": "5060123"}


@pytest.mark.parametrize(
    ("word", "rating"),
    [
        ("s", "general"),
        ("safe", "general"),
        ("Safe", "general"),
        ("g", "general"),
        ("general", "general"),
        ("sensitive", "sensitive"),
        ("q", "questionable"),
        ("questionable", "questionable"),
        ("e", "explicit"),
        ("explicit", "explicit"),
        ("x", None),
        ("", None),
        (None, None),
        (["s"], None),
    ],
)
def test_ratings(word: Any, rating: str | None) -> None:
    assert only(json=as_json(POST | {"rating": word})).rating == rating


@pytest.mark.parametrize(
    ("fields", "md5"),
    [
        ({"hash": "30232DD98B426C1B2BB7E7D1E552AF0D"}, POST["hash"]),
        ({"hash": None, "md5": "0" * 32}, "0" * 32),
        ({"hash": "e1b7e7d1e552af0d11aa22bb33cc44dd55ee66ff"}, None),
        ({"hash": "../../../../etc/passwd"}, None),
        ({"hash": ""}, None),
        ({"hash": 5}, None),
    ],
)
def test_sums(fields: dict[str, Any], md5: str | None) -> None:
    assert only(json=as_json(POST | fields)).md5 == md5


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"file_url": "https://a.example/i/1.png"}, "https://a.example/i/1.png"),
        ({"file_url": "//a.example/i/1.png"}, "http://a.example/i/1.png"),
        ({"file_url": "/images/1.png"}, "ROOT/images/1.png"),
        ({"file_url": "images/1.png"}, "ROOT/images/1.png"),
        ({"file_url": ""}, "ROOT/images/5060/" + POST["image"]),
        ({"file_url": None, "directory": "1/ab"}, "ROOT/images/1/ab/" + POST["image"]),
        ({"file_url": "", "image": ""}, ""),  # deleted
        ({"file_url": None, "image": None}, ""),
    ],
)
def test_urls_of_files(fields: dict[str, Any], url: str) -> None:
    with board_that(json=as_json(POST | fields)) as (board, server):
        (post,) = page(board)
        assert post.file_url == url.replace("ROOT", server.url)
        assert board.complete(post) is post, "asked a page that can tell no more"


def test_a_board_in_a_folder_has_its_files_there() -> None:
    with board_that(json=as_json(POST | {"file_url": ""})) as (_, server):
        (post,) = page(board_at(server.url + "/board/"))
    assert asked(server)[0].path == "/board/index.php"
    assert post.file_url == f"{server.url}/board/images/5060/{POST['image']}"
    assert post.board == urlsplit(server.url).netloc + "/board"


@pytest.mark.parametrize("parent", [0, "0", "", None, -3, "x", "²", 10**30])
def test_a_post_without_parent_is_its_own_group(parent: Any) -> None:
    post = only(json=as_json(POST | {"parent_id": parent}))
    assert post.group == f"{post.board}:5060123"


def test_a_deleted_post_page_leads_to_a_post_without_file() -> None:
    gone = Reply(status=302, headers={"Location": "index.php?page=post&s=list&tags=all"})
    with board_that(list=LIST, view=gone) as (board, server):
        listed = page(board)[0]
        assert board.complete(listed) == dataclasses.replace(listed, file_url="")
        assert kinds(server)[-2:] == ["view", "list"]
        assert kinds(server).count("view") == 1


def test_a_page_without_the_link_has_the_picture_it_shows() -> None:
    view = VIEW.replace("Original image", "Resize").replace("Size: 1124x1754", "")
    with board_that(list=LIST, view=view) as (board, _):
        post = board.complete(page(board)[0])
    assert post.file_url == "https://board.example//samples/5060/sample_e1.jpg?5060123"
    assert (post.width, post.height) == (None, None)


@pytest.mark.parametrize("link", ["http://[", "javascript:alert(1)", "file:///etc/passwd", "\0"])
def test_links_of_a_page_that_lead_nowhere_are_no_defect(link: str) -> None:
    view = VIEW.replace("//img.board.example//images/5060/e1b7.jpg?5060123", link)
    with board_that(list=LIST.replace("index.php", link, 2), view=view) as (board, _):
        post = board.complete(page(board)[-1])
        if post.file_url:
            with pytest.raises(HttpError):
                board.client.get(post.file_url, max_bytes=1000)


# --- Which way a board is read ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "by", "again"),
    [
        ({"json": as_json(POST), "xml": XML, "list": LIST}, "json", []),
        ({"json": CLOSED, "xml": XML, "list": LIST}, "xml", ["json"] * 2),
        ({"json": "", "xml": XML, "list": LIST}, "xml", ["json"] * 2),
        ({"json": "[]", "xml": XML, "list": LIST}, "xml", ["json"] * 2),
        ({"json": CLOSED, "xml": CLOSED, "list": LIST}, "html", ["json"] * 2 + ["xml"] * 2),
        ({"json": "", "xml": CLOSED, "list": LIST}, "html", ["json"] * 2 + ["xml"] * 2),
        # What refuses is asked once more.
        (
            {"json": NO_KEY, "xml": "<error>Missing authentication</error>", "list": LIST},
            "html",
            ["json", "xml"],
        ),
        (
            {"json": '{"success": false}', "xml": CHALLENGE, "list": LIST},
            "html",
            ["json"] * 2 + ["xml"] * 2,
        ),
        (
            {"json": Reply(status=401), "xml": Reply(status=403), "list": LIST},
            "html",
            ["json", "xml"],
        ),
        ({"json": "[]", "xml": NO_XML, "list": LIST}, "html", ["json"] * 2 + ["xml"] * 2),
        ({"list": LIST}, "html", ["json", "xml"]),
    ],
)
def test_the_first_way_that_shows_a_post_is_kept_and_logged(
    answers: dict[str, Content], by: str, again: list[str]
) -> None:
    order = ["json", "xml", "list"]
    way = "list" if by == "html" else by
    with board_that(**answers) as (board, server), structlog.testing.capture_logs() as logs:
        assert page(board, "1girl")[0].id == 5060123
        # What lists nothing, or says that it is closed, is asked again, once and for all.
        first = [*order[: order.index(way) + 1], *again]
        assert kinds(server) == first
        page(board, "1girl")
        assert kinds(server) == [*first, way]
    assert [entry for entry in logs if entry["event"] == "reading the board"] == [
        {
            "event": "reading the board",
            "log_level": "info",
            "board": board.site.name,
            "by": by,
        }
    ]


def in_turn(*contents: Content | Callable[[Request], Content]) -> Callable[[Request], Content]:
    """Give one answer after another, and the last one from then on."""
    left = list(contents)

    def answer(request: Request) -> Content:
        content = left.pop(0) if len(left) > 1 else left[0]
        return content(request) if callable(content) else content

    return answer


def test_a_better_way_that_is_busy_costs_no_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetag.web.client._ATTEMPTS", 1)
    json_ = in_turn(CHALLENGE, Reply(status=503))
    with board_that(json=json_, xml=XML) as (board, server):
        assert page(board)[0].created_at == POSTED
        assert kinds(server) == ["json", "xml", "json"]


def test_two_threads_may_find_two_ways_at_once() -> None:
    def meanwhile(_: Request) -> Content:
        assert page(board)[0].created_at is None, "the other thread was not told by the JSON"
        return XML

    # The answer in the middle is the other thread's.
    json_ = in_turn(CHALLENGE, as_json(POST), CHALLENGE, CHALLENGE, as_json(POST))
    with board_that(json=json_, xml=meanwhile) as (board, server):
        assert page(board)[0].created_at == POSTED
        assert kinds(server) == ["json", "xml", "json", "json", "json"]
        page(board)
        assert kinds(server)[5:] == ["json"], "the way that was found first is kept"


# --- Pages that are not whole, or other ones ---------------------------------------------------

CLOSED_API = {"json": NO_KEY, "xml": "<error>Missing authentication</error>"}
FOUND = ["json", "xml", "list", "json", "xml"]  # how it is found out that only pages are left


def bare(text: str) -> str:
    """A page as of a board that ends none."""
    return text.replace("</html>", "")


def half(text: str) -> str:
    """A page that comes cut short, with the first of its posts."""
    return text[: text.index("rating:Safe")]


@pytest.mark.parametrize("lists", [LIST, bare(LIST)])
@pytest.mark.parametrize("view", [VIEW, bare(VIEW)])
def test_pages_of_a_kind_that_has_no_end_are_whole(lists: str, view: str) -> None:
    doubts = {LIST: [], bare(LIST): ["list"] * 2, VIEW: [], bare(VIEW): ["view"] * 2}
    with board_that(**CLOSED_API, list=lists, view=view) as (board, server):
        post = next(board.walk(Query(("1girl",))))
        assert board.complete(post).file_url
        assert kinds(server) == [*FOUND, *doubts[lists], "view", *doubts[view]]
        # Found out once and for all.
        server.requests.clear()
        assert page(board)[0] == post
        assert board.complete(post).file_url
        assert kinds(server) == ["list", "view"]


def test_what_is_no_list_says_nothing_of_how_lists_end() -> None:
    lists = in_turn(CHALLENGE, bare(LIST))
    with board_that(**CLOSED_API, list=lists) as (board, server):
        with pytest.raises(UsageError, match="refuses us"):
            page(board)
        assert next(board.walk(Query(("1girl",)))).id == 5060123
        assert kinds(server).count("list") == 4


@pytest.mark.parametrize("cuts", [1, 2])
@pytest.mark.parametrize("cut", [half(LIST), LIST[:60], bare(LIST)], ids=["half", "head", "late"])
def test_a_list_that_comes_cut_short_is_asked_for_again(cut: str, cuts: int) -> None:
    lists = in_turn(LIST, *[cut] * cuts, LIST)
    with board_that(**CLOSED_API, list=lists) as (board, server):
        whole = page(board)
        walk = board.walk(Query(("1girl",)))
        assert [next(walk), next(walk)] == whole
        assert kinds(server) == [*FOUND, *["list"] * (cuts + 1)]


@pytest.mark.parametrize("cuts", [1, 2])
@pytest.mark.parametrize("cut", [half(LIST), LIST[:60], bare(LIST)], ids=["half", "head", "late"])
@pytest.mark.parametrize("api", [CLOSED_API, {"json": "[]", "xml": NO_XML}], ids=["closed", "none"])
def test_a_list_that_comes_cut_short_at_first_is_asked_for_again(
    cut: str, cuts: int, api: dict[str, Content]
) -> None:
    with board_that(list=LIST) as (board, _):
        whole = [post.tags for post in page(board)]
    with board_that(**api, list=in_turn(*[cut] * cuts, LIST)) as (board, server):
        walk = board.walk(Query(("1girl",)))
        assert [next(walk).tags, next(walk).tags] == whole
        assert kinds(server).count("list") == cuts + 1


def test_a_list_that_is_always_cut_short_is_asked_for_three_times() -> None:
    with board_that(**CLOSED_API, list=in_turn(LIST, half(LIST))) as (board, server):
        assert page(board)
        with pytest.raises(BoardError, match="a page of the board is cut short"):
            list(board.walk(Query(("1girl",))))
        assert kinds(server) == [*FOUND, *["list"] * 3]


@pytest.mark.parametrize(
    "complaint", ["Please log in", "<error>Please log in</error>", LOGIN_PAGE], ids=str
)
def test_a_refusal_in_the_place_of_a_list_is_no_list_that_is_cut_short(complaint: str) -> None:
    with board_that(**CLOSED_API, list=in_turn(LIST, complaint)) as (board, server):
        assert page(board)
        with pytest.raises(UsageError, match="refuses us"):
            list(board.walk(Query(("1girl",))))
        assert kinds(server) == [*FOUND, "list"]


NO_FILE = VIEW.replace("Original image", "Edit").replace('id="image"', 'id="none"')


@pytest.mark.parametrize("marks", ['id="post-view"', 'id="stats"', 'id="psc5060123"'])
def test_a_whole_page_of_a_post_without_a_file_is_believed_at_once(marks: str) -> None:
    others = [m for m in ('id="post-view"', 'id="stats"', 'id="psc5060123"') if m != marks]
    view = NO_FILE.replace(others[0], "").replace(others[1], "")
    with board_that(**CLOSED_API, list=LIST, view=view) as (board, server):
        assert board.complete(page(board)[0]).file_url == ""
        assert kinds(server) == [*FOUND, "view"]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("cut", [bare(NO_FILE), VIEW[:200], ""], ids=["late", "early", "empty"])
def test_a_page_of_a_post_that_comes_cut_short_is_asked_for_again(cut: str, times: int) -> None:
    view = in_turn(*[cut] * times, VIEW)
    with board_that(**CLOSED_API, list=LIST, view=view) as (board, server):
        assert board.complete(page(board)[0]).file_url
        assert kinds(server) == [*FOUND, "view", *["view"] * times]


@pytest.mark.parametrize("other", [CHALLENGE, LOGIN_PAGE, API_PAGE, LIST, "", "Slow down, please"])
@pytest.mark.parametrize("led", [False, True], ids=["in its place", "redirected"])
def test_another_page_in_the_place_of_a_post_is_no_post_without_a_file(
    other: str, led: bool
) -> None:
    if led and other == LIST:
        other = API_PAGE  # to the list is where a deleted post leads
    away = Reply(status=302, headers={"Location": "/captcha.php?s=captcha"})
    view = in_turn(*[away if led else other] * 3, VIEW)
    with board_that(**CLOSED_API, list=LIST, view=view, captcha=other) as (board, server):
        post = page(board)[0]
        with pytest.raises(BoardError, match=f"id={post.id} is not the page of a post"):
            board.complete(post)
        assert kinds(server).count("view") == 3
        assert board.complete(post).file_url


# --- What the ways say together -----------------------------------------------------------------


def test_no_posts_is_believed_when_every_way_says_so() -> None:
    with board_that(json="", xml=NO_XML, list=NO_LIST) as (board, server):
        assert page(board, "no_such_tag") == []
        assert kinds(server) == ["json", "xml", "list"]
        assert page(board, "no_such_tag") == []


def test_an_empty_body_is_the_end_once_the_way_has_shown_posts() -> None:
    def answer(request: Request) -> Content:
        return "" if "id:<" in request.query["tags"] else as_json(POST)

    with board_that(json=answer, xml=NO_XML, list=NO_LIST) as (board, server):
        assert len(list(board.walk(Query(("1girl",))))) == 1
    assert kinds(server) == ["json"] * 3  # the end twice


@pytest.mark.parametrize(
    "answers",
    [
        {"json": "", "xml": CLOSED, "list": CHALLENGE},
        {"json": CHALLENGE, "xml": CHALLENGE, "list": CHALLENGE},
        {"json": "7", "xml": "<a/>", "list": "<![if"},
        {"json": "[" * 200_000, "xml": "<a>" * 50_000, "list": "<div>" * 50_000},
        {"json": '{"post": ' * 50_000, "xml": "<a " * 100_000, "list": "<a " * 100_000},
        {"json": "[1]", "xml": "<posts><post/></posts>", "list": ""},
        {"json": b"\xff\xfe\xfd", "xml": b"\xff\xfe\xfd", "list": b"\xff\xfe\xfd"},
        {"xml": '<?xml version="1.0" encoding="nonsense"?><posts/>'},
        {"xml": '<?xml version="1.0" encoding="shift_jis"?><posts/>'},
    ],
)
def test_what_is_no_board_is_said_in_one_line(answers: dict[str, Content]) -> None:
    with board_that(**answers) as (board, server):
        with processor_seconds(60), pytest.raises(BoardError) as caught:
            page(board)
    line = str(caught.value)
    assert server.url in line
    assert "check --board" in line
    assert "\n" not in line
    assert len(line) < 800
    assert all(f"{way}: " in line for way in ("json", "xml", "html"))


def test_another_kind_of_site_is_a_wrong_setting() -> None:
    missing = Reply(LOGIN_PAGE.encode(), 404)
    with board_that(json=missing, xml=missing, list=missing) as (board, server):
        with pytest.raises(UsageError, match="check --board") as caught:
            page(board)
        assert server.url in str(caught.value)


def test_a_board_that_talked_nonsense_once_is_asked_every_way_again() -> None:
    well = False

    def answer(_: Request) -> Content:
        return as_json(POST) if well else CHALLENGE

    with board_that(json=answer, xml=CHALLENGE, list=CHALLENGE) as (board, _):
        with pytest.raises(BoardError):
            page(board)
        well = True
        assert len(page(board)) == 1


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE posts [<!ENTITY a "1girl">]>',
        '<!DOCTYPE posts [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        "<!DOCTYPE posts>",
        '<!DOCTYPE posts [<!ENTITY b "'
        + "x" * 1000
        + '"><!ENTITY a "'
        + "&b;" * 1000
        + '"><!ENTITY c "'
        + "&a;" * 1000
        + '">]>',
    ],
)
def test_xml_that_defines_entities_is_refused(doctype: str) -> None:
    bomb = XML.replace("1girl", "&a;" if "ENTITY" in doctype else "1girl")
    bomb = bomb.replace("?>\n", f"?>\n{doctype}")
    assert doctype in bomb
    with board_that(xml=bomb) as (board, _):
        with pytest.raises(BoardError, match="xml: not XML"):
            page(board)


def test_a_gigantic_answer_is_not_read() -> None:
    big = Reply(b"[", length=10**9)
    with board_that(json=big, xml=big, list=Reply(LIST.encode() + b" " * (3 << 20))) as (board, _):
        with pytest.raises(BoardError, match=r"more than \d+ bytes.* more than .* more than"):
            page(board)


@pytest.mark.parametrize(
    "text",
    [
        "<a " * 60_000,
        "<!--" * 60_000,
        '<a b="' * 30_000,
        "<a b=" * 30_000,
        "<a/" * 60_000,
        "<a href=x>" * 20_000,
        "<span class=thumb><a href=x>" * 10_000,
        "<div>" * 30_000,
        "Size: " * 30_000,
        "</a" * 60_000,
    ],
)
def test_a_hostile_page_costs_seconds_not_hours(text: str) -> None:
    with board_that(list=LIST, view="<body>" + text) as (board, _):
        post = page(board)[0]
        with processor_seconds(60), contextlib.suppress(BoardError):
            assert board.complete(post).file_url == ""


@pytest.mark.parametrize("reason", ["http_503", "connection"])
def test_a_board_that_is_down_for_now_is_not_asked_another_way(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetag.web.client._ATTEMPTS", 1)
    down = Reply(status=503) if reason == "http_503" else Reply(b"[", length=5)
    with board_that(json=down, xml=XML, list=LIST) as (board, server):
        with pytest.raises(TransientError, match="cannot be listed") as caught:
            page(board)
    assert not isinstance(caught.value, BoardError)
    assert kinds(server) == ["json"]


def test_a_board_that_refuses_every_way_wants_credentials() -> None:
    answers = {"json": Reply(status=401), "xml": Reply(status=403), "list": Reply(status=403)}
    with board_that(**answers) as (board, _):
        with pytest.raises(UsageError, match=r"status 401.*--board-user"):
            page(board)


@pytest.mark.parametrize(
    "answers",
    [
        {"json": NO_KEY, "xml": "<error>Missing authentication</error>", "list": API_PAGE},
        {"json": NO_KEY, "xml": "<error>Missing authentication</error>"},  # a 404 for the pages
        {"json": NO_KEY, "xml": CHALLENGE, "list": CHALLENGE},
        {"json": "", "xml": "<posts><error>Missing authentication</error></posts>"},
        {"json": Reply(NO_KEY.encode(), 403), "xml": CHALLENGE},
        {"json": CHALLENGE, "xml": CHALLENGE, "list": LOGIN_PAGE},
    ],
)
def test_one_refusal_is_outvoted_by_no_way_that_leads_nowhere(answers: dict[str, Content]) -> None:
    with board_that(**answers) as (board, server):
        with pytest.raises(UsageError, match="it may want --board-user and --board-key"):
            list(board.walk(Query(("1girl",))))
        assert kinds(server) == ["json", "xml", "list"]
        client = Client(rate=10_000, allow_private_hosts=True)
        board = open_board(f"gelbooru02+{server.url}", client, Login("6498", "wr0ng"))
        with pytest.raises(UsageError, match="refuses this user and key"):
            page(board)


@pytest.mark.parametrize("said", ['"User throttled"', '{"success": false, "reason": "overloaded"}'])
def test_a_way_that_is_busy_is_not_outvoted_by_an_empty_one(said: str) -> None:
    for answers in ({"json": said, "list": NO_LIST}, {"json": said}, {"json": NO_KEY, "xml": said}):
        with board_that(**answers) as (board, _):
            with pytest.raises(TransientError, match="cannot be listed") as caught:
                page(board)
        assert not isinstance(caught.value, BoardError)
    with board_that(json=said, list=LIST) as (board, _):
        assert page(board)


def test_a_refusal_in_mid_walk_is_told() -> None:
    def answer(request: Request) -> Content:
        return NO_KEY if "id:<" in request.query["tags"] else as_json(POST)

    with board_that(json=answer) as (board, _):
        with pytest.raises(UsageError, match="Missing authentication"):
            list(board.walk(Query(("1girl",))))


def test_credentials_go_with_the_search_and_into_no_error() -> None:
    login = Login("6498", "k3y-of-somebody")
    with board_that(list=LIST) as (_, server):
        client = Client(rate=10_000, allow_private_hosts=True)
        board = open_board(f"gelbooru02+{server.url}", client, login)
        assert page(board)
        server.requests.clear()
        page(board)
    (request,) = asked(server)
    assert (request.query["user_id"], request.query["api_key"]) == (login.user, login.key)
    with board_that() as (_, server):
        board = open_board(f"gelbooru02+{server.url}", client, login)
        with pytest.raises(UsageError) as caught:
            page(board)
    assert login.key not in "".join(traceback.format_exception(caught.value))


# --- When posts were made ---------------------------------------------------------------------


def test_who_wants_dates_is_told_them_by_the_xml() -> None:
    with board_that(json=as_json(POST), xml=XML, list=LIST, view=VIEW) as (board, server):
        assert page(board)[0].created_at is None
        assert page(board, dated=True)[0].created_at == POSTED
        assert page(board)[0].created_at is None
        assert page(board, dated=True)[0].created_at == POSTED
    assert kinds(server) == ["json", "xml", "json", "xml"]


@pytest.mark.parametrize(
    ("xml", "again"), [(CLOSED, 2), (Reply(status=403), 1), (CHALLENGE, 2), ("", 2)]
)
def test_where_the_xml_is_closed_the_page_of_a_post_tells_the_date(
    xml: Content, again: int
) -> None:
    with board_that(json=as_json(POST), xml=xml, list=LIST, view=VIEW) as (board, server):
        post = page(board, dated=True)[0]
        assert post.created_at is None
        assert board.complete(post).created_at == POSTED
    assert kinds(server) == ["xml", "list", *["xml"] * again, "view"]


def test_a_board_that_tells_no_dates_is_read_all_the_same_to_its_end() -> None:
    def answer(request: Request) -> Content:
        return "" if "id:<" in request.query["tags"] else as_json(POST)

    with board_that(json=answer, xml=CLOSED, list=CHALLENGE) as (board, server):
        (post,) = board.walk(Query(("1girl",), dated=True))
    assert post.created_at is None
    assert kinds(server) == ["xml", "list", "json", "xml", "xml", "list", "list", "json", "json"]


@pytest.mark.parametrize("posted", ["", "Posted: never", "Posted: 2024-13-31 16:08:37"])
def test_a_date_that_is_none_is_not_known(posted: str) -> None:
    view = VIEW.replace("Posted: 2024-05-31 16:08:37", posted)
    with board_that(list=LIST, view=view) as (board, _):
        assert board.complete(page(board)[0]).created_at is None


# --- Posts that are no good -------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"id": None},
        {"id": "x"},
        {"id": 0},
        {"id": -1},
        {"id": 10**40},
        {"id": float("inf")},
        {"id": float("nan")},
        {"id": [1]},
        {"tags": None},
        {"tags": 5},
        {"tags": ["a"]},
        {"tags": {}},
        {"tags": "\ud800"},
        {"file_url": "http://["},
        {"file_url": "http://a/\udfff.png"},
    ],
    ids=str,
)
def test_a_malformed_post_is_left_out_and_counted(bad: dict[str, Any]) -> None:
    good = POST | {"id": 5}
    missing = {name: value for name, value in POST.items() if name not in bad}
    posts = [POST | bad, good] if "file_url" in bad else [POST | bad, good, missing]
    with board_that(json=as_json(*posts)) as (board, _), structlog.testing.capture_logs() as logs:
        assert [post.id for post in page(board)] == [5]
    (warning,) = (entry for entry in logs if entry["log_level"] == "warning")
    assert warning["posts"] == len(posts) - 1


@pytest.mark.parametrize("bad", [None, 5, "x", [], [[]], {}, True])
def test_what_is_no_post_at_all_is_left_out(bad: Any) -> None:
    with board_that(json=as_json(bad, POST)) as (board, _):
        assert [post.id for post in page(board)] == [POST["id"]]


def test_sizes_that_are_none_are_not_known() -> None:
    for value in (None, "", 0, -5, "wide", 10**7, "²", 1.5, [1]):
        post = only(json=as_json(POST | {"width": value, "height": value}))
        assert (post.width, post.height) == (None, None), value


def test_posts_come_newest_first_and_once_each() -> None:
    posts = [POST | {"id": post_id} for post_id in (3, 9, 5, 9)]
    with board_that(json=as_json(*posts)) as (board, _):
        assert [post.id for post in page(board)] == [9, 5, 3]


def test_links_without_a_picture_or_an_id_are_no_posts() -> None:
    links = [
        f'<a href="{href}"><img title="a"></a>'
        for href in (
            "",
            "?id=",
            "?id=x",
            "?id=²",
            "?id=-1",
            "?id=0",
            "http://[",
            "?id=" + "9" * 5000,
        )
    ]
    links += ['<a href="?id=7"></a>', '<a href="?id=8"><b></b></a>']
    text = "".join(f'<span class="thumb">{link}</span>' for link in links)
    with board_that(list=LIST.replace('<div class="image-list">', text + "<div>")) as (board, _):
        assert [post.id for post in page(board)] == [5060123, 5060100]


# --- Walking ----------------------------------------------------------------------------------


class Shelf:
    """A board's posts, which may come and go; it finds them by `id:<N` only."""

    def __init__(self, ids: range) -> None:
        self.ids = set(ids)

    def json(self, request: Request) -> str:
        return as_json(
            *({"id": i, "tags": "a", "file_url": f"{i}.png"} for i in self.found(request))
        )

    def html(self, request: Request) -> str:
        thumbs = "".join(
            f'<span class="thumb"><a href="index.php?s=view&amp;id={i}"><img title="a"></a></span>'
            for i in self.found(request)
        )
        return f'<html><div id="post-list">{thumbs}</div></html>'

    def found(self, request: Request) -> list[int]:
        ids = self.ids
        for sign, bound in re.findall(r"id:([<>])(\d+)", request.query["tags"]):
            ids = {i for i in ids if (i < int(bound) if sign == "<" else i > int(bound))}
        return sorted(ids, reverse=True)[: int(request.query.get("limit", 7))]


@pytest.mark.parametrize("way", ["json", "list"])
def test_walks_to_the_end_a_page_at_a_time_as_it_is_wanted(way: str) -> None:
    shelf = Shelf(range(1, 40))
    with board_that(**{way: shelf.html if way == "list" else shelf.json}) as (board, server):
        walk = board.walk(Query(("a",)), limit=7)
        assert [next(walk).id for _ in range(7)] == list(range(39, 32, -1))
        assert kinds(server).count(way) == 1
        assert [post.id for post in walk] == list(range(32, 0, -1))
        assert kinds(server).count(way) == 8  # the end twice
        found = [post.id for post in board.walk(Query(("a",)), above=10, below=20, limit=4)]
    assert found == list(range(19, 10, -1))


@pytest.mark.parametrize("way", ["json", "list"])
def test_posts_that_come_and_go_make_no_gap_and_no_repeat(way: str) -> None:
    shelf = Shelf(range(100, 200))
    with board_that(**{way: shelf.html if way == "list" else shelf.json}) as (board, _):
        seen = []
        for number, post in enumerate(board.walk(Query(("a",)), limit=7)):
            seen.append(post.id)
            shelf.ids.add(200 + number)  # newer ones push the rest down
            if number % 3 == 0:  # and some go, seen or not
                shelf.ids -= {post.id, 100 + number}
    assert len(seen) == len(set(seen))
    stayed = {i for i in shelf.ids if i < 200}
    assert stayed <= set(seen)


def test_terms_and_bounds_go_into_the_search() -> None:
    with board_that(json=as_json(POST)) as (board, server):
        query = Query(("re:zero",), ("fox",), ("general", "sensitive"))
        board.page(query, below=9, limit=5000)
    assert asked(server)[0].query == {
        "page": "dapi",
        "s": "post",
        "q": "index",
        "json": "1",
        "limit": "1000",
        "tags": "re:zero -fox -rating:questionable -rating:explicit id:<9",
    }


@pytest.mark.parametrize("broken", [{10}, {39}, {1}, set(range(8, 15))])
def test_posts_that_cannot_be_read_do_not_end_the_walk(broken: set[int]) -> None:
    shelf = Shelf(range(1, 40))

    def answer(request: Request) -> str:
        found = json.loads(shelf.json(request))
        return as_json(*(post | {"tags": None} if post["id"] in broken else post for post in found))

    for size in (1, 7):
        with board_that(json=answer, xml=NO_XML, list=NO_LIST) as (board, _):
            found = [post.id for post in board.walk(Query(), limit=size)]
        assert found == sorted(shelf.ids - broken, reverse=True)


def test_nothing_but_posts_that_cannot_be_read_is_an_error() -> None:
    posts = [{"id": i, "tags": None} for i in range(1, 40)]
    with board_that(json=as_json(*posts), xml=NO_XML, list=NO_LIST) as (board, _):
        with pytest.raises(BoardError, match="fields of this engine"):
            page(board)


def test_an_empty_page_after_a_full_one_is_asked_for_again() -> None:
    shelf = Shelf(range(1, 21))
    told = []

    def overloaded(request: Request) -> str:
        told.append(request)
        return "" if len(told) == 2 else shelf.json(request)

    with board_that(json=overloaded) as (board, server):
        found = [post.id for post in board.walk(Query(), limit=10)]
    assert found == list(range(20, 0, -1))
    # A full one, the empty one, the rest, and the end, of which this board has to be asked often.
    assert kinds(server) == ["json"] * 8


@pytest.mark.parametrize("bounds", [{}, {"below": 5060123}])
def test_a_board_that_ignores_bounds_is_told_apart(bounds: dict[str, int]) -> None:
    with board_that(json=as_json(POST)) as (board, server):
        with pytest.raises(BoardError, match=r"ignores id:<N in searches.*5060123") as caught:
            list(board.walk(Query(("a",)), **bounds))
    assert server.url in str(caught.value)
    assert len(asked(server)) <= 2


# --- Whatever comes ---------------------------------------------------------------------------

fields = st.dictionaries(
    st.sampled_from(["id", "tags", "file_url", "hash", "parent_id", "rating", "width", "image"]),
    values | st.sampled_from(["http://[", "\ud800", "//a", "&#xD800; &lt", 10**400, "9" * 5000]),
    max_size=4,
)


class Whatever:
    """A board that says whatever a test puts into it, and gives posts or says what is wrong."""

    def __init__(self, url: str, answers: Answers) -> None:
        self._url, self._answers = url, answers

    def says(self, **answers: Content) -> None:
        self._answers.clear()
        self._answers.update(answers)
        board = board_at(self._url)
        with contextlib.suppress(BoardError, TransientError, HttpError):
            for post in page(board):
                check(post)
                check(board.complete(post))


@pytest.fixture(scope="module")
def whatever() -> Iterator[Whatever]:
    answers: Answers = {}

    def answer(request: Request) -> Reply:
        content = answers.get(kind_of(request), b"")
        assert isinstance(content, bytes)
        return Reply(content, headers={"Connection": "close"})

    with serving(answer) as server:
        yield Whatever(server.url, answers)


@given(json_=st.binary() | values.map(lambda v: json.dumps(v).encode()), xml=st.binary())
@settings(max_examples=40)
def test_any_bytes_give_posts_or_a_board_error(
    whatever: Whatever, json_: bytes, xml: bytes
) -> None:
    whatever.says(json=json_, xml=xml, list=xml, view=json_)


@given(changes=st.lists(fields, min_size=1, max_size=3), wrapped=st.booleans())
@settings(max_examples=80)
def test_any_fields_give_posts_or_a_board_error(
    whatever: Whatever, changes: list[dict[str, Any]], wrapped: bool
) -> None:
    posts = [POST | change for change in changes]
    found = {"@attributes": {}, "post": posts} if wrapped else posts
    whatever.says(json=dumps(found), view=VIEW.encode())


@given(
    json_=damaged(json.dumps([POST])),
    xml=damaged(XML),
    listing=damaged(LIST),
    view=damaged(VIEW),
    way=st.sampled_from(["json", "xml", "list"]),
)
@settings(max_examples=60)
def test_a_damaged_answer_gives_posts_or_a_board_error(
    whatever: Whatever, json_: bytes, xml: bytes, listing: bytes, view: bytes, way: str
) -> None:
    whatever.says(**{way: {"json": json_, "xml": xml, "list": listing}[way], "view": view})


def test_what_beautiful_soup_doubts_is_no_line_of_a_log() -> None:
    script = """
import sys
from imagetag.boards import BoardError, Query, open_board
from imagetag.web import Client

board = open_board(sys.argv[1], Client(rate=10_000, allow_private_hosts=True))
try:
    board.page(Query(("1girl",)), below=None, limit=1)
except BoardError:
    print("refused")
"""
    with board_that(json=CLOSED, xml=CLOSED, list=CLOSED) as (_, server):
        command = [sys.executable, "-c", script, f"gelbooru02+{server.url}"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert kinds(server)[-1] == "list"
    assert (ended.stdout, ended.stderr) == ("refused\n", "")


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_a_private_board_is_refused_with_the_option_that_allows_it() -> None:
    with board_that(json=as_json(POST)) as (_, server):
        board = open_board(f"gelbooru02+{server.url}", Client(rate=1000))
        with pytest.raises(UsageError, match="--allow-private-hosts"):
            page(board)
    assert asked(server) == []
