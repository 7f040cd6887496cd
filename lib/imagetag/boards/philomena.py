"""Philomena, the engine of derpibooru.org: its JSON API; an account's key is optional."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from imagetag.boards import fields as read
from imagetag.boards.api import ApiBoard
from imagetag.boards.base import Post, Query
from imagetag.boards.fields import Page
from imagetag.dataset import Rating

# Ratings are tags here, the mildest first. Others, such as `grimdark`, say something else.
_RATINGS: dict[str, Rating] = {
    "safe": "general",
    "suggestive": "sensitive",
    "questionable": "questionable",
    "explicit": "explicit",
}
# The public filter that hides nothing: else what a board deems unfit for guests is missing.
_OPEN_FILTERS = {"derpibooru.org": "56027", "ponybooru.org": "3"}
_OPEN_FILTER = "2"  # as the engine is installed; without such a filter it takes its default
_SPECIAL = re.compile(r'([-!(),*?~":&|^\\])')


class Philomena(ApiBoard):
    """A board of the engine Philomena."""

    engine = "Philomena"
    most = 50
    login_names = ("", "key")

    def _list(self, query: Query, below: int | None, limit: int) -> Page:
        found = self._found(query, below, limit)
        return self._read(found.get("images") if isinstance(found, dict) else None)

    def _count(self, query: Query) -> int | None:
        return read.counted(self._found(query, None, 1)["total"])

    def _beginning(self, letters: str) -> list[str]:
        params = {"q": f"{_term(letters)}*"}
        found = self._json(self._ask("/api/v1/json/search/tags", params))
        return read.named(found["tags"], "name")

    def _found(self, query: Query, below: int | None, limit: int) -> Any:
        terms = [_term(tag) for tag in query.tags]
        terms += ["-" + _term(tag) for tag in query.without]
        if query.ratings:
            terms += ["-" + tag for tag, name in _RATINGS.items() if name not in query.ratings]
        terms += [f"id.lt:{below}"] if below is not None else []
        params = {"q": ", ".join(terms) or "*", "per_page": str(limit), "sf": "id", "sd": "desc"}
        host = urlsplit(self.root).hostname or ""
        params["filter_id"] = _OPEN_FILTERS.get(host, _OPEN_FILTER)
        return self._json(self._ask("/api/v1/json/search/images", params))

    def _post(self, fields: Mapping[str, Any]) -> Post:
        post_id = read.post_id(fields.get("id"))
        hidden = fields.get("hidden_from_users") is True  # deleted, or merged into another
        tags = () if hidden else read.names(fields.get("tags"))
        return Post(
            id=post_id,
            board=self.site.name,
            page_url=f"{self.root}/images/{post_id}",
            file_url="" if hidden else read.file_url(self.root + "/", _file(fields)),
            md5=None,  # its sums are SHA-512, and the file may have been optimized since
            width=read.positive(fields.get("width")),
            height=read.positive(fields.get("height")),
            tags=tags,
            rating=next((_RATINGS[tag] for tag in reversed(_RATINGS) if tag in tags), None),
            parent_id=read.positive(fields.get("duplicate_of"), read.MAX_ID),
            score=read.score(fields.get("score")),
            created_at=read.moment(fields.get("created_at")),
        )


def _term(tag: str) -> str:
    """Return a search term for a tag: in lower case, as tags are here, and with its spaces."""
    return _SPECIAL.sub(r"\\\1", tag.lower().replace("_", " ").strip())


def _file(fields: Mapping[str, Any]) -> Any:
    files = fields.get("representations")
    return (files.get("full") if isinstance(files, Mapping) else None) or fields.get("view_url")
