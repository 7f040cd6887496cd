"""A small imageboard that speaks the protocol of Gelbooru Beta 0.2: API, HTML pages, pictures.

It serves any folder with a `posts.jsonl`, as `scenes.draw_posts` writes it. It is made for the demo
and for tests, and follows the boards of that engine also where they are odd.
"""

from __future__ import annotations

import html
import io
import json
import operator
import re
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qs, quote_plus, unquote

from PIL import Image
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from imagetag.errors import InputError, UsageError
from imagetag.images import BadImage, load_rgb
from imagetag.log import get_logger
from imagetag.manifest import Md5, Rating

_API_LIMIT = 1000  # posts
_API_DEFAULT_LIMIT = 100
_THUMBS = 42  # on a list page
_THUMB_SIDE = 150  # pixels
_SAMPLE_WIDTH = 850  # pixels; a wider picture's page shows a smaller copy
_MEDIA_TYPES = {"jpg": "image/jpeg"}  # the others are called as they end
_HOST = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


class BoardServer:
    """A board on a port of this machine; as a context manager it serves until the block ends.

    Attributes:
        url: the board's root, such as `http://127.0.0.1:8480`.
        posts: the posts it shows, newest first.
        requests: how many requests were answered so far, by kind: `api`, `list`, `view`, `image`,
            `preview` (thumbnails and samples) and `other`.

    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        host: str = "127.0.0.1",
        api: Literal["open", "closed"] = "open",
    ) -> None:
        """Read the posts and listen; port 0 takes a free one.

        With `api="closed"` the API answers as on boards that have switched it off: only the HTML
        pages tell of posts.

        Raises:
            InputError: if there is no `posts.jsonl` in the folder.
            UsageError: if the port cannot be listened on.

        """
        self._index = PostIndex(read_posts(folder))
        self._api_closed = api == "closed"
        self._lock = threading.Lock()
        self.posts = self._index.posts
        self.requests: Counter[str] = Counter()
        try:
            self._server = _Server(self, host, port)
        except OSError as error:
            raise UsageError(
                f"cannot listen on port {port} of {host} ({error.strerror}): "
                "try another --port or --host"
            ) from error
        self.url = f"http://{_reachable(host)}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> BoardServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str, query: str, root: str) -> Answer:
        """Return what the board says to a request; `root` is its URL as the client knows it."""
        try:
            params = {
                name: values[-1] for name, values in parse_qs(query, max_num_fields=50).items()
            }
        except ValueError:
            kind, answer = "other", _error(HTTPStatus.BAD_REQUEST, "Too many parameters")
        else:
            kind, answer = self._routed(unquote(path), params, root)
        with self._lock:
            self.requests[kind] += 1
        return answer

    def _routed(self, path: str, params: Mapping[str, str], root: str) -> tuple[str, Answer]:
        if path in ("/", "/index.php"):
            page = params.get("page", "post")
            what = params.get("s", "list")
            if (page, what, params.get("q")) == ("dapi", "post", "index"):
                return "api", self._api(params, root)
            if (page, what) == ("post", "list"):
                return "list", self._list(params, root)
            if (page, what) == ("post", "view"):
                return "view", self._view(params, root)
        elif path.startswith("/images/"):
            return "image", self._image(path)
        elif path.startswith(("/thumbnails/", "/samples/")):
            return "preview", self._preview(path)
        return "other", _error(HTTPStatus.NOT_FOUND, "There is no such page")

    def _api(self, params: Mapping[str, str], root: str) -> Answer:
        if self._api_closed:  # with status 200, and in XML even where JSON was asked for
            return _xml(
                '<response success="false" reason="Search error: API offline. Feel free to browse '
                'the site the old fashioned way for now."/>'
            )
        limit = min(_number(params.get("limit"), _API_DEFAULT_LIMIT), _API_LIMIT)
        offset = _number(params.get("pid"), 0) * limit
        query = f"id:{_number(params['id'], 0)}" if "id" in params else params.get("tags", "")
        found = self._index.search(query)
        posts = found[offset : offset + limit]
        if params.get("json") == "1":
            return _json([_json_post(post, root) for post in posts])
        elements = [_xml_post(post, root, post.id in self._index.parents) for post in posts]
        count = f'count="{len(found)}" offset="{offset if found else 0}"'
        return _xml(f"<posts {count}>{''.join(elements)}</posts>" if posts else f"<posts {count}/>")

    def _list(self, params: Mapping[str, str], root: str) -> Answer:
        tags = params.get("tags", "all")
        offset = _number(params.get("pid"), 0)  # in posts, while the API's is in pages
        found = self._index.search(tags)
        body = _list_body(self._index, found, tags, offset, root)
        return _page(tags, body, tags)

    def _view(self, params: Mapping[str, str], root: str) -> Answer:
        found = self._index.search(f"id:{_number(params.get('id'), 0)}")
        if not found:  # a deleted post: the engine sends people back to the list
            target = "index.php?page=post&s=list&tags=all"
            return Answer(HTTPStatus.FOUND, "text/html", b"", location=target)
        return _page(f"Post {found[0].id}", _view_body(self._index, found[0], root), "")

    def _image(self, path: str) -> Answer:
        post = self._index.by_image.get(path)
        if post is None:
            return _error(HTTPStatus.NOT_FOUND, "There is no such picture")
        try:
            data = post.path.read_bytes()
        except OSError as error:
            return _unreadable(post, error)
        return Answer(HTTPStatus.OK, _MEDIA_TYPES.get(post.ext, f"image/{post.ext}"), data)

    def _preview(self, path: str) -> Answer:
        post, size = self._index.by_preview.get(path, (None, (0, 0)))
        if post is None:
            return _error(HTTPStatus.NOT_FOUND, "There is no such picture")
        try:
            return Answer(HTTPStatus.OK, "image/jpeg", _shrunk(post.path, size))
        except (OSError, BadImage) as error:
            return _unreadable(post, error)


# --- Posts ------------------------------------------------------------------------------------


def _checked_tag(tag: str) -> str:
    if not tag or " " in tag or not tag.isprintable():
        raise ValueError("not a tag")
    return tag


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


class Post(BaseModel):
    """A line of `posts.jsonl`. Sizes are in pixels; `path` is the picture's file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: int = Field(ge=1, le=10**12)
    path: Path = Field(alias="file")
    tags: tuple[Annotated[str, AfterValidator(_checked_tag)], ...]
    rating: Rating
    width: int = Field(ge=1, le=10**6)
    height: int = Field(ge=1, le=10**6)
    md5: Md5
    ext: Literal["jpg", "jpeg", "png", "webp", "gif", "bmp"]
    parent_id: int | None = Field(None, ge=1, le=10**12)
    score: int = Field(0, ge=-(10**6), le=10**6)
    created_at: AwareDatetime = datetime(2024, 1, 1, tzinfo=UTC)
    author: Annotated[str, AfterValidator(_printable)] = "board"
    source: Annotated[str, AfterValidator(_printable)] = ""

    @property
    def directory(self) -> int:
        """The number of the folder in the picture's URL."""
        return 1 + self.id // 1000

    @property
    def image_path(self) -> str:
        """The URL path of the picture as it is."""
        return f"/images/{self.directory}/{self.md5}.{self.ext}"

    @property
    def thumb_path(self) -> str:
        """The URL path of the thumbnail."""
        return f"/thumbnails/{self.directory}/thumbnail_{self.md5}.jpg"

    @property
    def thumb_size(self) -> tuple[int, int]:
        """The thumbnail's (width, height)."""
        return self._fitting(_THUMB_SIDE / max(self.width, self.height))

    @property
    def has_sample(self) -> bool:
        """Whether there is a smaller copy for the post's page."""
        return self.width > _SAMPLE_WIDTH

    @property
    def sample_path(self) -> str:
        """The URL path of what the post's page shows: a smaller copy, or the picture as it is."""
        if not self.has_sample:
            return self.image_path
        return f"/samples/{self.directory}/sample_{self.md5}.jpg"

    @property
    def sample_size(self) -> tuple[int, int]:
        """The (width, height) of what `sample_path` gives."""
        return self._fitting(_SAMPLE_WIDTH / self.width)

    def _fitting(self, scale: float) -> tuple[int, int]:
        if scale >= 1:
            return self.width, self.height
        return max(1, round(self.width * scale)), max(1, round(self.height * scale))


def read_posts(folder: Path) -> list[Post]:
    """Return the posts of a folder's `posts.jsonl`; lines that are no good are counted and logged.

    A line is no good if it is no post, its id was there before, or its `file` is missing or outside
    the folder.

    Raises:
        InputError: if there is no `posts.jsonl`.

    """
    try:
        lines = (folder / "posts.jsonl").read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            f"{folder} is no folder of posts: posts.jsonl cannot be read ({error.strerror})"
        ) from error
    root = folder.resolve()
    posts: dict[int, Post] = {}
    refused = 0
    for line in lines:
        try:
            post = Post.model_validate_json(line)
            path = (root / post.path).resolve()
        except (ValidationError, ValueError, OSError):
            refused += bool(line.strip())
            continue
        if post.id in posts or not path.is_relative_to(root) or not path.is_file():
            refused += 1
            continue
        posts[post.id] = post.model_copy(update={"path": path})
    if refused:
        get_logger().warning("posts left out", folder=str(folder), refused=refused)
    return list(posts.values())


@lru_cache(maxsize=512)
def _shrunk(path: Path, size: tuple[int, int]) -> bytes:
    picture = load_rgb(path, at_least=(size[1], size[0]))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


# --- Search -----------------------------------------------------------------------------------

_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_COMPARED = re.compile(r"(<=|>=|<|>|)(-?[0-9]{1,15})")


class PostIndex:
    """The posts, found by tag, by id and by the URL paths of their pictures.

    Attributes:
        posts: all of them, newest first.
        parents: the ids that are the parent of a post.
        by_image, by_preview: posts by URL path, previews with their (width, height) in pixels.
        tag_counts: how many posts have each tag.

    """

    def __init__(self, posts: Iterable[Post]) -> None:
        self.posts = sorted(posts, key=lambda post: -post.id)
        self.parents = {post.parent_id for post in self.posts}
        self.by_image = {post.image_path: post for post in self.posts}
        self.by_preview = {post.thumb_path: (post, post.thumb_size) for post in self.posts}
        for post in self.posts:
            if post.has_sample:
                self.by_preview[post.sample_path] = (post, post.sample_size)
        self.tag_counts = Counter(tag for post in self.posts for tag in set(post.tags))
        self._by_id = {post.id: post for post in self.posts}
        self._by_tag: dict[str, set[int]] = {}
        for post in self.posts:
            for tag in post.tags:
                self._by_tag.setdefault(tag.lower(), set()).add(post.id)

    def search(self, query: str) -> list[Post]:
        """Return the posts that match every word of a query, newest first.

        A word is a tag, `foo*`, `id:1`, `id:<1` (`>`, `<=`, `>=`; also `score`, `width`, `height`),
        `rating:safe`, `parent:1`, `md5:...`, one of these with `-` before it, `all`, or an order:
        `sort:score`, `sort:id:asc`. Case does not matter. What is no such word matches nothing.
        """
        found = set(self._by_id)
        field, direction = "id", "desc"
        for word in query.lower().split():
            if word.startswith("sort:"):
                _, field, direction = f"{word}:desc".split(":")[:3]
            elif word.startswith("-"):
                found -= self._matching(word[1:])
            elif word != "all":
                found &= self._matching(word)
        posts = [self._by_id[post_id] for post_id in found]
        key = operator.attrgetter("score", "id") if field == "score" else operator.attrgetter("id")
        return sorted(posts, key=key, reverse=direction != "asc")

    def _matching(self, word: str) -> set[int]:
        if word in self._by_tag:
            return self._by_tag[word]
        if (matches := _metatag(word)) is not None:
            return {post.id for post in self.posts if matches(post)}
        if "*" in word:
            parts = word.split("*")
            fitting = (ids for tag, ids in self._by_tag.items() if _fits(tag, parts))
            return set().union(*fitting)
        return set()


def _metatag(word: str) -> Callable[[Post], bool] | None:
    """Return what a word such as `id:<5` asks of a post, None if it is only a tag."""
    name, _, value = word.partition(":")
    number = _COMPARED.fullmatch(value)
    if number and name in ("id", "score", "width", "height"):
        compare, bound = _COMPARISONS[number[1]], int(number[2])
        return lambda post: compare(getattr(post, name), bound)
    if number and name == "parent":  # the family: the parent is in it
        parent = int(number[2])
        return lambda post: parent in (post.parent_id, post.id)
    if name == "rating" and value in ("safe", *get_args(Rating)):
        rating = "general" if value == "safe" else value
        return lambda post: post.rating == rating
    if name == "md5":
        return lambda post: post.md5 == value
    return None


def _fits(tag: str, parts: Sequence[str]) -> bool:
    """Return whether a tag has these parts in order, the first and the last at its ends."""
    first, *middle, last = parts
    if not tag.startswith(first) or not tag.endswith(last):
        return False
    at = len(first)
    for part in middle:
        at = tag.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return at <= len(tag) - len(last)


def _number(text: str | None, default: int) -> int:
    return int(text) if text and re.fullmatch("[0-9]{1,15}", text) else default


# --- API --------------------------------------------------------------------------------------

# The XML of this engine knows three ratings, however many the board has.
_XML_RATINGS = {"general": "s", "sensitive": "s", "questionable": "q", "explicit": "e"}


def _xml_post(post: Post, root: str, has_children: bool) -> str:
    attributes = {
        "height": post.height,
        "score": post.score or "",  # empty until somebody votes
        "file_url": root + post.image_path,
        "parent_id": post.parent_id or "",
        "sample_url": root + post.sample_path,
        "sample_width": post.sample_size[0],
        "sample_height": post.sample_size[1],
        "preview_url": root + post.thumb_path,
        "rating": _XML_RATINGS[post.rating],
        "tags": f" {' '.join(post.tags)} ",
        "id": post.id,
        "width": post.width,
        "change": int(post.created_at.timestamp()),
        "md5": post.md5,
        "creator_id": 1,
        "has_children": "true" if has_children else "false",
        "created_at": post.created_at.strftime("%a %b %d %H:%M:%S %z %Y"),
        "status": "active",
        "source": post.source,
        "has_notes": "false",
        "has_comments": "false",
        "preview_width": post.thumb_size[0],
        "preview_height": post.thumb_size[1],
    }
    words = (f'{name}="{_escaped(value)}"' for name, value in attributes.items())
    return f"<post {' '.join(words)}/>"


def _json_post(post: Post, root: str) -> dict[str, Any]:
    return {
        "preview_url": root + post.thumb_path,
        "sample_url": root + post.sample_path,
        "file_url": root + post.image_path,
        "directory": post.directory,
        "hash": post.md5,
        "width": post.width,
        "height": post.height,
        "id": post.id,
        "image": f"{post.md5}.{post.ext}",
        "change": int(post.created_at.timestamp()),
        "owner": post.author,
        "parent_id": post.parent_id or 0,
        "rating": post.rating,
        "sample": post.has_sample,
        "sample_height": post.sample_size[1],
        "sample_width": post.sample_size[0],
        "score": post.score or None,
        "tags": _escaped(" ".join(post.tags)),  # the engine stores them as HTML
        "source": post.source,
        "status": "active",
        "has_notes": False,
        "comment_count": 0,
    }


def _xml(element: str) -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{element}'
    return Answer(HTTPStatus.OK, "text/xml; charset=UTF-8", text.encode())


def _json(posts: Sequence[Mapping[str, Any]]) -> Answer:
    body = json.dumps(posts).encode() if posts else b""  # nothing found: nothing said
    return Answer(HTTPStatus.OK, "application/json", body)


def _escaped(value: object) -> str:
    return html.escape(str(value)).replace("&#x27;", "&#039;")


# --- HTML pages -------------------------------------------------------------------------------

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 0; color: #223; background: #fbfaf7 }
a { color: #0060a8; text-decoration: none } a:hover { text-decoration: underline }
#header { background: #dce8f2; padding: 10px 20px }
#header h2 { display: inline; margin-right: 1em } #header form { display: inline }
#post-list, #post-view { display: flex; gap: 24px; padding: 16px 20px }
.sidebar { flex: 0 0 190px; overflow-wrap: anywhere } .sidebar ul { list-style: none; padding: 0 }
.tag-count { color: #889 } .content { flex: 1 } #image { max-width: 100%; height: auto }
.thumb { display: inline-grid; place-items: center; width: 168px; height: 168px }
#paginator { padding: 16px 0; word-spacing: .6em } #footer { padding: 16px 20px; color: #889 }
.status-notice { background: #fff3cd; padding: 8px }
"""


def _page(title: str, body: str, tags: str, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    text = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{_escaped(title)} - Board</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>
<body><div id="header"><h2><a href="index.php?page=post&amp;s=list&amp;tags=all">Board</a></h2>
<form action="index.php"><input type="hidden" name="page" value="post">
<input type="hidden" name="s" value="list"><input id="tags" name="tags" size="40" \
value="{_escaped(tags if tags != "all" else "")}"> <input type="submit" value="Search"></form></div>
{body}
<div id="footer">A local board that speaks the protocol of Gelbooru Beta 0.2</div></body></html>
"""
    return Answer(status, "text/html; charset=UTF-8", text.encode())


def _list_body(index: PostIndex, found: Sequence[Post], tags: str, offset: int, root: str) -> str:
    shown = found[offset : offset + _THUMBS]
    names = Counter(tag for post in shown for tag in post.tags)
    sidebar = _sidebar(index, sorted(tag for tag, _ in names.most_common(25)))
    thumbs = "\n".join(_thumb(post, root) for post in shown)
    return f"""<div id="post-list"><div class="sidebar">{sidebar}</div><div class="content">
{thumbs or "<h1>Nobody here but us chickens!</h1>"}
<div id="paginator"><div class="pagination">{_paginator(len(found), tags, offset)}</div></div>
</div></div>"""


def _thumb(post: Post, root: str) -> str:
    tags = _escaped(" ".join(post.tags))
    width, height = post.thumb_size
    return (
        f'<span class="thumb" id="s{post.id}"><a id="p{post.id}" '
        f'href="index.php?page=post&amp;s=view&amp;id={post.id}"><img '
        f'src="{_escaped(root + post.thumb_path)}?{post.id}" class="preview" alt="{tags}" '
        f'title=" {tags} score:{post.score} rating:{post.rating.capitalize()}" '
        f'width="{width}" height="{height}"/></a></span>'
    )


def _paginator(count: int, tags: str, offset: int) -> str:
    last, current = max(0, count - 1) // _THUMBS, offset // _THUMBS
    near = range(max(0, current - 5), min(last, current + 5) + 1)
    links = [
        f"<b>{page + 1}</b>" if page == current else _page_link(page, tags, str(page + 1))
        for page in near
    ]
    if current > 0:
        links = [
            _page_link(0, tags, "<<", "first page"),
            _page_link(current - 1, tags, "<", "back"),
            *links,
        ]
    if current < last:
        links += [
            _page_link(current + 1, tags, ">", "next"),
            _page_link(last, tags, ">>", "last page"),
        ]
    return " ".join(links)


def _page_link(page: int, tags: str, text: str, alt: str = "") -> str:
    target = f"?page=post&amp;s=list&amp;tags={quote_plus(tags)}&amp;pid={page * _THUMBS}"
    named = f' alt="{alt}"' if alt else ""
    return f'<a href="{target}"{named}>{_escaped(text)}</a>'


def _sidebar(index: PostIndex, tags: Iterable[str]) -> str:
    items = "\n".join(
        f'<li class="tag-type-general tag"><a href="{_search_link(tag)}">'
        f"{_escaped(tag.replace('_', ' '))}</a> "
        f'<span class="tag-count">{index.tag_counts[tag]}</span></li>'
        for tag in tags
    )
    return f'<h5>Tags</h5>\n<ul id="tag-sidebar">\n{items}\n</ul>'


def _search_link(query: str) -> str:
    return f"index.php?page=post&amp;s=list&amp;tags={quote_plus(query)}"


def _view_body(index: PostIndex, post: Post, root: str) -> str:
    width, height = post.sample_size
    notice = ""
    if post.parent_id is not None:
        parent = _search_link(f"parent:{post.parent_id}")
        notice += f'This post belongs to a <a href="{parent}">parent post</a>. '
    if post.id in index.parents:
        notice += f'This post has <a href="{_search_link(f"parent:{post.id}")}">child posts</a>.'
    return f"""<div id="post-view"><div class="sidebar">{_sidebar(index, sorted(post.tags))}
{_statistics(post)}
<div><h5>Options</h5><ul><li><a href="{_escaped(root + post.image_path)}" \
style="font-weight: bold;">Original image</a></li></ul></div></div>
<div class="content" id="right-col">{f'<div class="status-notice">{notice}</div>' if notice else ""}
<div id="note-container"></div><img alt="{_escaped(" ".join(post.tags))}" \
src="{_escaped(root + post.sample_path)}?{post.id}" id="image" width="{width}" height="{height}"/>
</div></div>"""


def _statistics(post: Post) -> str:
    source = _escaped(post.source)
    if post.source.startswith(("http://", "https://")):
        source = f'<a href="{source}" rel="nofollow noreferrer">{source}</a>'
    return f"""<div id="stats"><h5>Statistics</h5><ul>
<li>Id: {post.id}</li>
<li>Posted: {post.created_at:%Y-%m-%d %H:%M:%S}<br/> by {_escaped(post.author)}</li>
<li>Size: {post.width}x{post.height}</li>
<li>Source: {source}</li>
<li>Rating: {post.rating.capitalize()}</li>
<li>Score: <span id="psc{post.id}">{post.score}</span></li>
</ul></div>"""


def _error(status: HTTPStatus, text: str) -> Answer:
    return _page(status.phrase, f'<div class="content"><h1>{text}.</h1></div>', "", status)


def _unreadable(post: Post, error: Exception) -> Answer:
    get_logger().warning("a picture cannot be read", post=post.id, error=str(error))
    return _error(HTTPStatus.NOT_FOUND, "The picture cannot be read")


# --- HTTP -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What goes back to a client."""

    status: HTTPStatus
    media_type: str
    body: bytes
    location: str = ""


class _Handler(BaseHTTPRequestHandler):
    """One connection, which may ask many times."""

    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60.0  # seconds a client may be silent
    disable_nagle_algorithm = True  # head and body are two writes; waiting costs 40 ms an answer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        answer = self.server.board.answer(path, query, self._root())
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.media_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'",
        )
        if answer.location:
            self.send_header("Location", answer.location)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815

    def version_string(self) -> str:
        """Return what the Server header says."""
        return "board"

    def log_message(self, *_: object) -> None:
        """Keep quiet: the board counts its requests."""

    def _root(self) -> str:
        # The name that the client used works for it, whatever address was listened on.
        host = self.headers.get("Host", "")
        return f"http://{host}" if _HOST.fullmatch(host) else self.server.board.url


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, board: BoardServer, host: str, port: int) -> None:
        self.board = board
        self._connections: set[socket.socket] = set()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking the name service who we are: that may take seconds."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stop listening and hang up: a client must not go on talking to a board that is gone."""
        super().server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log what went wrong; clients that hang up are nothing to speak of."""
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):
            get_logger().error("a request failed", exc_info=error)


def _reachable(host: str) -> str:
    """Return the host as a URL has it: this machine's own address where all are listened on."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host else host
