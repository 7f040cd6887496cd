"""What a board is to the rest: a listing of posts, newest first, that can be walked to its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from imagetag.errors import TransientError
from imagetag.http import Client
from imagetag.log import get_logger
from imagetag.manifest import Rating

_READINGS = 3  # of a page that cannot be read


class BoardError(TransientError):
    """The board answers nothing that can be read."""


@dataclass(frozen=True)
class Site:
    """A board on the net, as a row of data.

    Attributes:
        name: what manifests call it.
        engine: which software it runs, a key of `ENGINES`.
        root: its root URL.
        page_size: the most posts that it lists at once.
        interval: seconds between two requests that its rules ask for, over all pods.
        login: whether its API wants the settings `board_user` and `board_key`.

    """

    name: str
    engine: str
    root: str
    page_size: int = 100
    interval: float = 0.0
    login: Literal["none", "optional", "required"] = "none"


@dataclass(frozen=True)
class Login:
    """Credentials of a board's API; empty where there are none. Never logged."""

    user: str = ""
    key: str = field(default="", repr=False)


NO_LOGIN = Login()


@dataclass(frozen=True)
class Query:
    """Which posts to list.

    Attributes:
        tags: what a post must have, and
        without: must not have. None of either asks for all posts.
        ratings: the ratings wanted; empty for all. A board may list others too.
        dated: whether the time of posting must be told.

    """

    tags: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    ratings: tuple[Rating, ...] = ()
    dated: bool = False


@dataclass(frozen=True, slots=True)
class Post:
    """A picture on a board. Sizes are in pixels.

    `file_url` is None while only a list page is known of it (`Board.complete` finds it) and empty
    where there is no file, as of a deleted post. `md5` is None where the board does not tell,
    `rating` where it is not one that is known, `score` and `created_at` (UTC) where they are not
    told.
    """

    id: int
    board: str
    page_url: str
    file_url: str | None
    md5: str | None
    width: int | None
    height: int | None
    tags: tuple[str, ...]
    rating: Rating | None
    parent_id: int | None
    score: int | None = None
    created_at: datetime | None = None

    @property
    def group(self) -> str:
        """What must stay in one split: the post with its parent and its siblings."""
        return f"{self.board}:{self.parent_id or self.id}"


class Board(ABC):
    """A board of some engine. Its methods are called from many threads.

    Attributes:
        by_time: whether ids grow as time goes by, so that its listing is the newest first.
        scattered: whether its files are on hosts that have nothing to do with each other.

    """

    by_time: bool = True
    scattered: bool = False

    def __init__(self, site: Site, client: Client, login: Login = NO_LOGIN) -> None:
        self.site = site
        self.root = site.root.rstrip("/")
        self.client = client
        self.login = login

    @abstractmethod
    def page(self, query: Query, *, below: int | None, above: int | None, limit: int) -> list[Post]:
        """Return the newest posts that match, in falling order of id.

        A board that cannot be asked for every part of a query (some allow two tags) is asked for
        the tags first, and lists posts besides that the caller must pass over.

        Args:
            query: which posts.
            below: only ids under this.
            above: only ids over this.
            limit: how many are wanted at once; a board whose pages have a fixed length gives that.
                An empty list means that there are no more.

        Raises:
            BoardError, HttpError: if the board cannot be read.
            UsageError: if it refuses us, such as for want of credentials.

        """

    def complete(self, post: Post) -> Post:
        """Return the post with its file's URL, if the listing did not tell it.

        Raises:
            BoardError, HttpError: if the post's page cannot be read.

        """
        return post

    def fetch(self, post: Post, max_bytes: int) -> bytes:
        """Return the picture's file, byte for byte.

        Raises:
            HttpError: if it cannot be had, is larger than `max_bytes`, or its owner has opted out.

        """
        assert post.file_url  # noqa: S101 - a post without a file is not asked for
        return self.client.get(post.file_url, max_bytes=max_bytes, opt_out=True).content

    def walk(
        self,
        query: Query,
        *,
        below: int | None = None,
        above: int | None = None,
        limit: int | None = None,
    ) -> Iterator[Post]:
        """Yield every post that matches, newest first, a page at a time as they are wanted.

        Pages are asked for by id rather than by number: boards refuse high page numbers, and
        numbered pages shift while posts come and go.
        """
        size = min(limit or self.site.page_size, self.site.page_size)
        # Of the newest, too: nothing at all would mean that there is no such tag.
        full, length = below is None, 0
        while True:
            posts = self._page_again(query, below, above, size)
            if not posts and full:  # the end, or what an overloaded board says instead of an error
                posts = self._page_again(query, below, above, size)
            if not posts:
                return
            # Some boards give fewer than they are asked for, but always as many.
            full, length = len(posts) >= size or len(posts) == length, len(posts)
            for post in posts:
                if (below is not None and post.id >= below) or (
                    above is not None and post.id <= above
                ):
                    raise BoardError(
                        f"{self.root} ignores id:<N in searches (asked below {below} and above "
                        f"{above}, got {post.id}): its listing cannot be walked"
                    )
                below = post.id
                yield post

    def _page_again(
        self, query: Query, below: int | None, above: int | None, limit: int
    ) -> list[Post]:
        """Return a page; an answer that cannot be read may be one that came to harm."""
        for _ in range(_READINGS - 1):
            try:
                return self.page(query, below=below, above=above, limit=limit)
            except BoardError as error:
                get_logger().debug("reading again", error=str(error))
        return self.page(query, below=below, above=above, limit=limit)
