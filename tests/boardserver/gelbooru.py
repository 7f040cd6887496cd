"""Gelbooru 0.2.5, as of gelbooru.com: an API in JSON and XML, for those with credentials."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from imagetag.demo.gelbooru02 import number
from imagetag.demo.pages import Answer, escaped, json_answer, xml_answer
from imagetag.demo.posts import Post
from imagetag.demo.protocol import Protocol, Request
from imagetag.demo.search import gelbooru_search
from tests.boardserver.common import by_md5

_LIMIT = 100  # posts at once, and the default
_DEEPEST = 20_000  # posts that may be skipped


class Gelbooru(Protocol):
    """The board's answers; any credentials will do."""

    def image_path(self, post: Post) -> str:
        """Return where the picture is."""
        return f"/images/{by_md5(post)}"

    def thumb_path(self, post: Post) -> str:
        """Return where the thumbnail is."""
        return f"/thumbnails/{_directory(post)}/thumbnail_{post.md5}.jpg"

    def small_path(self, post: Post) -> str:
        """Return where the smaller copy is."""
        return f"/samples/{_directory(post)}/sample_{post.md5}.jpg"

    def answer(self, request: Request) -> tuple[str, Answer]:
        """Answer a request for the API."""
        path, params, root = request.path, request.params, request.root
        asked = (params.get("page"), params.get("s"), params.get("q"))
        if path in ("/", "/index.php") and asked == ("dapi", "post", "index"):
            return "api", self._api(params, root)
        if path in ("/", "/index.php") and asked[0] == "autocomplete2":
            found = self.index.beginning(params.get("term", ""))
            told = [
                {"type": "tag", "label": tag, "value": tag, "post_count": str(count)}
                for tag, count in found
            ]
            return "api", json_answer(told)
        return super().answer(request)

    def _api(self, params: Mapping[str, str], root: str) -> Answer:
        if not (params.get("api_key") and params.get("user_id")):
            return Answer(HTTPStatus.UNAUTHORIZED, "text/html; charset=UTF-8", b"")
        limit = min(number(params.get("limit"), _LIMIT), _LIMIT)
        offset = number(params.get("pid"), 0) * limit
        if offset > _DEEPEST:  # with status 200, and neither JSON nor XML
            text = b"Too deep! Pull it back some. Holy fuck."
            return Answer(HTTPStatus.OK, "text/html; charset=UTF-8", text)
        query = f"id:{number(params['id'], 0)}" if "id" in params else params.get("tags", "")
        found = gelbooru_search(self.index, query)
        posts = [self._fields(post, root) for post in found[offset : offset + limit]]
        attributes = {"limit": limit, "offset": offset, "count": len(found)}
        if params.get("json") == "1":
            # Where nothing is found, there is no "post" at all.
            return json_answer({"@attributes": attributes} | ({"post": posts} if posts else {}))
        told = " ".join(f'{name}="{value}"' for name, value in attributes.items())
        return xml_answer(f"<posts {told}>{''.join(map(_element, posts))}</posts>")

    def _fields(self, post: Post, root: str) -> dict[str, Any]:
        small = post.has_sample
        width, height = post.sample_size if small else (0, 0)
        return {
            "id": post.id,
            "created_at": post.created_at.strftime("%a %b %d %H:%M:%S %z %Y"),
            "score": post.score,
            "width": post.width,
            "height": post.height,
            "md5": post.md5,
            "directory": _directory(post),
            "image": f"{post.md5}.{post.ext}",
            "rating": post.rating,
            "source": post.source,
            "change": int(post.created_at.timestamp()),
            "owner": post.author,
            "creator_id": 1,
            "parent_id": post.parent_id or 0,
            "sample": int(small),
            "preview_height": post.thumb_size[1],
            "preview_width": post.thumb_size[0],
            "tags": escaped(" ".join(post.tags)),  # the engine stores them as HTML
            "title": "",
            "has_notes": "false",
            "has_comments": "false",
            "file_url": root + self.image_path(post),
            "preview_url": root + self.thumb_path(post),
            "sample_url": root + self.small_path(post) if small else "",
            "sample_height": height,
            "sample_width": width,
            "status": "active",
            "post_locked": 0,
            "has_children": "true" if post.id in self.index.children else "false",
        }


def _directory(post: Post) -> str:
    return f"{post.md5[:2]}/{post.md5[2:4]}"


def _element(fields: Mapping[str, Any]) -> str:
    children = (f"<{name}>{escaped(value)}</{name}>" for name, value in fields.items())
    return f"<post>{''.join(children)}</post>"
