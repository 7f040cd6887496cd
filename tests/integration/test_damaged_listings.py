"""Answers of boards that come damaged, of every engine: nobody is to notice but the board."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagetag.boards.base import Login, Post, Query
from imagetag.boards.sites import open_board
from imagetag.demo.protocol import Protocol
from imagetag.demo.server import BoardServer
from imagetag.web.client import Client
from tests.boardserver import ENGINES
from tests.boardserver.closed import ClosedGelbooru02
from tests.faults.mishaps import Pass, cuts_short, dies
from tests.faults.proxy import Answer, Asked, Mishap, Proxy, proxied
from tests.integration.scraping import write_post

COUNT, AT_ONCE = 25, 10
LOGIN = defaultdict(Login, gelbooru=Login("1", "key"))
BOARDS: dict[Any, type[Protocol]] = {**ENGINES, "gelbooru02, closed": ClosedGelbooru02}

# From which answer on two empty ones may end a listing: Gelbooru 0.2 is asked in other ways before.
ENDS = {"gelbooru02": 1, "gelbooru": 0}
# Requests of an undisturbed listing: three pages, and the end twice. Where only pages are open,
# three ways and the first two again, twice; the end, and the page of each post.
CALM = {"gelbooru02, closed": 3 + 4 + 2 + COUNT}
OTHER_WAYS = {"gelbooru02": 1, "gelbooru02, closed": 2}


def empties(_: Asked, pass_on: Pass) -> Answer:
    return replace(pass_on(), body=b"")


def says_wait(_: Asked, __: Pass) -> Answer:
    page = b"<html><title>Just a moment</title>We will look after you</html>"
    return Answer(200, (("Content-Type", "text/html"),), page)


def cuts_gzip_short(_: Asked, pass_on: Pass) -> Answer:
    answer = pass_on()
    packed = gzip.compress(answer.body)
    coded = (*answer.headers, ("Content-Encoding", "gzip"))
    return replace(answer, headers=coded, body=packed[: len(packed) // 2])


DAMAGES: dict[str, Mishap] = {
    "dies": dies,
    "cut short": cuts_short,
    "gzip cut short": cuts_gzip_short,
    "empty": empties,
    "another page": says_wait,
}


class Some:
    """Lets a mishap befall some answers of a board, by their number from 0; counts them all."""

    def __init__(self, mishap: Mishap, which: Container[int]) -> None:
        self.count = 0
        self._mishap, self._which = mishap, which

    def __call__(self, asked: Asked) -> Mishap | None:
        if asked.path == "/robots.txt":
            return None
        self.count += 1
        return self._mishap if self.count - 1 in self._which else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    for number in range(1, COUNT + 1):
        write_post(
            folder,
            number,
            picture=number,
            tags=["fox", "tree"],
            rating="sensitive" if number % 2 else "general",
        )
    return folder


@pytest.fixture(params=BOARDS)
def board(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, Proxy]]:
    engine = request.param
    with (
        BoardServer(folder, protocol=BOARDS[engine]) as server,
        proxied(server.url) as proxy,
    ):
        yield engine, proxy


def listed(engine: str, proxy: Proxy) -> list[Post]:
    with Client(rate=1e4, allow_private_hosts=True, back_off=0.001) as client:
        board = open_board(f"{engine.partition(',')[0]}+{proxy.url}", client, LOGIN[engine])
        return [board.complete(post) for post in board.walk(Query(("fox",)), limit=AT_ONCE)]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("times", [1, 2])
def test_what_comes_damaged_is_asked_for_again(
    board: tuple[str, Proxy], damage: str, times: int
) -> None:
    engine, proxy = board
    proxy.judge = quiet = Some(DAMAGES[damage], ())
    calm = listed(engine, proxy)
    assert [post.id for post in calm] == list(range(COUNT, 0, -1))
    assert quiet.count == CALM.get(engine, 5)
    for first in range(8):
        proxy.judge = some = Some(DAMAGES[damage], range(first, first + times))
        found = listed(engine, proxy)
        # Twice nothing is how these engines say that there is no more, of a board that has shown
        # posts: what was listed until then is all of it.
        may_end = (damage, times) == ("empty", 2) and first >= ENDS.get(engine, COUNT)
        expected = calm[: AT_ONCE * first] if may_end else calm
        assert found == expected, f"damaged: answer {first}"
        # Each costs its own request, and where it is not known yet how to read the board those
        # of the other ways; one that was no end costs three, as all ends are doubted from then on.
        more = times + (OTHER_WAYS.get(engine, 0) if first < 3 else 0)
        more += 3 if damage == "empty" and engine in ENDS else 0
        assert some.count <= CALM.get(engine, 5) + more, f"damaged: answer {first}"
