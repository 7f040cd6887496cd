"""How fast objects of 200 kB go into S3 by our storage, beside a plain loop over boto3's client."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from botocore.config import Config

from imagetag.storage import open_storage
from tests.benchmarks.ratios import Goal, Ratio, compared, with_unit
from tests.benchmarks.s3 import Server, served

_OBJECTS, _SIZE, _THREADS, _PAIRS = 200, 200_000, 16, 5


def rows() -> Iterator[Ratio]:
    """Yield our rate beside one put after the other, and beside as many at once."""
    data = random.Random(0).randbytes(_SIZE)
    with served() as server:
        os.environ |= server.settings  # of this process, which is the benchmark's own
        found = [_measured(server, data) for _ in range(_PAIRS)]
    ours, loop, threads = zip(*found, strict=True)
    what = f"Storage.write by {_THREADS} threads, objects of 200 kB into {server.name}"
    tell = with_unit("objects/s")
    yield compared(what, ours, loop, tell, by="boto3, put after put", goal=Goal(1))
    by = f"boto3's put_object by {_THREADS} threads"
    yield compared(what, ours, threads, tell, by=by, goal=Goal(0.9))


def _measured(server: Server, data: bytes) -> tuple[float, float, float]:
    client = server.client(config=Config(max_pool_connections=_THREADS))

    def put(bucket: str) -> Callable[[int], object]:
        return lambda number: client.put_object(Bucket=bucket, Key=f"{number}.jpg", Body=data)

    storage = open_storage(f"s3://{server.new_bucket()}", _THREADS)
    plain, threaded = put(server.new_bucket()), put(server.new_bucket())
    numbers = range(_OBJECTS)

    def write(number: int) -> None:
        storage.write(f"{number}.jpg", data)

    with ThreadPoolExecutor(_THREADS) as pool:
        for way in (write, threaded):
            _rate(pool.map(way, numbers[: 2 * _THREADS]))  # connections are there from now on
        ours = _rate(pool.map(write, numbers))
        loop = _rate(map(plain, numbers))
        threads = _rate(pool.map(threaded, numbers))
    return ours, loop, threads


def _rate(puts: Iterable[object]) -> float:
    begun = time.perf_counter()
    return sum(1 for _ in puts) / (time.perf_counter() - begun)
