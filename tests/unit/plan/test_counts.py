"""What boards of each engine say of tags before anything is fetched, on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagetag.boards.base import Board, Login, Query
from imagetag.boards.sites import open_board
from imagetag.demo.server import BoardServer
from imagetag.plan.counts import Asked, ask_board, find_complete, find_done
from imagetag.plan.network import Network
from imagetag.scrape.selection import Selection
from imagetag.storage.local import LocalStorage
from imagetag.web.client import Client
from tests.boardserver import ENGINES, Engine
from tests.boardserver.closed import ClosedGelbooru02
from tests.builders.statuses import ago, write_all, write_scraped
from tests.scripted import Reply, serving
from tests.storages import Wrapped

LOGIN = {"gelbooru": Login("somebody", "k3y")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board's posts: 130 of foxes, of which 20 are questionable; 12 of an owl; 3 others."""
    made = tmp_path_factory.mktemp("posts")
    Image.new("RGB", (200, 100)).save(made / "a.png")
    kinds = [("red_fox", "general")] * 110 + [("red_fox", "questionable")] * 20
    kinds += [("snowy_owl", "general")] * 12 + [("bear", "general")] * 3
    lines = [
        {
            "id": number,
            "file": "a.png",
            "tags": [tag, "animal"],
            "rating": rating,
            "width": 200,
            "height": 100,
            "md5": f"{number:032x}",
            "ext": "png",
        }
        for number, (tag, rating) in enumerate(kinds, 1)
    ]
    (made / "posts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return made


@contextmanager
def opened(spec: str, login: Login | None = None) -> Iterator[Board]:
    client = Client(rate=1000, allow_private_hosts=True, attempts=1, back_off=0)
    try:
        yield open_board(spec, client, login or Login())
    finally:
        client.stop()


def selection(**changes: Any) -> Selection:
    values: dict[str, Any] = {
        "board": "x",
        "limit": 500,
        "ratings": ("general",),
        "extensions": ("png",),
        "min_side": 64,
        "max_bytes": 10**6,
        "test_fraction": 0.2,
    }
    return Selection(**values | changes)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_tells_of_few_and_many_and_of_tags_spelt_alike(
    engine: Engine, folder: Path
) -> None:
    tags = ["red_fox", "snowy_owl", "red_fix", "qqqqqq"]
    with BoardServer(folder, protocol=ENGINES[engine]) as server:
        with opened(f"{engine}+{server.url}", LOGIN.get(engine)) as board:
            foxes, owls, typo, nothing = ask_board(board, selection(), tags)
    # e621 counts tags, whatever the rating; of pages of 50, that is how many there are.
    assert foxes.posts == (130 if engine == "e621" else 110)
    assert (foxes.exact, foxes.fit, foxes.positives(500)) == (False, 1.0, foxes.posts)
    assert foxes.positives(20) == 20
    assert (owls.posts, owls.exact, owls.positives(500)) == (12, True, 12)
    assert (typo.posts, typo.similar[:1], typo.positives(500)) == (0, ("red_fox",), 0)
    assert (nothing.posts, nothing.similar) == (0, ())


def test_few_requests_are_made(folder: Path) -> None:
    with BoardServer(folder) as server, opened(f"gelbooru02+{server.url}") as board:
        list(ask_board(board, selection(), ["red_fox"]))
        assert sum(server.requests.values()) <= 3  # robots.txt, a page of posts, the count
        before = sum(server.requests.values())
        list(ask_board(board, selection(), ["snowy_owl"]))
        assert sum(server.requests.values()) - before <= 3
        before = sum(server.requests.values())
        list(ask_board(board, selection(), ["red_fix"]))
        assert sum(server.requests.values()) - before <= 4
        assert server.requests["image"] == 0


def test_a_closed_api_counts_what_is_seen_and_no_more(folder: Path) -> None:
    with BoardServer(folder, protocol=ClosedGelbooru02) as server:
        with opened(f"gelbooru02+{server.url}") as board:
            foxes, typo = ask_board(board, selection(), ["red_fox", "red_fix"])
    assert (foxes.posts, foxes.fit) == (None, 1.0)
    assert foxes.positives(500) is None
    assert (typo.posts, typo.similar) == (0, ("red_fox",))


def test_what_does_not_fit_is_not_reckoned_with(folder: Path) -> None:
    with BoardServer(folder) as server, opened(f"gelbooru02+{server.url}") as board:
        [owls] = ask_board(board, selection(extensions=("jpg",)), ["snowy_owl"])
    assert (owls.posts, owls.fit, owls.positives(500)) == (12, 0.0, 0)


def test_an_alias_is_known_by_what_its_posts_carry() -> None:
    post = {"id": 5, "file_url": "/5.png", "tags": "animal redfox", "rating": "general"}
    body = json.dumps([post | {"id": 5}, post | {"id": 3}]).encode()

    def answer(request: Any) -> Reply:
        listed = "id:" not in request.query.get("tags", "")
        return Reply(body if listed and request.path == "/index.php" else b"", 200)

    with serving(answer) as server, opened(f"gelbooru02+{server.url}") as board:
        [alias] = ask_board(board, selection(), ["red_fox"])
    assert (alias.posts, alias.alias_of, alias.positives(500)) == (0, ("redfox", "animal"), 0)


def test_a_board_that_does_not_answer_is_not_asked_on_and_on() -> None:
    with serving(lambda _: Reply(b"", 503)) as server:
        with opened(f"danbooru+{server.url}") as board:
            found = list(ask_board(board, selection(), [f"tag_{number}" for number in range(9)]))
        assert all(asked.problem for asked in found)
        assert found[8].problem.startswith("not asked: ")
        assert len(server.requests) <= 4
    assert found[0].positives(500) is None


@pytest.mark.parametrize("count", [b"null", b'"many"', b"-5", b"true", b"{}"])
def test_a_count_that_is_none_is_unknown(count: bytes) -> None:
    with serving(lambda _: Reply(b'{"counts": {"posts": %s}}' % count)) as server:
        with opened(f"danbooru+{server.url}") as board:
            assert board.count(Query(("fox",))) is None
            assert board.similar("fox") == []


def test_a_folder_is_counted_and_its_tags_are_known(tmp_path: Path) -> None:
    for tag, count in (("fox", 3), ("owl", 2)):
        (tmp_path / tag).mkdir()
        for number in range(count):
            Image.new("RGB", (100, 100), (number, 0, 0)).save(tmp_path / tag / f"{number}.png")
    with opened(f"folder+{tmp_path}") as board:
        assert board.count(Query(("fox",))) == 3
        assert board.count(Query()) == 5
        assert board.count(Query(without=("fox",))) == 2
        assert board.similar("fxo") == ["fox"]
        [fox] = ask_board(board, selection(), ["owll"])
    assert (fox.posts, fox.similar) == (0, ("owl",))


def test_what_is_scraped_already_with_these_settings_is_not_asked_for(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    write_scraped(storage, "fox", made=ago(60))  # of other settings

    class Same(Selection):
        def model_dump(self, **_: Any) -> dict[str, Any]:
            return {"limit": 400}

    assert find_complete(storage, selection(), ["fox", "owl"]) == {}
    same = Same(**dict(selection()))
    assert find_complete(storage, same, ["fox", "owl"]) == {"fox": Asked("fox", 400, True, 1.0)}


def test_what_is_done_of_a_tag_is_of_this_model_and_promise_by_a_few_reads(tmp_path: Path) -> None:
    storage = Wrapped(LocalStorage(tmp_path))
    for tag in ("fox", "owl"):
        write_all(storage, tag, made=ago(60))
    write_scraped(storage, "elk", made=ago(60))
    write_scraped(storage, "owl", made=ago(1), fingerprint="cd")  # anew: what came of it is old

    def done(tag: str, model: str = "vgg19", promise: float = 0.95) -> tuple[str, ...]:
        return find_done(storage, [tag], Network(model), promise, 0.95)[tag]

    assert done("fox") == ("scrape", "explore", "train", "evaluate")
    assert done("fox", promise=0.9) == ("scrape", "explore", "train")
    assert done("fox", model="mobilenet") == ("scrape", "explore")
    assert done("elk") == ("scrape",)
    assert done("owl") == ("scrape",)
    assert find_done(storage, [], Network("vgg19"), 0.95, 0.95) == {}
    storage.asked.clear()
    find_done(storage, ["fox"], Network("vgg19"), 0.95, 0.95)
    assert sum(storage.asked.values()) <= 7
