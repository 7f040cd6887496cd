"""Reading what boards say: every value from outside is checked before anything uses it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import urljoin, urlsplit
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from imagetag.boards.base import Post
from imagetag.dataset import Rating
from imagetag.log import get_logger

MAX_ID = 10**15
_MAX_DIGITS = 18  # of a number that is read at all
MAX_SIDE = 10**6  # pixels
MAX_SCORE = 10**9
_MOST_NAMED = 5  # ids in a log line
_MD5 = re.compile(r"[0-9a-f]{32}")
_NOTHING = re.compile(rb"(?:\s|\xef\xbb\xbf)+")  # white space and byte order marks
# Sat Oct 22 02:02:12 -0500 2011
_RUBY_TIME = re.compile(
    r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) (\d{1,2}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d) (\d{4})",
    re.ASCII,
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


# --- Whole answers ----------------------------------------------------------------------------


def document(content: bytes) -> bytes:
    """Return an answer without what the files of a board's PHP leave before it: empty lines, BOMs.

    No parser of XML takes a declaration that is not at the very beginning.
    """
    return content[found.end() :] if (found := _NOTHING.match(content)) else content


def load_json(content: bytes) -> Any:
    """Return what a JSON document says; numbers that are none, or endless, are None in it.

    Raises:
        ValueError: if it is no JSON, or nested too deep to be read.

    """
    try:
        return json.loads(
            # One broken byte must not take a page of posts with it.
            document(content).decode(errors="replace"),
            parse_int=_whole_number,
            parse_constant=lambda _: None,  # NaN and the infinities
            strict=False,
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def _whole_number(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None


def load_xml_posts(content: bytes) -> list[dict[str, str]]:
    """Return the fields of each `<post>`, whether they are its attributes or its children.

    Raises:
        ValueError: if it is no XML, defines entities, or is no list of posts; with what it says.

    """
    try:
        root = defusedxml.ElementTree.fromstring(document(content), forbid_dtd=True)
    except (ParseError, DefusedXmlException, LookupError, ValueError) as error:
        raise ValueError(f"not XML ({str(error)[:60] or type(error).__name__})") from error
    if root.tag != "posts":
        said = root.get("reason") or root.text or ""
        raise ValueError(f"<{str(root.tag)[:20]}> {said[:80]}".strip())
    return [
        {**element.attrib, **{str(child.tag): child.text or "" for child in element}}
        for element in root.iter("post")
    ]


def load_xml_count(content: bytes) -> int | None:
    """Return how many posts an XML listing says that there are in all; None if it does not.

    Raises:
        ValueError: as `load_xml_posts`.

    """
    load_xml_posts(content)  # what is no listing counts nothing
    root = defusedxml.ElementTree.fromstring(document(content), forbid_dtd=True)
    return counted(root.get("count"))


def counted(value: Any) -> int | None:
    """Return a number of posts, also one in a text; None if it is none."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 13:
        value = int(value)
    plain = isinstance(value, int) and not isinstance(value, bool)
    return value if plain and 0 <= value < 10**12 else None


def named(found: Any, name: str) -> list[str]:
    """Return a field of each object in a list that is a text, without blanks."""
    items = found if isinstance(found, list) else []
    texts = [item.get(name) for item in items if isinstance(item, Mapping)]
    return ["_".join(text.split()) for text in texts if isinstance(text, str) and text.strip()]


# --- A page of posts --------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """What a page lists: posts, newest first and once each, and what was there besides.

    Attributes:
        posts: those that can be read.
        unreadable: how many others there are.
        ids: the ids of the others, where they have one.
        cut: whether it came cut short: there should be more of it.

    """

    posts: list[Post]
    unreadable: int = 0
    ids: list[int] = field(default_factory=list)
    cut: bool = False


def read_posts(found: Iterable[Any], read: Callable[[Mapping[str, Any]], Post]) -> Page:
    """Read each post by itself; those that cannot be read are counted, logged and left out.

    Args:
        found: what is in the place of posts.
        read: turns the fields of one into a post, or raises a ValueError.

    """
    posts = []
    unreadable = 0
    ids = []
    for fields in found:
        try:
            if not isinstance(fields, Mapping):
                raise ValueError("not a post")
            posts.append(read(fields))
        except ValueError:
            unreadable += 1
            post_id = positive(fields.get("id"), MAX_ID) if isinstance(fields, Mapping) else None
            ids += [] if post_id is None else [post_id]
    if unreadable:
        get_logger().warning(
            "posts that cannot be read are left out", posts=unreadable, ids=ids[:_MOST_NAMED]
        )
    return Page(newest_first(posts), unreadable, ids)


def newest_first(posts: Iterable[Post]) -> list[Post]:
    """Return the posts in falling order of id, and each id once."""
    return sorted({post.id: post for post in posts}.values(), key=lambda post: -post.id)


# --- One field --------------------------------------------------------------------------------


def post_id(value: Any) -> int:
    """Return a post's id.

    Raises:
        ValueError: if it is none.

    """
    found = positive(value, MAX_ID)
    if found is None:
        raise ValueError("not an id")
    return found


def positive(value: Any, below: int = MAX_SIDE) -> int | None:
    """Return a whole number over 0, written as a number or as digits; None for all else."""
    number = _integer(value)
    return number if number is not None and 0 < number < below else None


def score(value: Any) -> int | None:
    """Return a score, which may be below 0; None for what is none."""
    number = _integer(value)
    return number if number is not None and abs(number) < MAX_SCORE else None


def _integer(value: Any) -> int | None:
    if isinstance(value, str) and len(value) <= _MAX_DIGITS and value.isascii():
        return int(value) if value.removeprefix("-").isdigit() else None
    return value if type(value) is int else None  # True is an int too


def md5(value: Any) -> str | None:
    """Return an MD5 in lower case; None for what is none."""
    found = value.lower() if isinstance(value, str) else ""
    return found if _MD5.fullmatch(found) else None


def rating(value: Any, table: Mapping[str, Rating]) -> Rating | None:
    """Return what a board's word for a rating means by its engine's table."""
    return table.get(value.lower()) if isinstance(value, str) else None


def words(value: Any) -> tuple[str, ...]:
    """Return the tags in a text, each once.

    Raises:
        ValueError: if it is no text, or none that can be written down.

    """
    if not isinstance(value, str):
        raise ValueError("no tags")
    value.encode()  # JSON can hold what is no Unicode, and a manifest cannot
    return tuple(dict.fromkeys(value.split()))


def names(values: Any) -> tuple[str, ...]:
    """Return the tags of a list of names, each once, with `_` for the space within a name.

    Raises:
        ValueError: if it is no list of names, or one of them cannot be written down.

    """
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("no tags")
    return words(" ".join("_".join(value.split()) for value in values))


def file_url(base: str, value: Any) -> str:
    """Return the URL of a file, absolute; empty where there is none.

    Args:
        base: the URL that a relative one starts from.
        value: absolute, relative, or without its scheme.

    Raises:
        ValueError: if it leads nowhere.

    """
    if value is None or value == "":
        return ""
    if not isinstance(value, str):
        raise ValueError("no URL")
    url = urljoin(base, value)
    url.encode()
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("no URL of a file")
    return url


def moment(value: Any) -> datetime | None:
    """Return a time in UTC; None for what is none.

    Args:
        value: seconds since 1970 as a number or digits, ISO 8601 (in UTC where it tells no zone),
            or as Ruby writes it.

    """
    if isinstance(value, Mapping):  # {"json_class": "Time", "s": 1319266932, "n": 0}
        value = value.get("s")
    try:
        seconds = _integer(value)
        if seconds is not None:
            return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
        if not isinstance(value, str) or len(value) > 40:
            return None
        ruby = _RUBY_TIME.fullmatch(value)
        found = _ruby_time(ruby) if ruby else datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _ruby_time(found: re.Match[str]) -> datetime:
    month, day, hour, minute, second, sign, hours, minutes, year = found.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    zone = timezone(-offset if sign == "-" else offset)
    date = (int(year), _MONTHS.index(month) + 1, int(day))
    return datetime(*date, int(hour), int(minute), int(second), tzinfo=zone)
