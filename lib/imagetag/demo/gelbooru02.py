"""Gelbooru Beta 0.2, as of safebooru.org: an API in XML and JSON, and HTML pages."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote_plus

from imagetag.demo.pages import Answer, escaped, json_answer, xml_answer
from imagetag.demo.posts import Post
from imagetag.demo.protocol import Protocol, Request
from imagetag.demo.search import gelbooru_search

_THUMBS = 42  # on a list page
_LIMIT = 1000  # posts of the API at once
_DEFAULT_LIMIT = 100


class Gelbooru02(Protocol):
    """The board's answers."""

    def image_path(self, post: Post) -> str:
        """Return where the picture is."""
        return f"/images/{_directory(post)}/{post.md5}.{post.ext}"

    def thumb_path(self, post: Post) -> str:
        """Return where the thumbnail is."""
        return f"/thumbnails/{_directory(post)}/thumbnail_{post.md5}.jpg"

    def small_path(self, post: Post) -> str:
        """Return where the smaller copy is."""
        return f"/samples/{_directory(post)}/sample_{post.md5}.jpg"

    def answer(self, request: Request) -> tuple[str, Answer]:
        """Answer a request for the API, a list or a post's page."""
        path, params, root = request.path, request.params, request.root
        if path in ("/", "/index.php"):
            section = params.get("page", "post")
            what = params.get("s", "list")
            if (section, what, params.get("q")) == ("dapi", "post", "index"):
                return "api", self._api(params, root)
            if (section, what) == ("post", "list"):
                return "list", self._list(params, root)
            if (section, what) == ("post", "view"):
                return "view", self._view(params, root)
        if path == "/autocomplete.php":
            found = self.index.beginning(params.get("q", ""))
            told = [{"label": f"{tag} ({count})", "value": tag} for tag, count in found]
            return "api", json_answer(told)
        return super().answer(request)

    def _api(self, params: Mapping[str, str], root: str) -> Answer:
        limit = min(number(params.get("limit"), _DEFAULT_LIMIT), _LIMIT)
        offset = number(params.get("pid"), 0) * limit
        query = f"id:{number(params['id'], 0)}" if "id" in params else params.get("tags", "")
        found = gelbooru_search(self.index, query)
        posts = found[offset : offset + limit]
        if params.get("json") == "1":
            told = [self._json_post(post, root) for post in posts]
            body = json.dumps(told).encode() if told else b""  # nothing found: nothing said
            return Answer(HTTPStatus.OK, "application/json", body)
        count = f'count="{len(found)}" offset="{offset if found else 0}"'
        elements = "".join(self._xml_post(post, root) for post in posts)
        return xml_answer(f"<posts {count}>{elements}</posts>" if posts else f"<posts {count}/>")

    def _list(self, params: Mapping[str, str], root: str) -> Answer:
        tags = params.get("tags", "all")
        offset = number(params.get("pid"), 0)  # in posts, while the API's is in pages
        found = gelbooru_search(self.index, tags)
        return _page(tags, self._list_body(found, tags, offset, root), tags)

    def _view(self, params: Mapping[str, str], root: str) -> Answer:
        found = gelbooru_search(self.index, f"id:{number(params.get('id'), 0)}")
        if not found:  # a deleted post: the engine sends people back to the list
            target = "index.php?page=post&s=list&tags=all"
            return Answer(HTTPStatus.FOUND, "text/html", b"", location=target)
        return _page(f"Post {found[0].id}", self._view_body(found[0], root))

    # --- The API ------------------------------------------------------------------------------

    def _xml_post(self, post: Post, root: str) -> str:
        attributes = {
            "height": post.height,
            "score": post.score or "",  # empty until somebody votes
            "file_url": root + self.image_path(post),
            "parent_id": post.parent_id or "",
            "sample_url": root + self.sample_path(post),
            "sample_width": post.sample_size[0],
            "sample_height": post.sample_size[1],
            "preview_url": root + self.thumb_path(post),
            "rating": _XML_RATINGS[post.rating],
            "tags": f" {' '.join(post.tags)} ",
            "id": post.id,
            "width": post.width,
            "change": int(post.created_at.timestamp()),
            "md5": post.md5,
            "creator_id": 1,
            "has_children": "true" if post.id in self.index.children else "false",
            "created_at": post.created_at.strftime("%a %b %d %H:%M:%S %z %Y"),
            "status": "active",
            "source": post.source,
            "has_notes": "false",
            "has_comments": "false",
            "preview_width": post.thumb_size[0],
            "preview_height": post.thumb_size[1],
        }
        words = (f'{name}="{escaped(value)}"' for name, value in attributes.items())
        return f"<post {' '.join(words)}/>"

    def _json_post(self, post: Post, root: str) -> dict[str, Any]:
        return {
            "preview_url": root + self.thumb_path(post),
            "sample_url": root + self.sample_path(post),
            "file_url": root + self.image_path(post),
            "directory": _directory(post),
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
            "tags": escaped(" ".join(post.tags)),  # the engine stores them as HTML
            "source": post.source,
            "status": "active",
            "has_notes": False,
            "comment_count": 0,
        }

    # --- The pages -----------------------------------------------------------------------------

    def _list_body(self, found: Sequence[Post], tags: str, offset: int, root: str) -> str:
        shown = found[offset : offset + _THUMBS]
        names = Counter(tag for post in shown for tag in post.tags)
        sidebar = self._sidebar(sorted(tag for tag, _ in names.most_common(25)))
        thumbs = "\n".join(self._thumb(post, root) for post in shown)
        return f"""<div id="post-list"><div class="sidebar">{sidebar}</div><div class="content">
{thumbs or "<h1>Nobody here but us chickens!</h1>"}
<div id="paginator"><div class="pagination">{_paginator(len(found), tags, offset)}</div></div>
</div></div>"""

    def _thumb(self, post: Post, root: str) -> str:
        tags = escaped(" ".join(post.tags))
        width, height = post.thumb_size
        return (
            f'<span class="thumb" id="s{post.id}"><a id="p{post.id}" '
            f'href="index.php?page=post&amp;s=view&amp;id={post.id}"><img '
            f'src="{escaped(root + self.thumb_path(post))}?{post.id}" class="preview" alt="{tags}" '
            f'title=" {tags} score:{post.score} rating:{post.rating.capitalize()}" '
            f'width="{width}" height="{height}"/></a></span>'
        )

    def _sidebar(self, tags: Iterable[str]) -> str:
        items = "\n".join(
            f'<li class="tag-type-general tag"><a href="{_search_link(tag)}">'
            f"{escaped(tag.replace('_', ' '))}</a> "
            f'<span class="tag-count">{self.index.tag_counts[tag]}</span></li>'
            for tag in tags
        )
        return f'<h5>Tags</h5>\n<ul id="tag-sidebar">\n{items}\n</ul>'

    def _view_body(self, post: Post, root: str) -> str:
        width, height = post.sample_size
        original = escaped(root + self.image_path(post))
        shown = escaped(root + self.sample_path(post))
        notice = ""
        if post.parent_id is not None:
            parent = _search_link(f"parent:{post.parent_id}")
            notice += f'This post belongs to a <a href="{parent}">parent post</a>. '
        if post.id in self.index.children:
            notice += (
                f'This post has <a href="{_search_link(f"parent:{post.id}")}">child posts</a>.'
            )
        if notice:
            notice = f'<div class="status-notice">{notice}</div>'
        return f"""<div id="post-view"><div class="sidebar">{self._sidebar(sorted(post.tags))}
{_statistics(post)}
<div><h5>Options</h5><ul><li><a href="{original}" \
style="font-weight: bold;">Original image</a></li></ul></div></div>
<div class="content" id="right-col">{notice}
<div id="note-container"></div><img alt="{escaped(" ".join(post.tags))}" \
src="{shown}?{post.id}" id="image" width="{width}" height="{height}"/>
</div></div>"""


def number(text: str | None, default: int) -> int:
    """Return the number a parameter is, or the default."""
    return int(text) if text and re.fullmatch("[0-9]{1,15}", text) else default


# The XML of this engine knows three ratings, however many the board has.
_XML_RATINGS = {"general": "s", "sensitive": "s", "questionable": "q", "explicit": "e"}


def _directory(post: Post) -> int:
    return 1 + post.id // 1000


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
    return f'<a href="{target}"{named}>{escaped(text)}</a>'


def _search_link(query: str) -> str:
    return f"index.php?page=post&amp;s=list&amp;tags={quote_plus(query)}"


def _statistics(post: Post) -> str:
    source = escaped(post.source)
    if post.source.startswith(("http://", "https://")):
        source = f'<a href="{source}" rel="nofollow noreferrer">{source}</a>'
    return f"""<div id="stats"><h5>Statistics</h5><ul>
<li>Id: {post.id}</li>
<li>Posted: {post.created_at:%Y-%m-%d %H:%M:%S}<br/> by {escaped(post.author)}</li>
<li>Size: {post.width}x{post.height}</li>
<li>Source: {source}</li>
<li>Rating: {post.rating.capitalize()}</li>
<li>Score: <span id="psc{post.id}">{post.score}</span></li>
</ul></div>"""


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


def _page(title: str, body: str, tags: str = "") -> Answer:
    """Return a page of the site; `tags` are what its search field shows."""
    text = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)} - Board</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>
<body><div id="header"><h2><a href="index.php?page=post&amp;s=list&amp;tags=all">Board</a></h2>
<form action="index.php"><input type="hidden" name="page" value="post">
<input type="hidden" name="s" value="list"><input id="tags" name="tags" size="40" \
value="{escaped(tags if tags != "all" else "")}"> <input type="submit" value="Search"></form></div>
{body}
<div id="footer">A local board that speaks the protocol of Gelbooru Beta 0.2</div></body></html>
"""
    return Answer(HTTPStatus.OK, "text/html; charset=UTF-8", text.encode())
