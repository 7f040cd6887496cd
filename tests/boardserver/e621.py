"""e621, a descendant of Danbooru: an API in JSON, for clients that say who they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from imagetag.demo.pages import Answer, error_page, json_answer
from imagetag.demo.posts import Category, Post, PostIndex
from imagetag.demo.protocol import Protocol, Request
from tests.boardserver.common import by_md5, iso_time, leading_number, tags_of
from tests.boardserver.danbooru import paged
from tests.boardserver.words import DanbooruSearch, TooManyWords

_LIMIT = 320  # posts at once
_DEFAULT_LIMIT = 75
_LAST_PAGE = 750
_TAGS = 40

_LETTERS = {"general": "s", "sensitive": "s", "questionable": "q", "explicit": "e"}
_CATEGORIES: tuple[Category, ...] = (
    *("general", "artist", "copyright", "character", "species", "meta", "lore"),
)
# What libraries call themselves where nobody gave them a name.
_NAMELESS = re.compile(
    r"(python|aiohttp|go-http-client|java|okhttp|axios|node|undici|libwww|ruby|faraday|php|guzzle)"
    r"([-/ ]|$)",
    re.IGNORECASE,
)


class E621(Protocol):
    """The board's answers. The files of deleted and of banned posts have no URL."""

    def __init__(self, index: PostIndex) -> None:
        super().__init__(index)
        self._search = DanbooruSearch(index, _LETTERS, frozenset(), shows_deleted=False)

    def image_path(self, post: Post) -> str:
        """Return where the picture is."""
        return f"/data/{by_md5(post)}"

    def thumb_path(self, post: Post) -> str:
        """Return where the thumbnail is."""
        return f"/data/preview/{post.md5[:2]}/{post.md5[2:4]}/{post.md5}.jpg"

    def small_path(self, post: Post) -> str:
        """Return where the smaller copy is."""
        return f"/data/sample/{post.md5[:2]}/{post.md5[2:4]}/{post.md5}.jpg"

    def answer(self, request: Request) -> tuple[str, Answer]:
        """Answer a request for posts or one post, of those who have a name of their own."""
        path, params, root = request.path, request.params, request.root
        name = request.headers.get("User-Agent", "").strip()
        if not path.startswith("/data/") and (not name or _NAMELESS.match(name)):
            page = error_page(HTTPStatus.FORBIDDEN, "Please set a descriptive User-Agent")
            return "refused", page
        if path == "/posts.json":
            return "api", self._posts(params, root)
        if path == "/tags.json":
            tag = params.get("search[name]", "").lower()
            count = len(self.index.tagged(tag))
            told = [{"name": tag, "post_count": count}] if count else {"tags": []}
            return "api", json_answer(told)
        if path == "/tags/autocomplete.json":
            found = self.index.beginning(params.get("search[name_matches]", ""))
            return "api", json_answer([{"name": tag, "post_count": n} for tag, n in found])
        if match := re.fullmatch(r"/posts/([0-9]{1,15})\.json", path):
            post = self.index.by_id.get(int(match[1]))
            if post is None:
                missing = {"success": False, "reason": "not found"}
                return "view", json_answer(missing, HTTPStatus.NOT_FOUND)
            return "view", json_answer({"post": self._fields(post, root)})
        return super().answer(request)

    def _posts(self, params: Mapping[str, str], root: str) -> Answer:
        try:
            found, options = self._search.find(params.get("tags", ""), _TAGS)
        except TooManyWords:
            text = f"You cannot search for more than {_TAGS} tags at a time"
            return _error(HTTPStatus.UNPROCESSABLE_ENTITY, text)
        asked = params.get("limit") or options.get("limit")
        limit = max(0, min(leading_number(asked), _LIMIT)) if asked else _DEFAULT_LIMIT
        page = params.get("page", "1")
        if not re.fullmatch(r"[0-9]{1,18}|[ab][0-9]{1,18}", page):
            return _error(HTTPStatus.GONE, "Invalid page number.")
        if page.isdigit() and int(page) > _LAST_PAGE:
            text = f"You cannot go beyond page {_LAST_PAGE}. Please narrow your search terms."
            return _error(HTTPStatus.GONE, text)
        return json_answer(
            {"posts": [self._fields(post, root) for post in paged(found, page, limit)]}
        )

    def _fields(self, post: Post, root: str) -> dict[str, Any]:
        visible = post.status == "active"
        children = self.index.children.get(post.id, [])
        tags = {category: sorted(tags_of(post, category)) for category in _CATEGORIES}
        return {
            "id": post.id,
            "created_at": iso_time(post),
            "updated_at": iso_time(post),
            "file": {
                "width": post.width,
                "height": post.height,
                "ext": post.ext,
                "size": post.size,
                "md5": post.md5,
                "url": root + self.image_path(post) if visible else None,
            },
            "preview": {
                "width": post.thumb_size[0],
                "height": post.thumb_size[1],
                "url": root + self.thumb_path(post) if visible else None,
                "alt": None,
            },
            "sample": {
                "has": post.has_sample,
                "width": post.sample_size[0],
                "height": post.sample_size[1],
                "url": root + self.small_path(post) if visible and post.has_sample else None,
                "alt": None,
                "alternates": {},
            },
            "score": {
                "up": max(0, post.score),
                "down": min(0, post.score),
                "total": post.score,
            },
            "tags": tags | {"contributor": [], "invalid": []},
            "locked_tags": [],
            "change_seq": post.id,
            "flags": {
                "pending": False,
                "flagged": False,
                "note_locked": False,
                "status_locked": False,
                "rating_locked": False,
                "deleted": post.status == "deleted",
            },
            "rating": _LETTERS[post.rating],
            "fav_count": 0,
            "sources": post.source.split("\n") if post.source else [],
            "pools": [],
            "relationships": {
                "parent_id": post.parent_id,
                "has_children": bool(children),
                "has_active_children": bool(children),
                "children": children,
            },
            "approver_id": None,
            "uploader_id": 1,
            "uploader_name": post.author,
            "description": "",
            "comment_count": 0,
            "is_favorited": False,
            "has_notes": False,
            "duration": None,
        }


def _error(status: HTTPStatus, text: str) -> Answer:
    return json_answer({"success": False, "message": text, "code": None}, status)
