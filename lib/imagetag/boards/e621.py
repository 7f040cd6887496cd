"""E621ng, the engine of e621.net: its JSON API; an account is optional."""

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
_MOST_TERMS = 36  # of the 40 that a search may have; the rest are for ratings and ids


class E621(ApiBoard):
    """A board of the engine E621ng."""

    engine = "e621"
    most = 320
    login_names = ("login", "api_key")

    def _list(self, query: Query, below: int | None, limit: int) -> Page:
        terms = tag_terms(query)[:_MOST_TERMS]
        if query.ratings:
            unwanted = [letter for letter, name in _RATINGS.items() if name not in query.ratings]
            terms += [f"-rating:{letter}" for letter in unwanted]
        params = {"limit": str(limit), "tags": " ".join(terms)}
        if below is not None:
            params["page"] = f"b{below}"
        found = self._json(self._ask("/posts.json", params))
        return self._read(found.get("posts") if isinstance(found, dict) else found)

    def _count(self, query: Query) -> int | None:
        if len(query.tags) != 1:
            return None  # it counts tags, not searches
        found = self._json(self._ask("/tags.json", {"search[name]": query.tags[0], "limit": "1"}))
        if isinstance(found, Mapping):  # what it answers in the place of an empty list
            return 0 if found.get("tags") == [] else None
        return read.counted(found[0]["post_count"]) if found else 0

    def _beginning(self, letters: str) -> list[str]:
        params = {"search[name_matches]": letters, "expiry": "7"}
        return read.named(self._json(self._ask("/tags/autocomplete.json", params)), "name")

    def _post(self, fields: Mapping[str, Any]) -> Post:
        post_id = read.post_id(fields.get("id"))
        file = _mapping(fields, "file")
        score = fields.get("score")
        return Post(
            id=post_id,
            board=self.site.name,
            page_url=f"{self.root}/posts/{post_id}",
            # None for deleted posts, and for those that are only for who is logged in.
            file_url=read.file_url(self.root + "/", file.get("url")),
            md5=read.md5(file.get("md5")),
            width=read.positive(file.get("width")),
            height=read.positive(file.get("height")),
            tags=_tags(fields.get("tags")),
            rating=read.rating(fields.get("rating"), _RATINGS),
            parent_id=read.positive(
                _mapping(fields, "relationships").get("parent_id"), read.MAX_ID
            ),
            score=read.score(score.get("total") if isinstance(score, Mapping) else score),
            created_at=read.moment(fields.get("created_at")),
        )


def _mapping(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, Mapping) else {}


def _tags(categories: Any) -> tuple[str, ...]:
    if not isinstance(categories, Mapping):
        raise ValueError("no tags by category")
    found = [tag for names in categories.values() for tag in read.names(names)]
    return tuple(dict.fromkeys(found))
