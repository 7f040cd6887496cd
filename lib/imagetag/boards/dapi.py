"""What the Gelbooru engines share: the API at `page=dapi`, in JSON and in XML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from imagetag.boards import fields as read
from imagetag.boards.api import ApiBoard
from imagetag.boards.base import Post, Query
from imagetag.dataset import Rating


class DapiBoard(ApiBoard):
    """A board of one of the Gelbooru engines.

    Attributes:
        ratings: what its words for ratings mean.
        left_out: the ratings that a search can leave out.

    """

    ratings: ClassVar[Mapping[str, Rating]]
    left_out: ClassVar[tuple[Rating, ...]]
    login_names = ("user_id", "api_key")

    def _terms(self, query: Query, below: int | None) -> list[str]:
        terms = [*query.tags, *("-" + tag for tag in query.without)]
        if query.ratings:
            terms += [f"-rating:{name}" for name in self.left_out if name not in query.ratings]
        terms += [f"id:<{below}"] if below is not None else []
        return terms

    def _count(self, query: Query) -> int | None:
        # Where JSON is asked for, older boards tell no count.
        content = self._ask("/index.php", self._api(self._terms(query, None), 1))
        return read.load_xml_count(content)

    @staticmethod
    def _api(terms: Sequence[str], limit: int) -> dict[str, str]:
        params = {"page": "dapi", "s": "post", "q": "index"}
        return params | {"limit": str(limit), "tags": " ".join(terms)}

    def _post(self, fields: Mapping[str, Any]) -> Post:
        post_id = read.post_id(fields.get("id"))
        file_url = fields.get("file_url")
        if not file_url and fields.get("image"):  # older boards leave the URL to the reader
            file_url = f"images/{fields.get('directory') or ''}/{fields['image']}"
        tags = fields.get("tags")
        return Post(
            id=post_id,
            board=self.site.name,
            page_url=self._page_url(post_id),
            # An empty URL is how a deleted post looks: there is no file, and no page will tell.
            file_url=read.file_url(self.root + "/", file_url),
            md5=read.md5(fields.get("md5") or fields.get("hash")),
            width=read.positive(fields.get("width")),
            height=read.positive(fields.get("height")),
            tags=read.words(html.unescape(tags) if isinstance(tags, str) else None),
            rating=read.rating(fields.get("rating"), self.ratings),
            parent_id=read.positive(fields.get("parent_id"), read.MAX_ID),
            score=read.score(fields.get("score")),
            created_at=read.moment(fields.get("created_at")),
        )

    def _page_url(self, post_id: int) -> str:
        return f"{self.root}/index.php?page=post&s=view&id={post_id}"


def posts_in(found: Any) -> Any:
    """Return what is in the place of posts in a JSON answer, which may wrap them."""
    if isinstance(found, dict):  # where there are no posts, there are only the attributes
        found = found.get("post", [] if "@attributes" in found else None)
    return [found] if isinstance(found, dict) else found
