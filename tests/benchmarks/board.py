"""A board of Gelbooru 0.2 that costs little: one thread, files sent by the kernel, a set latency.

Run as a process of its own, it prints its port. `/stats` tells what was asked since the last time.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

_ROOT = Path(__file__).parents[2]
_PAGE = 1000  # posts at once
_DATE = "Sat Jan 06 12:00:00 +0000 2024"


@dataclass(frozen=True)
class Post:
    """A post of a JPEG of `size` bytes, which are at `start` in the board's file of pictures.

    What is served has the post's id as a comment besides, so that no two files are the same.
    """

    id: int
    md5: str
    ext: str
    size: int
    start: int
    side: tuple[int, int]
    tags: tuple[str, ...]

    @property
    def path(self) -> str:
        return f"/images/{self.id}/{self.md5}.{self.ext}"

    @property
    def head(self) -> bytes:
        return _commented(self.id)


def read_posts(folder: Path) -> list[Post]:
    """Read the posts that `write_posts` wrote, newest first."""
    with (folder / "posts.jsonl").open() as lines:
        return [
            Post(**fields | {"side": tuple(fields["side"]), "tags": tuple(fields["tags"])})
            for fields in map(json.loads, lines)
        ]


@dataclass(frozen=True)
class Picture:
    """What a post shows; without `data` a file that nobody asks for."""

    id: int
    ext: str
    data: bytes
    side: tuple[int, int]
    tags: tuple[str, ...]


def write_posts(folder: Path, pictures: Iterable[Picture]) -> None:
    """Write pictures one behind the other, each once, and posts beside them; ids must fall."""
    starts: dict[bytes, int] = {}
    end = 0
    with (folder / "pictures").open("wb") as out, (folder / "posts.jsonl").open("w") as lines:
        for shown in pictures:
            assert not shown.data or shown.data.startswith(_BEGIN)
            if shown.data not in starts:
                starts[shown.data] = end
                end += out.write(shown.data)
            post = Post(
                id=shown.id,
                md5=hashlib.md5(_commented(shown.id) + shown.data[len(_BEGIN) :]).hexdigest(),
                ext=shown.ext,
                size=len(shown.data),
                start=starts[shown.data],
                side=shown.side,
                tags=shown.tags,
            )
            lines.write(json.dumps(asdict(post)) + "\n")


# How the JPEGs begin: start, and the JFIF segment by which some tell that they are JPEGs.
_BEGIN = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"


def _commented(post_id: int) -> bytes:
    return _BEGIN + b"\xff\xfe\0\x0a%08d" % post_id


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    """Return a JPEG that posts can be written of."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


class Served:
    """A board in a process of its own; used as a context."""

    def __init__(self, folder: Path, latency: float = 0.0) -> None:
        self._command = [sys.executable, "-m", "tests.benchmarks.board", str(folder)]
        self._command += ["--latency", str(latency)]

    def __enter__(self) -> Served:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, text=True, cwd=_ROOT
        )
        assert self._process.stdout is not None
        self.root = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def stats(self) -> dict[str, Any]:
        """Return what was asked since the last call."""
        with urllib.request.urlopen(f"{self.root}/stats", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def options(self, storage: str, *tags: str) -> list[str]:
        """Return the options of scrape for tags of this board, as fast as it can."""
        return [
            *("--board", f"gelbooru02+{self.root}", "--allow-private-hosts"),
            *("--max-rate", "10000", "--log-level", "warning"),
            *("--storage", storage, "--tags", ",".join(tags)),
        ]


class Board:
    """Serves posts until its process ends."""

    def __init__(self, folder: Path, latency: float) -> None:
        self._posts = read_posts(folder)
        self._by_path = {post.path: post for post in self._posts}
        self._pictures = (folder / "pictures").open("rb")
        self._latency = latency
        self._reset()

    def _reset(self) -> None:
        self._requests = self._sent = self._bytes = 0
        self._first = self._last = 0.0
        self._cpu = time.process_time()

    async def serve(self) -> None:
        """Listen, tell the port, answer."""
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        listening.setblocking(False)
        port = listening.getsockname()[1]
        self._root = f"http://127.0.0.1:{port}"
        print(port, flush=True)
        loop = asyncio.get_running_loop()
        tasks = set()
        while True:
            connection, _ = await loop.sock_accept(listening)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(self._talk(connection))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _talk(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection, suppress(ConnectionError):
            received = b""
            while True:
                while b"\r\n\r\n" not in received:
                    more = await loop.sock_recv(connection, 1 << 16)
                    if not more:
                        return
                    received += more
                head, _, received = received.partition(b"\r\n\r\n")
                await self._answer(connection, head.split(b" ", 2)[1].decode())
                if b"\nconnection: close" in head.lower():
                    return

    async def _answer(self, connection: socket.socket, target: str) -> None:
        loop = asyncio.get_running_loop()
        if target == "/stats":
            await loop.sock_sendall(connection, _message("application/json", self._stats()))
            return
        due = loop.time() + self._latency
        self._requests += 1
        self._first = self._first or time.monotonic()
        post = self._by_path.get(target)
        if post is None:
            message = self._page(target)
            await asyncio.sleep(due - loop.time())
            await loop.sock_sendall(connection, message)
            return
        await asyncio.sleep(due - loop.time())
        # Small enough for an empty buffer; MSG_MORE joins it to what follows.
        length = len(post.head) + post.size - len(_BEGIN)
        connection.send(_head("image/jpeg", length) + post.head, socket.MSG_MORE)
        at, end = post.start + len(_BEGIN), post.start + post.size
        while at < end:
            try:
                at += os.sendfile(connection.fileno(), self._pictures.fileno(), at, end - at)
            except BlockingIOError:
                await _writable(loop, connection)
        self._sent += 1
        self._bytes += length
        self._last = time.monotonic()

    def _stats(self) -> bytes:
        stats = {
            "requests": self._requests,
            "pictures": self._sent,
            "bytes": self._bytes,
            "first": self._first,
            "last": self._last,
            "cpu": time.process_time() - self._cpu,
        }
        self._reset()
        return json.dumps(stats).encode()

    def _page(self, target: str) -> bytes:
        parts = urlsplit(target)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if query.get("page") != "dapi":
            return _message("text/plain", b"no such page", "404 Not Found")
        tags = query.get("tags", "")
        limit = min(int(query.get("limit", 100)), _PAGE)
        offset = int(query.get("pid", 0)) * limit
        found = islice(self._search(tags), offset, offset + limit)
        shown = [self._fields(post) for post in found]
        if query.get("json") == "1":
            return _message("application/json", json.dumps(shown).encode())
        elements = "".join(
            "<post " + " ".join(f'{k}="{escape(str(v))}"' for k, v in fields.items()) + "/>"
            for fields in shown
        )
        count = sum(1 for _ in self._search(tags))
        text = f'<?xml version="1.0"?><posts count="{count}" offset="{offset}">{elements}</posts>'
        return _message("text/xml", text.encode())

    def _search(self, tags: str) -> Iterator[Post]:
        """Yield the posts found, newest first; all are of one rating."""
        present, absent = set(), set()
        below, above = 1 << 60, 0
        for term in tags.split():
            if term.startswith("id:<"):
                below = min(below, int(term[4:]))
            elif term.startswith("id:>"):
                above = max(above, int(term[4:]))
            elif term.startswith("-"):
                absent.add(term[1:])
            elif term != "all":
                present.add(term)
        first = bisect.bisect_right(self._posts, -below, key=lambda post: -post.id)
        for post in islice(self._posts, first, None):
            if post.id <= above:
                return
            if present.issubset(post.tags) and absent.isdisjoint(post.tags):
                yield post

    def _fields(self, post: Post) -> dict[str, Any]:
        return {
            "id": post.id,
            "md5": post.md5,
            "hash": post.md5,
            "file_url": self._root + post.path,
            "width": post.side[0],
            "height": post.side[1],
            "rating": "general",
            "tags": " ".join(post.tags),
            "parent_id": 0,
            "score": 0,
            "created_at": _DATE,
        }


async def _writable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    ready = loop.create_future()
    loop.add_writer(connection, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_writer(connection)


def _head(media_type: str, length: int, status: str = "200 OK") -> bytes:
    lines = f"HTTP/1.1 {status}", f"Content-Type: {media_type}", f"Content-Length: {length}"
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _message(media_type: str, body: bytes, status: str = "200 OK") -> bytes:
    return _head(media_type, len(body), status) + body


def main() -> None:
    """Serve a folder until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds")
    asked = parser.parse_args()
    asyncio.run(Board(asked.folder, asked.latency).serve())


if __name__ == "__main__":
    main()
