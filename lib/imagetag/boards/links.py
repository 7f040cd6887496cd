"""A list of URLs with tags, in the place of a board: `links+FILE`.

FILE is CSV, TSV or JSON Lines, perhaps gzipped, or Parquet; local or `s3://bucket/key`. By their
names, in any case, these columns are read: a URL (`file_url`, `image_url` or `url`), tags (`tags`,
`tag_string`, `caption` or `text`; see `read_tags` for how they are parted), and where they are
there `id`, `md5`, `rating`, `width`, `height`, `parent_id`, `score` and `created_at`.

In manifests the board is called `links:NAME`, NAME being FILE's last component. An id is that of
the column if it holds distinct positive integers, else a hash of the URL: rows that come or go
move no other.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from imagetag.boards.base import NO_LOGIN, Login, Site
from imagetag.boards.fields import load_json
from imagetag.boards.listed import BadEntry, Entry, ListedBoard, is_unicode, read_entry
from imagetag.errors import InputError, UsageError
from imagetag.http import Client
from imagetag.storage import open_storage

_URLS = ("file_url", "image_url", "url")
_TAGS = ("tags", "tag_string", "caption", "text")
_OTHERS = ("id", "md5", "rating", "width", "height", "parent_id", "score", "created_at")
_MAX_LINE = 1 << 20  # bytes
_MAX_URL = 4096  # characters
_MAX_COLUMNS = 10_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# A row's number or line, and what it holds by column, or why it cannot be read.
Row = tuple[str, "Mapping[str, Any] | BadEntry"]


class LinksBoard(ListedBoard):
    """A list of URLs whose rows are posts.

    Raises:
        UsageError: if there is no such file, its kind is not known, or it has no column of URLs
            or of tags.
        InputError: if it is damaged, or no row of it can be used.
        TransientError: if there is no room for the index.

    """

    scattered = True

    def __init__(self, site: Site, client: Client, login: Login = NO_LOGIN) -> None:
        self._spec = f"--board links+{site.root}"
        self._readers: dict[str, Callable[[Path], Iterator[Row]]] = {
            ".csv": lambda path: self._read_csv(path, ","),
            ".tsv": lambda path: self._read_csv(path, "\t"),
            ".jsonl": self._read_json,
            ".ndjson": self._read_json,
            ".parquet": self._read_parquet,
        }
        name = site.root.lower().removesuffix(".gz")
        kind = name[name.rfind(".") :]
        if kind not in self._readers or site.root.lower().endswith(".parquet.gz"):
            raise UsageError(
                f"{self._spec}: its name must end in one of {', '.join(self._readers)}, "
                "which may be gzipped but for the last"
            )
        self._reader = self._readers[kind]
        super().__init__(site, client, login)

    def _file_url(self, name: str) -> str:
        return name

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        with self._local_file() as path:
            try:
                for where, fields in self._reader(path):
                    try:
                        if isinstance(fields, BadEntry):
                            raise fields
                        yield read_row(fields)
                    except BadEntry as error:
                        self._leave_out(error.reason, where)
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise InputError(f"{self._spec}: it is damaged ({error}); get it again") from error
            except OSError as error:
                raise UsageError(f"{self._spec}: {error.strerror or error}; name a file") from error

    @contextlib.contextmanager
    def _local_file(self) -> Iterator[Path]:
        """Give the file, fetched first if it is not here."""
        if "://" not in self.site.root:
            yield Path(self.site.root)
            return
        folder, _, key = self.site.root.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="imagetag-") as scratch:
            path = Path(scratch) / "list"
            open_storage(folder).download(key, path)
            yield path

    def _open(self, path: Path) -> IO[bytes]:
        if self.site.root.lower().endswith(".gz"):
            return gzip.open(path)  # type: ignore[return-value]
        return path.open("rb")

    def _lines(self, stream: IO[bytes]) -> Iterator[tuple[str, bytes | BadEntry]]:
        for number in itertools.count(1):
            line = stream.readline(_MAX_LINE)
            if not line:
                return
            if len(line) < _MAX_LINE or line.endswith(b"\n"):
                yield f"line {number}", line
                continue
            while (rest := stream.readline(_MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield f"line {number}", BadEntry("too_long")

    def _read_csv(self, path: Path, delimiter: str) -> Iterator[Row]:
        with self._open(path) as stream:
            where = "line 1"

            def texts() -> Iterator[str]:
                nonlocal where
                for place, line in self._lines(stream):
                    where = place
                    if isinstance(line, BadEntry):
                        self._leave_out(line.reason, place)
                    else:
                        yield line.decode(errors="replace")

            lines = texts()
            start = next(lines, "").removeprefix("\ufeff")
            if not is_unicode(start) or "\0" in start:
                raise UsageError(f"{self._spec}: it is no text in UTF-8; save it as that")
            try:
                header = next(csv.reader([start], delimiter=delimiter), [])
            except csv.Error:
                header = []
            columns = self._columns(header)
            reader = csv.reader(lines, delimiter=delimiter)
            while True:
                try:
                    row = next(reader, None)
                except csv.Error:
                    yield where, BadEntry("syntax")
                    continue
                if row is None:
                    return
                if len(row) == len(header):
                    yield where, {name: row[place] for name, place in columns.items()}
                elif row:
                    yield where, BadEntry("columns")

    def _read_json(self, path: Path) -> Iterator[Row]:
        with self._open(path) as stream:
            for where, line in self._lines(stream):
                if isinstance(line, BadEntry):
                    yield where, line
                elif line.strip():
                    yield where, _json_row(line)

    def _read_parquet(self, path: Path) -> Iterator[Row]:
        if importlib.util.find_spec("pyarrow") is None:
            raise UsageError(
                f"{self._spec}: Parquet needs pyarrow; install image-tag-classification[parquet]"
            )
        path.open("rb").close()  # for the plain error, if it cannot be
        command = [sys.executable, "-P", "-m", "imagetag.boards.parquet", str(path)]
        with (
            tempfile.TemporaryFile() as complaint,
            subprocess.Popen(  # noqa: S603 - our own module
                [*command, *_URLS, *_TAGS, *_OTHERS], stdout=subprocess.PIPE, stderr=complaint
            ) as process,
        ):
            try:
                assert process.stdout is not None  # noqa: S101 - it is a pipe
                for number, (_, line) in enumerate(self._lines(process.stdout)):
                    row = line if isinstance(line, BadEntry) else _json_row(line)
                    if number:
                        yield f"row {number}", row
                    elif not isinstance(line, BadEntry):
                        self._columns(json.loads(line))
                if process.wait() != 0:
                    complaint.seek(-min(complaint.tell(), 300), os.SEEK_END)
                    said = complaint.read().decode(errors="replace").strip().rpartition("\n")[2]
                    raise InputError(f"{self._spec}: it is damaged or no Parquet ({said[:200]})")
            finally:
                process.kill()

    def _columns(self, header: list[str]) -> dict[str, int]:
        """Return where the columns are that are read, by their names in lower case.

        Raises:
            UsageError: if there are none of URLs or of tags.

        """
        places: dict[str, int] = {}
        for place, name in enumerate(header[:_MAX_COLUMNS]):
            places.setdefault(name.strip().lower(), place)
        for kind, names in (("URLs", _URLS), ("tags", _TAGS)):
            if not places.keys() & set(names):
                found = ", ".join(header[:20])[:200]
                raise UsageError(
                    f"{self._spec}: it has no column of {kind}, such as {names[-1]!r} or "
                    f"{names[0]!r}; its columns are {found!r}"
                )
        return {name: places[name] for name in (*_URLS, *_TAGS, *_OTHERS) if name in places}


def _json_row(line: bytes) -> Mapping[str, Any] | BadEntry:
    try:
        fields = load_json(line)
    except ValueError:
        return BadEntry("syntax")
    if not isinstance(fields, dict):
        return BadEntry("syntax")
    return {name.lower(): value for name, value in fields.items()}


def read_row(fields: Mapping[str, Any]) -> tuple[str, Entry]:
    """Return the URL of a row and what it tells of the picture; column names are in lower case.

    Raises:
        BadEntry: if it has no URL that can be asked for, or no tags.

    """
    url = next(filter(None, map(fields.get, _URLS)), None)
    if not isinstance(url, str):
        raise BadEntry("url")
    url = url.strip()
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # half an IPv6 address
        good = False
    if not good or len(url) > _MAX_URL or _CONTROL.search(url):
        raise BadEntry("url")
    if not is_unicode(url):
        raise BadEntry("encoding")
    entry = read_entry(fields, next(filter(None, map(fields.get, _TAGS)), None))
    if not entry.tags:
        raise BadEntry("untagged")
    return url, entry
