"""The most memory that a scrape takes, of boards with 1,000, 10,000 and 100,000 posts of a tag.

A fifth of the posts have a tiny picture that is fetched, the others a video that is not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tests.benchmarks.board import Picture, Served, jpeg, write_posts
from tests.benchmarks.commands import run_job
from tests.benchmarks.ratios import Goal, Ratio, compared, with_unit

_POSTS = (1_000, 10_000, 100_000)
_WITHOUT = 10  # of a thousand posts, that do not have the tag
_GOAL = Goal(2.5, "at most")


def draw(count: int) -> Iterator[Picture]:
    """Yield so many posts, newest first."""
    tiny = jpeg(Image.new("RGB", (64, 64)))
    for number in range(count, 0, -1):
        # Among those without the tag are pictures, which are taken, and videos.
        without = number % 1000 < 10 * _WITHOUT and number % 10 < 1
        tags = ("solo",) if without else ("fox", "solo", "1girl")
        if number % 5 == 0:
            yield Picture(number, "jpg", tiny, (64, 64), tags)
        else:
            yield Picture(number, "webm", b"", (64, 64), tags)


def rows() -> Iterator[Ratio]:
    """Yield the peak of each size beside that of the smallest."""
    peaks = {count: _peak(count) for count in _POSTS}
    for count in _POSTS[1:]:
        yield compared(
            f"peak memory of a bare scrape, {count:,} posts listed, a fifth of them fetched",
            [peaks[count] / 1e6],
            [peaks[_POSTS[0]] / 1e6],
            with_unit("MB"),
            by=f"{_POSTS[0]:,}",
            goal=_GOAL,
        )


def _peak(count: int) -> float:
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        folder = Path(scratch)
        write_posts(folder, draw(count))
        with Served(folder) as board:
            options = board.options(str(folder / "data"), "fox")
            bare = ["--no-curate", "--no-perceptual-hash", "--limit", str(count)]
            return run_job("scrape", [*options, *bare, "--concurrency", "32"]).peak
