"""Danbooru 2, as of danbooru.donmai.us: an API in JSON."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from imagetag.demo.pages import Answer, json_answer
from imagetag.demo.posts import Category, Post, PostIndex
from imagetag.demo.protocol import Protocol, Request
from tests.boardserver.common import by_md5, iso_time, leading_number, tags_of
from tests.boardserver.words import DanbooruSearch, TooManyWords

_LIMIT = 200  # posts at once
_DEFAULT_LIMIT = 20
_LAST_PAGE = 1000
_TAGS = 2  # of those without an account
_TAGS_OF_GOLD = 6

_LETTERS = {"general": "g", "sensitive": "s", "questionable": "q", "explicit": "e"}
_FREE = frozenset({"status", "rating", "limit", "id", "md5", "parent", "width", "height", "score"})
_CATEGORIES: tuple[Category, ...] = ("general", "artist", "copyright", "character", "meta")


class Danbooru(Protocol):
    """The board's answers; `login` and `api_key`, whatever they are, are those of a Gold account.

    Deleted posts are found like others; of banned ones, all is told but where and what the file is.
    """

    def __init__(self, index: PostIndex) -> None:
        super().__init__(index)
        self._search = DanbooruSearch(index, _LETTERS, _FREE, shows_deleted=True)

    def image_path(self, post: Post) -> str:
        """Return where the picture is."""
        return f"/original/{by_md5(post)}"

    def thumb_path(self, post: Post) -> str:
        """Return where the thumbnail is."""
        return f"/180x180/{post.md5[:2]}/{post.md5[2:4]}/{post.md5}.jpg"

    def small_path(self, post: Post) -> str:
        """Return where the smaller copy is."""
        return f"/sample/{post.md5[:2]}/{post.md5[2:4]}/sample-{post.md5}.jpg"

    def answer(self, request: Request) -> tuple[str, Answer]:
        """Answer a request for posts, one post or their count."""
        path, root = request.path, request.root
        params = request.params | _credentials(request.headers.get("Authorization", ""))
        if path == "/posts.json":
            return "api", self._posts(params, root)
        if path == "/counts/posts.json":
            return "api", self._count(params)
        if path == "/autocomplete.json":
            found = self.index.beginning(params.get("search[query]", ""))
            told = [
                {"type": "tag-word", "label": tag.replace("_", " "), "value": tag, "post_count": n}
                for tag, n in found
            ]
            return "api", json_answer(told)
        if match := re.fullmatch(r"/posts/([0-9]{1,15})\.json", path):
            post = self.index.by_id.get(int(match[1]))
            return "view", json_answer(self._fields(post, root)) if post else _error(
                HTTPStatus.NOT_FOUND, "ActiveRecord::RecordNotFound", "That record was not found."
            )
        return super().answer(request)

    def _posts(self, params: Mapping[str, str], root: str) -> Answer:
        try:
            found, options = self._search.find(params.get("tags", ""), _tag_limit(params))
        except TooManyWords:
            return _too_many(params)
        asked = params.get("limit") or options.get("limit")
        limit = max(1, min(leading_number(asked), _LIMIT)) if asked else _DEFAULT_LIMIT
        page = params.get("page", "")
        if leading_number(page) > _LAST_PAGE:
            text = f"You cannot go beyond page {_LAST_PAGE}."
            return _error(HTTPStatus.GONE, "PaginationExtension::PaginationError", text)
        return json_answer([self._fields(post, root) for post in paged(found, page, limit)])

    def _count(self, params: Mapping[str, str]) -> Answer:
        try:
            found, _ = self._search.find(params.get("tags", ""), _tag_limit(params))
        except TooManyWords:
            return _too_many(params)
        return json_answer({"counts": {"posts": len(found)}})

    def _fields(self, post: Post, root: str) -> dict[str, Any]:
        tags = {category: tags_of(post, category) for category in _CATEGORIES}
        # Danbooru has no such tags: they are general ones there.
        tags["general"] += [*tags_of(post, "species"), *tags_of(post, "lore")]
        has_children = post.id in self.index.children
        fields = {
            "id": post.id,
            "created_at": iso_time(post),
            "uploader_id": 1,
            "score": post.score,
            "source": post.source,
            "md5": post.md5,
            "last_comment_bumped_at": None,
            "rating": _LETTERS[post.rating],
            "image_width": post.width,
            "image_height": post.height,
            "tag_string": " ".join(sorted(post.tags)),
            "fav_count": 0,
            "file_ext": post.ext,
            "last_noted_at": None,
            "parent_id": post.parent_id,
            "has_children": has_children,
            "approver_id": None,
            "tag_count_general": len(tags["general"]),
            "tag_count_artist": len(tags["artist"]),
            "tag_count_character": len(tags["character"]),
            "tag_count_copyright": len(tags["copyright"]),
            "file_size": post.size,
            "up_score": max(0, post.score),
            "down_score": min(0, post.score),
            "is_pending": False,
            "is_flagged": False,
            "is_deleted": post.status == "deleted",
            "tag_count": len(post.tags),
            "updated_at": iso_time(post),
            "is_banned": post.status == "banned",
            "pixiv_id": None,
            "last_commented_at": None,
            "has_active_children": has_children,
            "bit_flags": 0,
            "tag_count_meta": len(tags["meta"]),
            "has_large": post.has_sample,
            "has_visible_children": has_children,
            **{f"tag_string_{name}": " ".join(sorted(names)) for name, names in tags.items()},
            "file_url": root + self.image_path(post),
            "large_file_url": root + self.sample_path(post),
            "preview_file_url": root + self.thumb_path(post),
        }
        if post.status == "banned":
            for name in ("md5", "file_url", "large_file_url", "preview_file_url"):
                del fields[name]
        return fields


def paged(found: Sequence[Post], page: str, limit: int) -> Sequence[Post]:
    """Return a page of posts: a number, or `b` or `a` and the id before or after which they are.

    The posts before or after an id come newest first, whatever order was asked for: of those after
    it, the oldest, which are the nearest to it.
    """
    if match := re.fullmatch(r"([abAB])([0-9]{1,18})", page):
        bound, newest_first = int(match[2]), sorted(found, key=lambda post: -post.id)
        if match[1] in "bB":
            return [post for post in newest_first if post.id < bound][:limit]
        after = [post for post in newest_first if post.id > bound]
        return after[max(0, len(after) - limit) :]
    start = (max(1, leading_number(page)) - 1) * limit
    return found[start : start + limit]


def _credentials(authorization: str) -> dict[str, str]:
    """Return what the header says as parameters, which the engine takes as well."""
    kind, _, encoded = authorization.partition(" ")
    if kind.lower() != "basic":
        return {}
    try:
        login, _, key = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return {}
    return {"login": login, "api_key": key}


def _tag_limit(params: Mapping[str, str]) -> int:
    return _TAGS_OF_GOLD if params.get("login") and params.get("api_key") else _TAGS


def _too_many(params: Mapping[str, str]) -> Answer:
    text = f"You cannot search for more than {_tag_limit(params)} tags at a time."
    return _error(HTTPStatus.UNPROCESSABLE_ENTITY, "PostQuery::TagLimitError", text)


def _error(status: HTTPStatus, name: str, text: str) -> Answer:
    fields = {"success": False, "error": name, "message": text, "backtrace": []}
    return json_answer(fields, status)
