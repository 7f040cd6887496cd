"""The scrape job in a storm of faults: every post is stored, or recorded with its reason."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode

import pytest

from imagetag.boards.sites import open_board
from imagetag.dataset.manifest import Dataset
from imagetag.demo.pages import Answer
from imagetag.demo.protocol import Request
from imagetag.errors import TransientError
from imagetag.scrape.collect import How
from imagetag.scrape.scrape import Scraper
from imagetag.scrape.selection import Selection
from imagetag.storage.base import Storage
from imagetag.storage.opening import open_storage
from imagetag.web.client import Client
from imagetag.web.hosts import Breaker
from tests.integration.scraping import (
    Moody,
    check,
    failures,
    hang_up,
    image_keys,
    images,
    picture,
    png,
    refused,
    run,
    write_post,
)

COUNT = 240
FAULTS = 0.2  # of all answers


class Stormy(Moody):
    """A board of which every fifth answer is at fault, and some pictures never come.

    Which answers, depends on what is asked and how often it was before; not on time.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.calm = False
        self.ledger: Counter[str] = Counter()
        self._times: Counter[str] = Counter()
        self._counting = threading.Lock()
        self.never = {post.md5: post.id % 4 for post in self.posts if post.id % 30 < 3}

    def answer(self, request: Request) -> Answer:
        if self.calm:
            return super().answer(request)
        asked = f"{request.path}?{urlencode(request.params)}"
        with self._counting:
            self._times[asked] += 1
            dice = random.Random(f"{asked} {self._times[asked]}")
        fault = dice.choice(FAULT_NAMES) if dice.random() < FAULTS else ""
        md5 = Path(request.path).stem
        if md5 in self.never:
            fault = FOR_EVER[self.never[md5]]
        answer = super().answer(request)
        if not fault:
            return answer
        with self._counting:
            self.ledger[fault] += 1
        return self._at_fault(fault, answer, dice)

    def _at_fault(self, fault: str, answer: Answer, dice: random.Random) -> Answer:
        match fault:
            case "truncated":
                return Answer(
                    answer.status, answer.media_type, answer.body[: len(answer.body) // 2]
                )
            case "corrupted":
                body = bytearray(answer.body)
                for _ in range(9):
                    body[dice.randrange(len(body))] ^= dice.randrange(1, 256)
                return Answer(answer.status, answer.media_type, bytes(body))
            case "html":
                return Answer(HTTPStatus.OK, "text/html", b"<html>please wait a moment</html>")
            case "another picture":
                return picture(png(7, (90, 90)))
            case "429" | "503" | "404":
                return refused(HTTPStatus(int(fault)))
            case "stall":
                time.sleep(0.9)
        return hang_up()


FAULT_NAMES = ["truncated", "corrupted", "html", "429", "503", "reset", "stall"]
FOR_EVER = ["404", "503", "another picture", "html"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storm")
    for post_id in range(1, COUNT + 1):
        write_post(folder, post_id, picture=post_id, tags=["fox" if post_id % 2 else "owl"])
    return folder


@pytest.fixture
def board(folder: Path) -> Iterator[Stormy]:
    with Stormy(folder) as board:
        yield board


def scrape(board: Moody, storage: Storage, *, retry: bool = False) -> Dataset:
    """Scrape until it is complete, as a pod that is started again after passing failures."""
    for _ in range(20):
        client = Client(
            rate=2000,
            concurrency=9,
            allow_private_hosts=True,
            timeout=(5, 0.5),
            back_off=0.02,
            breaker=Breaker(pause=0.2),
        )
        selection = Selection(
            board=board.url,
            limit=COUNT,
            ratings=("general",),
            extensions=("png",),
            min_side=8,
            max_bytes=100_000,
            test_fraction=0.2,
        )
        scraper = Scraper(
            storage, open_board(f"gelbooru02+{board.url}", client), selection, How(8, False)
        )
        try:
            return scraper.retry("fox") if retry else scraper.scrape("fox")
        except TransientError:
            continue
        finally:
            client.stop()
    pytest.fail("it came to no end")


def test_a_storm_loses_nothing(board: Stormy, tmp_path: Path) -> None:
    storage, undisturbed = (open_storage(str(tmp_path / name)) for name in ("storm", "calm"))
    scrape(board, storage)
    assert set(board.ledger) == {*FAULT_NAMES, *FOR_EVER}
    assert board.ledger.total() >= FAULTS * board.requests.total() * 0.8
    dataset, rows = check(storage)
    recorded = failures(storage)
    lost = recorded.keys() - {row.post_id for row in rows}
    never = {
        post.id: FOR_EVER[board.never[post.md5]] for post in board.posts if post.md5 in board.never
    }
    assert lost >= never.keys()
    assert len(rows) + len(lost) == COUNT, "posts that are neither stored nor recorded"
    reasons = {
        "404": "http_404",
        "503": "http_503",
        "another picture": "md5",
        "html": "not_an_image",
    }
    for post_id, why in never.items():
        assert recorded[post_id].reason == reasons[why]
        assert recorded[post_id].permanent == (why != "503")
    assert len(lost) <= len(never) + 0.02 * COUNT, "given up too soon"
    assert sum(dataset.failures.values()) == len(lost)

    board.calm = True
    board.asked.clear()
    before = images(storage)
    scrape(board, storage, retry=True)
    assert set(board.asked) == {post.md5 for post in board.posts if post.id in lost}
    assert len(board.asked) == len(lost)
    assert before.items() <= images(storage).items()
    scrape(board, undisturbed)
    assert images(storage) == images(undisturbed)
    assert check(storage)[0].fingerprint == check(undisturbed)[0].fingerprint
    assert check(storage)[0].failures == {}


# --- Trying again what failed -----------------------------------------------------------------


@pytest.mark.usefixtures("quick_retries")
def test_only_what_failed_is_tried_again(folder: Path, storage: Storage) -> None:
    with Moody(folder) as board:
        gone = {post.md5 for post in board.posts if post.id % 60 == 1}
        board.mood = lambda md5, _: refused(HTTPStatus.NOT_FOUND) if md5 in gone else None
        run(board, storage, "--limit", "50")
        first = image_keys(storage)
        assert len(first) == 100
        tried = {post.md5 for post in board.posts if post.id in failures(storage)}
        assert tried
        board.asked.clear()
        ended = run(board, storage, "--limit", "50", "--retry-failed")
        assert ended.code == 0
        assert sorted(board.asked) == sorted(tried)
        assert image_keys(storage) == first
        board.mood = lambda _md5, _times: None
        board.asked.clear()
        assert run(board, storage, "--limit", "50", "--retry-failed").code == 0
        assert sorted(board.asked) == sorted(tried)
        dataset, rows = check(storage)
        assert len(rows) == 100 + len(tried)
        assert dataset.failures == {}
        board.asked.clear()
        assert run(board, storage, "--limit", "50", "--retry-failed").code == 0
        assert run(board, storage, "--limit", "50").code == 0
        assert board.asked == []


def test_there_is_nothing_to_try_again_where_nothing_was_scraped(
    folder: Path, storage: Storage
) -> None:
    with Moody(folder) as board:
        ended = run(board, storage, "--retry-failed")
    assert ended.code == 3
    assert "no complete dataset of the tag 'fox'" in ended.errors[0]
    assert not board.requests
