"""All workers start together or none does, whatever else talks on the port."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from imagetag.errors import TransientError, UsageError
from imagetag.train import rendezvous
from imagetag.train.rendezvous import meet
from tests.ended import log_lines

SAME = "0123abcd"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "PULSE", 0.1)
    monkeypatch.setattr(rendezvous, "SILENCE", 0.6)
    monkeypatch.setattr(rendezvous, "PAUSE", 0.1)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def addresses_of(port: int, count: int, host: str = "127.0.0.1") -> list[str]:
    return [f"{host}:{port}", *(f"worker-{index}:2222" for index in range(1, count))]


@pytest.fixture
def start(pool: ThreadPoolExecutor, port: int) -> Callable[..., Future[float]]:
    """Start a worker in a thread; its result is when it was let go."""

    def start(
        index: int, count: int, timeout: float = 100, identity: str = SAME, host: str = "127.0.0.1"
    ) -> Future[float]:
        def work() -> float:
            meet(addresses_of(port, count, host), index, identity=identity, timeout=timeout)
            return time.monotonic()

        return pool.submit(work)

    return start


Start = Callable[..., Future[float]]


class Fake:
    """A worker that does just what a test wants of it."""

    def __init__(self, port: int, index: int, count: int, **other: Any) -> None:
        self.sock = connect(port)
        self.lines = self.sock.makefile("rb")
        hello = {"protocol": "imagetag-rendezvous", "version": 1, "index": index, "count": count}
        self.say("hello", **{**hello, "identity": SAME, "token": f"token {index}", **other})

    def say(self, what: str, **fields: Any) -> None:
        self.sock.sendall(json.dumps({"say": what, **fields}).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """Return the next line; none if the connection was closed."""
        try:
            return dict(json.loads(self.lines.readline() or "{}"))
        except ConnectionError:
            return {}

    def hear_round(self, missing: list[int]) -> int:
        """Answer rounds until one in which just these are missing; return its number."""
        while (message := self.hear()) and message["say"] != "go":
            if message["say"] == "ready?":
                if message["missing"] == missing:
                    return int(message["round"])
                self.say("ready", round=message["round"])
        raise AssertionError(f"no such round before {message}")

    def follow(self) -> str:
        """Do as a worker does; return the last thing heard."""
        last = ""
        while message := self.hear():
            last = message["say"]
            if last == "ready?":
                self.say("ready", round=message["round"])
            elif last == "go":
                self.say("go")
                break
        return last

    def close(self) -> None:
        self.lines.close()
        self.sock.close()


def connect(port: int) -> socket.socket:
    for _ in range(5000):
        with contextlib.suppress(ConnectionError):
            sock = socket.create_connection(("127.0.0.1", port), timeout=100)
            if sock.getsockname() != sock.getpeername():
                return sock
            sock.close()
        time.sleep(0.02)
    raise AssertionError("nobody listens")


def bind_at_once(port: int) -> None:
    """Take the port without SO_REUSEADDR, which forgives nothing that is left of a connection."""
    for family, host in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
        if family == socket.AF_INET or socket.has_dualstack_ipv6():
            with socket.socket(family) as sock:
                sock.bind((host, port))
                sock.listen()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_all_go_together_in_whatever_order_they_come(start: Start, order: tuple[int, ...]) -> None:
    futures = []
    for index in order:
        time.sleep(0.15)
        last = time.monotonic()
        futures.append(start(index, 3))
    assert min(future.result() for future in futures) > last


def test_many_workers_meet(start: Start) -> None:
    for future in [start(index, 12) for index in range(12)]:
        future.result()


def test_the_port_is_free_as_soon_as_worker_0_goes(
    port: int, pool: ThreadPoolExecutor, start: Start
) -> None:
    def lead() -> None:
        meet(addresses_of(port, 3), 0, identity=SAME, timeout=10)
        bind_at_once(port)

    for _ in range(5):
        chief = pool.submit(lead)
        strangers = [connect(port) for _ in range(3)]
        others = [start(index, 3) for index in (1, 2)]
        chief.result()
        for other in others:
            other.result()
        for stranger in strangers:
            stranger.close()


def test_the_port_is_free_after_a_time_out(port: int, start: Start) -> None:
    other = start(1, 3, timeout=1)
    with pytest.raises(TransientError):
        meet(addresses_of(port, 3), 0, identity=SAME, timeout=0.5)
    bind_at_once(port)
    with pytest.raises(TransientError):
        other.result()


def test_worker_0_waits_for_a_port_that_is_still_in_use(port: int, start: Start) -> None:
    with socket.create_server(("", port)):
        futures = [start(index, 2) for index in (0, 1)]
        time.sleep(0.3)
        assert not any(future.done() for future in futures)
    for future in futures:
        future.result()


def test_a_port_that_stays_in_use_is_a_passing_failure(port: int, start: Start) -> None:
    with socket.create_server(("", port)):
        with pytest.raises(TransientError, match=rf"port {port} .*--rendezvous-timeout"):
            start(0, 2, timeout=0.3).result()


def test_worker_0_names_who_did_not_come(start: Start) -> None:
    others = [start(1, 4, timeout=1.5)]
    with pytest.raises(TransientError) as error:
        start(0, 4, timeout=0.7).result()
    assert "worker 2 (worker-2:2222), 3 (worker-3:2222) did not come" in str(error.value)
    assert "0.7 seconds (--rendezvous-timeout)" in str(error.value)
    with pytest.raises(TransientError):
        others[0].result()


def test_worker_0_names_who_is_connected_but_answers_no_more(port: int, start: Start) -> None:
    chief, other = start(0, 3, timeout=1.5), start(1, 3, timeout=2)
    frozen = Fake(port, 2, 3)
    with pytest.raises(TransientError, match=r"worker 2 \(worker-2:2222\) did not come"):
        chief.result()
    with pytest.raises(TransientError):
        other.result()
    frozen.close()


def test_a_worker_names_worker_0_if_it_does_not_answer(port: int, start: Start) -> None:
    with pytest.raises(TransientError) as error:
        start(1, 2, timeout=0.5).result()
    assert f"worker 0 at 127.0.0.1:{port} did not answer (" in str(error.value)
    assert "refused) after 0.5 seconds (--rendezvous-timeout)" in str(error.value)


def test_a_worker_names_who_kept_it_waiting(port: int, start: Start) -> None:
    chief = start(0, 3, timeout=1)
    with pytest.raises(TransientError) as error:
        start(1, 3, timeout=0.6).result()
    assert f"worker 0 at 127.0.0.1:{port} still waited for 2 (worker-2:2222)" in str(error.value)
    with pytest.raises(TransientError):
        chief.result()


def test_a_name_that_resolves_later_is_waited_for(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = socket.getaddrinfo, []

    def resolve(*args: Any, **options: Any) -> Any:
        asked.append(args)
        if len(asked) < 4:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for future in [start(index, 2) for index in (0, 1)]:
        future.result()
    assert len(asked) >= 4


def test_a_worker_started_again_takes_its_earlier_place(port: int, start: Start) -> None:
    chief = start(0, 3)
    crashed = Fake(port, 1, 3, token="first")
    crashed.hear_round(missing=[2])
    again = Fake(port, 1, 3, token="second")
    assert crashed.follow() != "go"
    # If the earlier process is alive after all, it does not get the place back.
    zombie = Fake(port, 1, 3, token="first")
    assert zombie.follow() == "hello"
    again.say("ready", round=again.hear_round(missing=[2]))
    last = start(2, 3)
    assert again.follow() == "go"
    chief.result()
    last.result()
    for fake in (crashed, again, zombie):
        fake.close()


def test_nobody_goes_if_one_leaves_after_it_was_ready(port: int, start: Start) -> None:
    chief = start(0, 3)
    leaves, stays = Fake(port, 1, 3), Fake(port, 2, 3)
    leaves.say("ready", round=leaves.hear_round(missing=[]))
    held = stays.hear_round(missing=[])
    leaves.close()
    time.sleep(0.05)
    stays.say("ready", round=held)
    stays.say("ready", round=stays.hear_round(missing=[1]))
    assert not chief.done()
    again = start(1, 3)
    assert stays.follow() == "go"
    chief.result()
    again.result()
    stays.close()


def test_nobody_goes_if_the_last_to_be_ready_leaves_with_its_answer(
    port: int, start: Start
) -> None:
    chief = start(0, 3)
    leaves, stays = Fake(port, 1, 3), Fake(port, 2, 3)
    last = leaves.hear_round(missing=[])
    stays.say("ready", round=stays.hear_round(missing=[]))
    leaves.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)  # both in one segment
    leaves.say("ready", round=last)
    leaves.close()
    stays.say("ready", round=stays.hear_round(missing=[1]))
    assert not chief.done()
    again = start(1, 3)
    assert stays.follow() == "go"
    chief.result()
    again.result()
    stays.close()


def test_an_answer_to_an_earlier_round_is_not_enough(port: int, start: Start) -> None:
    chief = start(0, 3)
    late = Fake(port, 1, 3)
    old = late.hear_round(missing=[2])
    other = start(2, 3)
    late.hear_round(missing=[])
    late.say("ready", round=old)
    time.sleep(0.1)
    assert not chief.done()
    assert late.follow() == "go"
    chief.result()
    other.result()
    late.close()


def test_an_answer_to_a_round_that_was_not_asked_ends_the_connection(
    port: int, start: Start
) -> None:
    chief = start(0, 3)
    hasty = Fake(port, 1, 3)
    hasty.say("ready", round=hasty.hear_round(missing=[2]) + 1000)
    assert hasty.follow() != "go"
    for future in [start(1, 3), start(2, 3), chief]:
        future.result()
    hasty.close()


@pytest.mark.parametrize("how", ["closes", "is silent", "says something else"])
def test_worker_0_does_not_go_if_one_leaves_at_the_very_last_moment(
    port: int, start: Start, how: str
) -> None:
    chief = start(0, 2)
    leaves = Fake(port, 1, 2)
    leaves.say("ready", round=leaves.hear_round(missing=[]))
    while leaves.hear().get("say") != "go":
        pass
    if how == "closes":
        leaves.close()
    elif how == "says something else":
        leaves.say("ready", round=1)
    with pytest.raises(TransientError, match=r"worker 1 \(worker-1:2222\) left when all were to"):
        chief.result()
    bind_at_once(port)
    leaves.close()


def test_a_worker_comes_back_if_worker_0_is_started_again(port: int, start: Start) -> None:
    other = start(1, 3)
    with pytest.raises(TransientError):
        start(0, 3, timeout=0.3).result()
    chief, last = start(0, 3), start(2, 3)
    for future in (chief, other, last):
        future.result()


def hello(**other: Any) -> bytes:
    fields = {"say": "hello", "protocol": "imagetag-rendezvous", "version": 1, "index": 1}
    fields |= {"count": 3, "identity": SAME, "token": "x"}
    return json.dumps({**fields, **other}).encode() + b"\n"


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        bytes(range(256)) * 100,
        b"x" * 1_000_000,
        b"[" * 4000 + b"\n",
        b"null\n",
        b"9" * 4090 + b"\n",
        b'{"say": "go"}\n{"say": "ready", "round": 1}\n',
        hello(index=True),
        hello(index=0),
        hello(index=-1),
        hello(index=3),
        hello(index="1"),
        hello(identity=None),
        hello(token=["x"]),
        hello(protocol="other", identity="other"),
        hello() + b'{"say": "ready", "round": 1.0}\n',
        hello() + b'{"say": "ready", "round": 1e400}\n',
        hello() + b'{"say": "ready", "round": [1]}\n',
        hello() + b'{"say": "ready", "round": 1}\n' * 30_000,
        hello() + b'{"say": "ready", "round": 1000}\n',
        hello() * 1000,
    ],
    ids=lambda noise: repr(noise[:20] + noise[-25:]),
)
def test_strangers_do_not_disturb(port: int, start: Start, noise: bytes) -> None:
    chief, first = start(0, 3), start(2, 3)
    strangers = [connect(port) for _ in range(3)]
    for stranger in strangers:
        stranger.settimeout(1)
        with contextlib.suppress(OSError):
            stranger.sendall(noise)
    second = start(1, 3)
    for future in (chief, first, second):
        future.result()
    for stranger in strangers:
        stranger.close()


def test_one_that_never_stops_sending_is_cut_off(
    port: int, pool: ThreadPoolExecutor, start: Start
) -> None:
    def flood(what: bytes) -> None:
        with connect(port) as sock, pytest.raises(ConnectionError):
            sock.sendall(what * (50_000_000 // len(what)))

    chief, first = start(0, 3), start(1, 3)
    floods = [pool.submit(flood, what) for what in (b"x", b"{}\n", hello(index=2))]
    for done in floods:
        done.result()
    last = start(2, 3)
    for future in (chief, first, last):
        future.result()


def drip(sock: socket.socket) -> None:
    while True:
        sock.sendall(b"x")
        time.sleep(0.05)


def test_silent_connections_are_closed_however_many(
    port: int, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "STRANGERS", 5)
    chief = start(0, 2)
    silent = [connect(port) for _ in range(20)]
    for sock in silent[:15]:  # pushed out by those after them
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""
    for sock in silent[15:]:  # silent for too long, and one that drips does no better
        with pytest.raises(ConnectionError):
            drip(sock)
    start(1, 2).result()
    chief.result()
    for sock in silent:
        sock.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0\x12\4\0\0\0\0\0\0\3\x7f\xff\xff\xff\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"x" * 100_000,
        b'{"say": "go"}\n',
        b'{"say": "ready?", "round": 1, "missing": []}\n',
        hello(index=0, protocol="other"),
        hello(index=1) + b'{"say": "go"}\n',
        hello(index=0) + b'{"say": "ready?", "round": 1, "missing": [1.5, null, 99, -1, 2]}\n',
        hello(index=0) + b'{"say": "go?"}\n',
    ],
    ids=lambda answer: repr(answer[:20] + answer[-50:]),
)
@pytest.mark.parametrize("keep", [False, True], ids=["and closes", "and stays"])
def test_a_worker_waits_while_something_else_has_the_port(
    port: int, start: Start, answer: bytes, keep: bool
) -> None:
    with socket.create_server(("127.0.0.1", port)) as server:
        other = start(1, 3)
        sock, _ = server.accept()
        sock.sendall(answer)
        if not keep:
            sock.close()
        again, _ = server.accept()  # it gave up the first one
        assert not other.done()
        sock.close()
        again.close()
    futures = [start(0, 3), start(2, 3), other]
    for future in futures:
        future.result()


def test_workers_with_other_settings_end_on_both_sides(start: Start) -> None:
    chief, other = start(0, 2), start(1, 2, identity="4567efab")
    with pytest.raises(UsageError, match=r"worker 1 and worker 0 do not.*'4567efab' and '0123ab"):
        chief.result()
    with pytest.raises(UsageError, match=r"worker 0 and worker 1 do not.*'0123abcd' and '4567ef"):
        other.result()


def test_workers_with_other_counts_end_on_both_sides(start: Start) -> None:
    chief, other = start(0, 2), start(4, 5)
    with pytest.raises(UsageError, match=r"worker 4 and worker 0 .*--worker-addresses: 5 and 2"):
        chief.result()
    with pytest.raises(UsageError, match=r"worker 0 and worker 4 .*--worker-addresses: 2 and 5"):
        other.result()


def test_a_worker_of_another_version_is_told_so(port: int, start: Start) -> None:
    chief = start(0, 2)
    other = Fake(port, 1, 2, version=2)
    assert other.hear()["version"] == 1
    other.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):  # not reset before it could read that
        other.sock.recv(1)
    other.close()
    with pytest.raises(UsageError, match=r"worker 1 and worker 0 .*version.*: 2 and 1"):
        chief.result()


def test_what_others_say_stays_on_one_line(port: int, start: Start) -> None:
    chief = start(0, 2)
    Fake(port, 1, 2, identity="a\n\x1b[31m" + "b" * 3000).close()
    with pytest.raises(UsageError) as error:
        chief.result()
    assert re.fullmatch(r"[ -~]{1,400}", str(error.value))


@pytest.mark.parametrize("host", ["[::1]", "localhost"])
def test_they_meet_over_other_addresses(start: Start, host: str) -> None:
    if host == "[::1]":
        try:
            with socket.socket(socket.AF_INET6) as sock:
                sock.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    for future in [start(index, 2, host=host) for index in (0, 1)]:
        future.result()


def test_one_worker_alone_waits_for_nobody(port: int) -> None:
    with socket.create_server(("", port)):
        meet(addresses_of(port, 1), 0, identity=SAME, timeout=0)


@pytest.mark.parametrize(
    "address",
    [
        *("", "host", "host:", ":80", "host:0", "host:65536", "host:-1", "host:1e3"),
        *("host:\u0968", " host:80", "host:80 ", "host\n:80", "host:80\n", "h\u00f6:80"),
        *("::1:80", "[::1]", "[host]:80", "http://host:80", "a..b:80", f"{'a' * 64}:80"),
    ],
)
def test_a_bad_address_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageError, match="--worker-addresses") as error:
        meet(["good:80", address], 0, identity=SAME, timeout=1)
    assert repr(address) in str(error.value) or len(address) > 50


@pytest.mark.parametrize(
    ("addresses", "index"), [([], 0), (["a:1"], 1), (["a:1", "b:1"], 2), (["a:1", "b:1"], -1)]
)
def test_an_index_without_an_address_is_a_usage_error(addresses: list[str], index: int) -> None:
    with pytest.raises(UsageError, match=f"--worker-addresses: there is no worker {index} "):
        meet(addresses, index, identity=SAME, timeout=1)


def test_an_address_for_two_workers_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--worker-addresses"):
        meet(["[::1]:80", "[0::1]:80"], 0, identity=SAME, timeout=1)


@pytest.mark.parametrize("index", [0, 1, 2], ids=["worker 0", "connected", "alone"])
def test_a_signal_ends_the_wait_and_leaves_nothing_open(
    port: int, start: Start, index: int
) -> None:
    addresses = addresses_of(port, 3)
    script = f"""
import signal
from imagetag import log
from imagetag.errors import Terminated
from imagetag.train.rendezvous import meet
def stop(number, frame):
    raise Terminated
signal.signal(signal.SIGTERM, stop)
log.configure("json")
try:
    print("starts", flush=True)
    meet({addresses}, {index}, identity={SAME!r}, timeout=1000)
except Terminated:
    import gc, os, threading
    gc.collect()
    links = [os.readlink(f"/proc/self/fd/{{fd}}") for fd in range(3, 20)
             if os.path.exists(f"/proc/self/fd/{{fd}}")]
    assert not [link for link in links if "socket" in link or "poll" in link], links
    assert threading.active_count() == 1
    print("stopped", flush=True)
"""
    others = [start(1 - index, 3, timeout=1.5)] if index < 2 else []
    process = subprocess.Popen(
        [sys.executable, "-W", "always::ResourceWarning", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "starts\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert (out, process.returncode) == ("stopped\n", 0), err
    assert "ResourceWarning" not in err
    for other in others:
        with pytest.raises(TransientError):
            other.result()
    bind_at_once(port)


def test_the_log_says_at_the_start_and_then_now_and_again_who_is_missing(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "REPORT", 1.05)
    from imagetag import log

    log.configure("json")
    futures = [start(index, 3, timeout=2.7) for index in (0, 1)]
    for future in futures:
        with pytest.raises(TransientError):
            future.result()
    rows = log_lines(capsys.readouterr().err)
    chief = [row for row in rows if row["event"] == "waiting for workers"]
    assert 2 <= len(chief) <= 3
    assert chief[-1]["missing"] == "2 (worker-2:2222)"
    other = [row for row in rows if row["event"] == "waiting for worker 0"]
    assert 2 <= len(other) <= 3
    assert any("2 (worker-2:2222)" in row["state"] for row in other)
