"""What the engines share: asking a board's API, and what its refusals and failures mean."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from imagetag.boards.base import NO_LOGIN, Board, BoardError, Login, Post, Query, Site
from imagetag.boards.fields import Page, load_json, read_posts
from imagetag.boards.words import meaning_of, words_in, words_of
from imagetag.errors import ImagetagError, TransientError, UsageError, one_line
from imagetag.log import get_logger
from imagetag.web import Client, HttpError

MAX_LISTING = 16 << 20  # bytes
# More posts in a row that cannot be read are no accident, but another engine.
_MOST_UNREADABLE = 10
_LEAST_LETTERS = 2  # that boards complete to tags
_NOTHING_THERE = {"http_404", "http_405", "http_410"}
_OPTIONS = "--board-user and --board-key (the settings IMAGETAG_BOARD_USER and IMAGETAG_BOARD_KEY)"


class NothingThere(UsageError):
    """There is nothing where the engine has its API: it is probably another one."""


class ApiBoard(Board):
    """A board that is asked over HTTP.

    Attributes:
        engine: what its software is called.
        most: the most posts that it lists at once.
        login_names: what its API calls the user and the key; empty for what it does not want.

    """

    engine: ClassVar[str]
    most: ClassVar[int]
    login_names: ClassVar[tuple[str, str]] = ("", "")

    def __init__(self, site: Site, client: Client, login: Login = NO_LOGIN) -> None:
        super().__init__(site, client, login)
        self._secrets = self._credentials()
        self._answered = False

    @abstractmethod
    def _list(self, query: Query, below: int | None, limit: int) -> Page:
        """Ask for one page."""

    def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
        """Return the newest posts that match, as the base class says."""
        unreadable = 0
        while True:
            found = self._list(query, below, min(limit, self.most))
            self._answered = True
            if found.cut:
                raise self._cut_short()
            if found.posts or not found.unreadable:
                return found.posts
            # A few that cannot be read must not end the walk: their ids lead past them.
            unreadable += found.unreadable
            passed = [i for i in found.ids if below is None or i < below]
            if not passed or unreadable > _MOST_UNREADABLE:
                raise self._nonsense("none of the posts has the fields of this engine")
            below = min(passed)

    def count(self, query: Query) -> int | None:
        """Return how many posts match, as the base class says."""
        try:
            return self._count(query)
        except Exception as error:  # some boards have this part of the API switched off
            get_logger().debug("the board does not count", error=self._plain(str(error)))
            return None

    def similar(self, tag: str) -> list[str]:
        """Return tags that begin alike, as the base class says."""
        try:
            # Where it is misspelt early, only tags with the same first letters have its beginning.
            lengths = {max(_LEAST_LETTERS, 2 * len(tag) // 3), _LEAST_LETTERS}
            found = [self._beginning(tag[:length]) for length in sorted(lengths, reverse=True)]
            return list(dict.fromkeys(name for names in found for name in names))
        except Exception as error:
            get_logger().debug("the board names no tags", error=self._plain(str(error)))
            return []

    def _count(self, query: Query) -> int | None:
        del query
        return None

    def _beginning(self, letters: str) -> list[str]:
        """Return the tags that begin so, the most frequent first."""
        del letters
        return []

    def _ask(self, path: str, params: Mapping[str, str]) -> bytes:
        """Return what the board answers.

        Raises:
            UsageError: if it refuses us.
            BoardError: if there is no such thing.
            TransientError: if it is out of order for now.

        """
        try:
            return self._get(path, params)
        except HttpError as error:
            # Not `from error`: its text has the URL, and so the credentials.
            raise self._failure(error) from None

    def _get(self, path: str, params: Mapping[str, str], max_bytes: int = MAX_LISTING) -> bytes:
        asked = {**params, **self._secrets}
        return self.client.get(self.root + path, asked, max_bytes=max_bytes).content

    def _json(self, content: bytes) -> Any:
        try:
            found = load_json(content)
        except ValueError as error:
            words = words_of(content)
            raise self._verdict(words) or self._nonsense(f"not JSON: {words or error}") from None
        words = words_in(found)
        if isinstance(found, str) or (isinstance(found, dict) and found.get("success") is False):
            raise self._complaint(words or "no reason told")
        if verdict := self._verdict(words):
            raise verdict
        return found

    def _read(self, found: Any) -> Page:
        if not isinstance(found, list):
            raise self._nonsense("no list of posts")
        return read_posts(found, self._post)

    @abstractmethod
    def _post(self, fields: Mapping[str, Any]) -> Post:
        """Return a post by the fields that the API tells, or raise a ValueError."""

    def _failure(self, error: HttpError) -> ImagetagError:
        """Return what a failed request means for whoever runs this."""
        text = self._plain(str(error))
        if error.reason in ("private_host", "robots"):
            return UsageError(f"--board {self.root}: {text}")
        # A site's own page for what it has not may have a form to log in on it.
        words = "" if error.reason in ("http_404", "http_405") else words_of(error.content)
        if verdict := self._verdict(words):
            return verdict
        text = f"{text}: {self._plain(words)}" if words else text
        if error.reason in ("http_401", "http_403"):
            return self._refusal(text)
        if not error.permanent or error.reason == "http_421":  # Danbooru's "user throttled"
            return TransientError(f"the board cannot be listed: {text}")
        if error.reason in _NOTHING_THERE and not self._answered:
            return NothingThere(
                f"{self.root} has nothing where {self.engine} has its API ({text}); check --board"
            )
        return self._nonsense(text)

    def _complaint(self, words: str) -> ImagetagError:
        """Return what it means that a board says this in the place of posts."""
        return self._verdict(words) or self._nonsense(words)

    def _verdict(self, words: str) -> ImagetagError | None:
        """Return what such words mean for whoever runs this; None if that is not known."""
        meaning, said = meaning_of(words), self._plain(words)[:300]
        if meaning == "busy":
            return TransientError(f"the board cannot be listed: {self.root} says {said!r}")
        if meaning == "account":
            return self._refusal(said)
        if meaning == "query":
            more = f"; it may allow an account more: {_OPTIONS}" if self._takes_account else ""
            return UsageError(f"{self.root} refuses such a search ({said}){more}")
        return None

    @property
    def _takes_account(self) -> bool:
        """Whether an account may be given and is not."""
        return not self._secrets and any(self.login_names) and self.site.login != "none"

    def _refusal(self, why: str) -> UsageError:
        if self._secrets:
            what = f"refuses this user and key ({why}); check {_OPTIONS}"
        elif self._takes_account:
            what = f"refuses us ({why}); it may want {_OPTIONS}"
        else:
            what = f"refuses us ({why}): it may not want to be scraped, or not from here"
        return UsageError(f"{self.root} {what}")

    def _cut_short(self) -> BoardError:
        return BoardError(f"{self.root}: a page of the board is cut short")

    def _nonsense(self, what: str) -> BoardError:
        return BoardError(
            f"{self.root} answers nothing that can be read as {self.engine} "
            f"({self._plain(what)[:300]}); check --board"
        )

    def _plain(self, text: str) -> str:
        """Return a text on one line and without credentials: no query of a URL, no key."""
        text = re.sub(r"\?\S*", "", one_line(text, None))
        for secret in (self.login.key, self.login.user):
            text = text.replace(secret, "...") if len(secret) > 3 else text
        return text

    def _credentials(self) -> dict[str, str]:
        user_name, key_name = self.login_names
        given = {user_name: self.login.user, key_name: self.login.key}
        missing = [
            option
            for option, name in (("--board-user", user_name), ("--board-key", key_name))
            if name and not given[name]
        ]
        if not self.login.user and not self.login.key:
            if self.site.login == "required":
                raise UsageError(f"--board {self.site.name} wants an account's {_OPTIONS}")
            return {}
        if self.site.login == "none":
            get_logger().info("the board takes no user and key", board=self.site.name)
            return {}
        if missing:
            raise UsageError(f"--board {self.site.name}: {missing[0]} is missing; give {_OPTIONS}")
        return {name: value for name, value in given.items() if name}


def tag_terms(query: Query) -> list[str]:
    """Return a query's tags, and those that a post must not have, as most engines want them."""
    return [*query.tags, *("-" + tag for tag in query.without)]
