"""Fetch posts in parallel, check each picture, store it, and settle what is recorded of it."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from imagetag.boards import Board, BoardError, File, Post
from imagetag.counters import counters
from imagetag.dataset import Failure, Lead, Repeat, Row, split_of
from imagetag.errors import Terminated, TransientError, UsageError
from imagetag.imaging import BadImage, ImageInfo, Thumbnails, hashes_of, inspect, thumbnail
from imagetag.layout import Label, Layout
from imagetag.log import Progress, get_logger
from imagetag.scrape import reuse
from imagetag.scrape.inventory import Known, key_at, place
from imagetag.scrape.part_writer import PartWriter
from imagetag.scrape.reuse import SharedImage
from imagetag.scrape.selection import TOO_OLD, Selection
from imagetag.storage import ObjectNotFound, Storage
from imagetag.web import HttpError

_ALIAS_POSTS = 200  # posts without the tag asked for, before it is taken for an alias
_OUTAGE_POSTS = 25  # posts lost in a row, before the board is taken for down or for refusing us
_UNSETTLED = 32  # posts that wait for one before them, for each download under way
_DOWNLOADS = 3  # of a file that does not come as its post says, before it is given up
_LONGEST_URL = 4096  # characters of one that is recorded
_LAST_SECONDS = 4.0  # for what is under way when a run is stopped, and for its rows
# What says something about who asks and not about the picture: another day it may be had.
_ABOUT_US = {"http_401", "http_403", "private_host", "robots"}
# Which of them, and of the rest, no waiting will change where every post ends so.
_REFUSALS = {"private_host", "robots", "opted_out"}


@dataclass(frozen=True)
class How:
    """How to fetch, whatever it is.

    Attributes:
        concurrency: downloads under way at once.
        perceptual_hash: whether to hash each picture for `curate`, while it is in memory.
        thumbnails: where `curate` looks for what comes of the same decode, if it follows.

    """

    concurrency: int = 16
    perceptual_hash: bool = True
    thumbnails: Thumbnails | None = None


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
        how: How,
        known: Known,
    ) -> None:
        self._storage, self._board, self._layout = storage, board, layout
        self._selection, self._how, self._known = selection, how, known
        self._request = selection.digest
        self._pool = ThreadPoolExecutor(how.concurrency, thread_name_prefix="fetch")
        self._parts = PartWriter(storage, layout)
        self._too_old_in_a_row = 0  # by what their own pages tell
        self._lost_in_a_row: set[str] = set()  # their ids, or of a list of links their hosts
        self._lock = threading.Lock()
        self._unsettled: set[str] = set()  # keys of images that are stored, and not yet recorded
        self.skipped: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.lost: Counter[Label] = Counter()  # failures that may pass
        self.refused: Counter[Label] = Counter()  # of these, refusals that no waiting changes
        self.refusal = ""  # what the last of them says
        self.tags_seen: Counter[str] = Counter()
        self.copied = 0  # images that another tag had
        self.written = self._parts.written  # keys of the manifest's parts

    def __enter__(self) -> Collector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, _: object
    ) -> None:
        # After an error nobody waits for downloads: they end when their process does.
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is None or issubclass(kind, Exception):
            self._parts.flush()
            return
        self._parts.flush_within(_LAST_SECONDS)
        assert value is not None  # noqa: S101 - as there is a kind
        value.add_note(self._kept())

    def collect(
        self,
        label: Label,
        candidates: Iterator[Post],
        wanted: int,
        nearly: Callable[[list[int]], None] | None = None,
        at_most: int | None = None,
    ) -> None:
        """Store candidates, in their order, until `wanted` of the label are in storage.

        Args:
            label: which.
            candidates: posts to take.
            wanted: how many images of the label there are to be.
            nearly: is called once some are stored and all others are under way, with the ids of
                those posts.
            at_most: how many candidates there can be, if that is known: for the bar.

        Raises:
            TransientError: if the board or the storage is out of order.
            UsageError: if the board refuses us for good.

        """
        waiting: list[_Fetch] = []  # in the listing's order
        under_way: set[int] = set()
        chosen = self._choose(label, candidates, under_way)
        self._too_old_in_a_row = 0
        more = True
        had = self._known.rows[label]
        # What is stored may be listed no more.
        total = wanted if at_most is None else min(wanted, max(had, at_most))
        try:
            with Progress(f"{self._layout.tag} {label}", total=total, stage="collect") as progress:
                progress.skip(had)
                while True:
                    # Never more under way than are missing: what is taken is then the first that
                    # can be had in the listing's order, whichever download ends first.
                    missing = wanted - self._known.rows[label]
                    most = min(_UNSETTLED * self._how.concurrency, missing)
                    running = sum(not fetch.future.done() for fetch in waiting)
                    while more and len(waiting) < most and running < 2 * self._how.concurrency:
                        post = next(chosen, None)
                        if post is None or self._too_old_in_a_row >= TOO_OLD:
                            more = False
                        else:
                            under_way.add(post.id)
                            future = self._pool.submit(self._fetch, post, label)
                            waiting.append(_Fetch(post, future))
                            running += 1
                    if not waiting:
                        break
                    if nearly and self._known.rows[label] and not (more and len(waiting) < missing):
                        nearly([fetch.post.id for fetch in waiting])
                        nearly = None
                    # Listed first: what ends from now on is waited for no more.
                    pending = [fetch.future for fetch in waiting if not fetch.future.done()]
                    if not (decided := _decided(waiting)):
                        wait(pending, return_when=FIRST_COMPLETED)
                        decided = _decided(waiting)
                    for fetch in decided:
                        waiting.remove(fetch)
                        stored = self._settle(fetch, label)
                        self._parts.flush_if_due()
                        under_way.discard(fetch.post.id)
                        progress.advance(stored, failed=self.failed.total())
        except BaseException as error:
            self._save(waiting, label, error)
            raise
        if self._known.rows[label] < wanted:
            get_logger().warning(
                "fewer than asked for",
                label=label,
                images=self._known.rows[label],
                wanted=wanted,
                source=self._board.called,
            )

    def _save(self, waiting: list[_Fetch], label: Label, error: BaseException) -> None:
        """Record what is stored of the downloads that are under way, when a run ends early."""
        for fetch in waiting:
            fetch.future.cancel()
        if isinstance(error, Terminated | KeyboardInterrupt):
            self._board.client.stop()
        wait([fetch.future for fetch in waiting], timeout=_LAST_SECONDS)
        for fetch in _decided(waiting):
            if fetch.future.exception() is None:
                self._settle(fetch, label)

    def _choose(
        self, label: Label, candidates: Iterator[Post], under_way: set[int]
    ) -> Iterator[Post]:
        """Yield the candidates that are worth fetching; count the others by reason."""
        alias = True  # until a post turns up that carries the tag
        for post in candidates:
            reason = self._selection.unfit(post, self._layout.tag, label)
            alias = alias and reason == "tag_absent"
            if post.id in under_way:
                continue
            if self._known.has(post):
                if reason is None:
                    self._say_again(post, label)
                continue
            if reason is None:
                yield post
                continue
            self.skipped[reason] += 1
            if alias:
                self.tags_seen.update(post.tags)
                if self.skipped[reason] >= _ALIAS_POSTS:
                    return

    def _say_again(self, post: Post, label: Label) -> None:
        """Record what a post says of an image that is known, if nothing like it is recorded."""
        other: Label = "negative" if label == "positive" else "positive"
        digest = self._known.said.get((post.id, other))
        if digest is None and post.md5 is not None and post.id not in self._known.posts:
            digest = bytes.fromhex(post.md5)
        if digest is not None:
            self._repeat(post, label, digest.hex(), None)

    def _fetch(self, listed: Post, label: Label) -> tuple[Row, list[Post]]:
        """Fetch, check and store one post. Runs in the pool.

        Returns its row, and the other posts that are known to be of the same file.
        """
        post = self._board.complete(listed)
        unfit = self._selection.unfit(post, self._layout.tag, label)
        if unfit:
            raise _Unfit(unfit)
        image, copies = self._copied(post, label) or self._downloaded(post, label)
        row = Row(
            post_id=post.id,
            board=post.board,
            page_url=post.page_url,
            md5=image.md5,
            ext=image.ext,
            bytes=image.bytes,
            width=image.width,
            height=image.height,
            tags=tuple(dict.fromkeys(tag for of in (post, *copies) for tag in of.tags)),
            rating=post.rating,
            split=split_of(post.group, self._selection.test_fraction),
            label=label,
            group=post.group,
            phashes=image.phashes,
            lead=image.lead,
            score=post.score or 0,  # as `unfit` takes what a board does not tell
            created_at=post.created_at,
            root=self._selection.board,
            negatives=self._selection.negatives if label == "negative" else None,
            request=self._request,
        )
        return row, copies

    def _key(self, post: Post, label: Label, name: str, ext: str) -> str:
        split = split_of(post.group, self._selection.test_fraction)
        return self._layout.image(split, label, name, ext)

    def _copied(self, post: Post, label: Label) -> tuple[SharedImage, list[Post]] | None:
        """Store the post's picture from another tag's folder, if one has it."""
        image = reuse.find(self._storage, post)
        if image is None:
            return None
        key = self._key(post, label, image.md5, image.ext)
        self._check(image)
        try:
            copies = self._copies(post, label, image, lambda: self._storage.read(image.key))
            if bytes.fromhex(image.md5) in self._known.labels:
                return image, copies
            if key != image.key:
                self._storage.copy(image.key, key)
                self._unsettled.add(key)
            elif self._storage.stat(key) is None:
                raise ObjectNotFound(key)
        except ObjectNotFound:  # that tag was removed
            return None
        with self._lock:
            self.copied += 1
        return image, copies

    def _downloaded(self, post: Post, label: Label) -> tuple[SharedImage, list[Post]]:
        """Fetch the post's picture, check and store it."""
        stored = self._stored_before(post, label)
        if stored is None:
            file, info, md5 = self._download(post)
            data, lead = file.content, _lead(post, file)
        else:
            data, info, md5, lead = stored, inspect(stored), _md5(stored), None
        image = SharedImage(
            key=self._key(post, label, md5, info.ext),
            md5=md5,
            ext=info.ext,
            bytes=len(data),
            width=info.width,
            height=info.height,
            phashes=self._hashes(md5, data) if self._how.perceptual_hash else (),
            lead=lead,
        )
        self._check(image)
        copies = self._copies(post, label, image, lambda: data)
        if bytes.fromhex(md5) not in self._known.labels:
            if stored is None:
                self._storage.write(image.key, data)
                self._unsettled.add(image.key)
            reuse.offer(self._storage, post, image)
        return image, copies

    def _hashes(self, md5: str, data: bytes) -> tuple[str, ...]:
        small = thumbnail(data)
        if self._how.thumbnails is not None:
            self._how.thumbnails.keep(md5, small)
        return hashes_of(small)

    def _copies(
        self, post: Post, label: Label, image: SharedImage, content: Callable[[], bytes]
    ) -> list[Post]:
        """Return the other posts of the file, having seen whether all may be taken together."""
        copies = self._board.copies(post, image.bytes, content)
        for copy in copies:
            unfit = self._selection.unfit_tags(copy)
            if label == "negative" and self._layout.tag in copy.tags:
                unfit = "conflicting"
            if unfit:
                raise _Unfit(unfit)
        return copies

    def _check(self, image: SharedImage) -> None:
        """See whether the picture is what its post said."""
        unfit = self._selection.unfit_file(image.ext, image.bytes, image.width, image.height)
        if unfit:
            raise _Unfit(unfit)

    def _download(self, post: Post) -> tuple[File, ImageInfo, str]:
        """Fetch a file, again where what came is damaged, as it may be by the way here."""
        came = set()
        for _ in range(_DOWNLOADS):
            try:
                file = self._board.fetch(post, self._selection.max_bytes)
            except HttpError as error:
                if error.reason == "too_large":
                    raise _Unfit("file_too_large") from error
                raise
            md5 = _md5(file.content)
            try:
                info = inspect(file.content)
            except BadImage as error:
                if md5 == post.md5:
                    raise
                problem = error
            else:
                if post.md5 in (None, md5):
                    return file, info, md5
                detail = f"{post.file_url}: md5 {md5}, declared {post.md5}"
                problem = BadImage("md5", detail)
            came.add(md5)
        raise problem if len(came) == 1 else _Unsteady(problem.reason, str(problem))

    def _stored_before(self, post: Post, label: Label) -> bytes | None:
        """Return the picture from storage, if a run stored it and was killed before recording it.

        Its bytes are checked against its name: nothing else vouches for it. Where the board tells
        no sum, the name that it gives the file is likely to be one.
        """
        assert post.file_url  # noqa: S101 - `unfit` has seen to it
        name = post.md5 or PurePosixPath(urlsplit(post.file_url).path).stem
        try:
            where = place(split_of(post.group, self._selection.test_fraction), label, name)
        except ValueError:  # no sum
            return None
        ext = self._known.objects.get(where)
        if ext is None or bytes.fromhex(name) in self._known.labels:
            return None
        data = self._storage.read(key_at(self._layout, where, ext))
        return data if _md5(data) == name else None

    def _settle(self, fetch: _Fetch, label: Label) -> int:
        """Record how a post ended; return how many images that added."""
        post, before = fetch.post, self._known.rows[label]
        try:
            row, copies = fetch.future.result()
        except _Unfit as unfit:
            older = self._board.by_time and unfit.reason == "too_old"
            self._too_old_in_a_row = self._too_old_in_a_row + 1 if older else 0
            self._lost_in_a_row.clear()
            self.skipped[unfit.reason] += 1
            self._known.posts.add(post.id)
        except BadImage as error:
            permanent = not isinstance(error, _Unsteady)
            self._fail(post, label, error.reason, str(error), permanent=permanent)
        except HttpError as error:
            permanent = error.permanent and error.reason not in _ABOUT_US
            self._fail(post, label, error.reason, str(error), permanent=permanent)
        except BoardError as error:
            self._fail(post, label, "page", str(error), permanent=False)
        else:
            self._too_old_in_a_row = 0
            self._lost_in_a_row.clear()
            where = place(row.split, row.label, row.md5)
            key = key_at(self._layout, where, row.ext)
            if bytes.fromhex(row.md5) in self._known.labels:
                # It may have been stored before that was known.
                if key in self._unsettled and where not in self._known.places:
                    self._storage.delete(key)
                self._repeat(post, label, row.md5, row.lead)
            else:
                self._known.add(row)
                self._known.places.add(where)
                self._parts.add("part", row)
            self._unsettled.discard(key)
            for copy in copies:
                of: Label = "positive" if self._layout.tag in copy.tags else "negative"
                self._repeat(copy, of, row.md5, None)
        return self._known.rows[label] - before

    def _repeat(self, post: Post, label: Label, md5: str, lead: Lead | None) -> None:
        """Record a post that is not stored, as its picture is known."""
        if (post.id, label) in self._known.said:
            return
        record = Repeat(
            post_id=post.id,
            board=post.board,
            page_url=post.page_url,
            md5=md5,
            label=label,
            tags=post.tags,
            lead=lead,
            root=self._selection.board,
        )
        self._known.repeat(record)
        self._parts.add("repeat", record)

    def _fail(self, post: Post, label: Label, reason: str, detail: str, *, permanent: bool) -> None:
        get_logger().debug("post failed", post=post.id, reason=reason, detail=detail)
        self.failed[reason] += 1
        counters().advance("collect", failed=1)
        self.lost[label] += not permanent
        if not permanent and reason in _REFUSALS:
            self.refused[label] += 1
            self.refusal = detail
        self._known.posts.add(post.id)
        failure = Failure(
            post_id=post.id,
            board=post.board,
            page_url=post.page_url,
            label=label,
            reason=reason,
            detail=detail[:500],
            permanent=permanent,
            root=self._selection.board,
        )
        self._parts.add("failed", failure)
        # That one host of many is gone is no outage, however many posts in a row are there.
        host = urlsplit(post.file_url or "").netloc
        self._lost_in_a_row.add(host if self._board.scattered else str(post.id))
        if len(self._lost_in_a_row) < _OUTAGE_POSTS:
            return
        row = f"{_OUTAGE_POSTS} {self._board.posts_called} in a row"
        if reason in _REFUSALS:
            raise UsageError(f"{self._board.root}: {row} were refused: {detail}")
        raise TransientError(
            f"{self._board.root} seems to be down or to refuse us: {row} failed, the "
            f"last with {detail}; run this again later to go on"
        )

    def _kept(self) -> str:
        """Say what the next run of the tag finds."""
        unrecorded = self._parts.unrecorded
        recorded = sum(self._known.rows.values()) - unrecorded
        more = f", and {unrecorded} more are stored" if unrecorded else ""
        return f"{recorded} images are stored and recorded{more}; run it again to go on"


@dataclass(frozen=True, eq=False)
class _Fetch:
    """A post that is being fetched, or was."""

    post: Post
    future: Future[tuple[Row, list[Post]]]


def _decided(waiting: list[_Fetch]) -> list[_Fetch]:
    """Return those that are done, and that no post before them can have the picture of.

    So of two posts of one picture the first in the listing is stored, whichever comes first. Where
    posts tell the sums of their files, none waits for another.
    """
    decided = []
    ahead: set[str] = set()  # sums of what is not decided
    for fetch in waiting:
        if not fetch.future.done() or fetch.future.cancelled():
            if fetch.post.md5 is None:
                break
            ahead.add(fetch.post.md5)
        elif fetch.future.exception() is None and fetch.future.result()[0].md5 in ahead:
            continue
        else:
            decided.append(fetch)
    return decided


def _lead(post: Post, file: File) -> Lead | None:
    """Return how a post led to a file, None where it is for certain what the post means."""
    if post.md5 is not None or urlsplit(post.file_url or "").scheme == "file":
        return None
    return Lead(end=file.end[:_LONGEST_URL], width=post.width, height=post.height)


class _Unfit(Exception):
    """A post that turns out not to be wanted, after its page or its picture was read."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Unsteady(BadImage):
    """A picture that is damaged, and differently each time it is fetched."""


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
