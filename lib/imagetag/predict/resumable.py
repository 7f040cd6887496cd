"""An output that can be gone on with: answers are stored in parts while they are made.

A part is an object beside the output, `OUTPUT.parts/<first picture>.jsonl`: a line that tells what
it is of, and a line a picture. At the end the rows of all parts become the output, and
`OUTPUT.about.json` tells what it is of; the same request for the same input has then nothing to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagetag import __version__
from imagetag.errors import TransientError, UsageError, one_line
from imagetag.log import get_logger
from imagetag.predict.sources import Picture, Source
from imagetag.predict.writers import Answers, Kind, Table, write_file
from imagetag.storage import LocalStorage, ObjectNotFound, Storage, is_key

if TYPE_CHECKING:
    from imagetag.predict.advice import Advisor

# Answers are stored after so many seconds, or so many pictures, or answers. The longer a run has
# taken, the longer it may be, so that it has some thousands of parts at the most, and a kill costs
# 1 % of its work.
_LEAST_SECONDS, _MOST_SECONDS, _SHARE = 10.0, 300.0, 0.01
_MOST_PICTURES = 5000
_MOST_ANSWERS = 500_000  # all of a part's are in memory
_MAX_BYTES = 256 << 20  # of a part: a picture has some kilobytes at the most beside its answers
_LAST_SECONDS = 4.0  # for what is there when a run is stopped
_START = "0" * 64  # of the chain of the pictures

Shard = Callable[[Picture], bool]


class _Head(BaseModel):
    """A part's first line.

    Attributes:
        request: stands for the models, the decisions, the input and the shard.
        first: its first picture's number, from 0.
        pictures: how many it has.
        before: stands for all pictures before it, in their order, and
        after: for those and its own; `newest` for the very first.
        cursor: where the input goes on.
        sha256: of its lines.

    """

    model_config = ConfigDict(frozen=True)

    version: Literal[2] = 2
    request: str
    first: int = Field(ge=0)
    pictures: int = Field(ge=1)
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
        images: how many there are.
        positives: of how many tags and pictures together the decision is true.
        errors: how many pictures have one, by its reason.
        bytes: of the output.
        advice: by tag, what the pictures tell of it, as `stats.Shift` has it.

    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    request: dict[str, Any]
    pictures: str
    newest: str
    images: int
    rows: int
    positives: int
    errors: dict[str, int]
    bytes: int
    created: str
    software: str
    advice: dict[str, dict[str, Any]] = Field(default_factory=dict)


@dataclass
class Tally:
    """How many pictures there are, how many positives, and how many errors by their reason."""

    images: int = 0
    positives: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def count(self, answers: Answers) -> None:
        """Count a picture."""
        self.images += 1
        self.positives += sum(decision is True for decision in answers.decisions)
        if reason := answers.reason:
            self.errors[reason] += 1

    def add(self, other: Tally) -> None:
        """Count what another has counted."""
        self.images += other.images
        self.positives += other.positives
        self.errors += other.errors


class Parts:
    """The parts of one output.

    Args:
        target: the storage that the output is in.
        name: the output's key.
        request: what decides the rows, as JSON can hold it.
        table: what rows there are of a picture.
        batch: only parts of whole batches of so many pictures are gone on from: so a picture is in
            the same place of a batch as in an undisturbed run, which decides the last digit.
        ready: is called before answers are stored.

    Attributes:
        tally: of all pictures so far.
        reused: pictures of an earlier run.

    """

    def __init__(
        self,
        target: Storage,
        name: str,
        request: Mapping[str, Any],
        table: Table,
        *,
        batch: int,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._target, self._name, self._batch, self._ready = target, name, batch, ready
        self._table = table
        self._most = min(_MOST_PICTURES, max(1, _MOST_ANSWERS // len(table.tags)))
        self._request = dict(request)
        self._digest = _sha256(json.dumps(self._request, sort_keys=True).encode())
        self.tally = Tally()
        self.reused = 0
        self._keys: list[str] = []
        self._waiting: list[tuple[Answers, str, Mapping[str, int] | None]] = []
        self._chain, self._newest = _START, ""
        self._saved, self._saved_chain = 0, _START  # of what is stored
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
        about = load_about(self._target, self._name)
        if about is None or about.request != self._request:
            return None
        stored = self._target.stat(self._name)
        if stored is None or stored.size != about.bytes:
            return None
        behind = newest = ""
        for picture in filter(mine, source.pictures()):
            behind = _next(behind or _START, picture)
            newest = newest or behind
            if newest != about.newest:
                return None
        return about if (behind or _START) == about.pictures else None

    def remaining(self, source: Source, mine: Shard) -> Iterator[Picture]:
        """Yield the pictures of this shard that no stored part has the rows of.

        A source whose pictures have cursors is asked only for those behind the last part.
        """
        parts = self._usable()
        if parts and parts[-1][0].cursor is not None:
            for head, tally in parts:
                self._take(head, tally)
            self._tell()
            yield from filter(mine, source.pictures(parts[-1][0].cursor))
            return
        pictures = filter(mine, source.pictures())
        for head, tally in parts:
            share = list(islice(pictures, head.pictures))
            behind = head.before
            for picture in share:
                behind = _next(behind, picture)
            if len(share) < head.pictures or behind != head.after:
                get_logger().warning("the input has changed since", images=self.tally.images)
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
            head, lines = part
            if head.before != behind or head.pictures % self._batch:
                break
            tally = Tally()
            try:
                for line in lines:
                    tally.count(Answers.from_json(line))
            except ValueError:
                break
            found.append((head, tally))
            first, behind = first + head.pictures, head.after
        return found

    def _read(self, first: int) -> tuple[_Head, list[bytes]] | None:
        """Return a part by its first picture's number, None if there is none that can be used."""
        try:
            with self._target.open(self._key(first)) as stream:
                line, _, body = stream.read(_MAX_BYTES).partition(b"\n")
            head = _Head.model_validate_json(line)
        except (ObjectNotFound, ValidationError):
            return None
        lines = body.splitlines()
        mine = (head.request, head.first, head.pictures) == (self._digest, first, len(lines))
        return (head, lines) if mine and head.sha256 == _sha256(body) else None

    def _take(self, head: _Head, tally: Tally) -> None:
        self.tally.add(tally)
        self.reused += head.pictures
        self._keys.append(self._key(head.first))
        self._chain, self._newest = head.after, head.newest
        self._saved, self._saved_chain = self._saved + head.pictures, head.after

    def _tell(self) -> None:
        if self.reused:
            get_logger().info("going on", images=self.reused)

    # --- What this run adds

    def add(self, picture: Picture, answers: Answers) -> None:
        """Add the next picture; every now and then those that were added are stored."""
        self._chain = _next(self._chain, picture)
        self._newest = self._newest or self._chain
        self._waiting.append((answers, self._chain, picture.cursor))
        self.tally.count(answers)
        now = time.monotonic()
        due = min(max(_LEAST_SECONDS, _SHARE * (now - self._started)), _MOST_SECONDS)
        if len(self._waiting) % self._batch == 0 and (
            len(self._waiting) >= self._most or now - self._flushed >= due
        ):
            self._store(len(self._waiting))

    def save_at_last(self) -> int:
        """Store the whole batches there are, if that can be done soon: the run is being stopped.

        Returns:
            How many pictures are stored.

        """
        last = threading.Thread(target=self._store_if_it_can, daemon=True)
        last.start()
        last.join(_LAST_SECONDS)
        return self._saved

    def _store_if_it_can(self) -> None:
        try:
            self._store(len(self._waiting) // self._batch * self._batch)
        except Exception as error:
            get_logger().warning("answers are not saved", error=one_line(error))

    def _store(self, count: int) -> None:
        """Store the first `count` of the pictures that are not stored yet."""
        if count == 0:
            return
        self._ready()
        share = self._waiting[:count]
        body = "".join(answers.as_json() + "\n" for answers, _, _ in share).encode(errors="replace")
        _, after, cursor = share[-1]
        head = _Head(
            request=self._digest,
            first=self._saved,
            pictures=count,
            before=self._saved_chain,
            after=after,
            newest=self._newest,
            cursor=None if cursor is None else dict(cursor),
            sha256=_sha256(body),
        )
        key = self._key(head.first)
        self._target.write(key, head.model_dump_json().encode() + b"\n" + body)
        self._keys.append(key)
        self._waiting = self._waiting[count:]
        self._saved, self._saved_chain = self._saved + count, after
        self._flushed = time.monotonic()

    def finish(self, kind: Kind, advisor: Advisor | None = None) -> About:
        """Join all parts to the output, and remove them; an advisor looks at all of them."""
        self._store(len(self._waiting))
        with tempfile.TemporaryDirectory(prefix="imagetag-predict-") as scratch:
            path = Path(scratch) / "output"
            answers = self._all() if advisor is None else advisor.watch(self._all())
            write_file(path, kind, self._table, answers)
            advice = {} if advisor is None else advisor.advice()
            about = self._tell_about(path.stat().st_size, advice)
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

    def _all(self) -> Iterator[Answers]:
        for key in self._keys:
            part = self._read(int(key[len(self._folder) :].removesuffix(".jsonl")))
            if part is None:
                raise TransientError(
                    f"{self._target.url}/{key} is gone or damaged; run this again to make it anew"
                )
            yield from map(Answers.from_json, part[1])

    def _tell_about(self, size: int, advice: dict[str, dict[str, Any]]) -> About:
        return About(
            request=self._request,
            pictures=self._chain,
            newest=self._newest,
            images=self.tally.images,
            rows=self.tally.images * self._table.rows_a_picture,
            positives=self.tally.positives,
            errors=dict(self.tally.errors),
            bytes=size,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            software=f"imagetag {__version__}",
            advice=advice,
        )

    # --- Names

    @property
    def _folder(self) -> str:
        return self._name + ".parts/"

    @property
    def _about_key(self) -> str:
        return _about_key(self._name)

    def _key(self, first: int) -> str:
        return f"{self._folder}{first:010}.jsonl"


def load_about(target: Storage, name: str) -> About | None:
    """Return what is told of a complete output; None where nothing is.

    Args:
        target: the storage that the output is in.
        name: the output's key.

    """
    try:
        with target.open(_about_key(name)) as stream:
            return About.model_validate_json(stream.read(_MAX_BYTES))
    except (ObjectNotFound, ValidationError):
        return None


def _about_key(name: str) -> str:
    return name + ".about.json"


def _next(chain: str, picture: Picture) -> str:
    """Return what stands for some pictures and one more."""
    return _sha256(json.dumps([chain, picture.name, picture.version]).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
