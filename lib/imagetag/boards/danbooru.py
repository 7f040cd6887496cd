"""Danbooru 2, the engine of danbooru.donmai.us: its JSON API; an account is optional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagetag.boards import fields as read
from imagetag.boards.api import ApiBoard, tag_terms
from imagetag.boards.base import NO_LOGIN, Login, Post, Query, Site
from imagetag.boards.fields import Page
from imagetag.dataset import Rating
from imagetag.web import Client, HttpError

_RATINGS: dict[str, Rating] = {
    "g": "general",
    "s": "sensitive",
    "q": "questionable",
    "e": "explicit",
}
_FEWEST_TERMS = 2  # what anybody may search for at once; some accounts may more
# Terms of these do not count against that.
_FREE = frozenset(
    [
        *("status", "rating", "limit", "is", "id", "date", "age", "filesize", "filetype"),
        *("parent", "child", "md5", "width", "height", "duration", "mpixels", "ratio", "score"),
        *("upvote", "downvotes", "favcount", "embedded", "tagcount", "pixiv_id", "pixiv"),
    ]
)


class Danbooru(ApiBoard):
    """A board of the engine Danbooru 2."""

    engine = "Danbooru"
    most = 200
    login_names = ("login", "api_key")

    def __init__(self, site: Site, client: Client, login: Login = NO_LOGIN) -> None:
        super().__init__(site, client, login)
        self._most_terms = None if self._secrets else _FEWEST_TERMS

    def _list(self, query: Query, below: int | None, limit: int) -> Page:
        params = {"limit": str(limit)}
        if below is not None:
            params["page"] = f"b{below}"
        try:
            content = self._get("/posts.json", params | {"tags": self._tags(query)})
        except HttpError as error:
            if error.reason != "http_422" or self._most_terms is not None:
                raise self._failure(error) from None
            self._most_terms = _FEWEST_TERMS  # an account that may search for no more than others
            content = self._ask("/posts.json", params | {"tags": self._tags(query)})
        return self._read(self._json(content))

    def _count(self, query: Query) -> int | None:
        found = self._json(self._ask("/counts/posts.json", {"tags": self._tags(query)}))
        return read.counted(found["counts"]["posts"])

    def _beginning(self, letters: str) -> list[str]:
        params = {"search[query]": letters, "search[type]": "tag_query", "limit": "10"}
        return read.named(self._json(self._ask("/autocomplete.json", params)), "value")

    def _tags(self, query: Query) -> str:
        kept = []
        counted = 0
        for term in tag_terms(query):
            name, colon, _ = term.removeprefix("-").partition(":")
            free = bool(colon) and name.lower() in _FREE
            counted += not free
            if free or self._most_terms is None or counted <= self._most_terms:
                kept.append(term)
        return " ".join([*kept, *_rating_terms(query)])

    def _post(self, fields: Mapping[str, Any]) -> Post:
        post_id = read.post_id(fields.get("id"))
        return Post(
            id=post_id,
            board=self.site.name,
            page_url=f"{self.root}/posts/{post_id}",
            # The posts that we may not see, of banned artists and for paid accounts, have none.
            file_url=read.file_url(self.root + "/", fields.get("file_url")),
            md5=read.md5(fields.get("md5")),
            width=read.positive(fields.get("image_width")),
            height=read.positive(fields.get("image_height")),
            tags=read.words(fields.get("tag_string")),
            rating=read.rating(fields.get("rating"), _RATINGS),
            parent_id=read.positive(fields.get("parent_id"), read.MAX_ID),
            score=read.score(fields.get("score")),
            created_at=read.moment(fields.get("created_at")),
        )


def _rating_terms(query: Query) -> list[str]:
    letters = [letter for letter, name in _RATINGS.items() if name in query.ratings]
    return [f"rating:{','.join(letters)}"] if letters and len(letters) < len(_RATINGS) else []
