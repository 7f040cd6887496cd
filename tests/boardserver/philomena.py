"""Philomena, as of derpibooru.org: an API in JSON, and a search language of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any

from imagetag.demo.pages import Answer, json_answer
from imagetag.demo.posts import Post, PostIndex
from imagetag.demo.protocol import Protocol, Request
from tests.boardserver.common import leading_number
from tests.boardserver.philomena_query import BadQuery, Language, Range, Term

_LIMIT = 50  # images at once
_DEFAULT_LIMIT = 15

# The filters every board begins with. Who names none gets the first.
_DEFAULT_FILTER = "1"
_FILTERS = {_DEFAULT_FILTER: frozenset({"explicit", "grotesque"}), "2": frozenset[str]()}

_RATINGS = {
    "general": "safe",
    "sensitive": "suggestive",
    "questionable": "questionable",
    "explicit": "explicit",
}


@lru_cache(maxsize=100_000)
def _sha512(path: Path) -> str:
    """Return a file's SHA-512 in hexadecimal digits; empty if it is gone."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha512").hexdigest()
    except OSError:
        return ""


_WHOLE: dict[str, Callable[[Post], int]] = {
    "id": lambda post: post.id,
    "width": lambda post: post.width,
    "height": lambda post: post.height,
    "pixels": lambda post: post.width * post.height,
    "size": lambda post: post.size,
    "score": lambda post: post.score,
    "upvotes": lambda post: max(0, post.score),
    "downvotes": lambda post: max(0, -post.score),
    "tag_count": lambda post: len(_tags(post)),
    **dict.fromkeys(("comment_count", "faves", "faved_by_id", "uploader_id"), lambda _: 0),
}
_FRACTIONS: dict[str, Callable[[Post], float]] = {
    "aspect_ratio": lambda post: post.width / post.height,
    "wilson_score": lambda _: 0.0,
    "duration": lambda _: 0.0,
}
_TIMES: dict[str, Callable[[Post], float]] = dict.fromkeys(
    ("created_at", "updated_at", "first_seen_at"), lambda post: post.created_at.timestamp()
)
_TEXTS: dict[str, Callable[[Post], str]] = {
    "sha512_hash": lambda post: _sha512(post.path),
    "orig_sha512_hash": lambda post: _sha512(post.path),
    "original_format": lambda post: post.ext,
    "mime_type": lambda post: post.media_type,
    "uploader": lambda post: post.author.lower(),
    "source_url": lambda post: post.source.lower(),
    "faved_by": lambda _: "",
}
_NUMBERS = _WHOLE | _FRACTIONS | _TIMES
_LANGUAGE = Language(frozenset(_WHOLE), frozenset(_FRACTIONS), frozenset(_TIMES), frozenset(_TEXTS))


class Philomena(Protocol):
    """The board's answers. Deleted images are found with `del=1`, stripped of nearly all."""

    def __init__(self, index: PostIndex) -> None:
        super().__init__(index)
        self._pictures |= {_short_path(post): (post, None) for post in index.posts}
        self._by_tag: dict[str, set[int]] = {}
        for post in index.posts:
            for tag in _tags(post):
                self._by_tag.setdefault(tag, set()).add(post.id)
        self._tag_ids = {tag: number for number, tag in enumerate(sorted(self._by_tag), 1)}

    def image_path(self, post: Post) -> str:
        """Return where the picture is, by a name that tells its tags."""
        slug = "_".join(_tags(post))
        slug = re.sub(r"[^a-z0-9_+-]", "", slug.replace(" ", "+"))[:150]
        return f"/img/view/{_day(post)}/{post.id}__{slug}.{post.ext}"

    def thumb_path(self, post: Post) -> str:
        """Return where the thumbnail is."""
        return f"/img/{_day(post)}/{post.id}/thumb.jpg"

    def small_path(self, post: Post) -> str:
        """Return where the smaller copy is."""
        return f"/img/{_day(post)}/{post.id}/large.jpg"

    def answer(self, request: Request) -> tuple[str, Answer]:
        """Answer a request for images or one image."""
        path, params, root = request.path, request.params, request.root
        if path == "/api/v1/json/search/images":
            return "api", self._images(params, root)
        if path == "/api/v1/json/search/tags":
            letters = params.get("q", "").rstrip("*").replace("\\", "")
            names = sorted(tag for tag in self._by_tag if tag.startswith(letters))[:10]
            tags = [{"name": tag, "images": len(self._by_tag[tag])} for tag in names]
            return "api", json_answer({"tags": tags, "total": len(tags)})
        if match := re.fullmatch(r"/api/v1/json/images/([0-9]{1,15})", path):
            post = self.index.by_id.get(int(match[1]))
            if post is None:
                return "view", Answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"")
            return "view", json_answer({"image": self._fields(post, root), "interactions": []})
        return super().answer(request)

    def _images(self, params: Mapping[str, str], root: str) -> Answer:
        try:
            found = _LANGUAGE.search(params.get("q", ""), set(self.index.by_id), self._matching)
        except BadQuery as error:
            return json_answer({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        for tag in _FILTERS.get(params.get("filter_id", ""), _FILTERS[_DEFAULT_FILTER]):
            found = found - self._by_tag.get(tag, set())
        if params.get("del") != "1":
            found = found & self.index.ids(lambda post: post.status == "active")
        limit = leading_number(params.get("per_page")) if "per_page" in params else _DEFAULT_LIMIT
        limit = max(1, min(limit, _LIMIT))
        start = (max(1, leading_number(params.get("page"))) - 1) * limit
        posts = _sorted([self.index.by_id[i] for i in found], params)[start : start + limit]
        images = [self._fields(post, root) for post in posts]
        return json_answer({"images": images, "interactions": [], "total": len(found)})

    def _matching(self, term: Term) -> set[int]:
        if isinstance(term, Range):
            value = _NUMBERS[term.field]
            return self.index.ids(lambda post: term.matches(value(post)))
        if term.field:
            text = _TEXTS[term.field]
            return self.index.ids(lambda post: term.matches(text(post)))
        if not term.wild:
            return self._by_tag.get(term.value, set())
        return set().union(*(ids for tag, ids in self._by_tag.items() if term.matches(tag)))

    def _fields(self, post: Post, root: str) -> dict[str, Any]:
        time = post.created_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        times = {"created_at": time, "updated_at": time, "first_seen_at": time}
        if post.status != "active":
            hidden = {"deletion_reason": "deleted", "duplicate_of": None, "hidden_from_users": True}
            return {"id": post.id} | times | hidden
        tags = _tags(post)
        thumb, sample = root + self.thumb_path(post), root + self.sample_path(post)
        return times | {
            "id": post.id,
            "width": post.width,
            "height": post.height,
            "mime_type": post.media_type,
            "size": post.size,
            "orig_size": post.size,
            "duration": 0.04,  # of a still picture
            "animated": False,
            "format": post.ext,
            "aspect_ratio": post.width / post.height,
            "name": f"{post.md5}.{post.ext}",
            "sha512_hash": _sha512(post.path),
            "orig_sha512_hash": _sha512(post.path),
            "tags": tags,
            "tag_ids": [self._tag_ids[tag] for tag in tags],
            "uploader": post.author,
            "uploader_id": 1,
            "wilson_score": 0.0,
            "intensities": None,
            "score": post.score,
            "upvotes": max(0, post.score),
            "downvotes": max(0, -post.score),
            "faves": 0,
            "hides": 0,
            "comment_count": 0,
            "tag_count": len(tags),
            "description": "",
            "source_url": post.source,
            "source_urls": [post.source] if post.source else [],
            "view_url": root + self.image_path(post),
            "representations": {
                **dict.fromkeys(("thumb_tiny", "thumb_small", "thumb", "small"), thumb),
                **dict.fromkeys(("medium", "large", "tall"), sample),
                "full": root + _short_path(post),
            },
            "thumbnails_generated": True,
            "processed": True,
            "deletion_reason": None,
            "duplicate_of": None,
            "hidden_from_users": False,
            "spoilered": False,
        }


def _tags(post: Post) -> list[str]:
    """Return a post's tags as this engine has them: with spaces, and the rating among them."""
    tags = (tag.lower().replace("_", " ").strip() for tag in post.tags)
    return list(dict.fromkeys([_RATINGS[post.rating], *filter(None, tags)]))


def _sorted(posts: list[Post], params: Mapping[str, str]) -> list[Post]:
    field, _, seed = params.get("sf", "").partition(":")
    key = _NUMBERS.get(field, _TIMES["first_seen_at"])
    if field == "random":
        posts = sorted(posts, key=lambda post: post.id)
        Random(seed).shuffle(posts)
        return posts
    return sorted(posts, key=lambda post: (key(post), post.id), reverse=params.get("sd") != "asc")


def _day(post: Post) -> str:
    return f"{post.created_at.year}/{post.created_at.month}/{post.created_at.day}"


def _short_path(post: Post) -> str:
    return f"/img/view/{_day(post)}/{post.id}.{post.ext}"
