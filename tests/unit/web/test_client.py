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
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from imagetag.errors import Terminated, UsageError
from imagetag.web import client as client_module
from imagetag.web import transport
from imagetag.web.client import Client
from imagetag.web.hosts import Breaker, Host, HttpError
from tests.certificates import certified
from tests.scripted import Reply, Request, serving


def client(**options: Any) -> Client:
    return Client(**{"rate": 1000.0, "obey_robots": False, "allow_private_hosts": True, **options})


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.01)


def test_gives_the_whole_body() -> None:
    with serving(lambda _: Reply(b"picture", headers={"Content-Type": "image/png"})) as server:
        answer = client().get(server.url + "/a", {"tags": "re:zero -b"}, max_bytes=100)
    assert answer.content == b"picture"
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


def test_retry_after_is_obeyed_in_seconds_and_as_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(Host, "ask_not_before", lambda _, seconds: asked.append(seconds))

    def seconds_of(value: str) -> float:
        def answer(request: Request) -> Reply:
            return Reply() if request.number else Reply(status=429, headers={"Retry-After": value})

        asked.clear()
        with serving(answer) as server:
            client().get(server.url, max_bytes=10)
        return sum(asked)

    assert seconds_of("100") == 100
    later = format_datetime(datetime.now(UTC) + timedelta(hours=5), usegmt=True)
    assert seconds_of(later) == pytest.approx(5 * 3600, rel=0.1)
    for nonsense in ("soon", "", "-1", "²", "Mon, 01 Jan 0001 00:00:00 -0000", "1e5"):
        assert seconds_of(nonsense) == 0


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
        started = time.monotonic()
        polite = client(rate=50.0)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: polite.get(server.url, max_bytes=10), range(60)))
    assert max(times) - started >= 59 / 50 - 0.01
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


def test_a_body_that_drips_in_is_given_up() -> None:
    def drops() -> Iterator[bytes]:
        for _ in range(100):
            time.sleep(0.05)
            yield b"x"

    with sending(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n", drops()) as url:
        with pytest.raises(HttpError) as caught:
            client(body_seconds=0.3, attempts=1).get(url, max_bytes=1000)
    assert (caught.value.reason, caught.value.permanent) == ("timeout", False)


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


def failure_of(url: str, **options: Any) -> HttpError:
    with pytest.raises(HttpError) as caught:
        client(**{"attempts": 1, **options}).get(url, max_bytes=1000)
    return caught.value


# --- What a hostile server may send -----------------------------------------------------------


def drips(line: bytes, pause: float = 0.05) -> Iterator[bytes]:
    for _ in range(60):
        time.sleep(pause)
        yield line


@pytest.mark.parametrize(
    ("head", "line"),
    [
        (b"HTTP/1.1 200 OK", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK", b""),
    ],
)
def test_a_head_that_drips_in_or_never_comes_is_given_up(head: bytes, line: bytes) -> None:
    with sending(head, drips(line)) as url:
        error = failure_of(url, head_seconds=0.4, timeout=(5, 1))
    assert (error.reason, error.permanent) == ("timeout", False)


def test_gigantic_heads_are_not_read() -> None:
    for head in (b"X: " + b"y" * (1 << 20), b"\r\n".join([b"X: y"] * 10_000)):
        with sending(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n", iter(())) as url:
            error = failure_of(url)
        assert (error.reason, error.permanent) == ("connection", False)


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (b"Content-Length: 10\r\n", b"0123"),
        (b"Content-Length: 2000\r\n", b"0" * 600),
        (b"Content-Length: 10\r\nContent-Encoding: gzip\r\n", b"\x1f\x8b\x08"),
        (b"Transfer-Encoding: chunked\r\n", b"a\r\n0123"),
    ],
)
def test_a_body_that_is_cut_off_is_a_passing_failure(lines: bytes, body: bytes) -> None:
    def once() -> Iterator[bytes]:
        yield body

    with sending(b"HTTP/1.1 200 OK\r\n" + lines, once()) as url:
        with pytest.raises(HttpError) as caught:
            client(attempts=1).get(url, max_bytes=10_000)
    assert (caught.value.reason, caught.value.permanent) == ("truncated", False)


@pytest.mark.parametrize("length", [b"ten", b"-4", b"4, 5", b"\xb2", b"9" * 5000, b""])
def test_a_length_that_is_none_does_no_harm(length: bytes) -> None:
    def once() -> Iterator[bytes]:
        yield b"0123"

    with sending(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n", once()) as url:
        try:
            assert client(attempts=1).get(url, max_bytes=100).content == b"0123"
        except HttpError as error:
            assert error.reason in ("connection", "too_large", "truncated")  # noqa: PT017


def test_what_comes_after_a_body_is_not_taken_for_the_next_answer() -> None:
    more = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    with sending(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n", iter([b"good" + more])) as url:
        polite = client(attempts=1)
        assert polite.get(url, max_bytes=10).content == b"good"
        with contextlib.suppress(HttpError):  # that server has nothing more to say
            assert polite.get(url, max_bytes=10).content != b"evil"


def test_bombs_within_bombs_are_bounded() -> None:
    inner = bytearray(gzip.compress(bytes(50 << 20)))
    inner[-8] ^= 1  # of its checksum: who unpacks all of it is told that it is damaged
    bomb = gzip.compress(inner)
    with serving(lambda _: Reply(bomb, headers={"Content-Encoding": "gzip, gzip"})) as server:
        error = failure_of(server.url)
    assert (error.reason, error.permanent) == ("too_large", True)


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://a/b", "data:,x", "http://[", "http://a:b/", "\x00:"]
)
def test_redirects_lead_to_http_alone(location: str) -> None:
    with serving(lambda _: Reply(status=302, headers={"Location": location})) as server:
        error = failure_of(server.url)
    assert error.permanent
    assert error.reason in ("bad_url", "http_302", "redirects")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("::1", "::", "fe80::1%eth0", "fec0::1", "fd00:ec2::254", "ff02::1"),
        *("::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808"),
        *("::ffff:0:127.0.0.1", "::ffff:0:a9fe:a9fe", "::fffe:0:8.8.8.8", "::1:0:8.8.8.8"),
        *("2002:7f00:1::", "2001:0:808:808::1", "4000::1", "5f00::1", "100::1"),
        *("192.88.99.1", "192.0.0.8", "3fff::1"),
        # Where clouds tell a machine its secrets: Azure, Alibaba, Oracle, Google, Scaleway.
        *("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd20:ce::254", "fd00:42::42"),
        *("::ffff:168.63.129.16", "::ffff:0:168.63.129.16", "64:ff9b::a83f:8110"),
        *("2002:a83f:8110::", "::168.63.129.16", "2002:6464:64c8::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert transport.refusal(address)


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "168.63.129.17", "2606:4700::1111", "2a00:1450:4001:82b::200e"),
        *("::ffff:8.8.8.8", "::ffff:0:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"),
    ],
)
def test_addresses_that_are_public(address: str) -> None:
    assert transport.refusal(address) is None


def test_a_name_that_leads_to_a_private_address_is_not_even_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        error = failure_of(f"http://pictures.example:{port}/", allow_private_hosts=False)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert (error.reason, error.permanent) == ("private_host", True)
    assert "pictures.example leads to a private host: 127.0.0.1" in str(error)
    assert "--allow-private-hosts" in str(error)


def test_redirects_to_private_hosts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(address: str) -> str | None:
        return None if address == "127.0.0.1" else "private"

    monkeypatch.setattr(transport, "refusal", refusal)

    def answer(request: Request) -> Reply:
        where = server.url.replace("127.0.0.1", "127.0.0.2")
        return Reply(status=302, headers={"Location": where})

    with serving(answer) as server:
        error = failure_of(server.url, allow_private_hosts=False)
    assert (error.reason, error.permanent) == ("private_host", True)


def test_a_server_cannot_fill_us_with_cookies() -> None:
    def answer(request: Request) -> Reply:
        value = "x" * (10_000 if request.number == 0 else 10)
        return Reply(headers={"Set-Cookie": f"c{request.number}={value}"})

    with serving(answer) as server:
        polite = client()
        for _ in range(150):
            polite.get(server.url, max_bytes=10)
    assert "cookie" not in server.requests[1].headers
    assert "c1=xxxxxxxxxx" in server.requests[2].headers["cookie"]
    assert len(server.requests[-1].headers["cookie"]) < 2000


# --- What errors tell -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        *(Reply(status=404), Reply(status=503), Reply(b"x" * 2000), Reply(b"x", length=5)),
        Reply(status=302, headers={"Location": "file:///x?api_key=hidden&login=hidden"}),
        Reply(status=302, headers={"Location": "?api_key=hidden"}),
    ],
)
def test_errors_tell_no_credentials(reply: Reply) -> None:
    params = {"api_key": "hidden", "user_id": "hidden", "tags": "hidden"}
    with serving(lambda _: reply) as server:
        for url in (server.url, server.url + "/a?key=hidden&page=2&password_hash=hidden#x"):
            with pytest.raises(HttpError) as caught:
                client(attempts=1).get(url, params, max_bytes=1000)
            text = str(caught.value)
            assert "hidden" not in text
            assert server.url in text
    assert "page=2" in text


def test_a_malformed_head_makes_no_log_tell_credentials(caplog: pytest.LogCaptureFixture) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nno header\r\nX: y\r\n"
    with sending(head, iter([b"ok"])) as url:
        assert client().get(url, {"api_key": "hidden"}, max_bytes=10).content == b"ok"
    assert "hidden" not in caplog.text


def test_nobody_there_tells_no_credentials() -> None:
    with serving(lambda _: Reply()) as server:
        pass
    url = server.url.replace("//", "//me:hidden@")
    for bad in (f"{url}/?login=hidden", f"ftp{url}?API_KEY=hidden", "http://a:b/?key=hidden"):
        assert "hidden" not in str(failure_of(bad))


# --- Hosts ------------------------------------------------------------------------------------


def test_a_host_has_so_many_requests_at_once_and_no_more() -> None:
    under_way = most = 0
    lock = threading.Lock()

    def answer(_: Request) -> Reply:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.05)
        with lock:
            under_way -= 1
        return Reply()

    with serving(answer) as server:
        polite = client(per_host=2)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: polite.get(server.url, max_bytes=10), range(16)))
    assert most == 2


def test_retry_after_is_for_the_host_that_said_it() -> None:
    def busy(request: Request) -> Reply:
        return Reply() if request.number else Reply(status=503, headers={"Retry-After": "250"})

    with serving(busy) as first, serving(lambda _: Reply()) as second:
        polite = client()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(polite.get, first.url, max_bytes=10)
            while not first.requests:
                time.sleep(0.01)
            for _ in range(20):
                polite.get(second.url, max_bytes=10)
            assert not waiting.done()
            polite.stop()
            with pytest.raises(Terminated):
                waiting.result()


def test_nobody_waits_for_an_hour() -> None:
    reply = Reply(status=429, headers={"Retry-After": "3600"})
    with serving(lambda _: reply) as server:
        polite = client()
        for _ in range(3):
            with pytest.raises(HttpError) as caught:
                polite.get(server.url, max_bytes=10)
    assert len(server.requests) == 1
    assert (caught.value.reason, caught.value.permanent) == ("retry_after", False)
    assert "asks to be left alone for 3600 s" in str(caught.value)


def test_an_interval_is_kept() -> None:
    times: list[float] = []

    def answer(_: Request) -> Reply:
        times.append(time.monotonic())
        return Reply()

    with serving(answer) as server:
        started = time.monotonic()
        polite = client()
        polite.set_interval(server.url.removeprefix("http://"), 0.2)
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(lambda _: polite.get(server.url, max_bytes=10), range(5)))
    assert max(times) - started >= 0.79


@pytest.fixture
def exact_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)


@pytest.mark.usefixtures("exact_pauses")
def test_a_host_that_is_down_is_paused_and_then_asked_by_one_alone() -> None:
    times: list[float] = []
    together = threading.Barrier(4)

    def answer(request: Request) -> Reply:
        times.append(time.monotonic())
        if request.number < 4:
            together.wait(200)
        return Reply(status=500) if request.number < 6 else Reply(b"ok")

    with serving(answer) as server:
        breaker = Breaker(failures=4, pause=0.5, openings=10)
        polite = client(attempts=100, back_off=0.3, breaker=breaker)
        with capture_logs() as logs, ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(polite.get, server.url, max_bytes=10) for _ in range(4)]
            assert {future.result().content for future in waiting} == {b"ok"}
    # Four came at once; then one after each pause, the third of which finds an answer.
    assert times[4] - times[3] >= 0.6
    assert times[5] - times[4] >= 1.2
    assert times[6] - times[5] >= 2.4
    assert len(times) == 4 + 2 + 1 + 3
    name = server.url.removeprefix("http://")
    told = [(log["event"], log["host"]) for log in logs if "host" in log]
    assert told == [("host paused", name)] * 3 + [("host answers again", name)]
    assert [log["seconds"] for log in logs if log["event"] == "host paused"] == [0.6, 1.2, 2.5]


@pytest.mark.usefixtures("exact_pauses")
def test_a_host_that_stays_down_is_given_up_for_now() -> None:
    with serving(lambda _: Reply(status=502)) as server:
        breaker = Breaker(failures=3, pause=0.1, openings=3)
        polite = client(attempts=100, back_off=0.1, breaker=breaker)
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(polite.get, server.url, max_bytes=10) for _ in range(4)]
            errors = [future.exception() for future in waiting]
        asked = len(server.requests)
        with pytest.raises(HttpError):
            polite.get(server.url, max_bytes=10)
        assert len(server.requests) == asked, "it is left alone"
    for error in errors:
        assert isinstance(error, HttpError)
        assert (error.reason, error.permanent) == ("http_502", False)
        assert "times in a row, over 3 pauses, and is given up for now" in str(error)
    assert asked <= 3 + 3 + 2, "those that open it, those under way then, and the probes"


@pytest.mark.usefixtures("exact_pauses")
def test_failures_between_answers_pause_nobody() -> None:
    def answer(request: Request) -> Reply:
        return Reply(status=404 if request.number % 3 else 503)

    with serving(answer) as server:
        polite = client(attempts=1, breaker=Breaker(failures=2, pause=100.0))
        for _ in range(30):
            with pytest.raises(HttpError):
                polite.get(server.url, max_bytes=10)


@pytest.mark.usefixtures("exact_pauses")
def test_one_file_that_is_never_had_does_not_pause_its_host() -> None:
    with serving(lambda _: Reply(status=500)) as server, capture_logs() as logs:
        polite = client(attempts=6, back_off=0.001, breaker=Breaker(failures=3, pause=0.01))
        for path in ("/a", "/b"):
            with pytest.raises(HttpError):
                polite.get(server.url + path, max_bytes=10)
    assert len(server.requests) == 12
    assert not [log for log in logs if log["event"] == "host paused"]


# --- TLS --------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving_tls(folder: Path) -> Iterator[tuple[str, Path, list[int]]]:
    """Serve over TLS; gives the URL, the certificate, and a number for each connection."""
    certificate, context = certified(folder)
    connections: list[int] = []

    def serve(raw: socket.socket) -> None:
        with contextlib.suppress(OSError), raw, context.wrap_socket(raw, server_side=True) as line:
            while line.recv(1 << 16):
                line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = listener.accept()
                connections.append(len(connections))
                threading.Thread(target=serve, args=(raw,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"https://localhost:{listener.getsockname()[1]}", certificate, connections
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_connection_over_tls_is_verified_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving_tls(tmp_path) as (url, certificate, connections):
        error = failure_of(url)
        assert (error.reason, error.permanent) == ("connection", False)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        connections.clear()
        polite = client(rate=0.8)  # slots further apart than a connection is trusted unseen
        for _ in range(3):
            assert len(polite.get(url, max_bytes=100_000).content) == 100_000
        assert connections == [0]
        assert failure_of(url, allow_private_hosts=False).reason == "private_host"


# --- Proxies ----------------------------------------------------------------------------------


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Reply(b"by proxy")) as proxy, serving(lambda _: Reply(b"ok")) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        polite = client(allow_private_hosts=False)  # a proxy guards its own network
        for _ in range(2):
            answer = polite.get("http://pictures.example/a", max_bytes=10)
            assert answer.content == b"by proxy"
        assert polite.sent == len(proxy.requests) == 2
        assert client().get(server.url, max_bytes=10).content == b"ok"


def test_a_proxy_that_cannot_be_paced_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(UsageError, match="SOCKS"):
        client().get("http://pictures.example/a", max_bytes=10)


# --- A browser's session ----------------------------------------------------------------------

CHALLENGE = Reply(
    b"<html><noscript>Enable JavaScript</noscript></html>",
    status=503,
    headers={"Content-Type": "text/html; charset=utf-8"},
)


def guarded(request: Request) -> Reply:
    passed = "pass=1" in request.headers.get("cookie", "")
    return Reply(b"picture") if passed else CHALLENGE


def test_goes_on_as_a_browser_that_got_past_the_challenge() -> None:
    visits: list[str] = []

    def unblock(url: str) -> bool:
        visits.append(url)
        time.sleep(0.2)
        polite.adopt([("pass", "1", "127.0.0.1", "/", False)], "Browser/1.0")
        return True

    with serving(guarded) as server:
        polite = client(unblock=unblock, attempts=1, breaker=Breaker(failures=2, pause=1000.0))
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(polite.get, server.url, max_bytes=10) for _ in range(8)]
            assert {future.result().content for future in futures} == {b"picture"}
    assert visits == [server.url + "/"], "one goes, the others wait"
    assert server.requests[-1].headers["user-agent"] == "Browser/1.0"


def test_a_browser_waits_for_its_turn_too() -> None:
    with serving(lambda _: Reply()) as server:
        polite = client(rate=20.0)
        started = time.monotonic()
        for _ in range(5):
            polite.wait_turn(server.url)
            polite.get(server.url, max_bytes=10)
        assert time.monotonic() - started >= 9 / 20
    assert polite.sent == 10
    polite.stop()
    with pytest.raises(Terminated):
        polite.wait_turn(server.url)
    with pytest.raises(HttpError):
        polite.wait_turn("http://[")


def test_adopted_cookies_go_where_they_belong() -> None:
    with serving(lambda _: Reply()) as server:
        polite = client()
        cookies = [("a", "1", ".example.org", "/", False), ("b", "2", "127.0.0.1", "/", True)]
        polite.adopt([*cookies, ("c", "3", "127.0.0.1", "/x", False)])
        polite.get(server.url, max_bytes=10)
        polite.get(server.url + "/x/y", max_bytes=10)
    assert "cookie" not in server.requests[0].headers
    assert server.requests[1].headers["cookie"] == "c=3"
    assert server.requests[1].headers["user-agent"].startswith("imagetag/")


@pytest.mark.parametrize("status", [403, 429, 503])
@pytest.mark.parametrize("helps", [False, True])
def test_a_browser_that_does_not_help_is_not_sent_again_and_again(status: int, helps: bool) -> None:
    visits: list[str] = []

    def unblock(url: str) -> bool:
        visits.append(url)
        return helps

    reply = Reply(CHALLENGE.body, status, CHALLENGE.headers)
    with serving(lambda _: reply) as server:
        polite = client(attempts=2)
        polite.unblock = unblock
        for _ in range(3):
            with pytest.raises(HttpError) as caught:
                polite.get(server.url, max_bytes=10)
    assert caught.value.reason == f"http_{status}"
    assert caught.value.permanent == (status == 403)
    assert len(visits) == (5 if helps else 1)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(CHALLENGE.body, 404, CHALLENGE.headers),
        Reply(CHALLENGE.body, 403, {"Content-Type": "application/json"}),
        Reply(b"<html>Forbidden</html>", 403, CHALLENGE.headers),
        Reply(CHALLENGE.body, 429, {**CHALLENGE.headers, "Retry-After": "0"}),
        Reply(b" " * (300 << 10) + CHALLENGE.body, 403, CHALLENGE.headers),
    ],
)
def test_what_is_no_challenge_needs_no_browser(reply: Reply) -> None:
    visits: list[str] = []

    def unblock(url: str) -> bool:
        visits.append(url)
        return True

    with serving(lambda _: reply) as server:
        failure_of(server.url, unblock=unblock)
    assert visits == []


@pytest.mark.parametrize("status", [403, 503])
def test_who_sends_no_browser_is_told_of_it(status: int) -> None:
    with serving(lambda _: Reply(CHALLENGE.body, status, CHALLENGE.headers)) as server:
        failure = failure_of(server.url)
    assert failure.reason == f"http_{status}"
    assert "needs JavaScript: see --browser auto" in str(failure)


# --- Stopping ---------------------------------------------------------------------------------


def ends_soon(url: str, **options: Any) -> None:
    """Check that a request that waits ends when the client is stopped."""
    polite = client(**options)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(polite.get, url, max_bytes=10) for _ in range(2)]
        time.sleep(0.4)
        assert not any(future.done() for future in futures)
        polite.stop()
        for future in futures:
            with pytest.raises(Terminated):  # and not what minutes of waiting would end with
                future.result()
    with pytest.raises(Terminated):
        polite.get(url, max_bytes=10)


def test_stop_ends_who_waits_for_a_slot() -> None:
    with serving(lambda _: Reply()) as server:
        ends_soon(server.url, rate=0.0001)


@pytest.mark.usefixtures("exact_pauses")
def test_stop_ends_who_waits_for_a_host_that_is_down() -> None:
    with serving(lambda _: Reply(status=503)) as server:
        ends_soon(server.url, back_off=0.1, breaker=Breaker(failures=2, pause=200.0))


def test_stop_ends_who_waits_as_a_server_asked() -> None:
    with serving(lambda _: Reply(status=503, headers={"Retry-After": "250"})) as server:
        ends_soon(server.url)


@pytest.mark.parametrize("scheme", ["http", "https"])  # an answer, and a handshake
@pytest.mark.parametrize("robots", [False, True])
def test_stop_ends_who_waits_for_a_silent_server(scheme: str, robots: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        ends_soon(url, timeout=(200.0, 200.0), obey_robots=robots)


def test_stop_ends_who_waits_for_a_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ends_soon(url, timeout=(200.0, 200.0), per_host=1)


def test_stop_ends_who_waits_for_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with contextlib.ExitStack() as stack:
            for _ in range(3):  # no more are let in
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(address)
            ends_soon(f"http://127.0.0.1:{address[1]}", timeout=(200.0, 200.0))


def test_stop_ends_who_waits_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(100) and [])
    ends_soon("http://slow.example", timeout=(200.0, 200.0))
    answered.set()


def test_a_name_server_and_a_host_that_never_answer_are_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(100) and [])
    error = failure_of("http://slow.example", timeout=(0.2, 0.2))
    answered.set()
    assert (error.reason, error.permanent) == ("connection", False)


@pytest.mark.parametrize(("status", "size"), [(403, 3), (404, 100_000), (503, 3)])
def test_what_comes_with_a_refusal_is_kept_as_far_as_it_is_short(status: int, size: int) -> None:
    with serving(lambda _: Reply(b"w" * size, status)) as server:
        with pytest.raises(HttpError) as refused:
            client(attempts=1).get(server.url, max_bytes=10)
    content = refused.value.content
    assert content == b"w" * len(content)
    assert (0 < len(content) <= 8192) == refused.value.permanent
    assert "www" not in str(refused.value)


def test_words_that_never_come_with_a_refusal_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "_REFUSAL_SECONDS", 0.1)
    given_up = threading.Event()

    def silence() -> Iterator[bytes]:
        given_up.wait(200)
        yield b""

    with sending(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n", silence()) as url:
        error = failure_of(url, timeout=(5.0, 200.0))
        assert not given_up.is_set()
        given_up.set()
    assert (error.reason, error.permanent, error.content) == ("http_404", True, b"")
