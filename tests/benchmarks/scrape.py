"""How fast pictures come from a board into storage, beside gallery-dl, img2dataset and curl.

Each fetches as many JPEGs of 200 to 500 kB from a board of 50 ms latency in another process, one
contender after the other, several times in turn: the scraper half with its tag and half without,
the others those of the tag. Counted are the seconds from the first request, which the board tells,
to the end of the command; of img2dataset, whose end takes long, those of its own download phase.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import boto3
import numpy as np
from PIL import Image

from tests.benchmarks.board import Picture, read_posts, write_posts
from tests.benchmarks.peers import peer_python
from tests.integration.ceph import Ceph, missing

_ROOT = Path(__file__).parents[2]
_OURS = "imagetag scrape"
_TAG = "fox"
_COUNT = 334  # pictures to fetch
_POSTS = 10 * _COUNT  # on the board, one in ten with the tag
_CONNECTIONS = 32
_BARE = ["--no-curate", "--no-perceptual-hash"]  # what the others do too: fetch, check, store
_HALVES = ("--limit", str(_COUNT // 2))  # and as many without the tag
# What img2dataset does with what it fetched. The goal was set for the first, which encodes anew;
# the second does what the scraper does, and the last looks at nothing.
_IMG2DATASET: dict[str, dict[str, Any]] = {
    "img2dataset, encoded anew": {"resize_mode": "no"},
    "img2dataset, checked": {"resize_mode": "no", "skip_reencode": True},
    "img2dataset, unchecked": {"disable_all_reencoding": True},
}
_GOALS = {"gallery-dl": 10, "img2dataset, encoded anew": 2, "curl --parallel": 0.45}
_LISTED, _FETCHED, _WITHOUT_TAG = 100_000, 20_000, 100  # posts of the memory bench


@dataclass(frozen=True)
class Run:
    """One run of a contender, in seconds.

    `fetching` is from the first request to its end, `whole` the command's time, `cpu` what it took
    of all cores, `board` what the board took.
    """

    fetching: float
    whole: float
    cpu: float
    board: float


class Served:
    """A board in a process of its own; used as a context."""

    def __init__(self, folder: Path, latency: float) -> None:
        self._command = [sys.executable, "-m", "tests.benchmarks.board", str(folder)]
        self._command += ["--latency", str(latency)]
        self.posts = read_posts(folder)

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
        drawn.append(_jpeg(picture, quality=int(random.integers(72, 89))))
    for number in range(_POSTS, 0, -1):
        if number % 10:
            # None that the newest posts with the tag show, too.
            yield Picture(number, "jpg", drawn[number % (_COUNT // 2)], (1000, 1500), ("solo",))
        else:
            yield Picture(number, "jpg", drawn[number // 10 - 1], (1000, 1500), (_TAG, "solo"))


def draw_many() -> Iterator[Picture]:
    """Yield posts by the ten thousand: a fifth has a tiny picture, the others a video."""
    tiny = _jpeg(Image.new("RGB", (64, 64)))
    for number in range(_LISTED, 0, -1):
        tags = ("solo",) if number % (_LISTED // _WITHOUT_TAG) == 0 else (_TAG, "solo", "1girl")
        if number % (_LISTED // _FETCHED) == 0:
            yield Picture(number, "jpg", tiny, (64, 64), tags)
        else:
            yield Picture(number, "webm", b"", (64, 64), tags)


def _jpeg(picture: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


# --- The contenders ---------------------------------------------------------------------------


def _scrape(root: str, storage: str, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "jobs.cli", "scrape", "--board", f"gelbooru02+{root}"),
        *("--allow-private-hosts", "--max-rate", "10000", "--concurrency", str(_CONNECTIONS)),
        *("--log-level", "warning", "--storage", storage, "--tags", _TAG, *options),
    ]


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


# --- Running them -----------------------------------------------------------------------------


def measure(
    board: Served,
    make: Callable[[Path], list[str]],
    environment: dict[str, str] | None = None,
    stores: int | None = _COUNT,
) -> Run:
    """Run a command in an empty folder; what it stored there is counted, and deleted."""
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        folder = Path(scratch)
        command = make(folder)
        board.stats()
        usage, whole = _run(command, environment)
        end = time.monotonic()
        stats = board.stats()
        if stats["pictures"] != _COUNT:
            raise RuntimeError(f"{command[:4]} fetched {stats['pictures']} of {_COUNT}")
        stored = sum(1 for _ in (folder / "files").rglob("*.jpg"))
        if stores is not None and stored != stores:
            raise RuntimeError(f"{command[:4]} stored {stored} of {stores}")
        phase = _phase(folder)
        return Run(
            end - stats["first"] if phase is None else phase,
            whole,
            usage.ru_utime + usage.ru_stime,
            stats["cpu"],
        )


def _run(command: list[str], environment: dict[str, str] | None = None) -> tuple[Any, float]:
    """Run a command; return what it used, its children included, and its seconds."""
    with tempfile.TemporaryFile() as out:
        begin = time.monotonic()
        process = subprocess.Popen(
            command, cwd=_ROOT, stdout=out, stderr=out, env=os.environ | (environment or {})
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begin
        if process.returncode:
            out.seek(0)
            told = out.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{command[:4]} ended with {process.returncode}: {told}")
        return usage, seconds


def compete(contenders: dict[str, Callable[[], Run]], repetitions: int) -> dict[str, list[Run]]:
    """Run each contender several times, in turn; one that fails is left out, and said so."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for _ in range(repetitions):
        for name in list(runs):
            try:
                runs[name].append(contenders[name]())
            except RuntimeError as error:
                print(f"WARNING: {name} FAILED AND IS LEFT OUT: {error}", file=sys.stderr)
                del runs[name]
                continue
            print(f"  {name}: {runs[name][-1].fetching:.2f} s", file=sys.stderr)
    if _OURS not in runs:
        raise SystemExit(f"there is nothing to compare with: {_OURS} failed")
    return runs


def table(runs: dict[str, list[Run]]) -> str:
    """Return the runs as a Markdown table."""
    heads = ["", "images/s, best", "median", "whole command", "CPU ms an image", "the board's"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for name, found in runs.items():
        rates = [_COUNT / run.fetching for run in found]
        cells = [
            f"{max(rates):.1f}",
            f"{median(rates):.1f}",
            f"{median(run.whole for run in found):.2f} s",
            f"{1000 * median(run.cpu for run in found) / _COUNT:.1f}",
            f"{1000 * median(run.board for run in found) / _COUNT:.1f}",
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def _ratio(runs: dict[str, list[Run]], ours: str, theirs: str) -> str:
    best, middle = (
        of(run.fetching for run in runs[theirs]) / of(run.fetching for run in runs[ours])
        for of in (min, median)
    )
    return f"{ours} / {theirs}: {best:.2f} of the best, {middle:.2f} of the medians"


# --- The parts --------------------------------------------------------------------------------


def speed(repetitions: int = 3) -> None:
    """Print a table of all contenders, and ours into S3 beside a local folder."""
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        folder = Path(scratch)
        write_posts(folder, draw())
        python = peer_python("img2dataset")
        with Served(folder, latency=0.05) as board:
            shown = [post for post in board.posts if _TAG in post.tags]
            urls = [board.root + post.path for post in shown]
            size = sum(post.size for post in shown) / len(shown) / 1000
            ours = partial(_ours, board)
            contenders = {_OURS: ours(_BARE)}
            # Some pictures are on the board more than once, and it drops twins.
            contenders[_OURS + " with its defaults"] = ours([], stores=None)
            contenders["gallery-dl"] = partial(measure, board, partial(_gallery_dl, board.root))
            contenders["curl --parallel"] = partial(measure, board, partial(_curl, urls))
            if python is not None:
                for name, options in _IMG2DATASET.items():
                    command = partial(_img2dataset, python, urls, options)
                    contenders[name] = partial(measure, board, command)
            print(f"{_COUNT} JPEGs, {size:.0f} kB on average, 50 ms latency\n")
            runs = compete(contenders, repetitions)
            print(table(runs) + "\n")
            for name in list(runs)[1:]:
                goal = f" (goal {_GOALS[name]})" if name in _GOALS else ""
                print(_ratio(runs, _OURS, name) + goal)
            with _s3() as (name, settings):
                s3 = f"{_OURS} into S3 ({name})"
                compared = {
                    _OURS: ours(_BARE),
                    s3: lambda: measure(
                        board,
                        lambda _: _scrape(board.root, _new_bucket(settings), *_HALVES, *_BARE),
                        settings,
                        stores=None,
                    ),
                }
                runs = compete(compared, repetitions)
                print("\n" + table(runs) + "\n")
                if s3 in runs:
                    print(_ratio(runs, s3, _OURS))


def _ours(board: Served, options: list[str], stores: int | None = _COUNT) -> Callable[[], Run]:
    def make(folder: Path) -> list[str]:
        return _scrape(board.root, str(folder / "files"), *_HALVES, *options)

    return partial(measure, board, make, stores=stores)


@contextlib.contextmanager
def _s3() -> Iterator[tuple[str, dict[str, str]]]:
    """Start an S3 server; gives its name, and the settings to reach it."""
    settings = {"AWS_DEFAULT_REGION": "us-east-1"}
    if missing() is None:
        with tempfile.TemporaryDirectory(prefix="imagetag-ceph-") as scratch:
            ceph = Ceph(Path(scratch))
            try:
                ceph.start()
                settings |= {"AWS_ENDPOINT_URL_S3": ceph.endpoint}
                settings |= {"AWS_ACCESS_KEY_ID": ceph.key, "AWS_SECRET_ACCESS_KEY": ceph.secret}
                yield "Ceph radosgw", settings
            finally:
                ceph.stop()
        return
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    settings |= {"AWS_ENDPOINT_URL_S3": f"http://{host}:{port}"}
    settings |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    try:
        yield "moto, in this process, as there is no radosgw here", settings
    finally:
        moto.stop()


def _new_bucket(settings: dict[str, str]) -> str:
    name = f"bench-{secrets.token_hex(6)}"
    boto3.Session().client(
        "s3",
        endpoint_url=settings["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        region_name=settings["AWS_DEFAULT_REGION"],
    ).create_bucket(Bucket=name)
    return f"s3://{name}"


def memory() -> None:
    """Print the most memory that a scrape of 100,000 posts took."""
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        folder = Path(scratch)
        write_posts(folder, draw_many())
        with Served(folder, latency=0.0) as board:
            command = _scrape(board.root, str(folder / "data"), *_BARE, "--limit", str(_LISTED))
            usage, seconds = _run(command)
            print(
                f"{_OURS}, {_LISTED} posts listed, {board.stats()['pictures']} pictures fetched in "
                f"{seconds:.0f} s: {usage.ru_maxrss / 1024:.0f} MB at the most (goal 300)",
                flush=True,
            )


def main() -> None:
    """Print the table of speeds, then the memory; or only the memory."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks scrape", description=__doc__)
    parser.add_argument("--memory", action="store_true", help="only the memory bench")
    parser.add_argument("--repetitions", type=int, default=3)
    asked = parser.parse_args()
    if not asked.memory:
        speed(asked.repetitions)
    memory()


if __name__ == "__main__":
    main()
