"""The local board in the protocol of every engine: what a known crawler finds, and odd answers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import requests
from bs4 import BeautifulSoup

from imagetag.demo.scenes import draw_posts
from imagetag.demo.server import BoardServer
from tests.boardserver import ENGINES, Engine
from tests.integration.crawler import crawl, write_board

COUNT = 700
Fields = dict[str, Any]
Listing = dict[int, Fields]

# How many posts the crawler asks for at once; and how each engine says "fox, and not explicit".
PAGES: dict[Engine, int] = {
    "gelbooru02": 100,
    "gelbooru": 100,
    "moebooru": 100,
    "danbooru": 200,
    "e621": 320,
    "philomena": 50,
}
NOT_EXPLICIT: dict[Engine, str] = dict.fromkeys(ENGINES, "fox -rating:explicit")
NOT_EXPLICIT["philomena"] = "fox, -explicit"
TWO_TAGS: dict[Engine, str] = dict.fromkeys(ENGINES, "fox blue_sky")
TWO_TAGS["philomena"] = "fox, blue sky"
SCORE: dict[Engine, str] = dict.fromkeys(ENGINES, "robot order:score")
SCORE |= {"gelbooru02": "robot sort:score", "gelbooru": "robot sort:score"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("posts")


@pytest.fixture(scope="module")
def posts(folder: Path) -> Listing:
    return write_board(folder, COUNT)


@pytest.fixture
def serve(folder: Path, posts: Listing) -> Iterator[Callable[[Engine], BoardServer]]:
    """Start a board of an engine; all are stopped after the test."""
    boards = []

    def start(engine: Engine) -> BoardServer:
        boards.append(BoardServer(folder, protocol=ENGINES[engine]).__enter__())
        return boards[-1]

    yield start
    for board in boards:
        board.__exit__(None, None, None)


def shown(engine: Engine, posts: Listing, matches: Callable[[Fields], bool]) -> list[int]:
    """The ids of the posts that match and that the crawler can fetch, newest first."""
    states = {"danbooru": ("active", "deleted"), "e621": ("active", "banned")}
    seen = states.get(engine, ("active",))  # of banned ones, e621 tells the sum and so the address
    found = (i for i, post in posts.items() if post["status"] in seen and matches(post))
    return sorted(found, reverse=True)


def get(board: BoardServer, path: str, **params: Any) -> requests.Response:
    return requests.get(
        board.url + path, params, timeout=20, headers={"User-Agent": "test/1.0 (by somebody)"}
    )


def ids(answer: requests.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    found = answer.json()
    if isinstance(found, dict):
        found = found.get("posts") or found.get("images") or found.get("post") or []
    return [post["id"] for post in found]


# --- A crawler --------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_the_crawler_lists_exactly_the_posts_of_a_query(
    tmp_path: Path, serve: Callable[[Engine], BoardServer], posts: Listing, engine: Engine
) -> None:
    board = serve(engine)
    queries: list[tuple[str, Callable[[Fields], bool]]] = [
        ("everything", lambda _: True),
        (TWO_TAGS[engine], lambda post: {"fox", "blue_sky"} <= set(post["tags"])),
        (
            NOT_EXPLICIT[engine],
            lambda post: "fox" in post["tags"] and post["rating"] != "explicit",
        ),
    ]
    for query, matches in queries:
        wanted = shown(engine, posts, matches)
        board.requests.clear()
        found = [int(post["id"]) for post in crawl(tmp_path, board, engine, query)]
        assert found == wanted, query
        assert board.requests["api"] >= math.ceil(len(wanted) / PAGES[engine])
    nothing = "no_such_tag" if engine != "philomena" else "no such tag"
    assert crawl(tmp_path, board, engine, nothing) == []


@pytest.mark.parametrize("engine", sorted(set(ENGINES) - {"philomena"}))
def test_the_crawler_pages_through_an_order_of_scores(
    tmp_path: Path, serve: Callable[[Engine], BoardServer], posts: Listing, engine: Engine
) -> None:
    found = crawl(tmp_path, serve(engine), engine, SCORE[engine])
    by_score = sorted(
        shown(engine, posts, lambda post: "robot" in post["tags"]),
        key=lambda i: (posts[i]["score"], i),
        reverse=True,
    )
    assert [int(post["id"]) for post in found] == by_score


@pytest.mark.parametrize("engine", sorted(set(ENGINES) - {"gelbooru02"}))
def test_the_crawler_downloads_the_pictures(tmp_path: Path, engine: Engine) -> None:
    draw_posts(tmp_path, 12, seed=3)
    lines = (tmp_path / "posts.jsonl").read_text().splitlines()
    wanted = {post["md5"] for post in map(json.loads, lines)}
    everything = "id.gt:0" if engine == "philomena" else "id:>0"
    with BoardServer(tmp_path, protocol=ENGINES[engine]) as board:
        files = tmp_path / "files"
        crawl(tmp_path, board, engine, everything, "--directory", str(files))
    sums = [hashlib.md5(path.read_bytes()).hexdigest() for path in files.iterdir()]
    assert sorted(sums) == sorted(wanted)


# --- All engines ------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_thumbnails_samples_and_other_pages(
    tmp_path: Path, serve: Callable[[Engine], BoardServer], engine: Engine
) -> None:
    board = serve(engine)
    assert get(board, "/no/such/page").status_code == 404
    assert get(board, "/robots.txt").status_code == 404
    urls = {
        "gelbooru02": ("/index.php?page=dapi&s=post&q=index&json=1&limit=1", "preview_url"),
        "gelbooru": (
            "/index.php?page=dapi&s=post&q=index&json=1&limit=1&api_key=k&user_id=1",
            "preview_url",
        ),
        "danbooru": ("/posts.json?limit=1", "preview_file_url"),
        "moebooru": ("/post.json?limit=1", "preview_url"),
        "e621": ("/posts.json?limit=1", "preview.url"),
        "philomena": ("/api/v1/json/search/images?q=*&per_page=1", "representations.thumb"),
    }
    path, field = urls[engine]
    found = get(board, path).json()
    for name in ("posts", "post", "images"):
        found = found.get(name, found) if isinstance(found, dict) else found
    value = found[0]
    for name in field.split("."):
        value = value[name]
    answer = requests.get(value, timeout=20)
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert board.requests["preview"] == 1


# --- Gelbooru 0.2 and 0.2.5 -------------------------------------------------------------------


def ask_gelbooru(board: BoardServer, **params: Any) -> requests.Response:
    fixed = {"page": "dapi", "s": "post", "q": "index", "json": 1, "api_key": "k", "user_id": 1}
    return get(board, "/index.php", **{k: v for k, v in (fixed | params).items() if v is not None})


def test_gelbooru_wants_credentials(serve: Callable[[Engine], BoardServer]) -> None:
    board = serve("gelbooru")
    for missing in ({"api_key": None}, {"user_id": None}, {"api_key": None, "user_id": None}):
        assert ask_gelbooru(board, **missing).status_code == 401
    assert ask_gelbooru(board).status_code == 200


def test_gelbooru_pages(serve: Callable[[Engine], BoardServer], posts: Listing) -> None:
    board = serve("gelbooru")
    wanted = shown("gelbooru", posts, lambda post: "fox" in post["tags"])
    answer = ask_gelbooru(board, tags="fox", limit=1000, pid=1)
    assert answer.json()["@attributes"] == {"limit": 100, "offset": 100, "count": len(wanted)}
    assert ids(answer) == wanted[100:200]
    assert ids(ask_gelbooru(board, tags=f"fox id:<{wanted[120]}", limit=5)) == wanted[121:126]
    assert ids(ask_gelbooru(board, id=wanted[3])) == [wanted[3]]


def test_gelbooru_has_no_post_key_where_nothing_is_found(
    serve: Callable[[Engine], BoardServer],
) -> None:
    answer = ask_gelbooru(serve("gelbooru"), tags="no_such_tag")
    assert answer.json() == {"@attributes": {"limit": 100, "offset": 0, "count": 0}}


def test_gelbooru_does_not_skip_more_than_20000_posts(
    serve: Callable[[Engine], BoardServer],
) -> None:
    board = serve("gelbooru")
    assert "post" not in ask_gelbooru(board, pid=200).json()
    for params in ({"pid": 201}, {"pid": 477, "limit": 42}, {"pid": 201, "json": None}):
        answer = ask_gelbooru(board, **params)
        assert answer.status_code == 200
        assert answer.text.startswith("Too deep!")


def test_gelbooru_fields(tmp_path: Path) -> None:
    draw_posts(tmp_path, 30, seed=1)
    lines = map(json.loads, (tmp_path / "posts.jsonl").read_text().splitlines())
    post = next(post for post in lines if "parent_id" in post)
    with BoardServer(tmp_path, protocol=ENGINES["gelbooru"]) as board:
        [fields] = ask_gelbooru(board, id=post["id"]).json()["post"]
        root = ET.fromstring(ask_gelbooru(board, id=post["id"], json=None).content)
    assert (fields["md5"], fields["rating"]) == (post["md5"], post["rating"])
    assert fields["tags"].split() == post["tags"]
    assert fields["parent_id"] == post["parent_id"]
    assert fields["file_url"].endswith(f"/images/{fields['directory']}/{fields['image']}")
    assert (fields["sample"], fields["sample_url"], fields["sample_width"]) == (0, "", 0)
    # In XML, the fields are elements.
    assert root.attrib == {"limit": "100", "offset": "0", "count": "1"}
    assert {child.tag: child.text or "" for child in root[0]} == {
        name: str(value) for name, value in fields.items()
    }


# --- Danbooru ---------------------------------------------------------------------------------


def test_danbooru_counts_tags_of_those_without_an_account(
    serve: Callable[[Engine], BoardServer],
) -> None:
    board = serve("danbooru")
    for free in ("fox robot", "fox robot rating:g", "fox robot -rating:e id:<9999 status:any"):
        assert get(board, "/posts.json", tags=free).status_code == 200, free
    for dear in ("fox robot everything", "fox robot -blue_sky", "fox robot order:id", "a* b* c*"):
        for path in ("/posts.json", "/counts/posts.json"):
            answer = get(board, path, tags=dear)
            assert answer.status_code == 422, dear
            assert answer.json() == {
                "success": False,
                "error": "PostQuery::TagLimitError",
                "message": "You cannot search for more than 2 tags at a time.",
                "backtrace": [],
            }
    gold = {"login": "somebody", "api_key": "key"}
    assert get(board, "/posts.json", tags="fox robot everything", **gold).status_code == 200
    answer = requests.get(
        f"{board.url}/posts.json?tags=fox+robot+-blue_sky", auth=("somebody", "key"), timeout=20
    )
    assert answer.status_code == 200


def test_danbooru_pages(serve: Callable[[Engine], BoardServer], posts: Listing) -> None:
    board, newest = serve("danbooru"), sorted(posts, reverse=True)
    assert ids(get(board, "/posts.json")) == newest[:20]
    assert ids(get(board, "/posts.json", limit=1000, page=2)) == newest[200:400]
    assert ids(get(board, "/posts.json", limit=0)) == newest[:1]
    assert ids(get(board, "/posts.json", limit=3, page=f"b{newest[10]}")) == newest[11:14]
    # Those after an id are the nearest to it, and the newest of them comes first.
    assert ids(get(board, "/posts.json", limit=3, page=f"a{newest[10]}")) == newest[7:10]
    assert ids(get(board, "/posts.json", limit=3, page="a1", tags="order:score")) == newest[-3:]
    assert ids(get(board, "/posts.json", page=1000)) == []
    answer = get(board, "/posts.json", page=1001)
    assert answer.status_code == 410
    assert answer.json()["error"] == "PaginationExtension::PaginationError"
    assert answer.json()["message"] == "You cannot go beyond page 1000."


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("rating:g,s", lambda post: post["rating"] in ("general", "sensitive")),
        ("rating:safe", lambda post: post["rating"] == "sensitive"),  # it begins with an s
        ("-rating:explicit", lambda post: post["rating"] != "explicit"),
        ("id:>1500 id:<=1700", lambda post: 1500 < post["id"] <= 1700),
        ("id:1500..1700", lambda post: 1500 <= post["id"] <= 1700),
        ("-id:1500..", lambda post: post["id"] < 1500),
        ("id:1000,1004,7", lambda post: post["id"] in (1000, 1004)),
        ("~robot ~blue_sky", lambda post: {"robot", "blue_sky"} & set(post["tags"])),
        ("status:deleted", lambda post: post["status"] == "deleted"),
        ("status:banned fox", lambda post: post["status"] == "banned" and "fox" in post["tags"]),
        ("-status:deleted", lambda post: post["status"] != "deleted"),
        ("blue* -*ox", lambda post: "blue_sky" in post["tags"] and "fox" not in post["tags"]),
        ("parent:none robot", lambda post: "robot" in post["tags"]),
        ("parent:1000", lambda post: post["id"] == 1000),
        ("all", lambda post: False),  # no word of this engine's
    ],
)
def test_danbooru_metatags(
    serve: Callable[[Engine], BoardServer],
    posts: Listing,
    query: str,
    matches: Callable[[Fields], bool],
) -> None:
    board = serve("danbooru")
    wanted = [i for i in sorted(posts, reverse=True) if matches(posts[i])]
    found = []
    for page in (1, 2, 3, 4):
        found += ids(get(board, "/posts.json", tags=query, limit=200, page=page))
    assert found == wanted
    counted = get(board, "/counts/posts.json", tags=query).json()
    assert counted == {"counts": {"posts": len(wanted)}}


def test_danbooru_tells_of_banned_posts_without_their_file(
    serve: Callable[[Engine], BoardServer], posts: Listing
) -> None:
    board = serve("danbooru")
    for post_id, post in list(posts.items())[49:53]:
        fields = get(board, f"/posts/{post_id}.json").json()
        banned = post["status"] == "banned"
        for name in ("md5", "file_url", "large_file_url", "preview_file_url"):
            assert (name in fields) is not banned
        assert (fields["is_banned"], fields["is_deleted"]) == (banned, post["status"] == "deleted")
        assert set(fields["tag_string"].split()) == set(post["tags"])
        by_category = [value for name, value in fields.items() if name.startswith("tag_string_")]
        assert sorted(" ".join(by_category).split()) == sorted(post["tags"])
        assert fields["tag_string_character"] == ("fox" if "fox" in post["tags"] else "")
        assert fields["rating"] == post["rating"][0]
    missing = get(board, "/posts/7.json")
    assert (missing.status_code, missing.json()["success"]) == (404, False)


# --- Moebooru ---------------------------------------------------------------------------------


def test_moebooru_pages(serve: Callable[[Engine], BoardServer], posts: Listing) -> None:
    board, newest = serve("moebooru"), shown("moebooru", posts, lambda _: True)
    assert ids(get(board, "/post.json")) == newest[:40]
    assert ids(get(board, "/post.json", limit=5000)) == newest
    assert ids(get(board, "/post.json", limit=30, page=3)) == newest[60:90]
    assert ids(get(board, "/post.json", limit=30, page="-1")) == newest[:30]
    assert ids(get(board, "/post.json", tags="limit:7", limit=30)) == newest[:7]
    assert get(board, "/post.json", tags="no_such_tag").text == "[]"


def test_moebooru_shows_deleted_posts_to_those_who_ask_by_id(
    serve: Callable[[Engine], BoardServer], posts: Listing
) -> None:
    board = serve("moebooru")
    gone = [i for i, post in posts.items() if post["status"] != "active"]
    by_id = get(board, "/post.json", tags=f"id:<{gone[-1] + 1}", limit=1000).json()
    assert sorted(post["id"] for post in by_id if post["status"] == "deleted") == gone
    assert sorted(ids(get(board, "/post.json", tags="deleted:true"))) == gone
    for post in by_id:
        for name in ("file_url", "sample_url", "jpeg_url"):
            assert (name in post) == (post["status"] == "active")


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("rating:s", lambda post: post["rating"] in ("general", "sensitive")),
        ("e", lambda post: post["rating"] == "explicit"),
        ("-rating:e", lambda post: post["rating"] != "explicit"),
        ("rating:general", lambda _: True),  # not one of its ratings: passed over
        ("-rating:e -rating:q", lambda post: post["rating"] != "questionable"),  # only the last
        ("robot -fox", lambda post: "robot" in post["tags"] and "fox" not in post["tags"]),
        ("~robot ~blue_sky", lambda post: {"robot", "blue_sky"} & set(post["tags"])),
        ("blue*", lambda post: "blue_sky" in post["tags"]),
        ("fox -blue*", lambda post: "fox" in post["tags"]),  # no star after a minus
        ("FOX", lambda post: "fox" in post["tags"]),
    ],
)
def test_moebooru_words(
    serve: Callable[[Engine], BoardServer],
    posts: Listing,
    query: str,
    matches: Callable[[Fields], bool],
) -> None:
    found = ids(get(serve("moebooru"), "/post.json", tags=query, limit=1000))
    assert found == shown("moebooru", posts, matches)


def test_moebooru_knows_the_last_of_two_bounds(
    serve: Callable[[Engine], BoardServer], posts: Listing
) -> None:
    found = ids(get(serve("moebooru"), "/post.json", tags="id:<1400 id:>1300", limit=1000))
    assert found == [i for i in sorted(posts, reverse=True) if i > 1300]


def test_moebooru_takes_six_excluded_tags(serve: Callable[[Engine], BoardServer]) -> None:
    board = serve("moebooru")
    six = " ".join(f"-tag{number}" for number in range(6))
    assert get(board, "/post.json", tags=f"fox robot blue_sky {six}").status_code == 200
    answer = get(board, "/post.json", tags=f"{six} -tag6")
    assert answer.status_code == 500
    assert answer.json()["success"] is False


# --- e621 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("", 403),
        ("python-requests/2.32.5", 403),
        ("Python/3.11 aiohttp/3.9", 403),
        ("Go-http-client/1.1", 403),
        ("imagetag/0.1 (by somebody)", 200),
        ("pythonic-crawler/1.0", 200),
    ],
)
def test_e621_wants_to_know_who_asks(
    serve: Callable[[Engine], BoardServer], posts: Listing, name: str, status: int
) -> None:
    board = serve("e621")
    answer = requests.get(f"{board.url}/posts.json", headers={"User-Agent": name}, timeout=20)
    assert answer.status_code == status
    assert board.requests == ({"api": 1} if status == 200 else {"refused": 1})
    if status == 403:
        assert BeautifulSoup(answer.text, "html.parser").title is not None
    picture = get(board, "/posts.json", limit=1).json()["posts"][0]["file"]["url"]
    fetched = requests.get(picture, headers={"User-Agent": name}, timeout=20)
    assert fetched.status_code == 200


def test_e621_pages(serve: Callable[[Engine], BoardServer], posts: Listing) -> None:
    board, newest = serve("e621"), shown("e621", posts, lambda _: True)
    assert ids(get(board, "/posts.json")) == newest[:75]
    assert ids(get(board, "/posts.json", limit=1000, page=2)) == newest[320:640]
    assert ids(get(board, "/posts.json", limit=0)) == []
    assert ids(get(board, "/posts.json", limit=3, page=f"b{newest[10]}")) == newest[11:14]
    assert ids(get(board, "/posts.json", limit=3, page=f"a{newest[10]}")) == newest[7:10]
    assert ids(get(board, "/posts.json", page=750)) == []
    for page, text in (
        ("751", "You cannot go beyond page 750. Please narrow your search terms."),
        ("next", "Invalid page number."),
    ):
        answer = get(board, "/posts.json", page=page)
        assert answer.status_code == 410
        assert answer.json() == {"success": False, "message": text, "code": None}
    many = " ".join(f"-tag{number}" for number in range(41))
    assert get(board, "/posts.json", tags=many).status_code == 422


def test_e621_fields(serve: Callable[[Engine], BoardServer], posts: Listing) -> None:
    board = serve("e621")
    assert get(board, "/posts.json", tags="no_such_tag").json() == {"posts": []}
    assert get(board, "/posts/7.json").status_code == 404
    assert get(board, "/posts/7.json").json() == {"success": False, "reason": "not found"}
    deleted = [i for i, post in posts.items() if post["status"] == "deleted"]
    assert sorted(ids(get(board, "/posts.json", tags="status:deleted"))) == deleted
    for post_id, post in list(posts.items())[45:55]:
        fields = get(board, f"/posts/{post_id}.json").json()["post"]
        hidden = post["status"] != "active"
        assert (fields["file"]["url"] is None) == (fields["preview"]["url"] is None) == hidden
        assert fields["file"]["md5"] == post["md5"]
        assert fields["flags"]["deleted"] == (post["status"] == "deleted")
        named = [tag for tags in fields["tags"].values() for tag in tags]
        assert sorted(named) == sorted(post["tags"])
        assert fields["tags"]["species"] == [tag for tag in post["tags"] if tag == "robot"]
        letter = {"general": "s", "sensitive": "s"}.get(post["rating"], post["rating"][0])
        assert fields["rating"] == letter


# --- Philomena --------------------------------------------------------------------------------

SEARCH = "/api/v1/json/search/images"


def ask_philomena(board: BoardServer, q: str, **params: Any) -> requests.Response:
    return get(board, SEARCH, q=q, filter_id=2, **params)


def test_philomena_pages(serve: Callable[[Engine], BoardServer], posts: Listing) -> None:
    board, newest = serve("philomena"), shown("philomena", posts, lambda _: True)
    answer = ask_philomena(board, "everything")
    assert answer.json()["total"] == len(newest)
    assert ids(answer) == newest[:15]
    assert ids(ask_philomena(board, "*", per_page=500)) == newest[:50]
    assert ids(ask_philomena(board, "*", per_page=0)) == newest[:1]
    assert ids(ask_philomena(board, "*", per_page=50, page=3)) == newest[100:150]
    assert ids(ask_philomena(board, "*", per_page=50, page=999)) == []
    walked: list[int] = []
    while part := ids(
        ask_philomena(board, f"everything, id.lt:{walked[-1] if walked else 10**6}", per_page=50)
    ):
        walked += part
    assert walked == newest
    assert ids(ask_philomena(board, "*", sf="id", sd="asc")) == newest[::-1][:15]
    by_score = sorted(newest, key=lambda i: (posts[i]["score"], i), reverse=True)
    assert ids(ask_philomena(board, "*", sf="score")) == by_score[:15]
    shuffled = [ids(ask_philomena(board, "*", sf="random:7", per_page=50)) for _ in range(2)]
    assert shuffled[0] == shuffled[1] != newest[:50]


def test_philomena_hides_by_its_default_filter(
    serve: Callable[[Engine], BoardServer], posts: Listing
) -> None:
    board = serve("philomena")
    mild = shown("philomena", posts, lambda post: post["rating"] != "explicit")
    for params in ({}, {"filter_id": 1}, {"filter_id": "unknown"}):
        assert get(board, SEARCH, q="everything", **params).json()["total"] == len(mild)
    assert get(board, SEARCH, q="explicit").json()["images"] == []


def test_philomena_fields(serve: Callable[[Engine], BoardServer], posts: Listing) -> None:
    board = serve("philomena")
    words = {"general": "safe", "sensitive": "suggestive"}
    for post_id, post in list(posts.items())[45:55]:
        image = get(board, f"/api/v1/json/images/{post_id}").json()["image"]
        if post["status"] != "active":
            assert image["hidden_from_users"] is True
            assert not {"tags", "view_url", "representations"} & set(image)
            assert ids(ask_philomena(board, f"id:{post_id}")) == []
            assert ids(ask_philomena(board, f"id:{post_id}", **{"del": 1})) == [post_id]
            continue
        rating = words.get(post["rating"], post["rating"])
        assert image["tags"] == [rating, *(tag.replace("_", " ") for tag in post["tags"])]
        full, view = image["representations"]["full"], image["view_url"]
        assert full.endswith(f"/{post_id}.png")
        data = requests.get(full, timeout=20).content
        assert data == requests.get(view, timeout=20).content
        assert hashlib.sha512(data).hexdigest() == image["sha512_hash"]
        assert image["size"] == len(data)
    missing = get(board, "/api/v1/json/images/7")
    assert (missing.status_code, missing.content) == (404, b"")


def test_philomena_says_what_is_wrong_with_a_query(
    serve: Callable[[Engine], BoardServer],
) -> None:
    board = serve("philomena")
    answer = ask_philomena(board, "(fox")
    assert (answer.status_code, answer.json()) == (400, {"error": "Imbalanced parentheses."})
    assert ask_philomena(board, "").json() == {"images": [], "interactions": [], "total": 0}
