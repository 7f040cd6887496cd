"""The HTML pages of Gelbooru Beta 0.2: its lists, its posts, and whether one of them is whole."""

from __future__ import annotations

import html
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bs4 import BeautifulSoup, Tag, XMLParsedAsHTMLWarning
from bs4.exceptions import ParserRejectedMarkup

from imagetag.boards import fields as read
from imagetag.boards.base import READINGS, BoardError
from imagetag.dataset import Rating

RATING = re.compile(r"rating:\s*(\w+)", re.IGNORECASE)

_MAX_DEPTH = 256  # elements within each other; what is asked of a page costs its size times that
# Ends whatever a page leaves open: over tags without an end the parser takes quadratic time.
_ENDS = "\"'>--></a>"
_SIZE = re.compile(r"Size:\s*(\d{1,6})\s*x\s*(\d{1,6})", re.IGNORECASE)
_POSTED = re.compile(r"Posted:\s*(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", re.IGNORECASE)
# Marks of the pages, whatever is on them.
_LIST = "#post-list, .image-list"
_POST = '#post-view, #stats, #image, [id^="psc"]'

# A closed API's complaint in the place of a page is no page either; that is all there is to say.
warnings.filterwarnings("ignore", category=XMLParsedAsHTMLWarning)


class Ends:
    """Whether pages of a kind end with </html>, as most boards' do: half a page is HTML too."""

    def __init__(self) -> None:
        self._there: bool | None = None  # None while that is not known
        self._missed: Counter[str] = Counter()  # how often each page had none, until then

    def cut(self, name: str, content: bytes, *, sure: bool) -> bool:
        """Tell whether a page came cut short, and is to be asked for again.

        That its kind has no end is believed when the same page has none time and again.

        Args:
            name: tells the page from others of its kind.
            content: what came.
            sure: whether it is of that kind for certain, and not something else in its place.

        """
        text = content.lower()
        if b"</html>" in text:
            self._there = sure or self._there
            return False
        if not sure and b"<html" not in text:
            return False  # such as a complaint in plain text
        if self._there is None:
            self._missed[name] += 1
            if self._missed[name] < READINGS:
                return True
            self._there = False
        return self._there


def read_html(content: bytes) -> BeautifulSoup:
    """Return a page's elements.

    Raises:
        BoardError: if it cannot be read, or not within reason.

    """
    try:
        page = BeautifulSoup(content.decode(errors="replace") + _ENDS, "html.parser")
    except (ParserRejectedMarkup, AssertionError, ValueError) as error:
        raise BoardError("a page of the board is no HTML that can be read") from error
    depths = {id(page): 0}
    for element in page.find_all(True):
        depths[id(element)] = depth = depths[id(element.parent)] + 1
        if depth > _MAX_DEPTH:
            raise BoardError(f"a page of the board is nested more than {_MAX_DEPTH} deep")
    return page


def is_list(page: BeautifulSoup) -> bool:
    """Tell whether a page is one that lists posts, if there are any."""
    return page.select_one(_LIST) is not None


def thumbnails(page: BeautifulSoup) -> Iterator[tuple[int, str]]:
    """Yield the id of each post that a page lists, and what its thumbnail is called."""
    for link in page.select("span.thumb a[href], .image-list a[href]"):
        image = link.find("img")
        post_id = _id_in(str(link["href"]))
        if isinstance(image, Tag) and post_id is not None:
            yield post_id, html.unescape(str(image.get("title") or image.get("alt") or ""))


def is_post(page: BeautifulSoup) -> bool:
    """Tell whether a page is one of a post, which may have no file."""
    return page.select_one(_POST) is not None


def post_fields(page: BeautifulSoup, url: str, ratings: Mapping[str, Rating]) -> dict[str, Any]:
    """Return what a post's page tells beyond its list entry; `file_url` is empty without a file.

    Args:
        page: the post's.
        url: where it was.
        ratings: what the board's words for them mean.

    """
    links = [
        str(link["href"])
        for link in page.find_all("a", href=True)
        if link.get_text().strip().lower() == "original image"
    ]
    image = page.select_one("img#image[src]")
    file_url = links[0] if links else str(image["src"]) if image else ""
    text = page.get_text(" ")
    size, rating, posted = _SIZE.search(text), RATING.search(text), _POSTED.search(text)
    score = page.select_one('span[id^="psc"]')
    fields: dict[str, Any] = {"file_url": _leads_to(url, file_url)}
    if size:
        fields |= {"width": int(size[1]) or None, "height": int(size[2]) or None}
    if rating:
        fields["rating"] = read.rating(rating[1], ratings)
    if score:
        fields["score"] = read.score(score.get_text().strip())
    if posted:
        fields["created_at"] = read.moment(posted[1])
    parent = page.select_one('a[href*="parent:"], a[href*="parent%3A"]')
    if parent is not None:
        found = re.search(r"parent(?::|%3A)(\d{1,15})", str(parent["href"]), re.ASCII)
        fields["parent_id"] = read.positive(found[1], read.MAX_ID) if found else None
    return fields


def _id_in(url: str) -> int | None:
    try:
        return read.positive(parse_qs(urlsplit(url).query).get("id", [""])[0], read.MAX_ID)
    except ValueError:  # half an IPv6 address, or too many parameters
        return None


def _leads_to(base: str, url: str) -> str:
    try:
        return read.file_url(base, url)
    except ValueError:
        return ""
