"""The whole pipeline ends as in quiet, whatever befalls it; `make faults` kills it more often."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagetag.boards.base import Query
from imagetag.boards.sites import open_board
from imagetag.demo.server import BoardServer
from imagetag.web.client import Client
from tests.faults.campaign import Campaign
from tests.faults.mishaps import Once, cuts_short
from tests.faults.proxy import Asked, Mishap, proxied
from tests.integration.scraping import write_post

pytestmark = pytest.mark.timeout(1800)


def test_five_kills_and_much_that_goes_wrong_change_nothing(tmp_path: Path) -> None:
    ledger = Campaign(tmp_path, seed=1, whole=False).run(kills=5)
    assert not ledger.wrong, str(ledger)
    assert ledger.kills.total() >= 5
    assert ledger.mishaps


def test_a_listing_that_comes_cut_short_does_not_let_a_board_be_read_another_way(
    tmp_path: Path,
) -> None:
    for number in range(1, 6):
        write_post(tmp_path / "board", number, picture=number, tags=["fox"])
    once, queries = Once(cuts_short, lambda asked: "json=1" in asked.query), []

    def judge(asked: Asked) -> Mishap | None:
        queries.append(asked.query)
        return once(asked)

    with BoardServer(tmp_path / "board") as server, proxied(server.url, judge) as proxy:
        client = Client(rate=1000, allow_private_hosts=True)
        board = open_board(f"gelbooru02+{proxy.url}", client)
        assert len(board.page(Query(("fox",)), below=None, limit=9)) == 5
        client.stop()
    assert once.befell
    assert ["json=1" in query for query in queries if "page=" in query] == [True, True]
