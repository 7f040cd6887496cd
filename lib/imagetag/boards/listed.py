"""Posts that a folder or a file lists instead of a server, and an index of them.

The index is an SQLite database without a name: it lives in a temporary file as soon as it is
larger than its cache, and is gone with the process, however that ends.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import itertools
import sqlite3
import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal

from imagetag.boards.base import NO_LOGIN, Board, Login, Post, Query, Site
from imagetag.boards.entries import BadEntry, Entry, joined
from imagetag.boards.fields import MAX_ID
from imagetag.errors import InputError, TransientError
from imagetag.log import Progress, get_logger
from imagetag.web import Client

ID_BITS = 49  # of a hash, for posts without a number of their own
_CACHE = 32 << 10  # kibibytes of the index in memory
_MAX_PAGES = 16 << 20  # 64 GB of index: a small compressed list may have any number of rows
_MOST_COPIES = 100_000  # posts that may be of one file
_BATCH = 1000  # posts between two reports of progress


def stable_id(name: str, attempt: int = 0) -> int:
    """Return a number that stands for a path or URL, whatever else is listed with it."""
    text = f"{name}\0{attempt}" if attempt else name
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - ID_BITS)) or 1


class ListedBoard(Board):
    """A board whose posts are all read when it is opened.

    Raises:
        InputError: if nothing that can be used is listed.
        TransientError: if there is no room for the index.

    """

    posts_called = "pictures"
    by_time = False
    certain = True
    at_hand = True

    @classmethod
    @abstractmethod
    def check_place(cls, root: str) -> None:
        """Check what can be told of the board's path without reading it all.

        Raises:
            UsageError: if there is nothing at it.

        """

    def __init__(self, site: Site, client: Client, login: Login = NO_LOGIN) -> None:
        super().__init__(site, client, login)
        spec = f"--board {site.engine}+{site.root}"
        self._index = _Index()
        self._left_out: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        try:
            with Progress(f"reading {site.name}", unit=self.posts_called, stage="list") as progress:
                self._index.fill(self._entries(), progress)
        except sqlite3.Error as error:
            raise TransientError(
                f"{spec}: its index cannot be written ({error}); set TMPDIR to a folder with room"
            ) from error
        for reason, name in self._index.refused:
            self._leave_out(reason, name)
        left_out = dict(+self._left_out)
        if not self._index.posts:
            reasons = ", ".join(f"{reason} {count}" for reason, count in left_out.items())
            raise InputError(
                f"{spec}: it lists no picture that can be used"
                + (f" (left out: {reasons}; first {next(iter(self._first.values()), '')})")
                * bool(left_out)
            )
        log = get_logger().bind(board=site.name)
        if left_out:
            log.warning("entries left out", reasons=left_out, first=self._first)
        # These are in no listing that is for certain ratings.
        log.info(
            "read the list",
            posts=self._index.posts,
            joined=self._index.joined,
            rating_unknown=self._index.rating_unknown,
        )

    @abstractmethod
    def _entries(self) -> Iterator[tuple[str, Entry | None]]:
        """Yield the name of each picture, a URL or path, and what is told of it.

        What cannot be used is passed over with `_leave_out`. Where a name can be read and what is
        told of it cannot, that is None: what other entries of that name tell is not all there is.
        """

    @abstractmethod
    def _file_url(self, name: str) -> str:
        """Return the URL of the picture of that name."""

    def page(self, query: Query, *, below: int | None, limit: int) -> list[Post]:
        """Return the newest posts that match, as the base class says."""
        return [self._post(row) for row in self._index.select(query, below, limit)]

    def count(self, query: Query) -> int | None:
        """Return how many posts match."""
        return self._index.count(query)

    def similar(self, tag: str) -> list[str]:
        """Return tags that are spelt much like one, the likest first."""
        return difflib.get_close_matches(tag, self._index.tags(), n=10)

    def copies(self, post: Post, size: int, content: Callable[[], bytes]) -> list[Post]:
        """Return the other posts with the sum that the list tells, as the base class says."""
        del size, content
        if post.md5 is None:
            return []
        return [other for other in self._posts_with("md5", post.md5) if other.id != post.id]

    def _posts_with(self, column: Literal["md5", "bytes"], value: str | int) -> list[Post]:
        return [self._post(row) for row in self._index.having(column, value)]

    def _leave_out(self, reason: str, where: str) -> None:
        """Count what cannot be used."""
        self._left_out[reason] += 1
        self._first.setdefault(reason, repr(where)[1:-1][:200])  # names may hold anything

    def _post(self, row: tuple[Any, ...]) -> Post:
        name = row[1]
        entry = _entry(row)
        url = self._file_url(name)
        assert entry.id is not None  # noqa: S101 - each has got one
        return Post(
            id=entry.id,
            board=self.site.name,
            page_url=url,
            file_url=url,
            md5=entry.md5,
            width=entry.width,
            height=entry.height,
            tags=entry.tags,
            rating=entry.rating,
            parent_id=entry.parent_id,
            score=entry.score,
            created_at=entry.created_at,
        )


_POST = "id, name, tags, md5, width, height, rating, parent_id, score, created_at, bytes"


def _row(name: str, entry: Entry) -> tuple[Any, ...]:
    """Return an entry as the index has it, in the order of `_POST`."""
    created = entry.created_at and int(entry.created_at.timestamp())
    tags, size = " ".join(entry.tags), (entry.width, entry.height)
    return (
        *(entry.id, name, tags, entry.md5, *size, entry.rating),
        *(entry.parent_id, entry.score, created, entry.bytes),
    )


def _entry(row: tuple[Any, ...]) -> Entry:
    """Return the entry that is in a row of the index.

    Raises:
        BadEntry: if it could not be read.

    """
    post_id, _, tags, digest, width, height, rating, parent_id, score, created_at, size = row
    if tags is None:
        raise BadEntry("other_rows")
    return Entry(
        tags=tuple(filter(None, tags.split(" "))),
        id=post_id,
        md5=digest,
        width=width,
        height=height,
        rating=rating,
        parent_id=parent_id,
        score=score,
        created_at=None if created_at is None else datetime.fromtimestamp(created_at, UTC),
        bytes=size,
    )


_INSERT = f"INSERT INTO posts (key, {_POST}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608


class _Index:
    """Posts by id and by tag, on disk."""

    def __init__(self) -> None:
        self.posts = 0
        self.joined = 0  # rows that tell more of a picture that another row has
        self.refused: list[tuple[str, str]] = []  # why some cannot be used, and their names
        self.rating_unknown = 0
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.create_function("stable_id", 1, stable_id, deterministic=True)
        for setting in (
            "journal_mode = OFF",
            "temp_store = FILE",
            f"cache_size = -{_CACHE}",
            f"max_page_count = {_MAX_PAGES}",
        ):
            self._db.execute(f"PRAGMA {setting}")

    def fill(self, entries: Iterable[tuple[str, Entry | None]], progress: Progress) -> None:
        """Read all entries, join those of one picture, settle their ids, and sort what was read.

        The tags are sorted at the end, in one go: a tree of them that grows with each post would
        be written all over the disk.
        """
        self._db.execute("BEGIN")
        self._db.execute(
            "CREATE TABLE posts (key INTEGER PRIMARY KEY, id INTEGER, name TEXT, tags TEXT,"
            " md5 TEXT, width INTEGER, height INTEGER, rating TEXT, parent_id INTEGER,"
            " score INTEGER, created_at INTEGER, bytes INTEGER)"
        )
        self._db.execute("CREATE TABLE raw (tag INTEGER, key INTEGER)")
        for key, (name, entry) in enumerate(entries, 1):
            if entry is None:
                self._db.execute("INSERT INTO posts (key, name) VALUES (?, ?)", (key, name))
            else:
                self._db.execute(_INSERT, (key, *_row(name, entry)))
                self._tag(key, entry.tags)
            if key % _BATCH == 0:
                progress.advance(_BATCH)
        self._join()
        self._settle_ids()
        # By hash: two tags of one hash would be listed together, and callers look at the tags.
        self._db.execute(
            "CREATE TABLE tagged (tag INTEGER, id INTEGER, PRIMARY KEY (tag, id)) WITHOUT ROWID"
        )
        self._db.execute(
            "INSERT OR IGNORE INTO tagged SELECT tag, id FROM raw CROSS JOIN posts USING (key)"
            " ORDER BY 1, 2"
        )
        self._db.execute("DROP TABLE raw")
        self._db.execute("COMMIT")
        self.posts = self._one("SELECT count(*) FROM posts")
        self.rating_unknown = self._one("SELECT count(*) FROM posts WHERE rating IS NULL")

    def _tag(self, key: int, tags: Iterable[str]) -> None:
        self._db.executemany(
            "INSERT INTO raw VALUES (?, ?)", [(_tag_key(tag), key) for tag in tags]
        )

    def _join(self) -> None:
        """Make one post of all rows of a name; without tags or with a bad row it is none."""
        run = self._db.execute
        run("CREATE INDEX by_name ON posts (name)")
        run(
            f"CREATE TABLE again AS SELECT {_POST}, key FROM posts WHERE name IN"  # noqa: S608
            " (SELECT name FROM posts GROUP BY name HAVING count(*) > 1) ORDER BY name, key"
        )
        run(
            "DELETE FROM posts WHERE key IN"
            " (SELECT key FROM again EXCEPT SELECT min(key) FROM again GROUP BY name)"
        )
        rows = run("SELECT * FROM again ORDER BY rowid")
        for name, records in itertools.groupby(rows, key=itemgetter(1)):
            first = next(records)
            try:
                records = itertools.chain([first], records)
                entry = functools.reduce(joined, (_entry(row[:-1]) for row in records))
            except BadEntry as error:
                run("UPDATE posts SET tags = NULL WHERE key = ?", (first[-1],))
                self.refused.append((error.reason, name))
            else:
                run("DELETE FROM posts WHERE key = ?", (first[-1],))
                run(_INSERT, (first[-1], *_row(name, entry)))
                self._tag(first[-1], entry.tags)
        self.joined = self._one("SELECT count(*) - count(DISTINCT name) FROM again")
        run("DROP TABLE again")
        run("DELETE FROM posts WHERE tags IS NULL OR tags = ''")
        run("DROP INDEX by_name")

    def _settle_ids(self) -> None:
        """Keep the ids that were given if they tell the posts apart, else make them of the names.

        In the second case a given id still groups: a post with the one it is the parent of.
        """
        run = self._db.execute
        run("CREATE INDEX by_id ON posts (id)")
        missing = self._one("SELECT EXISTS (SELECT 1 FROM posts WHERE id IS NULL)")
        if missing or self._one(
            "SELECT EXISTS (SELECT 1 FROM posts GROUP BY id HAVING count(*) > 1)"
        ):
            run("DROP INDEX by_id")
            run("UPDATE posts SET parent_id = coalesce(parent_id, id), id = stable_id(name)")
            run("CREATE INDEX by_id ON posts (id)")
        clashing = run(  # hashes; the first by name keeps its own
            "SELECT key, id, name FROM posts WHERE id IN"
            " (SELECT id FROM posts GROUP BY id HAVING count(*) > 1) ORDER BY id, name"
        ).fetchall()
        for (_, before, _), (key, post_id, name) in itertools.pairwise(clashing):
            if before == post_id:
                run("UPDATE posts SET id = ? WHERE key = ?", (self._free_id(name), key))
        run("DROP INDEX by_id")
        run("CREATE UNIQUE INDEX by_id ON posts (id)")
        for column in ("md5", "bytes"):
            run(f"CREATE INDEX by_{column} ON posts ({column}) WHERE {column} IS NOT NULL")

    def _free_id(self, name: str) -> int:
        attempt = 1
        while self._one("SELECT count(*) FROM posts WHERE id = ?", stable_id(name, attempt)):
            attempt += 1
        return stable_id(name, attempt)

    def select(self, query: Query, below: int | None, limit: int) -> list[tuple[Any, ...]]:
        """Return posts that match, highest id first."""
        with self._lock:
            source, column, values = self._matching(query, below)
            sql = f"SELECT {_POST} FROM {source} ORDER BY {column} DESC LIMIT ?"  # noqa: S608 - no value is in it
            return self._db.execute(sql, [*values, limit]).fetchall()

    def count(self, query: Query) -> int:
        """Return how many posts match."""
        with self._lock:
            source, _, values = self._matching(query, None)
            return self._one(f"SELECT count(*) FROM {source}", *values)  # noqa: S608 - no value is in it

    def tags(self) -> set[str]:
        """Return all tags, in one pass over the posts."""
        with self._lock:
            rows = self._db.execute("SELECT DISTINCT tags FROM posts")
            return {tag for [tags] in rows for tag in tags.split(" ") if tag}

    def _matching(self, query: Query, below: int | None) -> tuple[str, str, list[Any]]:
        """Return what to select from, the column of the ids there, and the values in it."""
        tags = sorted(query.tags, key=self._count)
        values: list[Any] = []
        source = "posts"
        terms = []
        if tags:  # along the rarest
            source = "tagged CROSS JOIN posts USING (id)"
            terms.append("tag = ?")
            values.append(_tag_key(tags[0]))
        for tag in tags[1:]:
            terms.append("EXISTS (SELECT 1 FROM tagged t WHERE t.tag = ? AND t.id = posts.id)")
            values.append(_tag_key(tag))
        for tag in query.without:
            terms.append("NOT EXISTS (SELECT 1 FROM tagged t WHERE t.tag=? AND t.id=posts.id)")
            values.append(_tag_key(tag))
        column = "tagged.id" if tags else "posts.id"
        if below is not None:
            terms.append(f"{column} < ?")
            values.append(min(max(below, 0), MAX_ID))
        if query.ratings:
            terms.append(f"rating IN ({', '.join('?' * len(query.ratings))})")
            values += query.ratings
        where = f" WHERE {' AND '.join(terms)}" if terms else ""
        return source + where, column, values

    def having(self, column: Literal["md5", "bytes"], value: str | int) -> list[tuple[Any, ...]]:
        """Return posts by their sum or size, highest id first."""
        with self._lock:
            sql = f"SELECT {_POST} FROM posts WHERE {column} = ? ORDER BY id DESC LIMIT ?"  # noqa: S608
            return self._db.execute(sql, (value, _MOST_COPIES)).fetchall()

    def _count(self, tag: str) -> int:
        if tag not in self._counts:
            self._counts[tag] = self._one(
                "SELECT count(*) FROM tagged WHERE tag = ?", _tag_key(tag)
            )
        return self._counts[tag]

    def _one(self, sql: str, *values: Any) -> int:
        [[number]] = self._db.execute(sql, values).fetchall()
        return int(number)


@lru_cache(maxsize=1 << 16)
def _tag_key(tag: str) -> int:
    digest = hashlib.blake2b(tag.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
