"""What 10,000 tags and 20 million rows take: requests to storage, bytes, processor time, memory.

    python -m tests.benchmarks.scale
    python -m tests.benchmarks.scale --tags 1000
    python -m tests.benchmarks.scale --write          and into docs/figures.md

Simulated is what the library's own code does with a storage in memory that counts, with manifests,
markers and tables that are made up when they are read: nothing of a network or a disk is in its
time. Measured are a few tags from a board into a folder. Reasoned is what is so many times one tag,
which was simulated. Beside each is what `imagetag plan` would say of it, where it says something.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal

from PIL import Image

from imagetag import layout, log
from imagetag.boards import open_board
from imagetag.curate import curate_tag
from imagetag.dataset import tell_share
from imagetag.embed import find_pictures
from imagetag.explore import explore_tag
from imagetag.features import PART, FeatureStore
from imagetag.layout import Layout
from imagetag.plan import Network, Prices, estimate, find_complete, find_done, find_rates
from imagetag.plan.costs import Estimate
from imagetag.plan.counts import Asked
from imagetag.report import make_leaderboard
from imagetag.scrape import How, Scraper, Selection
from imagetag.scrape.inventory import Known
from imagetag.scrape.selection import DEFAULTS
from imagetag.status import Overview
from imagetag.storage import Storage, open_storage
from imagetag.web import Client
from tests.benchmarks.board import Picture, Served, jpeg, write_posts
from tests.benchmarks.ratios import PAGE, machine, number, table, written
from tests.builders.extractors import make_record
from tests.builders.many import Many
from tests.builders.plans import SETTINGS
from tests.builders.results import make_logits, make_pictures, write_run
from tests.builders.statuses import NOW, ago, write_evaluated, write_explored, write_trained
from tests.storages import Counting, Made, MadeUp

HEAD = ("what", "how", "requests to storage", "bytes", "processor", "memory", "plan")
SHARED = 100  # pictures a tag that the negatives of all tags are of
_BOARD = "https://board.example"
_RECORD = make_record(channels=1024)

Origin = Literal["simulated", "measured", "reasoned"]


@dataclass(frozen=True)
class Counted:
    """What a piece of work took.

    Attributes:
        what: it was.
        how: it is known.
        requests: to storage, by their kind.
        moved: bytes that were read and written.
        seconds: of a processor.
        memory: bytes at the peak, beyond what there was before.
        planned: reads, and writes with lists, as `imagetag plan` has them; None where it has none.

    """

    what: str
    how: Origin
    requests: dict[str, int]
    moved: int
    seconds: float
    memory: int
    planned: tuple[int, int] | None = None

    @property
    def reads(self) -> int:
        """GET and HEAD."""
        return self.requests.get("GET", 0) + self.requests.get("HEAD", 0)

    @property
    def writes(self) -> int:
        """What is priced as PUT is."""
        return sum(self.requests.get(kind, 0) for kind in ("PUT", "COPY", "LIST"))

    def cells(self) -> list[str]:
        """Return a line of the table."""
        told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.requests.items()))
        plan = ""
        if self.planned is not None:
            plan = "{:,} and {:,}; here {:,} and {:,}".format(
                *self.planned, self.reads, self.writes
            )
        moved = f"{number(self.moved / 1e6)} MB"
        took = f"{number(self.seconds)} s"
        return [self.what, self.how, told, moved, took, f"{number(self.memory / 1e6)} MB", plan]


def counted(
    what: str,
    storage: Counting,
    work: Callable[[], object],
    planned: tuple[int, int] | None = None,
    how: Origin = "simulated",
) -> Counted:
    """Do a piece of work, and return what it took."""
    storage.reset()
    _forget_peak()
    before = _memory("VmRSS")
    begun = time.process_time()
    made = work()
    seconds = time.process_time() - begun
    memory = max(0, _memory("VmHWM") - before)
    del made
    moved = storage.read_bytes + storage.written
    return Counted(what, how, dict(storage.requests), moved, seconds, memory, planned)


# --- The pieces of work -----------------------------------------------------------------------


def scrape_again(many: Many) -> Counted:
    """Scrape tags that are complete."""
    with Client(rate=1000) as client:
        board = open_board(f"gelbooru02+{_BOARD}", client)
        selection = Selection(board=board.root, **DEFAULTS)
        storage = _stored(replace(many, request=selection.model_dump(mode="json")))
        scraper = Scraper(storage, board, selection, How())

        def work() -> None:
            for tag in many.names:
                scraper.scrape(tag)

        found = counted(f"scrape of {_of(many)}, all complete", storage, work)
        assert client.sent == 0
    return found


def scrape_on(many: Many) -> Counted:
    """Find out what there is of tags that are to be gone on with: before a request to the board."""
    storage = _stored(many)
    for tag in many.names:
        for entry in list(storage.inner.list(Layout(tag).manifest)):
            _add_images(storage, tag, storage.inner.read(entry.key))
    selection = Selection(board=_BOARD, **DEFAULTS)

    def work() -> None:
        for tag in many.names:
            known = Known.read(storage, Layout(tag), "safebooru", selection)
            assert known.total == 2 * many.limit

    return counted(f"scrape of {_of(many)}, to go on: what there is", storage, work)


def embed_share(many: Many, count: int) -> Counted:
    """Find a share of the pictures, those of them without features, and tell that they are done."""
    storage = _stored(many)
    _add_features(storage.inner, many)
    planned = _plan(many, pods=1, features=True)
    (stage,) = [stage for stage in planned.stages if stage.stage == "embed"]
    store = FeatureStore(storage, _RECORD)

    def work() -> object:
        pictures = find_pictures(storage, many.names, index=0, count=count)
        assert not store.missing(pictures)
        tell_share(storage, _RECORD.name, 0, count, pictures.fingerprints)
        return pictures

    what = f"embed of {_of(many)}, share 1 of {count}, nothing to do"
    # Its pictures are fetched once each, and their features stored, besides.
    planned_reads = stage.gets - stage.images
    planned_writes = stage.puts - 2 * -(-stage.images // PART)
    return counted(what, storage, work, (planned_reads, planned_writes))


def report(many: Many, tested: int = 400) -> Counted:
    """Compare a run of each tag, on so many test pictures."""
    storage, pictures = _stored(many), make_pictures(tested // 2, tested // 2)
    logits = make_logits(pictures, 3.0, seed=1)
    table = b""
    for tag in many.names:
        write_run(storage.inner, tag, "first", pictures, logits, table=table or None)
        table = storage.inner.read(Layout(tag).run("first", "test_predictions.csv"))

    def work() -> None:
        make_leaderboard(storage, storage, layout.report(""), None, "average-precision")

    return counted(f"report of {_of(many)}", storage, work)


def status(many: Many) -> Counted:
    """Tell where tags stand that are done."""
    storage = _done(many)
    return counted(f"status of {_of(many)}", storage, partial(Overview(storage).read, NOW))


def plan(many: Many) -> Counted:
    """Look up what is complete, and reckon."""
    selection = Selection(board=_BOARD, **DEFAULTS)
    storage = _done(replace(many, request=selection.model_dump(mode="json")))

    def work() -> object:
        complete = find_complete(storage, selection, many.names)
        done = find_done(storage, complete, Network("vgg19"), 0.95, 0.95)
        assert len(complete) == len(done) == many.tags
        return complete, done, _plan(many)

    return counted(f"plan of {_of(many)}, all done", storage, work)


def from_board(tags: int, limit: int) -> list[Counted]:
    """Scrape, curate and explore a few tags of a board, which share what has none of them."""
    names = [f"tag_{number:02}" for number in range(tags)]
    random = Random(0)

    def post(number: int) -> Picture:
        """Return a cloud of colours; one in ten has a tag."""
        cloud = Image.frombytes("RGB", (6, 6), random.randbytes(108))
        data = jpeg(cloud.resize((64, 64), Image.Resampling.BICUBIC))
        place = number % (10 * tags)
        return Picture(number, "jpg", data, (64, 64), ("solo", *names[place : place + 1]))

    posts = map(post, range(20 * tags * limit, 0, -1))
    stages = _plan(Many(tags, limit)).stages
    planned: dict[str, tuple[int, int]] = {each.stage: (each.gets, each.puts) for each in stages}
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        folder = Path(scratch)
        write_posts(folder, posts)
        with Served(folder) as served, Client(rate=1e4, allow_private_hosts=True) as client:
            storage = Counting(open_storage(str(folder / "storage")))
            board = open_board(f"gelbooru02+{served.root}", client)
            selection = Selection(board=board.root, **{**DEFAULTS, "limit": limit})
            scraper = Scraper(storage, board, selection, How())

            def each(work: Callable[[str], object]) -> Callable[[], object]:
                return lambda: [work(tag) for tag in names]

            of = f"{tags} tags of {2 * limit:,} pictures"
            return [
                counted(f"{what} of {of}", storage, each(work), planned.get(what), "measured")
                for what, work in (
                    ("scrape", scraper.scrape),
                    ("curate", partial(curate_tag, storage)),
                    ("explore", partial(explore_tag, storage)),
                )
            ]


# --- What they stand on -----------------------------------------------------------------------


def _of(many: Many) -> str:
    return f"{many.tags:,} tags with {2 * many.limit:,} rows each"


def _stored(many: Many) -> Counting:
    storage = MadeUp()
    many.store(storage)
    return Counting(storage)


def _done(many: Many) -> Counting:
    storage = _stored(many)
    for tag in many.names:
        fingerprint = many.fingerprint(tag)
        write_explored(storage.inner, tag, made=ago(120), fingerprint=fingerprint)
        write_trained(storage.inner, tag, made=ago(60), fingerprint=fingerprint)
        write_evaluated(storage.inner, tag, made=ago(10), trained=ago(60))
    return storage


def _add_images(storage: Counting, tag: str, lines: bytes) -> None:
    """Put pictures of nothing where the rows of a part say that they are."""
    assert isinstance(storage.inner, MadeUp)
    for line in lines.splitlines():
        row = json.loads(line)
        key = Layout(tag).image(row["split"], row["label"], row["md5"], row["ext"])
        storage.inner.objects[key] = b"x"


def _add_features(storage: Storage, many: Many) -> None:
    """Put lists of pictures that have features, all there are, as embed stores them."""
    assert isinstance(storage, MadeUp)
    for start in range(0, many.distinct, PART):
        end = min(start + PART, many.distinct)
        make = partial(many.digests, start, end)
        digest = f"{start:024x}"
        for ext, size in (("npz", PART * 4096), ("ids", 16 * (end - start))):
            key = layout.feature_part(_RECORD.name, digest, ext)  # type: ignore[arg-type]
            storage.made[key] = Made(size, make)


def _plan(many: Many, *, pods: int = 1, features: bool = False) -> Estimate:
    """Return what `imagetag plan` says of the tags before anything is done."""
    settings = replace(
        SETTINGS,
        limit=many.limit,
        scrape_pods=1,
        train_pods=1,
        embed_pods=pods,
        features=features,
    )
    given = {"distinct_share": many.distinct / many.rows} if features else {}
    rates = find_rates(None, "vgg19", given, features=features)  # type: ignore[arg-type]
    asked = [Asked(tag, many.limit, True, 1.0) for tag in many.names]
    return estimate(asked, settings, rates, Prices())


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory(name: str) -> int:
    """Return bytes of this process: VmRSS has now, VmHWM had at the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


# --- The table --------------------------------------------------------------------------------


def measured(tags: int, limit: int, read: int, processes: int) -> Iterator[Counted]:
    """Yield what each piece of work takes, each in a process of its own, so many at once.

    What reads all rows or tables is simulated of `read` tags, and reasoned for all.
    """
    many, some, few = (
        Many(count, limit, pool=SHARED * count) for count in (tags, read, min(tags, 20))
    )
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, max_tasks_per_child=1) as pool:

        def do(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
            return pool.submit(_quietly, work, *arguments)

        of_some = [
            do(embed_share, some, 1),
            do(embed_share, some, 10),
            do(report, some),
        ]
        of_few = do(scrape_on, few)
        of_many = [do(work, many) for work in (scrape_again, status, plan)]
        yield from do(from_board, 5, 100).result()
        for of_all in of_many:
            yield of_all.result()
        yield (found := of_few.result())
        # One tag after the other: memory is that of one.
        yield replace(_times(found, tags // few.tags), memory=found.memory)
        for of_part in of_some:
            yield (found := of_part.result())
            if read < tags:
                yield _times(found, tags // read)


def _times(found: Counted, times: int) -> Counted:
    """Return what so many times as many tags take, if each takes the same."""
    return replace(
        found,
        what=f"{times:,} times that",
        how="reasoned",
        requests={kind: times * count for kind, count in found.requests.items()},
        moved=times * found.moved,
        seconds=times * found.seconds,
        memory=times * found.memory,
        planned=found.planned and (times * found.planned[0], times * found.planned[1]),
    )


def _quietly(work: Callable[..., Any], *arguments: Any) -> Any:
    log.configure(level="error")
    return work(*arguments)


def main() -> None:
    """Print the table, and write it where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale")
    parser.add_argument("--tags", type=int, default=10_000)
    parser.add_argument("--limit", type=int, default=1_000, help="pictures of each label of a tag")
    parser.add_argument("--read", type=int, help="tags whose rows or tables are read; all of them")
    parser.add_argument("--processes", type=int, default=2, help="at once")
    parser.add_argument("--write", action="store_true", help="the table into docs/figures.md")
    asked = parser.parse_args()
    lines = []
    for found in measured(asked.tags, asked.limit, asked.read or asked.tags, asked.processes):
        print(" | ".join(found.cells()), file=sys.stderr, flush=True)
        lines.append(found.cells())
    made = f"{machine()}\n\n{table(HEAD, lines)}"
    print(made)
    if asked.write:
        PAGE.write_text(written(PAGE.read_text(), "scale", made))


if __name__ == "__main__":
    # What runs in other processes has to be found there by this module's name.
    from tests.benchmarks.scale import main as _main

    _main()
