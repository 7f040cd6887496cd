"""Shards of one scrape job: killed at any instant, they end with what an undisturbed job leaves."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from imagetag.storage.opening import open_storage
from tests.integration.scraping import Moody, check, counts, end, images, run, start

TAGS = ["fox", "robot", "owl", "ghost", "frog", "solo"]
SHARDS, CONCURRENCY, KILLS = 3, 4, 3


@pytest.mark.parametrize("seed", range(2))
def test_shards_killed_at_any_instant_end_as_undisturbed_ones(
    board: Moody, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    undisturbed, storage = (open_storage(str(tmp_path / name)) for name in ("calm", "killed"))
    options = ("--limit", "12", "--concurrency", str(CONCURRENCY))
    assert run(board, undisturbed, *options, tags=",".join(TAGS)).code == 0
    fetched = len(set(board.asked))
    board.asked.clear()
    board.mood = lambda _md5, _times: time.sleep(0.1)

    codes = []
    for kills in range(KILLS, -1, -1):
        jobs = [
            start(
                *(board, storage, *options),
                *("--shard-count", str(SHARDS), "--shard-index", str(index)),
                tags=",".join(TAGS),
            )
            for index in range(SHARDS)
        ]
        for job in jobs if kills else ():
            time.sleep(dice.uniform(0.2, 0.6))
            job.send_signal(dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        codes.append([end(job).code for job in jobs])
    assert codes[-1] == [0] * SHARDS
    assert {code for round_ in codes for code in round_} <= {0, -9, 143, -15}
    assert any(code == -9 for round_ in codes for code in round_), "all were done before the kill"
    assert images(storage) == images(undisturbed)
    for tag in TAGS:
        dataset, rows = check(storage, tag)
        assert counts(rows) == {"positive": 12, "negative": 12}
        assert dataset.fingerprint == check(undisturbed, tag)[0].fingerprint
    # Besides, two shards may want the same picture in the same instant.
    assert len(board.asked) <= fetched + SHARDS * CONCURRENCY * KILLS + 2 * SHARDS * CONCURRENCY
