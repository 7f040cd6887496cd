"""How fast pictures come from a board into storage, beside gallery-dl, img2dataset and curl.

Each fetches as many JPEGs of 200 to 500 kB from a board of 50 ms latency in another process, one
contender after the other, several times in turn: the scraper half with its tag and half without,
the others those of the tag. Counted are the seconds from the first request, which the board tells,
to the end of the command; of img2dataset, whose end takes long, those of its own download phase.
Two lines tell what bounds the rest on a machine: how far curl is above img2dataset, and how fast
the same pictures are only decoded, as small as a perceptual hash needs them.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.benchmarks.board import Picture, Served, jpeg, read_posts, write_posts
from tests.benchmarks.commands import run
from tests.benchmarks.peers import peer_python
from tests.benchmarks.ratios import Goal, Ratio, compared, missing, with_unit
from tests.benchmarks.s3 import served

_BARE, _DEFAULTS = "imagetag scrape, bare", "imagetag scrape"
_INTO_S3 = "imagetag scrape, bare, into S3"
_ANEW, _CURL = "img2dataset, encoded anew", "curl --parallel"
_TAG = "fox"
_COUNT = 334  # pictures to fetch
_POSTS = 10 * _COUNT  # on the board, one in ten with the tag
_CONNECTIONS = 32
_PAIRS = 3
_ONLY_FETCH = ["--no-curate", "--no-perceptual-hash"]  # what the others do too: check, and store
_HALVES = ("--limit", str(_COUNT // 2))  # and as many without the tag
# What img2dataset does with what it fetched. The first encodes anew; the second does what the
# scraper does, and the last looks at nothing.
_IMG2DATASET: dict[str, dict[str, Any]] = {
    _ANEW: {"resize_mode": "no"},
    "img2dataset, checked": {"resize_mode": "no", "skip_reencode": True},
    "img2dataset, unchecked": {"disable_all_reencoding": True},
}
_OTHERS = ("gallery-dl", _CURL, *_IMG2DATASET)
_DECODED = "decoding alone, at an eighth"
_GOALS = {
    (_BARE, "gallery-dl"): Goal(15),
    (_DEFAULTS, "gallery-dl"): Goal(10),
    (_BARE, _CURL): Goal(0.5),
    (_BARE, _ANEW): Goal(3),
}
_GOAL_OF_DEFAULTS = Goal(0.7)  # of bare


def draw() -> Iterator[Picture]:
    """Yield posts of pictures as boards hold them: noise over gradients, 1000 x 1500 pixels."""
    random = np.random.default_rng(0)
    noise = random.integers(-12, 13, (1800, 1300, 3), dtype="int16")
    drawn = []
    for _ in range(_COUNT):
        coarse = random.integers(0, 256, (60, 40, 3), dtype="uint8")
        top, left = random.integers(0, 300, 2)
        pixels = np.asarray(Image.fromarray(coarse).resize((1000, 1500))).astype("int16")
        pixels += noise[top : top + 1500, left : left + 1000]
        picture = Image.fromarray(pixels.clip(0, 255).astype("uint8"))
        drawn.append(jpeg(picture, quality=int(random.integers(72, 89))))
    for number in range(_POSTS, 0, -1):
        if number % 10:
            # None that the newest posts with the tag show, too.
            yield Picture(number, "jpg", drawn[number % (_COUNT // 2)], (1000, 1500), ("solo",))
        else:
            yield Picture(number, "jpg", drawn[number // 10 - 1], (1000, 1500), (_TAG, "solo"))


# --- The contenders ---------------------------------------------------------------------------


def _scrape(board: Served, storage: str, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "jobs.cli", "scrape", *board.options(storage, _TAG)),
        *("--concurrency", str(_CONNECTIONS), *_HALVES, *options),
    ]


def _into_folder(board: Served, options: list[str], folder: Path) -> list[str]:
    return _scrape(board, str(folder / "files"), *options)


def _gallery_dl(root: str, folder: Path) -> list[str]:
    site = {"root": root, "pattern": re.escape(root.removeprefix("http://"))}
    config = folder / "config.json"
    config.write_text(json.dumps({"extractor": {"gelbooru_v02": {"bench": site}}}))
    return [
        *(sys.executable, "-m", "gallery_dl", "--config-ignore", "--config", str(config)),
        *("--quiet", "--directory", str(folder / "files")),
        f"gelbooru_v02:{root}/index.php?page=post&s=list&tags={_TAG}",
    ]


def _curl(urls: list[str], folder: Path) -> list[str]:
    config = folder / "urls"
    (folder / "files").mkdir()
    config.write_text(
        "".join(f'url = "{url}"\noutput = "{folder}/files/{i}.jpg"\n' for i, url in enumerate(urls))
    )
    connections = str(_CONNECTIONS)
    return [
        *("curl", "--silent", "--show-error", "--fail", "--parallel", "--parallel-immediate"),
        *("--parallel-max", connections, "--config", str(config)),
    ]


def _img2dataset(python: Path, urls: list[str], options: dict[str, Any], folder: Path) -> list[str]:
    (folder / "urls").write_text("\n".join(urls))
    options = {
        **options,
        "url_list": str(folder / "urls"),
        "output_folder": str(folder / "files"),
        "processes_count": 2,
        "thread_count": 16,
        "number_sample_per_shard": -(-len(urls) // 2),
        "extract_exif": False,
        "compute_hash": "md5",
    }
    code = (
        "import json, sys, img2dataset\n"
        "if __name__ == '__main__':\n    img2dataset.download(**json.loads(sys.argv[1]))\n"
    )
    (folder / "run.py").write_text(code)
    return [str(python), str(folder / "run.py"), json.dumps(options)]


def _phase(folder: Path) -> float | None:
    """Return the seconds that img2dataset says its processes downloaded for; None of others."""
    stats = [json.loads(path.read_text()) for path in (folder / "files").glob("*_stats.json")]
    if not stats:
        return None
    return float(max(s["end_time"] for s in stats) - min(s["start_time"] for s in stats))


def _decoding(pictures: list[bytes]) -> float:
    """Return how many pictures a second Pillow decodes at 1/8, by a thread for each processor."""
    begun = time.monotonic()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(_decode, pictures))
    return len(pictures) / (time.monotonic() - begun)


def _decode(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (image.width // 8, image.height // 8))
        image.decodermaxblock = len(data)  # in one piece, as the scraper does
        image.load()


# --- Running them -----------------------------------------------------------------------------


def measure(
    board: Served,
    make: Callable[[Path], list[str]],
    environment: Mapping[str, str] | None = None,
    stores: int | None = _COUNT,
) -> float:
    """Run a command in an empty folder, and return its pictures a second.

    Raises:
        RuntimeError: if it fails, or fetches or stores others than it is to.

    """
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        folder = Path(scratch)
        command = make(folder)
        board.stats()
        run(command, environment)
        end = time.monotonic()
        stats = board.stats()
        if stats["pictures"] != _COUNT:
            raise RuntimeError(f"{command[:4]} fetched {stats['pictures']} of {_COUNT}")
        stored = sum(1 for _ in (folder / "files").rglob("*.jpg"))
        if stores is not None and stored != stores:
            raise RuntimeError(f"{command[:4]} stored {stored} of {stores}")
        return _COUNT / (_phase(folder) or end - stats["first"])


def _compete(
    contenders: Mapping[str, Callable[[], float]],
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Run each contender several times, in turn; return their rates, and why others have none.

    Raises:
        RuntimeError: if one of ours fails.

    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    lost: dict[str, str] = {}
    for _ in range(_PAIRS):
        for name in list(rates):
            try:
                rates[name].append(contenders[name]())
            except (RuntimeError, OSError) as error:
                if name in (_BARE, _DEFAULTS, _INTO_S3):
                    raise
                lost[name] = " ".join(str(error).split())[-300:]
                del rates[name]
    return rates, lost


def rows() -> Iterator[Ratio]:
    """Yield the bare scrape and that with its defaults beside the others, and into S3."""
    tell = with_unit("pictures/s")
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        folder = Path(scratch)
        write_posts(folder, draw())
        python = peer_python("img2dataset")
        with Served(folder, latency=0.05) as board, served() as s3:
            posts = [post for post in read_posts(folder) if _TAG in post.tags]
            urls = [board.root + post.path for post in posts]
            shown = (folder / "pictures").read_bytes()
            pictures = [shown[post.start : post.start + post.size] for post in posts]
            contenders: dict[str, Callable[[], float]] = {
                _BARE: partial(measure, board, partial(_into_folder, board, _ONLY_FETCH)),
                # Some pictures are on the board more than once, and it drops twins.
                _DEFAULTS: partial(measure, board, partial(_into_folder, board, []), stores=None),
                _INTO_S3: lambda: measure(
                    board,
                    lambda _: _scrape(board, f"s3://{s3.new_bucket()}", *_ONLY_FETCH),
                    s3.settings,
                    stores=None,
                ),
                "gallery-dl": partial(measure, board, partial(_gallery_dl, board.root)),
                _CURL: partial(measure, board, partial(_curl, urls)),
                _DECODED: partial(_decoding, pictures),
            }
            if python is not None:
                for name, options in _IMG2DATASET.items():
                    command = partial(_img2dataset, python, urls, options)
                    contenders[name] = partial(measure, board, command)
            rates, lost = _compete(contenders)
    for ours in (_BARE, _DEFAULTS):
        for other in _OTHERS:
            if other in rates:
                goal = _GOALS.get((ours, other))
                yield compared(ours, rates[ours], rates[other], tell, by=other, goal=goal)
            elif ours == _BARE:
                yield missing(ours, other, lost.get(other, "no installation of its pins"))
    if _CURL in rates and _ANEW in rates:
        yield compared(_CURL, rates[_CURL], rates[_ANEW], tell, by=_ANEW)
    yield compared(_DEFAULTS, rates[_DEFAULTS], rates[_DECODED], tell, by=_DECODED)
    bare = rates[_BARE]
    yield compared(_DEFAULTS, rates[_DEFAULTS], bare, tell, by="bare", goal=_GOAL_OF_DEFAULTS)
    into = f"{_INTO_S3} ({s3.name})"
    yield compared(into, rates[_INTO_S3], bare, tell, by="into a folder")
