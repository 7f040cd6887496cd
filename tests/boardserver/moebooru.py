"""Moebooru, as of yande.re and konachan.com: an API in JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from imagetag.demo.pages import Answer, json_answer, xml_answer
from imagetag.demo.posts import Post
from imagetag.demo.protocol import Protocol, Request
from imagetag.demo.search import family, in_order
from tests.boardserver.common import leading_number
from tests.boardserver.words import ranged

_LIMIT = 1000  # posts at once
_DEFAULT_LIMIT = 40
_TAGS = 6
_NAME_TAGS = 5  # of a picture's tags in its file's name

_LETTERS = {"general": "s", "sensitive": "s", "questionable": "q", "explicit": "e"}
_NAMES = "deleted|ext|user|md5|-rating|rating|width|height|score|id|parent|order|limit"
_METATAG = re.compile(rf"({_NAMES}):(.+)")


class Moebooru(Protocol):
    """The board's answers. Deleted posts are found by `deleted:` and, oddly, by `id:`."""

    def image_path(self, post: Post) -> str:
        """Return where the picture is: its name has the id and some tags."""
        tags = " ".join(post.tags[:_NAME_TAGS]).replace("/", "_")
        return f"/image/{post.md5}/board {post.id} {tags}.{post.ext}"

    def thumb_path(self, post: Post) -> str:
        """Return where the thumbnail is."""
        return f"/data/preview/{post.md5[:2]}/{post.md5[2:4]}/{post.md5}.jpg"

    def small_path(self, post: Post) -> str:
        """Return where the smaller copy is."""
        return f"/sample/{post.md5}/board {post.id} sample.jpg"

    def answer(self, request: Request) -> tuple[str, Answer]:
        """Answer a request for posts."""
        path, params, root = request.path, request.params, request.root
        if path in ("/post.json", "/post/index.json"):
            return "api", self._posts(params, root)
        if path in ("/post.xml", "/post/index.xml"):  # no more of it than how many there are
            found = self._found(_Query(params.get("tags", "")))
            return "api", xml_answer(f'<posts count="{len(found)}" offset="0"/>')
        if path == "/tag.json":
            tags = self.index.beginning(params.get("name", ""))
            return "api", json_answer([{"name": tag, "count": count} for tag, count in tags])
        return super().answer(request)

    def _posts(self, params: Mapping[str, str], root: str) -> Answer:
        query = _Query(params.get("tags", ""))
        if len(query.excluded) > _TAGS:  # all others are not counted
            text = f"Error: You cannot search for more than {_TAGS} tags at a time"
            fields = {"success": False, "reason": text}
            return json_answer(fields, HTTPStatus.INTERNAL_SERVER_ERROR)
        limit = leading_number(query.metatags.get("limit", params.get("limit")))
        limit = min(limit, _LIMIT) if limit > 0 else _DEFAULT_LIMIT
        start = (max(1, leading_number(params.get("page"))) - 1) * limit
        found = self._found(query)[start : start + limit]
        return json_answer([self._fields(post, root) for post in found])

    def _found(self, query: _Query) -> list[Post]:
        found = self.index.ids(query.matches)
        for tag in query.required:
            found &= self.index.tagged(tag)
        for tag in query.excluded:
            found -= self.index.tagged(tag)
        if query.either or query.like:
            either = [self.index.tagged(tag) for tag in query.either]
            found &= set().union(*either, *map(self.index.tagged_like, query.like))
        order = query.metatags.get("order", "id_desc")
        posts = [self.index.by_id[i] for i in found]
        return in_order(posts, order.partition("_")[0], order not in ("id", "score_asc"))

    def _fields(self, post: Post, root: str) -> dict[str, Any]:
        time = int(post.created_at.timestamp())
        preview, sample = post.thumb_size, post.sample_size
        image = root + quote(self.image_path(post))
        fields = {
            "id": post.id,
            "tags": " ".join(sorted(post.tags)),
            "created_at": time,
            "updated_at": time,
            "creator_id": 1,
            "approver_id": None,
            "author": post.author,
            "change": post.id,
            "source": post.source,
            "score": post.score,
            "md5": post.md5,
            "file_size": post.size,
            "file_ext": post.ext,
            "file_url": image,
            "is_shown_in_index": True,
            "preview_url": root + self.thumb_path(post),
            "preview_width": preview[0],
            "preview_height": preview[1],
            "actual_preview_width": preview[0],
            "actual_preview_height": preview[1],
            "sample_url": root + quote(self.sample_path(post)),
            "sample_width": sample[0],
            "sample_height": sample[1],
            "sample_file_size": 0,
            "jpeg_url": image,
            "jpeg_width": post.width,
            "jpeg_height": post.height,
            "jpeg_file_size": 0,
            "rating": _LETTERS[post.rating],
            "is_rating_locked": False,
            "has_children": post.id in self.index.children,
            "parent_id": post.parent_id,
            "status": "active",
            "is_pending": False,
            "width": post.width,
            "height": post.height,
            "is_held": False,
            "frames_pending_string": "",
            "frames_pending": [],
            "frames_string": "",
            "frames": [],
            "is_note_locked": False,
            "last_noted_at": 0,
            "last_commented_at": 0,
        }
        if post.status != "active":
            for name in ("file_url", "sample_url", "jpeg_url"):
                del fields[name]
            fields["status"] = "deleted"
            fields["flag_detail"] = {"post_id": post.id, "reason": "deleted", "is_resolved": True}
        return fields


class _Query:
    """A query's words. Of a metatag that comes twice, the engine knows only the last."""

    def __init__(self, text: str) -> None:
        self.metatags: dict[str, str] = {}
        self.required: list[str] = []
        self.excluded: list[str] = []
        self.either: list[str] = []
        self.like: list[str] = []
        for word in dict.fromkeys(text.lower().split()):
            if word in ("q", "s", "e"):
                self.metatags["rating"] = word
            elif metatag := _METATAG.fullmatch(word):
                self.metatags[metatag[1]] = metatag[2]
            elif word[0] == "-" and len(word) > 1:
                self.excluded.append(word[1:])  # stars mean nothing here
            elif word[0] == "~" and len(word) > 1:
                self.either.append(word[1:])
            elif "*" in word:
                self.like.append(word)
            else:
                self.required.append(word)

    def matches(self, post: Post) -> bool:
        """Return whether a post is what the metatags ask for."""
        return self._status(post) and all(
            self._holds(post, name, value) for name, value in self.metatags.items()
        )

    def _status(self, post: Post) -> bool:
        deleted = post.status != "active"
        if "deleted" in self.metatags:
            return deleted or self.metatags["deleted"] != "true"
        return not deleted or "id" in self.metatags

    def _holds(self, post: Post, name: str, value: str) -> bool:
        if name in ("id", "score", "width", "height"):
            test = ranged(value)
            given: int = getattr(post, name)
            return test(given) if test is not None else given == leading_number(value)
        if name in ("rating", "-rating"):
            if value[0] not in "sqe":  # `rating:general` is passed over in silence
                return True
            return (_LETTERS[post.rating] == value[0]) == (name == "rating")
        if name == "md5":
            return post.md5 in value.split(",")
        if name == "ext":
            return post.ext in value.split(",")
        if name == "user":
            return post.author.lower() == value
        if name == "parent":
            if value == "none":
                return post.parent_id is None
            return family(leading_number(value))(post)
        return True
