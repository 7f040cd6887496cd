"""Pictures to predict from others' servers: a list of URLs, or what a board's search finds."""

from __future__ import annotations

import hashlib
import itertools
import mimetypes
import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imagetag.boards import (
    ENGINES,
    URLS,
    BadEntry,
    Board,
    BoardError,
    LinkFile,
    Post,
    Query,
    read_url,
)
from imagetag.checks import shown_url
from imagetag.dataset import Rating
from imagetag.errors import InputError, TransientError
from imagetag.imaging import BadImage
from imagetag.job import checked_tag
from imagetag.predict.sources import Cursor, Picture, Source
from imagetag.web import Client, HttpError

MAX_BYTES = 50_000_000  # of a file
_DOWNLOADS = 3  # of a file that does not come as its post says
_MAX_SHOWN = 300  # characters of a row that is no URL
_OUTAGE = 25  # pictures in a row that are not to be had for now, before the run is given up
_ALIAS_POSTS = 200  # posts without the tag asked for, before it is taken for an alias
_LEAST_PAGE = 20  # posts
_RATINGS: dict[str, Rating] = {
    "general": "general",
    "safe": "general",
    "sensitive": "sensitive",
    "questionable": "questionable",
    "explicit": "explicit",
}


class Fetched(Source):
    """Pictures that are fetched with a polite client.

    Args:
        keep: a folder for their files, where they are needed once more after they were read.

    """

    def __init__(self, keep: Path | None = None) -> None:
        self._keep = keep
        self._numbers = itertools.count()
        self._lost: set[str] = set()  # in a row
        self._lock = threading.Lock()

    @abstractmethod
    def _fetch(self, picture: Picture) -> bytes:
        """Return a picture's file.

        Raises:
            BadImage, BoardError, HttpError: if it cannot be had.

        """

    @abstractmethod
    def _place(self, picture: Picture) -> str:
        """Return what is out of order if the picture cannot be had: it, or the server it is on."""

    def read(self, picture: Picture) -> bytes | Path:
        """Fetch a picture, as the base class says; not again one that is kept.

        Raises:
            TransientError: if many in a row cannot be had for now.

        """
        if picture.saved is not None:
            return picture.saved
        try:
            if _is_video(picture.file):
                raise BadImage("video", "its name is that of a video")
            data = self._fetch(picture)
        except HttpError as error:
            if not error.permanent:
                self._count_lost(picture, error)
            raise BadImage(error.reason, str(error)) from error
        except BoardError as error:
            self._count_lost(picture, error)
            raise BadImage("page", str(error)) from error
        with self._lock:
            self._lost.clear()
        if self._keep is None:
            return data
        picture.saved = self._keep / str(next(self._numbers))
        picture.saved.write_bytes(data)
        return picture.saved

    def _count_lost(self, picture: Picture, error: Exception) -> None:
        with self._lock:
            self._lost.add(self._place(picture))
            if len(self._lost) < _OUTAGE:
                return
        raise TransientError(
            f"{_OUTAGE} pictures in a row are not to be had for now, the last with {error}; run "
            "this again later to go on"
        )

    def save(self, picture: Picture, path: Path) -> None:
        """Move a picture's file that was kept, as the base class says."""
        assert picture.saved is not None  # noqa: S101 - whoever saves has had it kept
        picture.saved.rename(path)
        picture.saved = None

    def forget(self, picture: Picture) -> None:
        """Remove a picture's file that was kept."""
        if picture.saved is not None:
            picture.saved.unlink(missing_ok=True)
            picture.saved = None


class ListedUrls(Fetched):
    """The pictures of a list of URLs, a row each, in its order; a row that is none is an error.

    Args:
        root: of the list, as `LinkFile` takes it.
        client: to fetch with.
        keep: see `Fetched`.

    Raises:
        UsageError: if its name does not end like a list's.

    """

    def __init__(self, root: str, client: Client, keep: Path | None = None) -> None:
        super().__init__(keep)
        self._root, self._client = root, client
        self._list = LinkFile(root, f"--input {shown_url(root)}", tagged=False)
        self.identity: Mapping[str, Any] = {"urls": root}

    def pictures(self, after: Cursor | None = None) -> Iterator[Picture]:  # noqa: ARG002 - has none
        """Yield the pictures, as the base class says."""
        found = False
        for where, fields in self._list.rows():
            found = True
            try:
                if isinstance(fields, BadEntry):
                    raise fields
                url = read_url(fields)
                yield Picture(url, url, "")
            except BadEntry as error:
                text = where
                if isinstance(fields, Mapping):
                    text = str(next(filter(None, map(fields.get, URLS)), where))[:_MAX_SHOWN]
                yield Picture(text, text, error.reason, origin=error)
        if not found:
            raise InputError(f"--input {shown_url(self._root)}: it lists no URL")

    def _fetch(self, picture: Picture) -> bytes:
        if picture.origin is not None:
            raise BadImage(
                "bad_url", f"no http URL that can be asked for ({picture.origin.reason})"
            )
        return self._client.get(picture.file, max_bytes=MAX_BYTES, opt_out=True).content

    def _place(self, picture: Picture) -> str:
        return urlsplit(picture.file).netloc


class FoundPosts(Fetched):
    """The pictures of a board's posts that match a query, the newest first.

    Args:
        board: the board.
        query: which posts.
        limit: how many at the most; None for all.
        keep: see `Fetched`.

    """

    def __init__(
        self, board: Board, query: Query, limit: int | None = None, keep: Path | None = None
    ) -> None:
        super().__init__(keep)
        self._board, self._query, self._limit = board, query, limit
        # What is listed from a file or a folder may be another tomorrow: it is compared instead.
        self._has_cursors = not ENGINES[board.site.engine].local
        self.identity: Mapping[str, Any] = {
            "board": board.root,
            "tags": list(query.tags),
            "without": list(query.without),
            "ratings": list(query.ratings),
            "limit": limit,
        }

    def pictures(self, after: Cursor | None = None) -> Iterator[Picture]:
        """Yield the pictures, as the base class says; those of new posts come in no later run.

        Raises:
            BoardError: if the board cannot be read.

        """
        taken, below = (after["taken"], after["below"]) if after else (0, None)
        passed = 0
        seen: Counter[str] = Counter()
        page = None if self._limit is None else max(_LEAST_PAGE, self._limit)
        posts = self._board.walk(self._query, below=below, limit=page)
        while self._limit is None or taken < self._limit:
            post = next(posts, None)
            if post is None:
                break
            if self._matches(post):
                taken += 1
                yield self._picture(post, taken)
                continue
            passed += 1
            if not taken and len(self._query.tags) == 1:
                seen.update(post.tags)
                if passed >= _ALIAS_POSTS:
                    break
        if not taken:
            raise self._nothing(seen)

    def _matches(self, post: Post) -> bool:
        """Tell whether a post is one that was asked for: boards may list others besides."""
        tags, query = set(post.tags), self._query
        fits = not query.ratings or post.rating is None or post.rating in query.ratings
        return fits and tags.issuperset(query.tags) and tags.isdisjoint(query.without)

    def _picture(self, post: Post, taken: int) -> Picture:
        return Picture(
            file=post.file_url or "",
            name=f"{post.board} {post.id}",
            version=post.md5 or "",
            # What a file lists has no page.
            page_url="" if post.page_url == post.file_url else post.page_url,
            cursor={"below": post.id, "taken": taken} if self._has_cursors else None,
            origin=post,
        )

    def _fetch(self, picture: Picture) -> bytes:
        post = self._board.complete(picture.origin)
        if not post.file_url:
            raise BadImage("no_file", "the post has no file")
        if picture.file != post.file_url:
            picture.file = post.file_url
            if _is_video(picture.file):
                raise BadImage("video", "its name is that of a video")
        for _ in range(_DOWNLOADS):
            data = self._board.fetch(post, MAX_BYTES).content
            if post.md5 in (None, hashlib.md5(data, usedforsecurity=False).hexdigest()):
                break
        return data  # or whatever came the last time: boards' own sums may be those of another file

    def _place(self, picture: Picture) -> str:
        return urlsplit(picture.file).netloc if self._board.scattered else picture.name

    def _nothing(self, seen: Counter[str]) -> InputError:
        query = shown(self._query)
        if seen:
            common = ", ".join(name for name, _ in seen.most_common(5))
            return InputError(
                f"{self._board.root} finds posts for --query {query!r}, but none of them carries "
                f"it: it is probably an alias; their most common tags are {common}"
            )
        return InputError(
            f"{self._board.root} has no posts for --query {query!r}; check its spelling on the "
            "board"
        )


def read_query(text: str) -> Query:
    """Return what a text asks for: tags, `-tag` for what must not be there, and `rating:NAME`.

    Raises:
        UsageError: if a word of it is none of these.

    """
    tags: list[str] = []
    without: list[str] = []
    ratings: list[Rating] = []
    for word in dict.fromkeys(text.split()):
        if word.startswith("rating:") and word[7:] in _RATINGS:
            ratings.append(_RATINGS[word[7:]])
        elif word.startswith("-") and len(word) > 1:
            without.append(checked_tag(word[1:]))
        else:
            tags.append(checked_tag(word))
    return Query(tuple(tags), tuple(without), tuple(ratings))


def shown(query: Query) -> str:
    """Return the text that asks for a query."""
    words = [*query.tags, *("-" + tag for tag in query.without)]
    return " ".join([*words, *(f"rating:{rating}" for rating in query.ratings)])


def _is_video(url: str) -> bool:
    """Tell whether a URL's name says that it is no picture, so that it need not be fetched."""
    kind, _ = mimetypes.guess_type(urlsplit(url).path)
    return kind is not None and kind.startswith("video/")
