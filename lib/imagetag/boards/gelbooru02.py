"""Gelbooru Beta 0.2, the engine of safebooru.org and many others: JSON and XML API, HTML pages.

The API is asked first (JSON, then XML); where it is closed, the list and view pages are read.
"""

from __future__ import annotations

import html
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
from bs4 import BeautifulSoup, Tag, XMLParsedAsHTMLWarning
from bs4.exceptions import ParserRejectedMarkup
from defusedxml.common import DefusedXmlException

from imagetag.boards.base import Board, BoardError, Post, Site
from imagetag.errors import TransientError, UsageError
from imagetag.http import Client, HttpError
from imagetag.log import get_logger
from imagetag.manifest import Rating

_MAX_LISTING = 16 << 20  # bytes
_MAX_PAGE = 2 << 20  # bytes
_MAX_DEPTH = 256  # elements within each other; what is asked of a page costs its size times that
_MAX_ID = 10**15
_API_LIMIT = 1000  # posts; what the engine allows at once
_RATINGS: dict[str, Rating] = {
    "g": "general",
    "general": "general",
    "s": "general",
    "safe": "general",
    "sensitive": "sensitive",
    "q": "questionable",
    "questionable": "questionable",
    "e": "explicit",
    "explicit": "explicit",
}
_MD5 = re.compile(r"[0-9a-f]{32}")
# Ends whatever a page leaves open: over tags without an end the parser takes quadratic time.
_ENDS = "\"'>--></a>"
_SIZE = re.compile(r"Size:\s*(\d{1,6})\s*x\s*(\d{1,6})", re.IGNORECASE)
_RATING = re.compile(r"rating:\s*(\w+)", re.IGNORECASE)

# A closed API's complaint in the place of a page is no page either; that is all there is to say.
warnings.filterwarnings("ignore", category=XMLParsedAsHTMLWarning)

Reader = Callable[[Sequence[str], int], "list[Post]"]


class _Closed(Exception):
    """The board does not let itself be asked this way."""


class Gelbooru02(Board):
    """A board of the engine Gelbooru Beta 0.2."""

    def __init__(self, site: Site, client: Client) -> None:
        super().__init__(site, client)
        self._readers: dict[str, Reader] = {
            "json": self._read_json,
            "xml": self._read_xml,
            "html": self._read_html,
        }
        self._settled = False

    def page(
        self, terms: Sequence[str], *, below: int | None, above: int | None, limit: int
    ) -> list[Post]:
        """Return the newest posts that match, as the base class says."""
        bounds = [f"id:<{below}"] if below is not None else []
        bounds += [f"id:>{above}"] if above is not None else []
        limit = min(limit, _API_LIMIT)
        complaints: list[str] = []
        answered = False
        for name, reader in self._readers.items():
            try:
                posts = reader([*terms, *bounds], limit)
            except _Closed as error:
                complaints.append(f"{name}: {error}")
                continue
            answered = True
            # An answer without posts may also be what a closed API says: until one way has shown
            # a post, the others are asked too.
            if posts and not self._settled:
                self._settled = True
                self._readers = {name: reader}
                get_logger().info("reading the board", board=self.site.name, by=name)
            if posts or self._settled:
                return posts
        if not answered:
            raise BoardError(
                f"{self.root} answers nothing that can be read as Gelbooru 0.2 "
                f"({'; '.join(complaints)}); check --board"
            )
        return []

    def complete(self, post: Post) -> Post:
        """Read the post's own page, where only a list page is known of it."""
        if post.file_url is not None:
            return post
        answer = self.client.get(post.page_url, max_bytes=_MAX_PAGE)
        return replace(post, **_view_fields(answer.content, answer.url))

    def _read_json(self, terms: Sequence[str], limit: int) -> list[Post]:
        content = self._ask_api(terms, limit, json="1")
        if not content.strip():  # what the engine says when nothing matches, and not only then
            if self._settled:
                return []
            raise _Closed("nothing")
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _Closed(f"not JSON ({str(error)[:60]})") from error
        if isinstance(found, dict):
            found = found.get("post", [] if "@attributes" in found else None)
        if not isinstance(found, list):
            raise _Closed("no list of posts")
        return self._posts(found)

    def _read_xml(self, terms: Sequence[str], limit: int) -> list[Post]:
        content = self._ask_api(terms, limit)
        try:
            root = defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
        except (ParseError, DefusedXmlException, LookupError, ValueError) as error:
            raise _Closed(f"not XML ({str(error)[:60] or type(error).__name__})") from error
        if root.tag != "posts":
            raise _Closed(f"<{root.tag[:20]}> {root.get('reason', '')[:80]}".strip())
        return self._posts(element.attrib for element in root.iter("post"))

    def _ask_api(self, terms: Sequence[str], limit: int, **extra: str) -> bytes:
        params = {"page": "dapi", "s": "post", "q": "index", **extra}
        params |= {"limit": str(limit), "tags": " ".join(terms)}
        return self._get("/index.php", params, _MAX_LISTING)

    def _get(self, path: str, params: dict[str, str], max_bytes: int) -> bytes:
        try:
            return self.client.get(self.root + path, params, max_bytes=max_bytes).content
        except HttpError as error:
            if error.reason == "private_host":
                raise UsageError(f"--board {self.root}: {error}") from error
            if error.permanent:
                raise _Closed(str(error)) from error
            raise TransientError(f"the board cannot be listed: {error}") from error

    def _posts(self, found: Iterable[Any]) -> list[Post]:
        posts = []
        malformed = 0
        for fields in found:
            try:
                posts.append(self._post(fields))
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                malformed += 1
        if malformed:
            get_logger().warning("posts that cannot be read are left out", posts=malformed)
        if malformed and not posts:
            raise _Closed("none of the posts has the fields of this engine")
        return _newest_first(posts)

    def _post(self, fields: Mapping[str, Any]) -> Post:
        post_id = int(fields["id"])
        file_url = str(fields.get("file_url") or "")
        if not file_url and fields.get("image"):  # older boards leave the URL to the reader
            file_url = f"images/{fields.get('directory', '')}/{fields['image']}"
        md5 = str(fields.get("md5") or fields.get("hash") or "").lower()
        tags = html.unescape(fields["tags"])
        if not 0 < post_id < _MAX_ID:
            raise ValueError("not an id")
        f"{tags}{file_url}".encode()  # JSON can hold what is no Unicode, and a manifest cannot
        return Post(
            id=post_id,
            board=self.site.name,
            page_url=self._page_url(post_id),
            # An empty URL is how a deleted post looks: there is no file, and no page will tell.
            file_url=urljoin(self.root + "/", file_url) if file_url else "",
            md5=md5 if _MD5.fullmatch(md5) else None,
            width=_positive(fields.get("width")),
            height=_positive(fields.get("height")),
            tags=tuple(tags.split()),
            rating=_RATINGS.get(str(fields.get("rating", "")).lower()),
            parent_id=_positive(fields.get("parent_id"), _MAX_ID),
        )

    def _page_url(self, post_id: int) -> str:
        return f"{self.root}/index.php?page=post&s=view&id={post_id}"

    def _read_html(self, terms: Sequence[str], _limit: int) -> list[Post]:
        params = {"page": "post", "s": "list", "tags": " ".join(terms), "pid": "0"}
        try:
            soup = _soup(self._get("/index.php", params, _MAX_PAGE))
        except BoardError as error:
            raise _Closed(str(error)) from error
        posts = []
        for link in soup.select("span.thumb a[href], .image-list a[href]"):
            image = link.find("img")
            post_id = _id_in(str(link["href"]))
            if not isinstance(image, Tag) or post_id is None:
                continue
            title = str(image.get("title") or image.get("alt") or "")
            rating = _RATING.search(title)
            words = html.unescape(title).split()
            posts.append(
                Post(
                    id=post_id,
                    board=self.site.name,
                    page_url=self._page_url(post_id),
                    file_url=None,
                    md5=None,
                    width=None,
                    height=None,
                    tags=tuple(w for w in words if not re.match(r"(score|rating):", w)),
                    rating=_RATINGS.get(rating[1].lower()) if rating else None,
                    parent_id=None,
                )
            )
        if not posts and soup.select_one("#post-list, .content, #content") is None:
            raise _Closed("no list of posts in the page")
        return _newest_first(posts)


def _newest_first(posts: Iterable[Post]) -> list[Post]:
    return sorted({post.id: post for post in posts}.values(), key=lambda post: -post.id)


def _id_in(url: str) -> int | None:
    try:
        return _positive(parse_qs(urlsplit(url).query).get("id", [""])[0], _MAX_ID)
    except ValueError:  # half an IPv6 address, or too many parameters
        return None


def _view_fields(content: bytes, url: str) -> dict[str, Any]:
    """Return what a post's page tells beyond its list entry."""
    soup = _soup(content)
    links = [
        str(link["href"])
        for link in soup.find_all("a", href=True)
        if link.get_text().strip().lower() == "original image"
    ]
    image = soup.select_one("img#image[src]")
    file_url = links[0] if links else str(image["src"]) if image else ""
    text = soup.get_text(" ")
    size = _SIZE.search(text)
    rating = _RATING.search(text)
    fields: dict[str, Any] = {"file_url": _joined(url, file_url) if file_url else ""}
    if size:
        fields |= {"width": int(size[1]) or None, "height": int(size[2]) or None}
    if rating:
        fields["rating"] = _RATINGS.get(rating[1].lower())
    parent = soup.select_one('a[href*="parent:"], a[href*="parent%3A"]')
    if parent is not None:
        found = re.search(r"parent(?::|%3A)(\d{1,15})", str(parent["href"]))
        fields["parent_id"] = int(found[1]) if found else None
    return fields


def _soup(content: bytes) -> BeautifulSoup:
    try:
        soup = BeautifulSoup(content.decode(errors="replace") + _ENDS, "html.parser")
    except (ParserRejectedMarkup, AssertionError, ValueError) as error:
        raise BoardError("a page of the board is no HTML that can be read") from error
    depths = {id(soup): 0}
    for element in soup.find_all(True):
        depths[id(element)] = depth = depths[id(element.parent)] + 1
        if depth > _MAX_DEPTH:
            raise BoardError(f"a page of the board is nested more than {_MAX_DEPTH} deep")
    return soup


def _joined(base: str, url: str) -> str:
    try:
        return urljoin(base, url)
    except ValueError:
        return ""


def _positive(value: Any, most: int = 10**6) -> int | None:
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return int(text) if 0 < int(text) < most else None
