"""How work grows with what there is of it, and the power of its size that fits best.

Requests are counted by a board; processor seconds are of made-up datasets, runs and markers in
memory, so that neither disk nor network is in them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from imagetag.curate import curate_tag
from imagetag.explore import explore_tag
from imagetag.layout import Layout
from imagetag.report import make_leaderboard
from imagetag.status import Overview
from tests.benchmarks.board import Picture, Served, jpeg, write_posts
from tests.benchmarks.commands import run_job
from tests.benchmarks.ratios import Ratio, grown, with_unit
from tests.builders.many import Many
from tests.builders.results import make_logits, make_pictures, write_run
from tests.builders.statuses import NOW, ago, write_all
from tests.storages import InMemory, MadeUp

_TAGS = (1, 10, 50)  # that are scraped
_POSTS, _LIMIT = 5_000, 10
_ROWS = (1_000, 10_000, 100_000)  # of a tag that is explored
_PICTURES = (5_000, 20_000, 100_000)  # of one that is curated: of fewer, all pairs are compared
_TOLD = (100, 1_000, 10_000)  # tags

_WHY = {
    "curate": "pictures are looked up in a graph, and a search in it takes the longer the larger "
    "it is; the pairs that look alike, and are judged, grow faster than the pictures",
    "status": "Python's garbage collector goes through what is kept of each tag, the more often "
    "the more there are: without it it is n^1.0",
}
_SECONDS = with_unit("processor seconds")


def rows() -> Iterator[Ratio]:
    """Yield a row for each kind of work."""
    yield grown("requests of a scrape", _requests(), "tags", with_unit("requests"))
    for what, work, sizes, of in (
        ("explore", explored, _ROWS, "rows"),
        ("curate", curated, _PICTURES, "pictures"),
        ("report", reported, _TOLD, "tags"),
        ("status", told, _TOLD, "tags"),
    ):
        work(sizes[0])()  # what is imported and made the first time is there
        yield grown(
            what, {size: seconds(work(size)) for size in sizes}, of, _SECONDS, _WHY.get(what, "")
        )


def seconds(work: Callable[[], object]) -> float:
    """Return the processor seconds that a piece of work takes."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def explored(count: int) -> Callable[[], object]:
    """Return what explores a tag of so many rows."""
    return partial(explore_tag, _with_rows(count), "tag_00000")


def curated(count: int) -> Callable[[], object]:
    """Return what curates a tag of so many rows, none of which are twins."""
    return partial(curate_tag, _with_rows(count, layouts=True), "tag_00000")


def reported(count: int) -> Callable[[], object]:
    """Return what compares a run of 400 test pictures of each of so many tags."""
    storage, pictures = MadeUp(), make_pictures(200, 200)
    logits = make_logits(pictures, 3.0, seed=1)
    many = Many(count)
    many.store(storage)
    for tag in many.names:
        write_run(storage, tag, "first", pictures, logits)
        storage.write(Layout(tag).index, b"")  # a new key has this storage sort all of them anew
    return lambda: make_leaderboard(storage, storage, ".reports/", None, "average-precision")


def told(count: int) -> Callable[[], object]:
    """Return what tells where so many tags stand that are done."""
    storage = InMemory()
    for number in range(count):
        write_all(storage, f"tag_{number:05}", made=ago(3600))
    return lambda: Overview(storage, threads=2).read(NOW)


def _with_rows(count: int, *, layouts: bool = False) -> MadeUp:
    picture = jpeg(Image.effect_noise((160, 120), 60).convert("RGB"))
    storage = MadeUp(lambda _: picture)
    Many(1, limit=count // 2, layouts=layouts).store(storage)
    for key in list(storage.made):  # that they are made is no part of the work
        storage.objects[key] = storage.made.pop(key).make()
    return storage


def _requests() -> dict[int, float]:
    """Return how many requests the scrape of so many tags makes, on a board where all share."""
    tiny = jpeg(Image.effect_noise((64, 64), 60).convert("RGB"))
    tags = [f"tag_{number:02}" for number in range(max(_TAGS))]
    posts = (
        Picture(number, "jpg", tiny, (64, 64), ("solo", tags[number % len(tags)]))
        for number in range(_POSTS, 0, -1)
    )
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        folder = Path(scratch)
        write_posts(folder, posts)
        with Served(folder) as board:
            return {count: _of_scrape(board, folder / str(count), tags[:count]) for count in _TAGS}


def _of_scrape(board: Served, storage: Path, tags: list[str]) -> float:
    board.stats()
    options = [*board.options(str(storage), *tags), "--limit", str(_LIMIT), "--no-curate"]
    run_job("scrape", options)
    return float(board.stats()["requests"])
