"""What a board is to the rest: a listing of posts, newest first, that can be walked to its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imagetag.errors import TransientError
from imagetag.http import Client
from imagetag.manifest import Rating


class BoardError(TransientError):
    """The board answers nothing that can be read."""


@dataclass(frozen=True)
class Site:
    """A board on the net: its name in manifests, its engine, and its root URL."""

    name: str
    engine: str
    root: str


@dataclass(frozen=True, slots=True)
class Post:
    """A picture on a board. Sizes are in pixels.

    `file_url` is None while only a list page is known of it (`Board.complete` finds it), `md5` is
    None where the board does not tell, `rating` is None where it is not one that is known.
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

    @property
    def group(self) -> str:
        """What must stay in one split: the post with its parent and its siblings."""
        return f"{self.board}:{self.parent_id or self.id}"


class Board(ABC):
    """A board of some engine. `complete` is called from many threads, the rest from one."""

    def __init__(self, site: Site, client: Client) -> None:
        self.site = site
        self.root = site.root.rstrip("/")
        self.client = client

    @abstractmethod
    def page(
        self, terms: Sequence[str], *, below: int | None, above: int | None, limit: int
    ) -> list[Post]:
        """Return the newest posts that match, in falling order of id.

        Args:
            terms: tags; one with `-` before it must be absent.
            below: only ids under this.
            above: only ids over this.
            limit: how many are wanted at once; a board whose pages have a fixed length gives that.
                An empty list means that there are no more.

        Raises:
            BoardError, HttpError: if the board cannot be read.

        """

    def complete(self, post: Post) -> Post:
        """Return the post with its file's URL, if the listing did not tell it.

        Raises:
            BoardError, HttpError: if the post's page cannot be read.

        """
        return post

    def walk(
        self,
        terms: Sequence[str],
        *,
        below: int | None = None,
        above: int | None = None,
        limit: int = 100,
    ) -> Iterator[Post]:
        """Yield every post that matches, newest first, a page at a time as they are wanted.

        Pages are asked for by id rather than by number: boards refuse high page numbers, and
        numbered pages shift while posts come and go.
        """
        while posts := self.page(terms, below=below, above=above, limit=limit):
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
