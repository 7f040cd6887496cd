"""A file that lists URLs: CSV, TSV, JSON Lines, Parquet or plain text, local or in storage."""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib.util
import io
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

from imagetag.boards.entries import BadEntry, is_unicode
from imagetag.boards.fields import load_json
from imagetag.boards.records import Records
from imagetag.errors import InputError, UsageError
from imagetag.log import get_logger
from imagetag.storage import open_storage

# Columns that are read, by their names in lower case.
URLS = ("file_url", "image_url", "url")
TAGS = ("tags", "tag_string", "caption", "text")
OTHERS = ("id", "md5", "rating", "width", "height", "parent_id", "score", "created_at")
KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt")
_MAX_LINE = 1 << 20  # bytes
_MAX_COLUMNS = 10_000
_MAX_URL = 4096  # characters
_BEGINNINGS = ("http://", "https://")
_UTF_16 = ("\xff\xfe", "\xfe\xff")  # as Latin 1
_NO_UTF_8 = "it is no text in UTF-8; save it as that"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# A row's number or line, and what it holds by column, or why it cannot be read.
Row = tuple[str, "Mapping[str, Any] | BadEntry"]


class LinkFile:
    """A list of URLs.

    Args:
        root: its path, or its URL in storage.
        spec: what was given, for errors.
        tagged: whether it must have a column of tags. One that need not may also be a text
            (`.txt`) with a URL a line; lines that begin with `#` are passed over.

    Raises:
        UsageError: if its name does not end like one of the kinds.

    """

    def __init__(self, root: str, spec: str, *, tagged: bool) -> None:
        self._root, self._spec, self._tagged = root, spec, tagged
        readers: dict[str, Callable[[Path], Iterator[Row]]] = {
            ".csv": lambda path: self._read_csv(path, ","),
            ".tsv": lambda path: self._read_csv(path, "\t"),
            ".jsonl": self._read_json,
            ".ndjson": self._read_json,
            ".parquet": self._read_parquet,
        }
        if not tagged:
            readers[".txt"] = self._read_text
        kind = kind_of(root)
        if kind not in readers:
            raise UsageError(
                f"{spec}: its name must end in one of {', '.join(readers)}, "
                "which may be gzipped but for .parquet"
            )
        self._reader = readers[kind]

    def check_file(self) -> None:
        """Check that the file can be read, if it is here.

        Raises:
            UsageError: if there is none.

        """
        if "://" in self._root:
            return
        try:
            with Path(self._root).open("rb"):
                pass
        except OSError as error:
            raise UsageError(f"{self._spec}: {error.strerror or error}; name a file") from error

    def rows(self) -> Iterator[Row]:
        """Yield its rows, in order; a row that cannot be read is a BadEntry.

        Raises:
            UsageError: if there is no such file, or it lacks a column.
            InputError: if it is damaged.

        """
        with self._local_file() as path:
            try:
                yield from self._reader(path)
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise InputError(f"{self._spec}: it is damaged ({error}); get it again") from error
            except OSError as error:
                raise UsageError(f"{self._spec}: {error.strerror or error}; name a file") from error

    @contextlib.contextmanager
    def _local_file(self) -> Iterator[Path]:
        """Give the file, fetched first if it is not here."""
        if "://" not in self._root:
            yield Path(self._root)
            return
        folder, _, key = self._root.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="imagetag-") as scratch:
            path = Path(scratch) / "list"
            open_storage(folder).download(key, path)
            yield path

    def _open(self, path: Path) -> IO[bytes]:
        if self._root.lower().endswith(".gz"):
            return gzip.open(path)  # type: ignore[return-value]
        return path.open("rb")

    def _lines(self, stream: IO[bytes]) -> Iterator[tuple[str, bytes | BadEntry]]:
        # Latin 1 makes a character of each byte: it is there for its reading of CR and CRLF.
        text = io.TextIOWrapper(stream, "latin-1")
        for number in itertools.count(1):
            line = text.readline(_MAX_LINE)
            if not line:
                return
            if number == 1 and (line.startswith(_UTF_16) or "\0" in line[:4]):
                raise UsageError(f"{self._spec}: {_NO_UTF_8}")
            if len(line) < _MAX_LINE or line.endswith("\n"):
                yield f"line {number}", line.encode("latin-1")
                continue
            while (rest := text.readline(_MAX_LINE)) and not rest.endswith("\n"):
                pass
            yield f"line {number}", BadEntry("too_long")

    def _texts(self, stream: IO[bytes]) -> Iterator[tuple[str, str | BadEntry]]:
        for where, line in self._lines(stream):
            text = line if isinstance(line, BadEntry) else line.decode(errors="replace")
            if isinstance(text, str) and where == "line 1":
                text = text.removeprefix("\ufeff")
            yield where, text

    def _read_csv(self, path: Path, delimiter: str) -> Iterator[Row]:
        with self._open(path) as stream:
            lines = self._texts(stream)
            _, start = next(lines, ("", ""))
            if isinstance(start, BadEntry):
                start = ""
            if not is_unicode(start) or "\0" in start:
                raise UsageError(f"{self._spec}: {_NO_UTF_8}")
            try:
                header = next(csv.reader([start], delimiter=delimiter, skipinitialspace=True), [])
            except csv.Error:
                header = []
            columns = self._columns(header)
            urls = [columns[name] for name in URLS if name in columns]

            def is_row(fields: list[str]) -> bool:
                return len(fields) == len(header) and any(
                    fields[place].lstrip().lower().startswith(_BEGINNINGS) for place in urls
                )

            records = Records(lines, delimiter, is_row)
            for where, row in records:
                if isinstance(row, BadEntry):
                    yield where, row
                elif len(row) == len(header):
                    yield where, {name: row[place] for name, place in columns.items()}
                else:
                    yield where, BadEntry("columns")
            if records.as_text:
                get_logger().warning(
                    "quotation marks that do not close their field are read as text",
                    list=self._root,
                    lines=records.as_text,
                    first=records.first_as_text,
                )

    def _read_text(self, path: Path) -> Iterator[Row]:
        with self._open(path) as stream:
            for where, line in self._texts(stream):
                if isinstance(line, BadEntry):
                    yield where, line
                elif (text := line.strip()) and not text.startswith("#"):
                    yield where, {"url": text}

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
                [*command, *URLS, *TAGS, *OTHERS], stdout=subprocess.PIPE, stderr=complaint
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
            UsageError: if there are none of URLs, or of tags where those are needed.

        """
        places: dict[str, int] = {}
        for place, name in enumerate(header[:_MAX_COLUMNS]):
            places.setdefault(name.strip().lower(), place)
        needed = {"URLs": URLS} | ({"tags": TAGS} if self._tagged else {})
        for kind, names in needed.items():
            if not places.keys() & set(names):
                found = ", ".join(header[:20])[:200]
                raise UsageError(
                    f"{self._spec}: it has no column of {kind}, such as {names[-1]!r} or "
                    f"{names[0]!r}; its columns are {found!r}"
                )
        return {name: places[name] for name in (*URLS, *TAGS, *OTHERS) if name in places}


def kind_of(root: str) -> str | None:
    """Return how a list's name ends, less `.gz`; None if it is no list."""
    name = root.lower().removesuffix(".gz")
    kind = name[name.rfind(".") :]
    return kind if kind in KINDS and not root.lower().endswith(".parquet.gz") else None


def _json_row(line: bytes) -> Mapping[str, Any] | BadEntry:
    try:
        fields = load_json(line)
    except ValueError:
        return BadEntry("syntax")
    if not isinstance(fields, dict):
        return BadEntry("syntax")
    return {name.lower(): value for name, value in fields.items()}


def read_url(fields: Mapping[str, Any]) -> str:
    """Return the URL of a row; column names are in lower case.

    Raises:
        BadEntry: if it has none that can be asked for.

    """
    url = next(filter(None, map(fields.get, URLS)), None)
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
    return url
