"""Moebooru, the engine of yande.re and konachan.com: its JSON API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagetag.boards import fields as read
from imagetag.boards.api import ApiBoard, tag_terms
from imagetag.boards.base import Post, Query
from imagetag.boards.fields import Page
from imagetag.dataset import Rating

# `s` is for safe: the engine knows nothing between that and questionable.
_RATINGS: dict[str, Rating] = {"s": "general", "q": "questionable", "e": "explicit"}
_MOST_TERMS = 6  # tags; the engine's setting `tag_query_limit` as it comes


class Moebooru(ApiBoard):
    """A board of the engine Moebooru."""

    engine = "Moebooru"
    most = 1000

    def _count(self, query: Query) -> int | None:
        params = {"limit": "1", "tags": " ".join(self._terms(query))}
        return read.load_xml_count(self._ask("/post.xml", params))

    def _beginning(self, letters: str) -> list[str]:
        params = {"name": letters, "order": "count", "limit": "20"}
        return read.named(self._json(self._ask("/tag.json", params)), "name")

    @staticmethod
    def _terms(query: Query) -> list[str]:
        return [*tag_terms(query)[:_MOST_TERMS], *_rating_terms(query)]

    def _list(self, query: Query, below: int | None, limit: int) -> Page:
        terms = self._terms(query)
        terms += [f"id:<{below}"] if below is not None else []
        params = {"limit": str(limit), "tags": " ".join(terms)}
        return self._read(self._json(self._ask("/post.json", params)))

    def _post(self, fields: Mapping[str, Any]) -> Post:
        post_id = read.post_id(fields.get("id"))
        return Post(
            id=post_id,
            board=self.site.name,
            page_url=f"{self.root}/post/show/{post_id}",
            # `jpeg_url` and `sample_url` are other files, with another MD5.
            file_url=read.file_url(self.root + "/", fields.get("file_url")),
            md5=read.md5(fields.get("md5")),
            width=read.positive(fields.get("width")),
            height=read.positive(fields.get("height")),
            tags=read.words(fields.get("tags")),
            rating=read.rating(fields.get("rating"), _RATINGS),
            parent_id=read.positive(fields.get("parent_id"), read.MAX_ID),
            score=read.score(fields.get("score")),
            created_at=read.moment(fields.get("created_at")),
        )


def _rating_terms(query: Query) -> list[str]:
    # The last term about ratings is the only one that the engine minds.
    wanted = [letter for letter, name in _RATINGS.items() if name in query.ratings]
    unwanted = [letter for letter in _RATINGS if letter not in wanted]
    if len(wanted) == 1:
        return [f"rating:{wanted[0]}"]
    return [f"-rating:{unwanted[0]}"] if len(unwanted) == 1 else []
