"""A page that needs a browser gets one, once, and only for itself."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from imagetag.errors import Terminated, UsageError
from imagetag.web.browser import Unblocker
from imagetag.web.client import Client
from imagetag.web.hosts import HttpError
from tests.scripted import Reply, Request, serving

HTML = {"Content-Type": "text/html; charset=utf-8"}
# What the script makes of the user agent: the cookie is of no use under another one.
SCRIPT = """
    let sum = 7;
    for (const c of navigator.userAgent) sum = (sum * 31 + c.charCodeAt(0)) % 1000003;
    document.cookie = 'pass=' + sum + '; path=/';
    setTimeout(() => location.reload(), DELAY);
"""
PAGE = f"<title>Wait</title><noscript>enable javascript</noscript><script>{SCRIPT}</script>"
_SUBREAPER = 36  # prctl


@pytest.fixture(autouse=True)
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which all temporary files end up; its path is short, as a socket's must be."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("SKIPPED: no page is opened in a browser, as chromium is not installed")
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def init() -> Iterator[None]:
    """Make this process the parent of orphans, as the first one of a container is."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_SUBREAPER, 1)
    yield
    prctl(_SUBREAPER, 0)


def interstitial(request: Request, page: str = PAGE, delay: int = 0) -> Reply:
    sum_ = 7
    for char in request.headers["user-agent"]:
        sum_ = (sum_ * 31 + ord(char)) % 1000003
    if f"pass={sum_}" in request.headers.get("cookie", ""):
        return Reply(b'{"posts": 1}', headers={"Content-Type": "application/json"})
    return Reply(page.replace("DELAY", str(delay)).encode(), 503, HTML)


def pages(requests: list[Request]) -> list[Request]:
    return [request for request in requests if request.path == "/api"]


def by_browser(requests: list[Request]) -> list[Request]:
    return [request for request in pages(requests) if "sec-fetch-dest" in request.headers]


def new_client() -> Client:
    return Client(rate=1000, contact="me@example.org", allow_private_hosts=True, obey_robots=False)


def unblocker(client: Client, seconds: float = 60) -> Unblocker:
    return Unblocker(client, contact="me@example.org", allow_private_hosts=True, seconds=seconds)


def processes(folder: Path) -> list[str]:
    """Return the command lines of all processes that name a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.append((process / "cmdline").read_text(errors="replace"))
    return [line for line in found if str(folder) in line]


def zombies() -> list[str]:
    """Return the names of this process's children that nobody has waited for."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (process / "stat").read_text().rpartition(")")
            state, parent = rest.split()[:2]
            if state == "Z" and int(parent) == os.getpid():
                found.append(name)
    return found


def assert_nothing_left(scratch: Path) -> None:
    assert processes(scratch) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_client_goes_on_with_what_the_browser_got(host: str, scratch: Path) -> None:
    with serving(interstitial) as server:
        url = server.url.replace("127.0.0.1", host) + "/api"
        client = new_client()
        with unblocker(client) as client.unblock:
            answer = client.get(url, {"page": "1"}, max_bytes=1000)
            again = client.get(url, {"page": "2"}, max_bytes=1000)
    assert json.loads(answer.content) == json.loads(again.content) == {"posts": 1}
    assert len(by_browser(server.requests)) == 2  # the page, and the page again
    assert not [request for request in server.requests if request.path.endswith(".png")]
    agents = {request.headers["user-agent"] for request in pages(server.requests)[1:]}
    [agent] = agents
    assert "me@example.org" in agent
    assert "Headless" not in agent
    assert client.sent >= len(pages(server.requests))  # each was in its turn
    assert_nothing_left(scratch)


def test_many_threads_that_are_refused_send_one_browser(scratch: Path) -> None:
    with serving(interstitial) as server:
        client = new_client()
        with unblocker(client) as client.unblock, ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(
                    lambda number: client.get(f"{server.url}/api?{number}", max_bytes=1000),
                    range(16),
                )
            )
    assert {answer.content for answer in answers} == {b'{"posts": 1}'}
    # Each browser begins without cookies; how often it loads the page again is its own affair.
    asked = by_browser(server.requests)
    assert len([request for request in asked if "cookie" not in request.headers]) == 1


@pytest.mark.parametrize(
    "script",
    [
        "",
        "while (true) {}",
        "document.cookie = 'n=' + Math.random(); setTimeout(() => location.reload(), 100)",
        "alert('stay'); confirm('stay')",
    ],
    ids=["waits", "hangs", "reloads", "asks"],
)
def test_a_page_that_never_lets_us_pass_is_left(script: str, scratch: Path, init: None) -> None:
    page = f"<noscript>enable javascript</noscript><script>{script}</script>"
    with serving(lambda _: Reply(page.encode(), 403, HTML)) as server:
        client = new_client()
        with unblocker(client, seconds=2) as client.unblock:
            with pytest.raises(HttpError) as refused:
                client.get(f"{server.url}/api", max_bytes=1000)
    assert refused.value.reason == "http_403"
    assert by_browser(server.requests)
    assert_nothing_left(scratch)
    assert zombies() == []


@pytest.mark.parametrize("elsewhere", ["127.0.0.1", "elsewhere.localhost"])
def test_the_browser_asks_nothing_of_other_hosts(elsewhere: str) -> None:
    assert visits_elsewhere(elsewhere) == set()


def test_what_a_page_asks_of_its_own_host_arrives() -> None:
    # Else the test before could not fail.
    assert visits_elsewhere("localhost") >= {"/script", "/fetch", "/frame", "/socket"}


def visits_elsewhere(elsewhere: str) -> set[str]:
    """Return what a page at localhost gets from a server at another address."""

    def other(request: Request) -> Reply:
        return Reply(b"", 404)

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stun,
        serving(other) as server,
        serving(lambda request: interstitial(request, page, 1500)) as board,
    ):
        stun.bind(("127.0.0.1", 0))
        stun.setblocking(False)
        origin = f"{elsewhere}:{server.url.rpartition(':')[2]}"
        page = f"""
            {PAGE}
            <script src="http://{origin}/script"></script>
            <link rel="stylesheet" href="http://{origin}/style">
            <link rel="preconnect" href="http://{origin}/">
            <iframe src="http://{origin}/frame"></iframe>
            <img src="http://{origin}/image">
            <script>
                fetch('http://{origin}/fetch', {{mode: 'no-cors'}});
                new WebSocket('ws://{origin}/socket');
                navigator.sendBeacon('http://{origin}/beacon');
                const peer = new RTCPeerConnection(
                    {{iceServers: [{{urls: 'stun:127.0.0.1:{stun.getsockname()[1]}'}}]}});
                peer.createDataChannel('x');
                peer.createOffer().then(offer => peer.setLocalDescription(offer));
            </script>
        """
        client = new_client()
        with unblocker(client) as unblock:
            assert unblock(board.url.replace("127.0.0.1", "localhost") + "/api")
        with pytest.raises(BlockingIOError):
            stun.recv(1)
        return {request.path for request in server.requests}


def test_a_private_address_is_not_visited(scratch: Path) -> None:
    with serving(interstitial) as server:
        assert not Unblocker(new_client())(f"{server.url}/api")
    assert server.requests == []


@pytest.mark.parametrize("url", ["http://a,MAP%20*%20b/", "http:///x", "http://nowhere.invalid/"])
def test_a_host_that_is_none_is_not_visited(url: str, scratch: Path) -> None:
    assert not unblocker(new_client())(url)
    assert_nothing_left(scratch)


def test_a_visit_ends_when_it_is_told_to(scratch: Path, init: None) -> None:
    with serving(lambda _: Reply(b"<noscript>", 503, HTML)) as server:
        unblock = unblocker(new_client(), seconds=600)
        ended: list[BaseException] = []
        thread = threading.Thread(target=catching, args=(unblock, f"{server.url}/api", ended))
        thread.start()
        wait_for(lambda: bool(server.requests))
        unblock.close()
        thread.join(60)
        assert not thread.is_alive()
        assert [type(error) for error in ended] == [Terminated]
        with pytest.raises(Terminated):
            unblock(f"{server.url}/api")
    assert_nothing_left(scratch)
    assert zombies() == []


@pytest.mark.parametrize("step", ["imagetag.web.chromium.Chromium.kill", "shutil.rmtree"])
def test_a_signal_while_the_browser_is_closed_leaves_nothing(
    step: str, scratch: Path, monkeypatch: pytest.MonkeyPatch, init: None
) -> None:
    signals = iter([Terminated()])

    def interrupted(*args: Any, **options: Any) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        raise next(signals)

    client = new_client()
    # It is called shortly before the browser is started.
    client.wait_turn = lambda url: monkeypatch.setattr(step, interrupted)  # type: ignore[method-assign]
    with serving(interstitial) as server:
        with pytest.raises(Terminated), unblocker(client) as unblock:
            unblock(f"{server.url}/api")
    assert_nothing_left(scratch)
    assert zombies() == []


def catching(unblock: Unblocker, url: str, ended: list[BaseException]) -> None:
    try:
        unblock(url)
    except BaseException as error:
        ended.append(error)


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_browser_that_does_not_start_is_no_crash(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, init: None
) -> None:
    folder = scratch / "bin"
    folder.mkdir()
    fake = folder / "chromium"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Chromium 156.0.1.2 || exit 1\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    with serving(interstitial) as server:
        assert not unblocker(new_client())(f"{server.url}/api")
    shutil.rmtree(folder)
    assert_nothing_left(scratch)
    assert zombies() == []


def test_credentials_stay_out_of_the_browsers_environment(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    folder = scratch / "bin"
    folder.mkdir()
    log = scratch / "log"
    fake = folder / "chromium"
    fake.write_text(f"#!/bin/sh\nenv >> {log}\necho Chromium 156.0.1.2\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    with serving(interstitial) as server:
        assert not unblocker(new_client())(f"{server.url}/api")
    assert log.read_text().count("PATH=") >= 2  # asked for its version, and started
    assert "hunter2" not in log.read_text()


def test_what_is_missing_is_named(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(scratch))
    with pytest.raises(UsageError, match="chromium, chromedriver not found; install"):
        unblocker(new_client())
