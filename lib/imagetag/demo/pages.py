"""What a board of the engine Gelbooru Beta 0.2 answers: XML, JSON and HTML pages."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote_plus

from imagetag.demo.posts import Post, PostIndex
from imagetag.log import get_logger

_THUMBS = 42  # on a list page


@dataclass(frozen=True)
class Answer:
    """What goes back to a client."""

    status: HTTPStatus
    media_type: str
    body: bytes
    location: str = ""


# The XML of this engine knows three ratings, however many the board has.
_XML_RATINGS = {"general": "s", "sensitive": "s", "questionable": "q", "explicit": "e"}


def xml_post(post: Post, root: str, has_children: bool) -> str:
    """Return a post as an element of the XML API; `root` is the board's URL."""
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


def json_post(post: Post, root: str) -> dict[str, Any]:
    """Return a post as an object of the JSON API; `root` is the board's URL."""
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


def xml_answer(element: str) -> Answer:
    """Return an XML document of one element."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{element}'
    return Answer(HTTPStatus.OK, "text/xml; charset=UTF-8", text.encode())


def json_answer(posts: Sequence[Mapping[str, Any]]) -> Answer:
    """Return posts as the JSON API does."""
    body = json.dumps(posts).encode() if posts else b""  # nothing found: nothing said
    return Answer(HTTPStatus.OK, "application/json", body)


def _escaped(value: object) -> str:
    return html.escape(str(value)).replace("&#x27;", "&#039;")


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


def page(title: str, body: str, tags: str, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return a page of the site; `tags` are what its search field shows."""
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


def list_body(index: PostIndex, found: Sequence[Post], tags: str, offset: int, root: str) -> str:
    """Return the body of a list page: a sidebar of tags, the thumbnails from `offset` on, links."""
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


def view_body(index: PostIndex, post: Post, root: str) -> str:
    """Return the body of a post's own page."""
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


def error_page(status: HTTPStatus, text: str) -> Answer:
    """Return a page that says what went wrong."""
    return page(status.phrase, f'<div class="content"><h1>{text}.</h1></div>', "", status)


def unreadable_page(post: Post, error: Exception) -> Answer:
    """Return the page of a picture whose file cannot be read, and log why."""
    get_logger().warning("a picture cannot be read", post=post.id, error=str(error))
    return error_page(HTTPStatus.NOT_FOUND, "The picture cannot be read")
