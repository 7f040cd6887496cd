"""A known crawler of boards, gallery-dl, run on the local board; and a board with many posts."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from imagetag.demo.server import BoardServer
from tests.boardserver import Engine
from tests.builders.pictures import plain

# What the crawler calls an engine, and its page of a query.
_EXTRACTORS: dict[Engine, tuple[str, str]] = {
    "gelbooru02": ("gelbooru_v02", "/index.php?page=post&s=list&tags={}"),
    "gelbooru": ("gelbooru", "/index.php?page=post&s=list&tags={}"),
    "danbooru": ("Danbooru", "/posts?tags={}"),
    "moebooru": ("moebooru", "/post?tags={}"),
    "e621": ("E621", "/posts?tags={}"),
    "philomena": ("philomena", "/search?q={}"),
}
# The crawler knows gelbooru.com, and no other board of that engine: it is told another address.
_AT_OUR_ROOT = """
import sys, gallery_dl
from gallery_dl.extractor.gelbooru import GelbooruBase
GelbooruBase.root = sys.argv.pop(1)
sys.exit(gallery_dl.main())
"""


def crawl(
    folder: Path, board: BoardServer, engine: Engine, query: str, *options: str
) -> list[dict[str, Any]]:
    """Return what the crawler tells of each post of a query, in its order, and `crawled_url`.

    The crawler's own files are in `folder`. With `options` of its own it does as they say instead.
    """
    name, page = _EXTRACTORS[engine]
    root = board.url
    site = {"root": root, "pattern": re.escape(root.removeprefix("http://"))}
    settings: dict[str, Any] = {"sleep-request": 0, "retries": 0}
    extractor = {name: {"ours": site} | settings, "ours": settings}
    if engine == "gelbooru":
        extractor = {name: settings | {"api-key": "key", "user-id": "1"}}
        command, start = ["-c", _AT_OUR_ROOT, root], "https://gelbooru.com"
    else:
        command, start = ["-m", "gallery_dl"], f"{name}:{root}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"extractor": extractor}))
    ended = subprocess.run(
        [
            *(sys.executable, *command, "--config-ignore", "--config", str(folder / "config.json")),
            *(options or ("--dump-json",)),
            start + page.format(quote(query)),
        ],
        check=True,
        timeout=800,
        capture_output=True,
        text=True,
    )
    assert "error" not in ended.stderr
    if options:
        return []
    told = json.loads(ended.stdout)
    files = [message[1:] for message in told if message[0] == 3]
    return [fields | {"crawled_url": url} for url, fields in files]


def write_board(folder: Path, count: int) -> dict[int, dict[str, Any]]:
    """Write a listing of many posts, which share one picture; return its lines by id.

    Tags, ratings and states are mixed by the number of the post, and ids have gaps.
    """
    posts = {}
    ratings = ("general", "general", "sensitive", "general", "questionable", "explicit", "general")
    for number in range(count):
        post_id = 1000 + 3 * number + number % 2
        tags = ["everything", "blue_sky"] if number % 5 == 0 else ["everything"]
        tags += ["fox"] * (number % 3 != 0) + ["robot"] * (number % 4 == 0)
        posts[post_id] = {
            "tags": tags,
            "rating": ratings[number % 7],
            "score": number % 11,
            "status": {50: "deleted", 51: "banned"}.get(number % 100, "active"),
            "categories": {"fox": "character", "robot": "species"},
        }
    return write_posts(folder, posts)


def write_posts(folder: Path, posts: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Write a listing of posts, of which tags and rating are given; return its lines by id."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "picture.png").write_bytes(plain(40, 30, (200, 90, 60)))
    fixed = {"file": "picture.png", "width": 40, "height": 30, "ext": "png"}
    lines = {
        i: fixed | {"id": i, "md5": hashlib.md5(str(i).encode()).hexdigest()} | post
        for i, post in posts.items()
    }
    (folder / "posts.jsonl").write_text("\n".join(map(json.dumps, lines.values())))
    return lines
