"""What a board is to the rest: a listing of posts, newest first, that can be walked to its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeVar

from imagetag.dataset import Rating
from imagetag.errors import TransientError
from imagetag.log import get_logger
from imagetag.web import Client

_T = TypeVar("_T")

READINGS = 3  # of a page that cannot be read
_CONFIRMATIONS = 4  # of an empty page, where there is reason to doubt it; else one


class BoardError(TransientError):
    """The board answers nothing that can be read."""


def reread(read: Callable[[], _T]) -> _T:
    """Return what is read; an answer that cannot be read may be one that came to harm.

    Raises:
        BoardError: if none of `READINGS` answers can be read.

    """
    for _ in range(READINGS - 1):
        try:
            return read()
        except BoardError as error:
            get_logger().debug("reading again", error=str(error))
    return read()


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


NO_LOGIN: Login = Login()


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


@dataclass
class Doubts:
    """What tells that an empty page is no end: boards that are overloaded answer so, too.

    Attributes:
        misled: whether the board has given an empty page where it had posts.
        oldest: the lowest id that it is known to have; None while none is known.

    """

    misled: bool = False
    oldest: int | None = None

    def note(self, post_id: int) -> None:
        """Remember a post that the board has."""
        self.oldest = post_id if self.oldest is None else min(self.oldest, post_id)


@dataclass(frozen=True, slots=True)
class File:
    """A post's file, byte for byte, and the URL that redirects ended at, empty without any."""

    content: bytes
    end: str = ""


class Board(ABC):
    """A board of some engine. Its methods are called from many threads.

    Attributes:
        doubts: what makes its empty pages doubtful.
        by_time: whether ids grow as time goes by, so that its listing is the newest first.
        scattered: whether its files are on hosts that have nothing to do with each other.
        certain: whether an empty page of it is an end for certain.
        at_hand: whether all its posts are read, so that `count` asks nobody.
        called: what texts call it, and
        posts_called: what its posts.

    """

    called: str = "the board"
    posts_called: str = "posts"
    by_time: bool = True
    scattered: bool = False
    certain: bool = False
    at_hand: bool = False

    def __init__(self, site: Site, client: Client, login: Login = NO_LOGIN) -> None:
        self.site = site
        self.root = site.root.rstrip("/")
        self.client = client
        self.login = login
        self.doubts = Doubts()

    @abstractmethod
    def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
        """Return the newest posts that match, in falling order of id.

        A board that cannot be asked for every part of a query (some allow two tags) is asked for
        the tags first, and lists posts besides that the caller must pass over.

        Args:
            query: which posts.
            below: only ids under this.
            limit: how many are wanted at once; a board whose pages have a fixed length gives that.
                An empty list may mean that there are no more: see `walk`.

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

    def fetch(self, post: Post, max_bytes: int) -> File:
        """Return the picture's file.

        Raises:
            HttpError: if it cannot be had, is larger than `max_bytes`, or its owner has opted out.

        """
        assert post.file_url  # noqa: S101 - a post without a file is not asked for
        answer = self.client.get(post.file_url, max_bytes=max_bytes, opt_out=True)
        return File(answer.content, answer.url if answer.redirected else "")

    def copies(self, post: Post, size: int, content: Callable[[], bytes]) -> list[Post]:
        """Return the other posts that are known to be of the same file, in falling order of id.

        Args:
            post: one of them.
            size: of its file, in bytes.
            content: reads the file, where that is needed.

        """
        del post, size, content  # boards on the net refuse a file that they have
        return []

    def count(self, query: Query) -> int | None:
        """Return how many posts match, at the most; None where the board does not tell.

        A board that counts by tags alone tells how many posts have them, of whatever rating.
        """
        del query
        return None

    def similar(self, tag: str) -> list[str]:
        """Return tags that begin like one which is not there; empty where the board has no list."""
        del tag
        return []

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
        numbered pages shift while posts come and go. They are asked for without a lower bound: an
        older post is the proof of an end, where an empty page has to be confirmed.

        Raises:
            BoardError: if the board ignores which ids are asked for, or gives empty pages where it
                has posts, time and again.

        """
        size = min(limit or self.site.page_size, self.site.page_size)
        while True:
            posts = self._page_again(query, below, size) or self._confirmed(query, below, size)
            if not posts:
                return
            for post in posts:
                if below is not None and post.id >= below:
                    raise BoardError(
                        f"{self.root} ignores id:<N in searches (asked below {below}, got "
                        f"{post.id}): its listing cannot be walked"
                    )
                if above is not None and post.id <= above:
                    return
                below = post.id
                self.doubts.note(post.id)
                yield post

    def _confirmed(self, query: Query, below: int | None, size: int) -> list[Post]:
        """Return a page that came empty once: it is the end only if it comes so again.

        Each time another length is asked for, from the largest on, so that no cache answers, and
        so that it reaches past posts that a board hides after it has counted them.
        """
        if self.certain:
            return []
        oldest = self.doubts.oldest
        # What a query asks of tags, the post may not have.
        everything = not query.tags and not query.without
        refuted = everything and oldest is not None and (below is None or oldest < below)
        times = _CONFIRMATIONS if refuted or self.doubts.misled else 1
        largest = self.site.page_size - (size == self.site.page_size)
        for limit in range(largest, largest - times, -1):
            posts = self._page_again(query, below, max(limit, 1))
            if posts:
                if not self.doubts.misled:
                    get_logger().info("an empty page was no end", board=self.site.name)
                self.doubts.misled = True
                return posts
        if refuted:
            raise BoardError(
                f"{self.root} lists no post{'' if below is None else f' below {below}'}, "
                f"{times + 1} times, though it has {oldest}: it seems to be overloaded; run this "
                "again later"
            )
        return []

    def _page_again(self, query: Query, below: int | None, limit: int) -> list[Post]:
        return reread(lambda: self.page(query, below=below, limit=limit))
