"""A known crawler and our boards list the same posts, whatever the engine."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from imagetag.boards.base import NO_LOGIN, Board, Login, Post, Query
from imagetag.boards.sites import open_board
from imagetag.dataset.manifest import Rating
from imagetag.demo.server import BoardServer
from imagetag.web.client import Client
from tests.boardserver import ENGINES, Engine
from tests.integration.crawler import crawl, write_board, write_posts

COUNT = 700

NOTHING = Query(tags=("no_such_tag",))
MILD: tuple[Rating, ...] = ("general", "sensitive", "questionable")
QUERIES: list[tuple[str, str, Query]] = [
    # What the crawler is asked for in the words of most boards, and in Philomena's.
    ("fox", "fox", Query(tags=("fox",))),
    ("fox blue_sky", "fox, blue sky", Query(tags=("fox", "blue_sky"))),
    ("fox -rating:explicit", "fox, -explicit", Query(tags=("fox",), ratings=MILD)),
    ("fox -robot", "fox, -robot", Query(tags=("fox",), without=("robot",))),
    ("-fox", "-fox", Query(without=("fox",))),
    ("no_such_tag", "no such tag", NOTHING),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("posts")


@pytest.fixture(scope="module", autouse=True)
def posts(folder: Path) -> dict[int, dict[str, Any]]:
    return write_board(folder, COUNT)


def fits(post: Post, query: Query) -> bool:
    """Whether a caller takes the post: boards may list others besides."""
    tags = set(post.tags)
    return (
        bool(post.file_url)
        and set(query.tags) <= tags
        and not tags & set(query.without)
        and (not query.ratings or post.rating in query.ratings)
    )


def listed(folder: Path, server: BoardServer, engine: Engine, text: str) -> dict[int, str]:
    """The ids that the crawler lists, in its order, and where the files are."""
    found = {int(post["id"]): post["crawled_url"] for post in crawl(folder, server, engine, text)}
    # Where e621 does not tell where a file is, the crawler guesses.
    return {i: url for i, url in found.items() if not url.startswith("https://static1.")}


def opened(server: BoardServer, engine: Engine) -> Board:
    client = Client(rate=1000, contact="nobody@example.org", allow_private_hosts=True)
    login = Login("1", "key") if engine == "gelbooru" else NO_LOGIN
    return open_board(f"{engine}+{server.url}", client, login)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_ids(tmp_path: Path, folder: Path, engine: Engine) -> None:
    with BoardServer(folder, protocol=ENGINES[engine]) as server:
        board = opened(server, engine)
        for words, terms, query in QUERIES:
            text = terms if engine == "philomena" else words
            expected = list(listed(tmp_path, server, engine, text))
            assert bool(expected) == (query is not NOTHING)
            assert [post.id for post in board.walk(query) if fits(post, query)] == expected, text


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_files(
    tmp_path: Path, folder: Path, posts: dict[int, dict[str, Any]], engine: Engine
) -> None:
    with BoardServer(folder, protocol=ENGINES[engine]) as server:
        board, query = opened(server, engine), Query(tags=("robot",))
        urls = listed(tmp_path, server, engine, "robot")
        ours = [post for post in board.walk(query) if fits(post, query)]
        assert [post.id for post in ours] == list(urls)
        for post in ours:
            truth = posts[post.id]
            assert set(truth["tags"]) <= set(post.tags)
            assert post.md5 in (truth["md5"], None)
            assert (post.width, post.height) == (truth["width"], truth["height"])
            # Philomena has two names for each file.
            names = {post.file_url} if engine != "philomena" else both_names(str(post.file_url))
            assert urls[post.id] in names


def both_names(url: str) -> set[str]:
    """A Philomena URL of a file, and the one without the tags in it."""
    return {url, re.sub(r"__[^/]*\.", ".", url)}


ODD_TAGS = (
    *(
        "fate/stay_night",
        "re:zero",
        '"quoted"',
        "it's",
        "<script>",
        "a&b",
        "&amp;",
        "1+1=2",
        "100%",
    ),
    *(
        "..",
        "ラーメン",
        "#hash?",
        "smile_(face)",
        "(x)",
        "a,b",
        "back\\slash",
        "what?",
        "not",
        "and",
    ),
    *("^3", "x^2", "a~1", "dash-", "!bang", ":d", ";)", "^_^", ">_<", "k-on!", "a_or_b", "id_5"),
)


@pytest.mark.parametrize("engine", ENGINES)
def test_odd_tags_are_found_and_left_out(tmp_path: Path, engine: Engine) -> None:
    dice = Random(5)
    posts = {
        100 + 2 * number: {"tags": dice.sample(ODD_TAGS, 6), "rating": "general"}
        for number in range(150)
    }
    write_posts(tmp_path, posts)
    queries = [Query(tags=(tag,)) for tag in ODD_TAGS]
    for _ in range(30):
        one, two, three, four = dice.sample(ODD_TAGS, 4)
        queries += [Query(tags=(one, two), without=(three,)), Query((one,), (two, three, four))]
    with BoardServer(tmp_path, protocol=ENGINES[engine]) as server:
        board = opened(server, engine)
        for query in queries:
            expected = [
                i
                for i, post in sorted(posts.items(), reverse=True)
                if set(query.tags) <= set(post["tags"])
                and not set(query.without) & set(post["tags"])
            ]
            assert [post.id for post in board.walk(query) if fits(post, query)] == expected, query
