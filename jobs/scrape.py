"""The scrape job: images of each tag, and as many without it, from a board into storage."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydantic import Field, field_validator

from imagetag.boards import open_board
from imagetag.collect import Selection
from imagetag.http import Client
from imagetag.images import EXTENSIONS
from imagetag.job import for_each_tag, run_job
from imagetag.scrape import scrape_tag
from imagetag.settings import CommaList, TagSettings
from imagetag.storage import open_storage


class ScrapeSettings(TagSettings):
    """Options of `imagetag scrape`."""

    board: str = Field(
        "safebooru", description="the board: safebooru, or ENGINE+URL, engine gelbooru02"
    )
    limit: int = Field(500, ge=1, description="images per label (the tag, and without it)")
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of the groups of posts that is held out as test split"
    )
    rating: CommaList = Field(
        ("general",),
        description="ratings to take: general (or safe), sensitive, questionable, explicit",
    )
    extensions: CommaList = Field(
        ("jpg", "png", "webp"), description="file types to take; also bmp and gif (stills)"
    )
    min_side: int = Field(64, ge=1, description="least pixels of an image's shorter side")
    max_bytes: int = Field(50_000_000, ge=1000, description="largest file to download, in bytes")
    max_rate: float = Field(
        5.0,
        gt=0,
        description="requests a second for the whole job, divided by --shard-count",
    )
    concurrency: int = Field(16, ge=1, le=256, description="downloads under way at once")
    contact: str = Field(
        "", description="an address or URL in the user agent, for the board's owner"
    )
    allow_private_hosts: bool = Field(
        False, description="connect to loopback and private addresses too: for your own board"
    )

    @field_validator("contact")
    @classmethod
    def _fits_a_header(cls, value: str) -> str:
        if not (value.isascii() and value.isprintable()):
            raise ValueError("take ASCII, as it goes into a header")
        return value

    @field_validator("rating")
    @classmethod
    def _known_ratings(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple("general" if value == "safe" else value for value in values)
        known = ("general", "sensitive", "questionable", "explicit")
        if not names or set(names) - set(known):
            raise ValueError("take " + ", ".join(known))
        return tuple(name for name in known if name in names)

    @field_validator("extensions")
    @classmethod
    def _known_extensions(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if not values or set(values) - EXTENSIONS:
            raise ValueError("take " + ", ".join(sorted(EXTENSIONS)))
        return tuple(sorted({"jpg" if value == "jpeg" else value for value in values}))


def work(settings: ScrapeSettings) -> None:
    """Scrape each tag of this shard."""
    settings.my_tags()  # wrong tags are known before anything is asked of anybody
    client = Client(
        rate=settings.max_rate / settings.shard_count,
        concurrency=settings.concurrency + 1,  # the downloads, and the listing
        contact=settings.contact,
        allow_private_hosts=settings.allow_private_hosts,
    )
    board = open_board(settings.board, client)
    storage = open_storage(settings.storage, settings.concurrency)
    selection = Selection(
        board=board.root,
        limit=settings.limit,
        ratings=settings.rating,
        extensions=settings.extensions,
        min_side=settings.min_side,
        max_bytes=settings.max_bytes,
        test_fraction=settings.test_fraction,
    )
    try:
        for_each_tag(
            settings,
            lambda tag: scrape_tag(storage, board, tag, selection, settings.concurrency),
        )
    finally:
        client.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    return run_job("scrape", str(__doc__), ScrapeSettings, work, argv)


if __name__ == "__main__":
    sys.exit(main())
