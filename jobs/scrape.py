"""The scrape job: images of each tag, and others without it, from a board into storage."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field, SecretStr, field_validator

from imagetag.boards import Login, open_board
from imagetag.dataset import Negatives
from imagetag.imaging import EXTENSIONS, MAX_PIXELS, Thumbnails
from imagetag.job import (
    CommaList,
    Contact,
    Heartbeats,
    TagSettings,
    allow_private_hosts_field,
    board_key_field,
    board_user_field,
    checked_tag,
    concurrency_field,
    contact_field,
    for_each_tag,
    ignore_robots_field,
    max_rate_field,
    run_job,
    share_memory_among_threads,
    tell_next,
)
from imagetag.log import get_logger
from imagetag.scrape import How, Scraper, Selection
from imagetag.storage import Storage, open_storage
from imagetag.web import Client, Unblocker


class ScrapeSettings(TagSettings):
    """Options of `imagetag scrape`."""

    headings: ClassVar = {
        "Which posts": ("negative_ratio", "test_fraction", "since", "blocked_tags", "min_score"),
        "Which files": ("extensions", "min_side", "max_pixels", "max_aspect", "max_bytes"),
        "Login": ("board_user", "board_key"),
        "Manners and speed": (
            "concurrency",
            "per_host",
            "ignore_robots",
            "browser",
            "allow_private_hosts",
        ),
        "Curation and retries": ("perceptual_hash", "curate", "retry_failed"),
    }

    board: str = Field(
        "safebooru",
        description="a board by its name; ENGINE+URL; folder+PATH, a folder with a sub-folder a "
        "tag; or links+FILE, a list of URLs with tags (CSV, TSV, JSON lines, Parquet)",
    )
    board_user: str = board_user_field()
    board_key: SecretStr = board_key_field()
    limit: int = Field(500, ge=1, description="images of the tag")
    negatives: Negatives = Field(
        "random",
        description="images without it: random; hard, which share its most typical companions, "
        "such as a series; or mixed",
    )
    negative_ratio: float = Field(
        1.0, gt=0, le=100, description="how many images without the tag for each with it"
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of the groups of posts that is held out as test split"
    )
    since: datetime | None = Field(
        None, description="take only posts from this day on, such as 2024-01-31"
    )
    rating: CommaList = Field(
        ("general",),
        description="ratings to take: general (or safe), sensitive, questionable, explicit",
    )
    blocked_tags: CommaList = Field((), description="posts with one of these tags are not taken")
    min_score: int | None = Field(None, description="least score of a post")
    extensions: CommaList = Field(
        ("jpg", "png", "webp"), description="file types to take; also bmp and gif (stills)"
    )
    min_side: int = Field(64, ge=1, description="least pixels of an image's shorter side")
    max_pixels: int = Field(
        50_000_000, ge=1, le=MAX_PIXELS, description="most pixels of an image, width x height"
    )
    max_aspect: float | None = Field(
        None, ge=1, description="how many times as long as the shorter side the longer may be"
    )
    max_bytes: int = Field(50_000_000, ge=1000, description="largest file to download, in bytes")
    max_rate: float = max_rate_field()
    concurrency: int = concurrency_field()
    per_host: int | None = Field(
        None, ge=1, description="requests under way at once to one host; by default --concurrency"
    )
    contact: Contact = contact_field()
    ignore_robots: bool = ignore_robots_field()
    browser: Literal["never", "auto"] = Field(
        "never",
        description="auto: open pages that need JavaScript in headless Chromium, and go on with "
        "its cookies",
    )
    allow_private_hosts: bool = allow_private_hosts_field()
    perceptual_hash: bool = Field(
        True, description="hash each picture for curate while it is in memory"
    )
    curate: bool = Field(
        True, description="find near-duplicates at the end of each tag, as imagetag curate does"
    )
    retry_failed: bool = Field(
        False, description="only try again the posts of complete datasets that failed"
    )

    @field_validator("rating")
    @classmethod
    def _known_ratings(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple("general" if value == "safe" else value for value in values)
        known = ("general", "sensitive", "questionable", "explicit")
        if not names or set(names) - set(known):
            raise ValueError("take " + ", ".join(known))
        return tuple(name for name in known if name in names)

    @field_validator("blocked_tags")
    @classmethod
    def _tags(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted({checked_tag(value) for value in values}))

    @field_validator("since", mode="before")
    @classmethod
    def _written_out(cls, value: object) -> object:
        # A bare number would be taken for seconds since 1970: `2024` for that year's first hour.
        if isinstance(value, str) and not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            raise ValueError("take a day such as 2024-01-31")
        return value

    @field_validator("since")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    @field_validator("extensions")
    @classmethod
    def _known_extensions(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if not values or set(values) - EXTENSIONS:
            raise ValueError("take " + ", ".join(sorted(EXTENSIONS)))
        return tuple(sorted({"jpg" if value == "jpeg" else value for value in values}))


def work(settings: ScrapeSettings) -> None:
    """Scrape each tag of this shard."""
    if not settings.my_tags():  # wrong tags are known before anything is asked of anybody
        get_logger().info("nothing to do: more shards than tags", shard=settings.shard_index)
        return
    share_memory_among_threads()
    login = Login(settings.board_user, settings.board_key.get_secret_value())
    with open_client(settings) as client, ThreadPoolExecutor(1) as loader:
        board = open_board(settings.board, client, login)
        storage = open_storage(settings.storage, settings.concurrency)
        thumbnails = Thumbnails() if settings.curate else None
        how = How(settings.concurrency, settings.perceptual_hash, thumbnails)
        scraper = Scraper(storage, board, selection_of(settings, board.root), how)
        # What it imports takes a while: that is done while the board is asked.
        curator = loader.submit(_curator, settings, storage, thumbnails) if thumbnails else None

        def scrape(tag: str) -> None:
            if settings.retry_failed:
                scraper.retry(tag)
            else:
                scraper.scrape(tag)
            if curator:
                curator.result()(tag)

        for_each_tag(settings, scrape, Heartbeats(storage, "scrape"))
    tell_next("explore", settings)


def _curator(
    settings: ScrapeSettings, storage: Storage, thumbnails: Thumbnails
) -> Callable[[str], object]:
    from imagetag.curate import Seen, curate_tag  # NumPy: not for --help

    return partial(curate_tag, storage, concurrency=settings.concurrency, seen=Seen(thumbnails))


@contextmanager
def open_client(settings: ScrapeSettings, attempts: int | None = None) -> Iterator[Client]:
    """Give the client of the job, and leave nothing of it running.

    Args:
        settings: of the job.
        attempts: at each request, None for the client's own.

    """
    with Client(
        rate=settings.max_rate,
        shard_index=settings.shard_index,
        # Shards beyond the tags have nothing to ask for.
        shard_count=min(settings.shard_count, len(settings.all_tags())),
        concurrency=settings.concurrency + 1,  # the downloads, and the listing
        per_host=settings.per_host,
        contact=settings.contact,
        allow_private_hosts=settings.allow_private_hosts,
        obey_robots=not settings.ignore_robots,
        attempts=attempts,
    ) as client:
        if settings.browser == "never":
            yield client
            return
        private = settings.allow_private_hosts
        with Unblocker(client, contact=settings.contact, allow_private_hosts=private) as unblocker:
            client.unblock = unblocker
            yield client


def selection_of(settings: ScrapeSettings, board: str) -> Selection:
    """Return what to take of a board, by its root."""
    return Selection(
        board=board,
        limit=settings.limit,
        negatives=settings.negatives,
        negative_ratio=settings.negative_ratio,
        ratings=settings.rating,
        extensions=settings.extensions,
        min_side=settings.min_side,
        max_pixels=settings.max_pixels,
        max_aspect=settings.max_aspect,
        max_bytes=settings.max_bytes,
        min_score=settings.min_score,
        blocked_tags=settings.blocked_tags,
        since=settings.since,
        test_fraction=settings.test_fraction,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "images that are stored are kept; run it again to go on"
    return run_job("scrape", str(__doc__), ScrapeSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
