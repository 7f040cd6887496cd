"""Pods that know nothing of each other stay under one request rate, measured at the server."""

from __future__ import annotations

import bisect
import contextlib
import multiprocessing
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from imagetag.errors import Terminated
from imagetag.web.client import Client
from tests.scripted import Reply, Request, serving

SHARDS = 8
THREADS = 4


class Counting:
    """A server that answers at once, and notes when each request came (monotonic seconds)."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[float, str]] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ended = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        while not self._ended.is_set():
            for key, _ in self._selector.select(0.1):
                line = key.fileobj
                assert isinstance(line, socket.socket)
                if line is self._listener:
                    accepted, _ = line.accept()
                    self._selector.register(accepted, selectors.EVENT_READ)
                    continue
                now = time.monotonic()
                data = b""
                with contextlib.suppress(OSError):
                    data = line.recv(1 << 16)
                if not data:
                    self._selector.unregister(line)
                    line.close()
                    continue
                self.arrivals.append((now, data.split()[1].decode()))
                line.sendall(self.answer(data.split()[1].decode()))
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]

    @staticmethod
    def answer(path: str) -> bytes:
        if path == "/robots.txt":
            return b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
        if path.startswith("/from/"):
            where = path.replace("from", "to").encode()
            return b"HTTP/1.1 302 On\r\nContent-Length: 0\r\nLocation: " + where + b"\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    def __enter__(self) -> Counting:
        self._thread = threading.Thread(target=self.serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def shard(url: str, rate: float, index: int, seconds: float) -> None:
    """Ask as fast as the client lets us."""
    client = Client(
        rate=rate,
        shard_index=index,
        shard_count=SHARDS,
        concurrency=THREADS,
        allow_private_hosts=True,
    )

    def ask(thread: int) -> None:
        with contextlib.suppress(Terminated):
            for number in range(10**9):
                client.get(f"{url}/{'from' if number % 3 else 'a'}/{thread}", max_bytes=100)

    with ThreadPoolExecutor(THREADS) as pool:
        for thread in range(THREADS):
            pool.submit(ask, thread)
        time.sleep(seconds)
        client.stop()


def busiest_second(times: list[float]) -> int:
    """Return the most arrivals in any window of one second."""
    return max(bisect.bisect_left(times, start + 1) - at for at, start in enumerate(times))


@pytest.mark.parametrize("rate", [20, 50])
def test_eight_pods_together_never_pass_the_rate(rate: int) -> None:
    seconds = 5.0
    context = multiprocessing.get_context("spawn")
    with Counting() as server:
        pods = [
            context.Process(target=shard, args=(server.url, rate, index, seconds))
            for index in range(SHARDS)
        ]
        for pod in pods:
            pod.start()
        for pod in pods:
            pod.join()
    assert {pod.exitcode for pod in pods} == {0}
    times = [time for time, _ in server.arrivals]
    paths = {path.split("/")[1] for _, path in server.arrivals}
    assert paths == {"robots.txt", "from", "to", "a"}, "all kinds of requests were counted"
    assert busiest_second(times) <= rate
    # And they do ask: nine tenths of the rate, on a machine that has nothing else to do.
    assert len(times) >= 0.2 * rate * seconds


@contextlib.contextmanager
def pausing(value: Callable[[], str]) -> Iterator[list[float]]:
    """Let a shard of four threads ask a server that asks once to be left alone; gives when it did.

    The times are monotonic seconds after that.
    """
    times: list[float] = []

    def answer(request: Request) -> Reply:
        times.append(time.monotonic())
        return (
            Reply(status=429, headers={"Retry-After": value()}) if request.number == 3 else Reply()
        )

    with serving(answer) as server:
        client = Client(rate=20, concurrency=4, obey_robots=False, allow_private_hosts=True)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: client.get(server.url, max_bytes=10), range(12)))
    yield [moment - times[3] for moment in times[4:]]


def test_retry_after_stops_the_whole_shard() -> None:
    def soon() -> str:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=3.5), usegmt=True)

    for value, seconds in ((lambda: "2", 2.0), (soon, 2.4)):
        with pausing(value) as times:
            late = times[3:]  # those of the other threads were under way
            assert min(late) >= seconds
            assert len(late) >= 5
