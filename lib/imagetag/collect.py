"""Fetch posts in parallel, check each picture, store it, and record it in the manifest."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from imagetag import images
from imagetag.boards import Board, BoardError, Post
from imagetag.errors import TransientError, UsageError
from imagetag.http import HttpError
from imagetag.layout import LABELS, SPLITS, Label, Layout, parse_image
from imagetag.log import Progress, get_logger
from imagetag.manifest import Failure, Rating, Row, distinct, part_keys, read_parts, write_part
from imagetag.split import split_of
from imagetag.storage import Storage

_PART_ROWS = 200  # rows buffered before a part is written, and
_PART_SECONDS = 15.0  # for how long at the most
_ALIAS_POSTS = 200  # posts without the tag asked for, before it is taken for an alias
_OUTAGE_POSTS = 25  # posts lost in a row, before the board is taken for down or for refusing us
# What says something about who asks and not about the picture: another day it may be had.
_ABOUT_US = {"http_401", "http_403", "private_host"}


class Selection(BaseModel):
    """What to take. Stored with the dataset: the same selection again has nothing to do.

    `limit` is images a label, `min_side` the least pixels of the shorter side, `max_bytes` the
    largest file.
    """

    model_config = ConfigDict(frozen=True)

    board: str
    limit: int
    ratings: tuple[Rating, ...]
    extensions: tuple[str, ...]
    min_side: int
    max_bytes: int
    test_fraction: float


@dataclass
class Known:
    """What storage already has of a tag: some hundred bytes an image.

    `objects` are images without a row, by their key less its ending: a run was killed before it
    recorded them. `span` is the least and the greatest post id of the positives.
    """

    rows: Counter[Label] = field(default_factory=Counter)
    posts: set[int] = field(default_factory=set)
    digests: set[bytes] = field(default_factory=set)
    objects: dict[str, str] = field(default_factory=dict)
    span: tuple[int, int] = (0, 0)

    @classmethod
    def read(cls, storage: Storage, layout: Layout, board: str, test_fraction: float) -> Known:
        """Read the manifest's parts, complete or not, and list the images.

        Raises:
            UsageError: if they were split by another fraction.

        """
        known = cls()
        for row in distinct(read_parts(storage, part_keys(storage, layout, "part"), Row)):
            if row.split != split_of(row.group, test_fraction):
                raise UsageError(
                    f"{storage.url}/{layout.root} has images that --test-fraction {test_fraction} "
                    "would move between train and test: use the fraction they were scraped with, "
                    "or another --storage"
                )
            known.add(row, board)
        failures = part_keys(storage, layout, "failed")
        for failure in read_parts(storage, failures, Failure):
            if failure.permanent and failure.board == board:
                known.posts.add(failure.post_id)
        for split in SPLITS:
            for label in LABELS:
                for entry in storage.list(layout.images(split, label)):
                    try:
                        image = parse_image(entry.key)
                    except ValueError:
                        continue  # somebody else's file
                    if bytes.fromhex(image.md5) not in known.digests:
                        known.objects[entry.key.rpartition(".")[0]] = entry.key
        return known

    def add(self, row: Row, board: str) -> None:
        """Count an image that is stored and recorded, of this board or of another."""
        self.rows[row.label] += 1
        self.digests.add(bytes.fromhex(row.md5))
        if row.board != board:
            return
        self.posts.add(row.post_id)
        if row.label == "positive":
            oldest, newest = self.span
            self.span = (min(oldest or row.post_id, row.post_id), max(newest, row.post_id))

    def has(self, post: Post) -> bool:
        """Tell whether the post is stored, or known never to be."""
        return post.id in self.posts or (
            post.md5 is not None and bytes.fromhex(post.md5) in self.digests
        )


class Collector:
    """Fetches posts with a bounded pool of threads, and writes their rows in parts.

    Used as a context: on leaving it the buffered rows are written, also after an error.
    """

    def __init__(
        self,
        storage: Storage,
        board: Board,
        layout: Layout,
        selection: Selection,
        concurrency: int,
        known: Known,
    ) -> None:
        self._storage, self._board, self._layout = storage, board, layout
        self._selection, self._concurrency, self._known = selection, concurrency, known
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="fetch")
        self._rows: list[Row] = []
        self._failures: list[Failure] = []
        self._flushed = time.monotonic()
        self._lost_in_a_row = 0
        self._lock = threading.Lock()
        self._taken: set[bytes] = set()  # digests of the pictures that this run has fetched
        self.skipped: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.lost: Counter[Label] = Counter()  # failures that may pass
        self.tags_seen: Counter[str] = Counter()

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error nobody waits for downloads: they end when their process does.
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        self._flush()

    def collect(self, label: Label, candidates: Iterator[Post], wanted: int) -> None:
        """Store candidates, in their order, until `wanted` of the label are in storage.

        Raises:
            TransientError: if the board or the storage is out of order.

        """
        running: dict[Future[Row], Post] = {}
        chosen = self._choose(label, candidates)
        more = True
        try:
            with Progress(f"{self._layout.tag} {label}", total=wanted) as progress:
                progress.advance(self._known.rows[label])
                while True:
                    # Never more under way than are missing: what is taken is then the first that
                    # can be had in the listing's order, whichever download ends first.
                    missing = wanted - self._known.rows[label]
                    while more and len(running) < min(2 * self._concurrency, missing):
                        post = next(chosen, None)
                        if post is None:
                            more = False
                        else:
                            running[self._pool.submit(self._fetch, post, label)] = post
                    if not running:
                        break
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        stored = self._settle(future, running.pop(future), label)
                        progress.advance(stored, failed=self.failed.total())
        except BaseException:
            for future, post in running.items():
                if future.done() and future.exception() is None:
                    self._settle(future, post, label)
            raise
        if self._known.rows[label] < wanted:
            get_logger().warning(
                "fewer than asked for", label=label, images=self._known.rows[label], wanted=wanted
            )

    def _choose(self, label: Label, candidates: Iterator[Post]) -> Iterator[Post]:
        """Yield the candidates that are worth fetching; count the others by reason."""
        alias = True  # until a post turns up that carries the tag
        for post in candidates:
            reason = self._unfit(post, label)
            alias = alias and reason == "tag_absent"
            if self._known.has(post):
                continue
            if reason is None:
                yield post
                continue
            self.skipped[reason] += 1
            if alias:
                self.tags_seen.update(post.tags)
                if self.skipped[reason] >= _ALIAS_POSTS:
                    return

    def _unfit(self, post: Post, label: Label) -> str | None:
        """Return why a post is not wanted, as far as what is known of it tells."""
        if (self._layout.tag in post.tags) != (label == "positive"):
            return "tag_absent" if label == "positive" else "tag_present"
        if post.rating is not None and post.rating not in self._selection.ratings:
            return "rating"
        if post.file_url is None:
            return None  # a list page's entry: its own page tells the rest
        if post.rating is None:
            return "rating"
        if not post.file_url:
            return "no_file"
        if _extension(post.file_url) not in self._selection.extensions:
            return "extension"
        sides = [side for side in (post.width, post.height) if side is not None]
        if sides and min(sides) < self._selection.min_side:
            return "too_small"
        return None

    def _fetch(self, listed: Post, label: Label) -> Row:
        """Fetch, check and store one post. Runs in the pool."""
        post = self._board.complete(listed)
        unfit = self._unfit(post, label)
        if unfit:
            raise _Unfit(unfit)
        split = split_of(post.group, self._selection.test_fraction)
        stored = self._stored_before(post, label)
        data = stored or self._download(post)
        info = images.inspect(data)
        if min(info.width, info.height) < self._selection.min_side:
            raise _Unfit("too_small")
        if info.ext not in self._selection.extensions:
            raise _Unfit("extension")
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self._take(md5)
        row = Row(
            post_id=post.id,
            board=post.board,
            page_url=post.page_url,
            md5=md5,
            ext=info.ext,
            bytes=len(data),
            width=info.width,
            height=info.height,
            tags=post.tags,
            rating=post.rating,
            split=split,
            label=label,
            group=post.group,
        )
        if stored is None:
            self._storage.write(self._layout.image(split, label, md5, info.ext), data)
        return row

    def _take(self, md5: str) -> None:
        """See to it that a picture is stored once, where two posts show the same."""
        digest = bytes.fromhex(md5)
        with self._lock:
            if digest in self._taken or digest in self._known.digests:
                raise _Unfit("duplicate")
            self._taken.add(digest)

    def _download(self, post: Post) -> bytes:
        assert post.file_url  # noqa: S101 - `_unfit` has seen to it
        try:
            answer = self._board.client.get(post.file_url, max_bytes=self._selection.max_bytes)
        except HttpError as error:
            if error.reason == "too_large":
                raise _Unfit("too_large") from error
            raise
        data = answer.content
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if post.md5 is not None and md5 != post.md5:
            images.inspect(data)  # what is no picture at all has a better reason than its sum
            raise images.BadImage("md5", f"{post.file_url}: md5 {md5}, declared {post.md5}")
        return data

    def _stored_before(self, post: Post, label: Label) -> bytes | None:
        """Return the picture from storage, if a run stored it and was killed before recording it.

        Its bytes are checked against its name: nothing else vouches for it. Where the board tells
        no sum, the name that it gives the file is likely to be one.
        """
        assert post.file_url  # noqa: S101 - `_unfit` has seen to it
        name = post.md5 or PurePosixPath(urlsplit(post.file_url).path).stem
        split = split_of(post.group, self._selection.test_fraction)
        key = self._known.objects.get(self._layout.images(split, label) + name)
        if key is None:
            return None
        data = self._storage.read(key)
        return data if hashlib.md5(data, usedforsecurity=False).hexdigest() == name else None

    def _settle(self, future: Future[Row], post: Post, label: Label) -> int:
        """Record how a post ended; return how many images that added."""
        stored = 0
        try:
            row = future.result()
        except _Unfit as unfit:
            self._lost_in_a_row = 0
            self.skipped[unfit.reason] += 1
            self._known.posts.add(post.id)
        except images.BadImage as error:
            self._fail(post, label, error.reason, str(error), permanent=True)
        except HttpError as error:
            permanent = error.permanent and error.reason not in _ABOUT_US
            self._fail(post, label, error.reason, str(error), permanent=permanent)
        except BoardError as error:
            self._fail(post, label, "page", str(error), permanent=False)
        else:
            self._lost_in_a_row = 0
            self._known.add(row, self._board.site.name)
            self._rows.append(row)
            stored = 1
        full = len(self._rows) + len(self._failures) >= _PART_ROWS
        if full or time.monotonic() - self._flushed > _PART_SECONDS:
            self._flush()
        return stored

    def _fail(self, post: Post, label: Label, reason: str, detail: str, *, permanent: bool) -> None:
        get_logger().debug("post failed", post=post.id, reason=reason, detail=detail)
        self.failed[reason] += 1
        self.lost[label] += not permanent
        self._known.posts.add(post.id)
        self._failures.append(
            Failure(
                post_id=post.id,
                board=post.board,
                page_url=post.page_url,
                label=label,
                reason=reason,
                detail=detail[:500],
                permanent=permanent,
            )
        )
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= _OUTAGE_POSTS:
            raise TransientError(
                f"{self._board.root} seems to be down or to refuse us: {_OUTAGE_POSTS} posts in a "
                f"row failed, the last with {detail}; run this again later to go on"
            )

    def _flush(self) -> None:
        if self._rows:
            write_part(self._storage, self._layout, "part", self._rows)
        if self._failures:
            write_part(self._storage, self._layout, "failed", self._failures)
        self._rows, self._failures = [], []
        self._flushed = time.monotonic()


class _Unfit(Exception):
    """A post that turns out not to be wanted, after its page or its picture was read."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _extension(url: str) -> str:
    ext = PurePosixPath(urlsplit(url).path).suffix.lower().removeprefix(".")
    return "jpg" if ext == "jpeg" else ext
