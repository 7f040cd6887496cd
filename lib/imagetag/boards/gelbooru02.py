"""Gelbooru Beta 0.2, the engine of safebooru.org and many others: JSON and XML API, HTML pages.

The API is asked first (JSON, then XML); where it is closed, the list and view pages are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from imagetag.boards import fields as read
from imagetag.boards import gelbooru02_pages as pages
from imagetag.boards.api import MAX_LISTING, NothingThere
from imagetag.boards.base import NO_LOGIN, READINGS, BoardError, Login, Post, Query, Site, reread
from imagetag.boards.dapi import DapiBoard, posts_in
from imagetag.boards.fields import Page
from imagetag.boards.words import words_of
from imagetag.dataset import Rating
from imagetag.errors import ImagetagError, TransientError
from imagetag.log import get_logger
from imagetag.web import Client, HttpError

_MAX_PAGE = 2 << 20  # bytes
_SCORE = re.compile(r"(?<!\S)score:\s*(-?\d{1,9})", re.IGNORECASE)

Reader = Callable[[Sequence[str], int], Page]

_WAYS = ("json", "xml", "html")  # that which tells the most of posts is the first
_DATED_WAYS = ("xml", "html", "json")  # JSON does not tell when a post was made


class _Closed(Exception):
    """The board does not let itself be asked this way; with what that means, if it is known."""

    def __init__(self, why: str, verdict: ImagetagError | None = None) -> None:
        super().__init__(why)
        self.verdict = verdict


class Gelbooru02(DapiBoard):
    """A board of the engine Gelbooru Beta 0.2."""

    engine = "Gelbooru 0.2"
    most = 1000
    ratings: ClassVar[Mapping[str, Rating]] = {
        "g": "general",
        "general": "general",
        "s": "general",
        "safe": "general",
        "sensitive": "sensitive",
        "q": "questionable",
        "questionable": "questionable",
        "e": "explicit",
        "explicit": "explicit",
    }
    left_out = ("questionable", "explicit")  # `general` and `safe` are one under two names

    def __init__(self, site: Site, client: Client, login: Login = NO_LOGIN) -> None:
        super().__init__(site, client, login)
        self._readers: dict[str, Reader] = {
            "json": self._read_json,
            "xml": self._read_xml,
            "html": self._read_html,
        }
        # The way that has shown posts, by whether dates are wanted.
        self._way: dict[bool, str | None] = {False: None, True: None}
        self._lists_end, self._posts_end = pages.Ends(), pages.Ends()

    def _list(self, query: Query, below: int | None, limit: int) -> Page:
        terms = self._terms(query, below)
        way = self._way[query.dated]
        if way is None:
            return self._find_way(query.dated, terms, limit)
        try:
            return self._readers[way](terms, limit)
        except _Closed as error:
            raise error.verdict or self._nonsense(f"{way}: {error}") from None

    def _find_way(self, dated: bool, terms: Sequence[str], limit: int) -> Page:
        """Ask one way after another until one shows a post: that is how to go on.

        An answer without posts may also be what a closed API says.
        """
        ways = _DATED_WAYS if dated else _WAYS
        refusals: dict[str, _Closed] = {}
        best: Page | None = None
        for number, name in enumerate(ways):
            try:
                found = self._readers[name](terms, limit)
            except _Closed as error:
                refusals[name] = error
                continue
            if found.posts:
                way, found = self._better(ways[:number], terms, limit) or (name, found)
                if self._way[dated] is None:  # nor has another thread found one meanwhile
                    self._way[dated] = way
                    get_logger().info("reading the board", board=self.site.name, by=way)
                return found
            if best is None or found.unreadable or found.cut:
                best = found
        verdicts = [refusal.verdict for refusal in refusals.values()]
        busy = next((error for error in verdicts if isinstance(error, TransientError)), None)
        if best is not None and (best.unreadable or best.cut or busy is None):
            return best
        # That there is nothing to be had one way says nothing of a refusal another way.
        refused = next((e for e in verdicts if e and not isinstance(e, NothingThere)), None)
        nothing = verdicts[0] if all(verdicts) else None
        complaints = "; ".join(f"{name}: {refusal}" for name, refusal in refusals.items())
        raise busy or refused or nothing or self._nonsense(complaints)

    def _better(
        self, ways: Sequence[str], terms: Sequence[str], limit: int
    ) -> tuple[str, Page] | None:
        """Return the first of some ways that lists posts now, though it has listed none, and them.

        Each way tells other things of posts. One that is closed says the same again; where its
        answer had come to harm, the board must not be read in another way for that.
        """
        for name in ways:
            for _ in range(READINGS - 1):
                try:
                    found = self._readers[name](terms, limit)
                except TransientError:  # what is listed another way is not given up for it
                    break
                except _Closed as error:
                    if error.verdict and not isinstance(error.verdict, TransientError):
                        break  # it says that it is closed
                else:
                    if found.posts and not found.cut:
                        return name, found
        return None

    def _beginning(self, letters: str) -> list[str]:
        return read.named(self._json(self._ask("/autocomplete.php", {"q": letters})), "value")

    def complete(self, post: Post) -> Post:
        """Read the post's own page, where only a list page is known of it."""
        if post.file_url is not None:
            return post
        return reread(lambda: self._completed(post))

    def _completed(self, post: Post) -> Post:
        answer = self.client.get(post.page_url, max_bytes=_MAX_PAGE, opt_out=True)
        page = pages.read_html(answer.content)
        fields = pages.post_fields(page, answer.url, self.ratings)
        if not fields["file_url"] and not pages.is_post(page):
            if answer.redirected and pages.is_list(page):  # as from a deleted post
                return replace(post, file_url="")
            said = self._plain(words_of(answer.content))[:100] or "nothing"
            raise BoardError(f"{post.page_url} is not the page of a post: it says {said!r}")
        if self._posts_end.cut(post.page_url, answer.content, sure=True):
            raise self._cut_short()
        return replace(post, **fields)

    def _read_json(self, terms: Sequence[str], limit: int) -> Page:
        content = self._call(self._api(terms, limit) | {"json": "1"})
        # What the engine says when nothing matches, and not only then.
        if not read.document(content):
            if "json" in self._way.values():
                return Page([])
            raise _Closed("nothing")
        try:
            found = posts_in(read.load_json(content))
        except ValueError as error:
            told = self._plain(words_of(content) or str(error))[:60]
            raise self._closed(content, f"not JSON ({told})") from None
        if not isinstance(found, list):
            raise self._closed(content, "no list of posts")
        return self._checked(found, content)

    def _read_xml(self, terms: Sequence[str], limit: int) -> Page:
        content = self._call(self._api(terms, limit))
        try:
            found = read.load_xml_posts(content)
        except ValueError as error:
            raise self._closed(content, str(error)) from None
        return self._checked(found, content)

    def _checked(self, found: Sequence[Any], content: bytes) -> Page:
        listed = read.read_posts(found, self._post)
        if listed.unreadable and not listed.posts and not listed.ids:
            raise self._closed(content, "none of the posts has the fields of this engine")
        if not listed.posts and (closed := self._closed(content, "")).verdict:
            raise closed
        return listed

    def _closed(self, content: bytes, why: str) -> _Closed:
        """Return that an answer is no listing: by what it says, else for a reason of ours."""
        words = words_of(content)
        verdict = self._verdict(words)
        return _Closed(self._plain(words) if verdict else why, verdict)

    def _call(self, params: Mapping[str, str], max_bytes: int = MAX_LISTING) -> bytes:
        try:
            return self._get("/index.php", params, max_bytes)
        except HttpError as error:
            failure = self._failure(error)
            if error.reason == "private_host" or not error.permanent:
                raise failure from None
            verdict = None if isinstance(failure, BoardError) else failure
            raise _Closed(self._plain(str(error)), verdict) from None

    def _read_html(self, terms: Sequence[str], _limit: int) -> Page:
        tags = " ".join(terms)
        content = self._call({"page": "post", "s": "list", "tags": tags, "pid": "0"}, _MAX_PAGE)
        try:
            page = pages.read_html(content)
        except BoardError as error:
            raise _Closed(str(error)) from None
        posts = read.newest_first(self._thumbnail(*found) for found in pages.thumbnails(page))
        is_list = bool(posts) or pages.is_list(page)
        cut = self._lists_end.cut(tags, content, sure=is_list)
        if not is_list and not cut:
            raise self._closed(content, "no list of posts in the page")
        return Page(posts, cut=cut)

    def _thumbnail(self, post_id: int, title: str) -> Post:
        rating, score = pages.RATING.search(title), _SCORE.search(title)
        plain = [word for word in title.split() if not re.match(r"(score|rating):", word)]
        return Post(
            id=post_id,
            board=self.site.name,
            page_url=self._page_url(post_id),
            file_url=None,
            md5=None,
            width=None,
            height=None,
            tags=tuple(dict.fromkeys(plain)),
            rating=read.rating(rating and rating[1], self.ratings),
            parent_id=None,
            score=read.score(score and score[1]),
        )
