"""Which posts are wanted: what a user asks for, and why a post does not meet it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from imagetag.arguments import Arguments
from imagetag.boards import Board, Post, Query
from imagetag.dataset import Negatives, Rating, Row
from imagetag.imaging import EXTENSIONS, MAX_PIXELS
from imagetag.layout import Label

TOO_OLD = 50  # posts in a row from before `since`, after which a listing has passed it

_RATINGS: tuple[Rating, ...] = get_args(Rating)  # from the mildest on


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VIDEOS = _words("mp4 webm m4v mov mkv avi flv swf zip")  # zip: the frames of an animation
_IMAGES = EXTENSIONS | _words("apng avif heic heif jfif jxl psd svg tga tif tiff")
# Boards' ratings are what uploaders chose; these tags say more. (Names of the Danbooru family.)
_TAGS_OF: dict[Rating, frozenset[str]] = {
    "questionable": _words("""
        areola_slip areolae ass_grab bottomless breasts_out completely_nude female_nude
        female_pubic_hair male_nude male_pubic_hair naked_apron nipple nipple_slip nipples
        no_panties nude nudity pantyshot pubic_hair topless topless_female
    """),
    "explicit": _words("""
        after_sex anal anus bestiality bukkake clitoris creampie cum cum_in_mouth cum_in_pussy
        cum_on_body cunnilingus deepthroat dildo double_penetration ejaculation erection fellatio
        female_masturbation fingering footjob gangbang genitals group_sex handjob hentai irrumatio
        male_masturbation masturbation oral orgasm orgy paizuri penis porn pussy pussy_juice rape
        sex sex_from_behind sex_toy spread_anus spread_pussy testicles threesome tribadism vagina
        vaginal vibrator vulva
    """),
}


DEFAULTS: Mapping[str, Any] = {
    "limit": 500,
    "ratings": ("general",),
    "extensions": ("jpg", "png", "webp"),
    "min_side": 64,
    "max_pixels": 50_000_000,
    "max_bytes": 50_000_000,
    "test_fraction": 0.2,
}
"""What a scrape takes unless told, as the options of `imagetag scrape` have it."""


class Selection(Arguments):
    """What to take. Stored with the dataset: the same selection again has nothing to do.

    Attributes:
        limit: positives; `negative_ratio` times as many negatives, chosen as `negatives` says.
        extensions: file types as they end, `jpg` for all JPEGs.
        min_side: least pixels of the shorter side.
        max_pixels: most pixels, width times height.
        max_aspect: how many times as long as the shorter side the longer may be.
        max_bytes: size of the largest file.
        blocked_tags: posts with one of these are not taken.
        since: posts from then on.

    """

    board: str
    limit: int = Field(ge=1)
    ratings: tuple[Rating, ...] = Field(min_length=1)
    extensions: tuple[str, ...] = Field(min_length=1)
    min_side: int = Field(ge=1)
    max_bytes: int = Field(ge=1)
    test_fraction: float = Field(gt=0, lt=1)
    negatives: Negatives = "random"
    negative_ratio: float = Field(1.0, gt=0, le=100)
    max_pixels: int = Field(MAX_PIXELS, ge=1, le=MAX_PIXELS)
    max_aspect: float | None = Field(None, ge=1)
    min_score: int | None = None
    blocked_tags: tuple[str, ...] = ()
    since: datetime | None = None

    @field_validator("since")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    @field_validator("extensions")
    @classmethod
    def _known_extensions(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if set(values) - EXTENSIONS:
            raise ValueError("take " + ", ".join(sorted(EXTENSIONS)))
        return values

    def query(self, tags: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> Query:
        """Return what to ask a board for, so that it lists little else."""
        return Query(tags, without, self.ratings, dated=self.since is not None)

    def unfit(self, post: Post, tag: str, label: Label) -> str | None:
        """Return why a post is not wanted, as far as what is known of it tells; None if it is."""
        if (tag in post.tags) != (label == "positive"):
            return "tag_absent" if label == "positive" else "tag_present"
        return self.unfit_tags(post) or self._unfit_picture(post)

    @property
    def digest(self) -> str:
        """What stands for all of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def unfit_row(self, row: Row) -> str | None:
        """Return why an image that is stored is not what would be taken now; None if it is.

        What is not known of an older row does not meet a setting: its post is asked for again.
        """
        if row.label == "negative" and (row.negatives or "random") != self.negatives:
            return "negatives"
        if self.min_score is not None and (row.score is None or row.score < self.min_score):
            return "score"
        if self._before(row.created_at):
            return "too_old"
        return self.unfit_tags(row) or self.unfit_file(row.ext, row.bytes, row.width, row.height)

    def recent(self, board: Board, listing: Iterator[Post]) -> Iterator[Post]:
        """Yield the posts of a board's listing, newest first, until it has passed `since`."""
        older = 0
        for post in listing:
            yield post
            older = older + 1 if board.by_time and self.too_old(post) else 0
            if older == TOO_OLD:
                return

    def too_old(self, post: Post) -> bool:
        """Tell whether a post is from before `since`, as far as a listing tells."""
        # Or only its own page tells.
        return post.file_url is not None and self._before(post.created_at)

    def _before(self, created_at: datetime | None) -> bool:
        return self.since is not None and (created_at is None or created_at < self.since)

    def unfit_tags(self, post: Post | Row) -> str | None:
        """Return why a post is not wanted by its tags and rating; None if it is."""
        if not set(self.blocked_tags).isdisjoint(post.tags):
            return "blocked_tag"
        if post.rating is not None and post.rating not in self.ratings:
            return "rating"
        harshest = _RATINGS.index(max(self.ratings, key=_RATINGS.index))
        for rating, tags in _TAGS_OF.items():
            if _RATINGS.index(rating) > harshest and not tags.isdisjoint(post.tags):
                return "rating_by_tags"
        return None

    def _unfit_picture(self, post: Post) -> str | None:
        if post.file_url is None:
            return None  # a list page's entry: its own page tells the rest
        if post.rating is None:
            return "rating"
        if self.too_old(post):
            return "too_old"
        if self.min_score is not None and (post.score or 0) < self.min_score:
            return "score"
        if not post.file_url:
            return "no_file"
        ending = extension_of(post.file_url)
        if ending in _VIDEOS:
            return "video"
        # Where a URL does not end as files do (`?id=5`, `.php`), only the file itself tells.
        if ending in _IMAGES and ending not in self.extensions:
            return "extension"
        if post.width is not None and post.height is not None:
            return self.unfit_size(post.width, post.height)
        return None

    def unfit_file(self, ext: str, size: int, width: int, height: int) -> str | None:
        """Return why a picture's file of `size` bytes is not wanted; None if it is."""
        if size > self.max_bytes:
            return "file_too_large"
        if ext not in self.extensions:
            return "extension"
        return self.unfit_size(width, height)

    def unfit_size(self, width: int, height: int) -> str | None:
        """Return why a picture of so many pixels is not wanted; None if it is."""
        short, long = sorted((width, height))
        if short < self.min_side:
            return "too_small"
        if width * height > self.max_pixels:
            return "too_many_pixels"
        if self.max_aspect is not None and long > self.max_aspect * short:
            return "aspect"
        return None


def extension_of(url: str) -> str:
    """Return the ending of a URL's file name, `jpg` for all JPEGs."""
    ending = PurePosixPath(urlsplit(url).path).suffix.lower().removeprefix(".")
    return "jpg" if ending == "jpeg" else ending
