"""The scrape job in tests: a board with moods, runs of the job, and what they leave in storage."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, Self

from PIL import Image

from imagetag.dataset.manifest import (
    Dataset,
    Failure,
    Row,
    load_dataset,
    part_keys,
    read_parts,
    read_rows,
    summarize,
)
from imagetag.demo.gelbooru02 import Gelbooru02
from imagetag.demo.pages import Answer
from imagetag.demo.protocol import Request
from imagetag.demo.server import BoardServer
from imagetag.layout import Layout
from imagetag.storage.base import Storage
from jobs import scrape as scrape_job
from tests.boardserver.closed import ClosedGelbooru02
from tests.builders.pictures import plain
from tests.ended import Ended, log_lines

COUNT = 120


@dataclass(frozen=True)
class Drawn:
    """A folder of drawn posts, and what its listing says of them."""

    folder: Path
    posts: dict[int, dict[str, Any]]

    def ids(self, tag: str, *ratings: str) -> list[int]:
        """The posts with a tag, newest first; without ratings named, the general ones."""
        wanted = ratings or ("general",)
        return sorted(
            (i for i, p in self.posts.items() if tag in p["tags"] and p["rating"] in wanted),
            reverse=True,
        )

    def sums(self, ids: list[int]) -> set[str]:
        return {self.posts[post_id]["md5"] for post_id in ids}


class Moody(BoardServer):
    """A board that notes which pictures it was asked for, and may have a mood about each.

    A mood is asked with the picture's sum and how often it was wanted before; it gives an answer,
    raises to hang up, or gives None for the picture. `alias` is found as if it were `fox`.
    Where it is `deaf`, tags that must be absent may be there all the same.
    """

    def __init__(self, folder: Path, api: Literal["open", "closed"] = "open") -> None:
        super().__init__(folder, protocol=Gelbooru02 if api == "open" else ClosedGelbooru02)
        self.asked: list[str] = []
        self.mood: Callable[[str, int], Answer | None] = lambda _md5, _times: None
        self.down = self.deaf = False
        self._noting = threading.Lock()

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def answer(self, request: Request) -> Answer:
        if self.down:
            raise ConnectionResetError
        if request.path.startswith("/images/"):
            md5 = Path(request.path).stem
            with self._noting:
                times = self.asked.count(md5)
                self.asked.append(md5)
            answer = self.mood(md5, times)
            if answer is not None:
                return answer
        tags = re.sub("^alias", "fox", request.params.get("tags", ""))
        if self.deaf:
            tags = tags.replace("-fox", "")
        params = request.params | ({"tags": tags} if "tags" in request.params else {})
        return super().answer(replace(request, params=params))


# --- Running it, and reading what it left -----------------------------------------------------


def arguments(board: BoardServer, storage: Storage, *options: str, tags: str = "fox") -> list[str]:
    return [
        *("--board", f"gelbooru02+{board.url}", "--allow-private-hosts", "--max-rate", "1000"),
        # Plain pictures of nearly one colour are near-duplicates: curating is tested on others.
        *("--storage", storage.url, "--tags", tags, "--no-curate", *options),
    ]


def run(board: BoardServer, storage: Storage, *options: str, tags: str = "fox") -> Ended:
    """Run the job in this process."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        code = scrape_job.main(arguments(board, storage, *options, tags=tags))
    return Ended(code, checked(stderr.getvalue()))


# Ctrl-C counts, though a shell that started this in the background may have said otherwise.
MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from jobs.scrape import main
sys.exit(main(sys.argv[1:]))
"""


def start(
    board: BoardServer, storage: Storage, *options: str, tags: str = "fox"
) -> subprocess.Popen[str]:
    """Start the job as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments(board, storage, *options, tags=tags)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(job: subprocess.Popen[str], timeout: float = 200) -> Ended:
    try:
        _, stderr = job.communicate(timeout=timeout)
    finally:
        job.kill()
    return Ended(job.returncode, checked(stderr))


def checked(stderr: str) -> list[dict[str, Any]]:
    """Every line is a JSON object that says what happened, and none is a traceback."""
    lines = log_lines(stderr)
    for line in lines:
        assert {"timestamp", "level", "event"} <= set(line)
        assert "Traceback" not in json.dumps(line)
        assert line.get("logger") is None, f"a library complains: {line}"
    return lines


def dataset_of(storage: Storage, tag: str = "fox") -> tuple[Dataset, list[Row]]:
    dataset = load_dataset(storage, tag)
    return dataset, list(read_rows(storage, dataset))


def image_keys(storage: Storage) -> list[str]:
    keys = [entry.key for entry in storage.list()]
    return [key for key in keys if re.search(r"/(train|test)/", key)]


def images(storage: Storage) -> dict[str, bytes]:
    return {key: storage.read(key) for key in image_keys(storage)}


def failures(storage: Storage, tag: str = "fox") -> dict[int, Failure]:
    found = read_parts(storage, part_keys(storage, Layout(tag), "failed"), Failure)
    return {failure.post_id: failure for failure in found}


def check(storage: Storage, tag: str = "fox") -> tuple[Dataset, list[Row]]:
    """What holds of every complete dataset: rows, objects and summary agree."""
    dataset, rows = dataset_of(storage, tag)
    layout = Layout(tag)
    stored = {key: data for key, data in images(storage).items() if key.startswith(layout.root)}
    assert {layout.image(row.split, row.label, row.md5, row.ext) for row in rows} == set(stored)
    assert len({row.md5 for row in rows}) == len(rows) == len(stored)
    for row in rows:
        data = stored[layout.image(row.split, row.label, row.md5, row.ext)]
        assert hashlib.md5(data).hexdigest() == row.md5
        assert len(data) == row.bytes
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.size == (row.width, row.height)
        assert (tag in row.tags) == (row.label == "positive")
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row.group, set()).add(row.split)
    assert all(len(found) == 1 for found in splits.values())
    assert (dataset.images, dataset.bytes, dataset.fingerprint) == summarize(rows)
    lost = failures(storage, tag).keys() - {row.post_id for row in rows}
    assert dataset.failures == Counter(failures(storage, tag)[i].reason for i in lost)
    return dataset, rows


def counts(rows: list[Row]) -> Counter[str]:
    return Counter(row.label for row in rows)


# --- Pictures and answers -------------------------------------------------------------------------


def write_post(
    folder: Path, post_id: int, picture: int, size: tuple[int, int] = (80, 70), **fields: Any
) -> None:
    """Add a post to a folder; the same `picture` of one (width, height) is the same bytes."""
    folder.mkdir(exist_ok=True)
    data = png(picture, size)
    line = {
        "id": post_id,
        "file": f"{picture}.png",
        "rating": "general",
        "width": size[0],
        "height": size[1],
        "md5": hashlib.md5(data).hexdigest(),
        "ext": "png",
    }
    (folder / f"{picture}.png").write_bytes(data)
    with (folder / "posts.jsonl").open("a") as listing:
        listing.write(json.dumps(line | fields) + "\n")


def png(number: int, size: tuple[int, int] = (80, 70)) -> bytes:
    return plain(*size, (number % 256, number // 256, 60))


def refused(status: HTTPStatus) -> Answer:
    return Answer(status, "text/html", b"<html>no</html>")


def picture(data: bytes) -> Answer:
    return Answer(HTTPStatus.OK, "image/png", data)


def hang_up() -> Answer:
    raise ConnectionResetError
