"""What boards answer: JSON, XML and HTML, their words, and their robots.txt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

from imagetag.boards import Board, BoardError, Post, Query, open_board
from imagetag.boards.words import meaning_of, words_of
from imagetag.errors import ImagetagError
from imagetag.web import Client, HttpError
from imagetag.web.robots import Robots, opted_out
from tests.boards import check
from tests.fuzz.target import Target

_URL = "https://board.example/index.php?page=post&s=view&id=1"


class _Answering:
    """In the place of a client: answers everything with the same bytes."""

    def __init__(self, content: bytes, only: Callable[[dict[str, str]], bool]) -> None:
        self._content, self._only = content, only

    def get(self, url: str, params: dict[str, str] | None = None, **_: Any) -> SimpleNamespace:
        if not self._only(params or {}):
            raise HttpError("http_404", "404", permanent=True)
        return SimpleNamespace(content=self._content, url=url, redirected=False)

    def set_interval(self, url: str, seconds: float) -> None:
        del url, seconds


def _board(
    engine: str, content: bytes, only: Callable[[dict[str, str]], bool] = lambda _: True
) -> Board:
    client = cast("Client", _Answering(content, only))
    return open_board(f"{engine}+https://board.example", client)


def _ask(board: Board) -> None:
    board.count(Query(("robot",)))
    for name in board.similar("robot"):
        name.encode(errors="surrogatepass")
    for post in board.page(Query(("robot",)), below=None, limit=50):
        check(post)


def _engine(name: str) -> Target:
    def read(content: bytes) -> None:
        _ask(_board(name, content))

    return Target(name, read)


def _closed_api(content: bytes) -> None:
    """Gelbooru 0.2 where its API is closed: the page of a post, or else of a list."""
    board = _board("gelbooru02", content, lambda params: params.get("page") != "dapi")
    listed = Post(1, "board", _URL, None, None, None, None, (), None, None)
    try:
        check(board.complete(listed))
    except (BoardError, HttpError):
        _ask(board)
    else:
        with contextlib.suppress(ImagetagError, HttpError):  # it may be no list then
            _ask(board)


def _words(content: bytes) -> None:
    words = words_of(content)
    assert "\n" not in words
    assert len(words) <= 10_000
    meaning_of(words)


def _robots(content: bytes) -> None:
    asked: list[float] = []
    robots = Robots(lambda _: content, lambda _, seconds: asked.append(seconds))
    for path in ("/", "/index.php?page=dapi&q=" + "a*" * 50, "/" + "a" * 2000):
        with contextlib.suppress(HttpError):  # that is how it says no
            robots.check("https://board.example" + path, "it")
    assert all(0 <= seconds <= 60 for seconds in asked)
    opted_out(content.decode("latin-1").splitlines())


_ERRORS: tuple[type[Exception], ...] = (ImagetagError, HttpError)


def _robots_txt() -> Iterable[bytes]:
    yield b"User-agent: *\nDisallow: /private\nCrawl-delay: 2\nAllow: /*.png$\n"


TARGETS = (
    *map(_engine, ("danbooru", "e621", "gelbooru", "gelbooru02", "moebooru", "philomena")),
    Target("gelbooru02-html", _closed_api, _ERRORS),
    Target("words", _words, ()),
    Target("robots", _robots, (), _robots_txt),
)
