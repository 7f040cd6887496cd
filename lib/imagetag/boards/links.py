"""A list of URLs with tags, in the place of a board: `links+FILE`.

FILE is CSV, TSV or JSON Lines, perhaps gzipped, or Parquet; local or `s3://bucket/key`. By their
names, in any case, these columns are read: a URL (`file_url`, `image_url` or `url`), tags (`tags`,
`tag_string`, `caption` or `text`; see `read_tags` for how they are parted), and where they are
there `id`, `md5`, `rating`, `width`, `height`, `parent_id`, `score` and `created_at`.

What several rows of a URL tell is joined, however they spell it: the tags of all of them are that
picture's.

In manifests the board is called `links:NAME`, NAME being FILE's last component. An id is that of
the column if it holds distinct positive integers, else a hash of the URL: rows that come or go
move no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urldefrag

from requests.utils import requote_uri
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from imagetag.boards.base import NO_LOGIN, Login, Site
from imagetag.boards.entries import BadEntry, Entry, read_entry
from imagetag.boards.linkfile import TAGS, LinkFile, read_url
from imagetag.boards.listed import ListedBoard
from imagetag.web import Client

# What is in its usual spelling already, as nearly all are: `one_spelling` takes a hundred times as
# long to find that out.
_USUAL = re.compile(
    r"https?://[a-z0-9.-]+(/[\w.~!$&'()*+,;=:@-]*)+(\?[\w.~!$&'()*+,;=:@/-]*)?", re.A
)
_USUAL_PORTS = {"http": 80, "https": 443}


class LinksBoard(ListedBoard):
    """A list of URLs whose rows are posts.

    Raises:
        UsageError: if there is no such file, its kind is not known, or it has no column of URLs
            or of tags.
        InputError: if it is damaged, or no row of it can be used.
        TransientError: if there is no room for the index.

    """

    called = "the list"
    scattered = True

    @classmethod
    def check_place(cls, root: str) -> None:
        """Check the file, as the base class says; one in a storage only by its name."""
        _list(root).check_file()

    def __init__(self, site: Site, client: Client, login: Login = NO_LOGIN) -> None:
        self._list = _list(site.root)
        super().__init__(site, client, login)

    def _file_url(self, name: str) -> str:
        return name

    def _entries(self) -> Iterator[tuple[str, Entry | None]]:
        for where, fields in self._list.rows():
            url = ""
            try:
                if isinstance(fields, BadEntry):
                    raise fields
                url = one_spelling(read_url(fields))
                entry = read_row(fields)
                if not entry.tags:  # it may have a rating for another row's
                    self._leave_out("untagged", where)
                yield url, entry
            except BadEntry as error:
                self._leave_out(error.reason, where)
                if url:
                    yield url, None


def _list(root: str) -> LinkFile:
    return LinkFile(root, f"--board links+{root}", tagged=True)


def one_spelling(url: str) -> str:
    """Return how all URLs are spelt that any client asks for in the same words.

    So RFC 3986 has it in 6.2.2 and 6.2.3: letters of the host, `%7e` for `~`, `a/../`, the usual
    port. No server sees a fragment. What only many servers take for the same, such as a slash at
    the end, is another URL.

    Raises:
        BadEntry: if no client could ask for it.

    """
    if _USUAL.fullmatch(url) and "/." not in url:
        return url
    try:
        parts = parse_url(requote_uri(urldefrag(url).url))
    except LocationParseError as error:
        raise BadEntry("url") from error
    if parts.port == _USUAL_PORTS.get(parts.scheme or ""):
        parts = parts._replace(port=None)
    return parts._replace(path=parts.path or "/").url


def read_row(fields: Mapping[str, Any]) -> Entry:
    """Return what a row tells of a picture; column names are in lower case.

    Raises:
        BadEntry: if its tags cannot be read.

    """
    return read_entry(fields, next(filter(None, map(fields.get, TAGS)), None))
