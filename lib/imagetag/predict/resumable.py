"""An output that can be gone on with: rows are stored in parts while they are made.

A part is an object beside the output, `OUTPUT.parts/<first row>.jsonl`: a line that tells what it
is of, and a line a row. At the end the parts are joined, and `OUTPUT.about.json` tells what the
output is of; the same request for the same input has then nothing to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagetag import __version__
from imagetag.errors import TransientError, UsageError, one_line
from imagetag.log import get_logger
from imagetag.predict.sources import Picture, Source
from imagetag.predict.writers import Kind, Prediction, write_file
from imagetag.storage import LocalStorage, ObjectNotFound, Storage, is_key

# Rows are stored after so many seconds, or so many rows. The longer a run has taken, the longer it
# may be, so that it has some thousands of parts at the most, and a kill costs 1 % of its work.
_LEAST_SECONDS, _MOST_SECONDS, _SHARE = 10.0, 300.0, 0.01
_MOST_ROWS = 5000
_MAX_BYTES = 256 << 20  # of a part: each row has some kilobytes at the most
_LAST_SECONDS = 4.0  # for the rows that are made when a run is stopped
_START = "0" * 64  # of the chain of the pictures

Shard = Callable[[Picture], bool]


class _Head(BaseModel):
    """A part's first line.

    Attributes:
        request: stands for the model, the decision, the input and the shard.
        first: its first row's number, from 0.
        rows: how many it has.
        before: stands for all pictures of the rows before it, in their order, and
        after: for those and its own; `newest` for the very first.
        cursor: where the input goes on.
        sha256: of its rows.

    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    request: str
    first: int = Field(ge=0)
    rows: int = Field(ge=1)
    before: str
    after: str
    newest: str
    cursor: dict[str, int] | None
    sha256: str


class About(BaseModel):
    """What a complete output is of, stored beside it as `OUTPUT.about.json`.

    Attributes:
        request: which model, decision, input and shard.
        pictures: stands for all pictures, in their order, and
        newest: for the first of them.
        bytes: of the output.

    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    request: dict[str, Any]
    pictures: str
    newest: str
    rows: int
    positives: int
    errors: dict[str, int]
    bytes: int
    created: str
    software: str


@dataclass
class Tally:
    """How many rows there are, and of which kinds; errors by their reason."""

    rows: int = 0
    positives: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def count(self, row: Prediction) -> None:
        """Count a row."""
        self.rows += 1
        self.positives += bool(row.decision)
        if row.error is not None:
            self.errors[row.error.partition(":")[0]] += 1

    def add(self, other: Tally) -> None:
        """Count what another has counted."""
        self.rows += other.rows
        self.positives += other.positives
        self.errors += other.errors


class Parts:
    """The parts of one output.

    Args:
        target: the storage that the output is in.
        name: the output's key.
        request: what decides the rows, as JSON can hold it.
        batch: only parts of whole batches of so many rows are gone on from: so a picture is in
            the same place of a batch as in an undisturbed run, which decides the last digit.
        each: rows a picture, which are added one after the other and never parted; `batch` is a
            multiple of it.
        ready: is called before rows are stored.

    Attributes:
        tally: of all rows so far.
        reused: rows of an earlier run.

    """

    def __init__(
        self,
        target: Storage,
        name: str,
        request: Mapping[str, Any],
        *,
        batch: int,
        each: int = 1,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._target, self._name, self._batch, self._ready = target, name, batch, ready
        self._each = each
        self._request = dict(request)
        self._digest = _sha256(json.dumps(self._request, sort_keys=True).encode())
        self.tally = Tally()
        self.reused = 0
        self._keys: list[str] = []
        self._rows: list[tuple[Prediction, str, Mapping[str, int] | None]] = []
        self._chain, self._newest = _START, ""
        self._saved, self._saved_chain = 0, _START  # of the rows that are stored
        self._started = self._flushed = time.monotonic()

    # --- What an earlier run has left

    def check_place(self) -> None:
        """Check that what is at the output's place, if anything, is an output to be replaced.

        Raises:
            UsageError: if no file can have its name; if it is a folder, or somebody's file: neither
                what tells of an output nor a part is beside it.

        """
        where = f"{self._target.url}/{self._name}"
        if not is_key(self._about_key):
            raise UsageError(f"--output {where[:300]!r}: no file can have that name: take another")
        if isinstance(self._target, LocalStorage) and Path(where).is_dir():
            raise UsageError(f"--output {where} is a folder: name a file in it")
        if self._target.stat(self._name) is None or self._target.stat(self._about_key) is not None:
            return
        if next(iter(self._target.list(self._folder)), None) is None:
            raise UsageError(
                f"--output {where} is there already, and no {self._about_key} beside it says that "
                "imagetag predict wrote it: name another, or remove it first"
            )

    def done(self, source: Source, mine: Shard) -> About | None:
        """Return what is told of the output if it is complete and would be the same again."""
        about = self._about()
        if about is None or about.request != self._request:
            return None
        stored = self._target.stat(self._name)
        if stored is None or stored.size != about.bytes:
            return None
        behind = newest = ""
        for picture in self._of_rows(filter(mine, source.pictures())):
            behind = _next(behind or _START, picture)
            newest = newest or behind
            if newest != about.newest:
                return None
        return about if (behind or _START) == about.pictures else None

    def _about(self) -> About | None:
        try:
            with self._target.open(self._about_key) as stream:
                return About.model_validate_json(stream.read(_MAX_BYTES))
        except (ObjectNotFound, ValidationError):
            return None

    def remaining(self, source: Source, mine: Shard) -> Iterator[Picture]:
        """Yield the pictures of this shard that no stored part has the rows of.

        A source whose pictures have cursors is asked only for those behind the last part.
        """
        yield from islice(self._remaining(source, mine), 0, None, self._each)

    def _of_rows(self, pictures: Iterable[Picture]) -> Iterator[Picture]:
        """Yield the picture of each row."""
        return chain.from_iterable(repeat(picture, self._each) for picture in pictures)

    def _remaining(self, source: Source, mine: Shard) -> Iterator[Picture]:
        """Yield the picture of each row that no stored part has."""
        parts = self._usable()
        if parts and parts[-1][0].cursor is not None:
            for head, tally in parts:
                self._take(head, tally)
            self._tell()
            yield from self._of_rows(filter(mine, source.pictures(parts[-1][0].cursor)))
            return
        pictures = self._of_rows(filter(mine, source.pictures()))
        for head, tally in parts:
            share = list(islice(pictures, head.rows))
            behind = head.before
            for picture in share:
                behind = _next(behind, picture)
            if len(share) < head.rows or behind != head.after:
                get_logger().warning("the input has changed since", rows=self.tally.rows)
                self._tell()
                yield from share
                break
            self._take(head, tally)
        else:
            self._tell()
        yield from pictures

    def _usable(self) -> list[tuple[_Head, Tally]]:
        """Return the parts, from the first on, that are of this request and follow each other."""
        found: list[tuple[_Head, Tally]] = []
        first, behind = 0, _START
        while part := self._read(first):
            head, rows = part
            if head.before != behind or head.rows % self._batch:
                break
            tally = Tally()
            for row in rows:
                tally.count(row)
            found.append((head, tally))
            first, behind = first + head.rows, head.after
        return found

    def _read(self, first: int) -> tuple[_Head, list[Prediction]] | None:
        """Return a part by its first row's number, None if there is none that can be used."""
        try:
            with self._target.open(self._key(first)) as stream:
                line, _, body = stream.read(_MAX_BYTES).partition(b"\n")
            head = _Head.model_validate_json(line)
            rows = [Prediction.from_json(row) for row in body.splitlines()]
        except (ObjectNotFound, ValueError):  # pydantic's among them
            return None
        mine = (head.request, head.first, head.rows) == (self._digest, first, len(rows))
        return (head, rows) if mine and head.sha256 == _sha256(body) else None

    def _take(self, head: _Head, tally: Tally) -> None:
        self.tally.add(tally)
        self.reused += head.rows
        self._keys.append(self._key(head.first))
        self._chain, self._newest = head.after, head.newest
        self._saved, self._saved_chain = self._saved + head.rows, head.after

    def _tell(self) -> None:
        if self.reused:
            get_logger().info("going on", rows=self.reused)

    # --- What this run adds

    def add(self, picture: Picture, row: Prediction) -> None:
        """Add the next row; every now and then those that were added are stored."""
        self._chain = _next(self._chain, picture)
        self._newest = self._newest or self._chain
        self._rows.append((row, self._chain, picture.cursor))
        self.tally.count(row)
        now = time.monotonic()
        due = min(max(_LEAST_SECONDS, _SHARE * (now - self._started)), _MOST_SECONDS)
        if len(self._rows) % self._batch == 0 and (
            len(self._rows) >= _MOST_ROWS or now - self._flushed >= due
        ):
            self._store(len(self._rows))

    def save_at_last(self) -> int:
        """Store the whole batches there are, if that can be done soon: the run is being stopped.

        Returns:
            How many rows are stored.

        """
        last = threading.Thread(target=self._store_if_it_can, daemon=True)
        last.start()
        last.join(_LAST_SECONDS)
        return self._saved

    def _store_if_it_can(self) -> None:
        try:
            self._store(len(self._rows) // self._batch * self._batch)
        except Exception as error:
            get_logger().warning("rows are not saved", error=one_line(error))

    def _store(self, count: int) -> None:
        """Store the first `count` of the rows that are not stored yet."""
        if count == 0:
            return
        self._ready()
        share = self._rows[:count]
        body = "".join(row.as_json() + "\n" for row, _, _ in share).encode(errors="replace")
        _, after, cursor = share[-1]
        head = _Head(
            request=self._digest,
            first=self._saved,
            rows=count,
            before=self._saved_chain,
            after=after,
            newest=self._newest,
            cursor=None if cursor is None else dict(cursor),
            sha256=_sha256(body),
        )
        key = self._key(head.first)
        self._target.write(key, head.model_dump_json().encode() + b"\n" + body)
        self._keys.append(key)
        self._rows = self._rows[count:]
        self._saved, self._saved_chain = self._saved + count, after
        self._flushed = time.monotonic()

    def finish(self, kind: Kind) -> About:
        """Join all parts to the output, and remove them."""
        self._store(len(self._rows))
        with tempfile.TemporaryDirectory(prefix="imagetag-predict-") as scratch:
            path = Path(scratch) / "output"
            write_file(path, kind, self._all())
            about = self._tell_about(path.stat().st_size)
            # While the output is another already, it must not pass for this one's, nor for
            # somebody's file.
            self._target.write(self._about_key, b"{}\n")
            self._target.upload(path, self._name)
        self._target.write(self._about_key, about.model_dump_json(indent=2).encode() + b"\n")
        # A late listing may lack those that were written a moment ago.
        for key in {entry.key for entry in self._target.list(self._folder)}.union(self._keys):
            self._target.delete(key)
        if isinstance(self._target, LocalStorage):
            with contextlib.suppress(OSError):
                Path(self._target.url, self._folder).rmdir()
            self._target.tidy()
        return about

    def _all(self) -> Iterator[Prediction]:
        for key in self._keys:
            part = self._read(int(key[len(self._folder) :].removesuffix(".jsonl")))
            if part is None:
                raise TransientError(
                    f"{self._target.url}/{key} is gone or damaged; run this again to make it anew"
                )
            yield from part[1]

    def _tell_about(self, size: int) -> About:
        return About(
            request=self._request,
            pictures=self._chain,
            newest=self._newest,
            rows=self.tally.rows,
            positives=self.tally.positives,
            errors=dict(self.tally.errors),
            bytes=size,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            software=f"imagetag {__version__}",
        )

    # --- Names

    @property
    def _folder(self) -> str:
        return self._name + ".parts/"

    @property
    def _about_key(self) -> str:
        return self._name + ".about.json"

    def _key(self, first: int) -> str:
        return f"{self._folder}{first:010}.jsonl"


def _next(chain: str, picture: Picture) -> str:
    """Return what stands for some pictures and one more."""
    return _sha256(json.dumps([chain, picture.name, picture.version]).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
