"""The HTTP client keeps its rate, obeys servers, bounds what it reads, and avoids private hosts."""

from __future__ import annotations

import contextlib
import gzip
import random
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from imagetag import http
from imagetag.errors import Terminated
from imagetag.http import Client, HttpError
from tests.scripted import Reply, Request, serving


def client(**options: Any) -> Client:
    return Client(**{"rate": 1000.0, "allow_private_hosts": True, **options})


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.01)


def test_gives_the_whole_body() -> None:
    with serving(lambda _: Reply(b"picture", headers={"Content-Type": "image/png"})) as server:
        answer = client().get(server.url + "/a", {"tags": "re:zero -b"}, max_bytes=100)
    assert (answer.content, answer.content_type) == (b"picture", "image/png")
    assert server.requests[0].query == {"tags": "re:zero -b"}


def test_says_who_it_is() -> None:
    with serving(lambda _: Reply()) as server:
        client(contact="me@example.org").get(server.url, max_bytes=10)
    agent = server.requests[0].headers["user-agent"]
    assert agent.startswith("imagetag/")
    assert "contact: me@example.org" in agent


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_tries_again_after_a_passing_failure(status: int) -> None:
    with serving(lambda request: Reply(b"x", 200 if request.number == 2 else status)) as server:
        assert client().get(server.url, max_bytes=10).content == b"x"
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_takes_a_refusal_for_an_answer(status: int) -> None:
    with serving(lambda _: Reply(status=status)) as server, pytest.raises(HttpError) as caught:
        client().get(server.url, max_bytes=10)
    assert (caught.value.reason, caught.value.permanent) == (f"http_{status}", True)
    assert len(server.requests) == 1


def test_gives_up_after_five_attempts_for_now() -> None:
    with serving(lambda _: Reply(status=503)) as server, pytest.raises(HttpError) as caught:
        client().get(server.url, max_bytes=10)
    assert (caught.value.reason, caught.value.permanent) == ("http_503", False)
    assert len(server.requests) == 5


def test_a_body_that_is_cut_off_is_fetched_again() -> None:
    def answer(request: Request) -> Reply:
        return Reply(b"0123456789") if request.number else Reply(b"0123", length=10)

    with serving(answer) as server:
        assert client().get(server.url, max_bytes=100).content == b"0123456789"


@pytest.mark.parametrize("declared", [True, False])
def test_never_reads_more_than_it_may(declared: bool) -> None:
    length = 10**9 if declared else 2000
    with serving(lambda _: Reply(b"x" * 2000, length=length)) as server:
        with pytest.raises(HttpError) as caught:
            client().get(server.url, max_bytes=1000)
    assert (caught.value.reason, caught.value.permanent) == ("too_large", True)


def seconds_of_retry_after(value: str) -> float:
    def answer(request: Request) -> Reply:
        return Reply() if request.number else Reply(status=429, headers={"Retry-After": value})

    with serving(answer) as server:
        started = time.monotonic()
        client().get(server.url, max_bytes=10)
        return time.monotonic() - started


def test_retry_after_is_obeyed_in_seconds_and_as_a_date() -> None:
    assert seconds_of_retry_after("1") >= 1
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2.5), usegmt=True)
    assert 1 <= seconds_of_retry_after(soon) < 10
    for nonsense in ("soon", "", "-1", "²", "Mon, 01 Jan 0001 00:00:00 -0000", "1e5"):
        assert seconds_of_retry_after(nonsense) < 1


def test_retry_after_holds_for_all_threads() -> None:
    def answer(request: Request) -> Reply:
        times.append(time.monotonic())
        return Reply() if request.number else Reply(status=429, headers={"Retry-After": "1"})

    times: list[float] = []
    with serving(answer) as server:
        polite = client()
        with ThreadPoolExecutor(4) as pool:
            first = pool.submit(polite.get, server.url, max_bytes=10)
            while not times:
                time.sleep(0.01)
            time.sleep(0.1)
            others = [pool.submit(polite.get, server.url, max_bytes=10) for _ in range(3)]
            for future in [first, *others]:
                future.result()
    assert min(times[1:]) - times[0] >= 0.99


def test_all_threads_together_keep_the_rate() -> None:
    times: list[float] = []

    def answer(_: Request) -> Reply:
        times.append(time.monotonic())
        return Reply()

    with serving(answer) as server:
        polite = client(rate=50.0)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: polite.get(server.url, max_bytes=10), range(60)))
    assert max(times) - min(times) >= 59 / 50 - 0.05
    assert polite.sent == 60


def test_redirects_count_as_requests_and_are_bounded() -> None:
    def answer(request: Request) -> Reply:
        return Reply(status=302, headers={"Location": f"/{request.number}"})

    with serving(answer) as server:
        polite = client()
        with pytest.raises(HttpError) as caught:
            polite.get(server.url, max_bytes=10)
    assert caught.value.permanent
    assert polite.sent == len(server.requests) == 6


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_private_hosts_are_refused_by_the_address_they_lead_to(host: str) -> None:
    with serving(lambda _: Reply(b"secret")) as server, pytest.raises(HttpError) as caught:
        client(allow_private_hosts=False).get(server.url.replace("127.0.0.1", host), max_bytes=10)
    assert (caught.value.reason, caught.value.permanent) == ("private_host", True)
    assert server.requests == []


@pytest.mark.parametrize(
    "url",
    [
        *(
            "file:///etc/passwd",
            "ftp://a/b",
            "//a/b",
            "x",
            "http://",
            "",
            "http://[",
            "http://a:b/",
        ),
        "http://" + "a" * 70 + ".example/",
        "http://\udcff/",
    ],
)
def test_only_http_urls(url: str) -> None:
    with pytest.raises(HttpError) as caught:
        client().get(url, max_bytes=10)
    assert (caught.value.reason, caught.value.permanent) == ("bad_url", True)


def test_a_redirect_to_another_scheme_is_refused() -> None:
    with serving(lambda _: Reply(status=302, headers={"Location": "file:///etc/passwd"})) as server:
        with pytest.raises(HttpError) as caught:
            client().get(server.url, max_bytes=10)
    assert caught.value.permanent


@contextlib.contextmanager
def sending(head: bytes, body: Iterator[bytes]) -> Iterator[str]:
    """Serve one answer, written as slowly as `body` gives it; gives the URL."""

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(head + b"\r\n")
                    for chunk in body:
                        connection.sendall(chunk)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_body_that_drips_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_BODY_SECONDS", 0.3)
    monkeypatch.setattr(http, "_ATTEMPTS", 1)

    def drops() -> Iterator[bytes]:
        for _ in range(100):
            time.sleep(0.05)
            yield b"x"

    started = time.monotonic()
    with sending(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n", drops()) as url:
        with pytest.raises(HttpError) as caught:
            client().get(url, max_bytes=1000)
    assert (caught.value.reason, caught.value.permanent) == ("timeout", False)
    assert time.monotonic() - started < 3


def test_the_body_of_a_redirect_is_not_read() -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 100 << 20:
            sent += 1 << 16
            yield b"x" * (1 << 16)

    head = b"HTTP/1.1 302 Found\r\nLocation: file:///x\r\nContent-Length: 999999999\r\n"
    with sending(head, endless()) as url:
        with pytest.raises(HttpError):
            client().get(url, max_bytes=1000)
    assert sent < 50 << 20


@pytest.mark.parametrize("size", [10_000, 3_000_000])
@pytest.mark.parametrize(
    ("name", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_answers_are_expanded_within_bounds(
    name: str, compress: Callable[[bytes], bytes], size: int
) -> None:
    data = b"0123456789" * (size // 10)
    reply = Reply(compress(data), headers={"Content-Encoding": name})
    with serving(lambda _: reply) as server:
        assert client().get(server.url, max_bytes=size).content == data
        with pytest.raises(HttpError) as caught:
            client().get(server.url, max_bytes=size - 1)
    assert caught.value.reason == "too_large"


def test_nobody_there_is_a_passing_failure() -> None:
    with serving(lambda _: Reply()) as server:
        pass
    with pytest.raises(HttpError) as caught:
        client().get(server.url, max_bytes=10)
    assert (caught.value.reason, caught.value.permanent) == ("connection", False)


def test_stop_ends_waiting_threads_at_once() -> None:
    with serving(lambda _: Reply(status=503, headers={"Retry-After": "60"})) as server:
        polite = client()
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(polite.get, server.url, max_bytes=10)
            threading.Timer(0.3, polite.stop).start()
            with pytest.raises(Terminated):
                future.result(timeout=5)
        with pytest.raises(Terminated):
            polite.get(server.url, max_bytes=10)
