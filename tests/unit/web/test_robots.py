"""What a site's owner says to robots is read as it is meant, and obeyed."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagetag.web import robots
from imagetag.web.client import Client
from imagetag.web.hosts import HttpError
from imagetag.web.robots import interval_of, opted_out, parse
from tests.scripted import Reply, Request, serving


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.01)


def client(**options: Any) -> Client:
    return Client(**{"rate": 1000.0, "allow_private_hosts": True, **options})


def site(text: str | Reply) -> Any:
    """Return a site with that robots.txt."""
    reply = Reply(text.encode()) if isinstance(text, str) else text
    return lambda request: reply if request.path == "/robots.txt" else Reply(b"ok")


def failure_of(polite: Client, url: str, params: dict[str, str] | None = None) -> HttpError:
    with pytest.raises(HttpError) as caught:
        polite.get(url, params, max_bytes=1000)
    return caught.value


def test_a_forbidden_page_is_not_asked_for() -> None:
    with serving(site("User-agent: *\nDisallow: /private\nDisallow: /*?*s=view")) as server:
        polite = client()
        assert polite.get(server.url + "/public", max_bytes=10).content == b"ok"
        error = failure_of(polite, server.url + "/private/1.jpg?key=hidden")
        assert failure_of(polite, server.url + "/index.php", {"s": "view"}).reason == "robots"
    assert [request.path for request in server.requests] == ["/robots.txt", "/public"]
    assert (error.reason, error.permanent) == ("robots", True)
    for part in (f"{server.url}/robots.txt", "/private/1.jpg", "owner", "--ignore-robots"):
        assert part in str(error)
    assert "hidden" not in str(error)
    assert polite.sent == 2


def test_robots_can_be_ignored() -> None:
    with serving(site("User-agent: *\nDisallow: /")) as server:
        client(obey_robots=False).get(server.url, max_bytes=10)
    assert [request.path for request in server.requests] == ["/"]


def test_it_is_read_once_a_site_by_however_many_threads() -> None:
    with serving(site("")) as first, serving(site("")) as second:
        polite = client()
        with ThreadPoolExecutor(8) as pool:
            urls = [first.url + "/a", second.url + "/a"] * 20
            list(pool.map(lambda url: polite.get(url, max_bytes=10), urls))
    for server in (first, second):
        assert [request.path for request in server.requests].count("/robots.txt") == 1


def test_where_a_redirect_leads_is_asked_too() -> None:
    def answer(request: Request) -> Reply:
        if request.path == "/robots.txt":
            return Reply(status=404)
        return Reply(status=302, headers={"Location": second.url + "/images/1.jpg"})

    with serving(site("User-agent: *\nDisallow: /images")) as second:
        with serving(answer) as first:
            error = failure_of(client(), first.url + "/1.jpg")
    assert error.reason == "robots"
    assert f"{first.url}/1.jpg: {second.url}/robots.txt" in str(error)
    assert [request.path for request in second.requests] == ["/robots.txt"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 204])
def test_without_a_robots_txt_all_is_allowed(status: int) -> None:
    with serving(site(Reply(b"", status))) as server:
        assert client().get(server.url, max_bytes=10).content == b"ok"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_cannot_be_read_now_may_forbid_all(status: int) -> None:
    with serving(site(Reply(status=status))) as server:
        polite = client()
        for _ in range(3):
            error = failure_of(polite, server.url + "/a")
    assert (error.reason, error.permanent) == (f"http_{status}", False)
    assert f"{server.url}/robots.txt cannot be read" in str(error)
    assert len(server.requests) == 5, "it is not asked for again at once"


def test_what_could_not_be_read_is_asked_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "_UNREADABLE_SECONDS", 0.0)
    down = True

    def answer(request: Request) -> Reply:
        return Reply(b"", 503 if down else 200)

    with serving(answer) as server:
        polite = client(attempts=1)
        failure_of(polite, server.url)
        down = False
        polite.get(server.url, max_bytes=10)


def test_nobody_there_is_a_passing_failure() -> None:
    with serving(site("")) as server:
        pass
    error = failure_of(client(), server.url)
    assert (error.reason, error.permanent) == ("connection", False)


def test_redirects_to_it_are_followed_and_bounded() -> None:
    def answer(request: Request) -> Reply:
        if request.path == "/robots.txt":
            return Reply(status=301, headers={"Location": "/elsewhere"})
        return Reply(b"User-agent: *\nDisallow: /images")

    with serving(answer) as server:
        assert failure_of(client(), server.url + "/images/1").reason == "robots"
    endless = Reply(status=301, headers={"Location": "/robots.txt"})
    with serving(site(endless)) as server:
        assert client().get(server.url, max_bytes=10).content == b"ok"
    assert len(server.requests) < 10


def test_half_a_megabyte_of_it_is_read() -> None:
    early, late = "User-agent: *\nDisallow: /early\n", "Disallow: /late\n"
    with serving(site(early + "#" * robots.MAX_ROBOTS + "\n" + late)) as server:
        polite = client()
        assert failure_of(polite, server.url + "/early").reason == "robots"
        polite.get(server.url + "/late", max_bytes=10)


def test_a_robots_txt_that_drips_in_is_given_up() -> None:
    held = threading.Event()

    def answer(request: Request) -> Reply:
        held.wait(200)
        return Reply()

    with serving(answer) as server:
        error = failure_of(client(timeout=(5.0, 0.3), attempts=1), server.url)
        held.set()
    assert (error.reason, error.permanent) == ("timeout", False)


def test_an_interval_that_it_asks_for_is_kept() -> None:
    times: list[float] = []

    def answer(request: Request) -> Reply:
        if request.path == "/robots.txt":
            return Reply(b"User-agent: *\nCrawl-delay: 0.3")
        times.append(time.monotonic())
        return Reply()

    with serving(answer) as server:
        started = time.monotonic()
        polite = client()
        for _ in range(4):
            polite.get(server.url, max_bytes=10)
    assert max(times) - started >= 0.89


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("User-agent: *\nCrawl-delay: 2", 2),
        ("User-agent: *\nCrawl-delay: 86400", 60),
        ("User-agent: *\nCrawl-delay: 2\nUser-agent: imagetag\nCrawl-delay: 1", 1),
        ("User-agent: other\nCrawl-delay: 2", 0),
        ("User-agent: *\nRequest-rate: 1/5", 5),
        ("User-agent: *\nRequest-rate: 2/1m", 30),
        ("User-agent: *\nRequest-rate: 1/5\nCrawl-delay: 9", 9),
        (f"User-agent: *\nRequest-rate: 1/{'9' * 400}", 60),
        (f"User-agent: *\nRequest-rate: {'9' * 400}/1", 1e-9),
        *((f"User-agent: *\nCrawl-delay: {bad}", 0) for bad in ("-1", "nan", "inf", "x", "")),
    ],
)
def test_the_interval_of_a_robots_txt(text: str, seconds: float) -> None:
    assert interval_of(parse(text.encode())) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", True),
        ("<html><body>Not found</body></html>", True),
        ("User-agent: *\nDisallow: /", False),
        ("\ufeffUser-agent: *\r\nDisallow: /\r\n", False),
        ("user agent *\ndisallow /", False),
        ("User-agent: *\nDisallow:", True),
        ("User-agent: *\nDisallow: /\nAllow: /images/", True),
        ("User-agent: *\nDisallow: /\nUser-agent: imagetag\nAllow: /", True),
        ("User-agent: *\nAllow: /\n\nUser-agent: ImageTag/2.0 # you\nDisallow: /images", False),
        ("User-agent: a\nUser-agent: imagetag\nUser-agent: b\nDisallow: /", False),
        ("User-agent: image\nUser-agent: imagetagger\nDisallow: /", True),
        ("User-agent: a\nDisallow: /\nUser-agent: b\nDisallow: /", True),
        ("User-agent: *\nDisallow: /*.jpg$", False),
        ("User-agent: *\nDisallow: /%69mages/", False),
        ("User-agent: *\nDisallow: /user-agent: x\nDisallow: /images", False),
    ],
)
def test_what_a_robots_txt_means(text: str, allowed: bool) -> None:
    found = parse(text.encode()).can_fetch("https://example.org/images/1.jpg", "imagetag")
    assert found == allowed


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_any_bytes_can_be_read(content: bytes) -> None:
    rules = parse(content)
    assert 0 <= interval_of(rules) <= 60
    rules.can_fetch("https://example.org/a?b=c", "imagetag")


def test_a_hostile_robots_txt_is_read_in_a_moment() -> None:  # and not in an hour
    agents = "".join(f"User-agent: a{number}\n" for number in range(20_000))
    rules = parse((agents + "Disallow: /x\n" * 18_000).encode())
    assert rules.can_fetch("https://example.org/x", "imagetag")
    rules = parse(b"User-agent: *\n" + b"Disallow: /*a*a*a*a*a*a*a*a*b\n" * 15_000)
    assert rules.can_fetch("https://example.org/" + "a" * 2000, "imagetag")


@pytest.mark.parametrize(
    "headers",
    [
        *(["noai"], ["NoAI"], ["noimageai"], ["noindex"], ["noimageindex"], ["none"]),
        *(["nofollow, noai"], ["nofollow,NOAI ,noarchive"], ["nofollow", "noai"], ["noai;"]),
        *(["imagetag: noai"], ["ImageTag : noai"], ["*: noai"], ["otherbot: all, imagetag: noai"]),
        *(["otherbot: nofollow", "noindex"], ["noai noimageai"], ["max-snippet: 5, noindex"]),
        ["unavailable_after: Friday, 25-Jun-2010 15:00:00 PST, noai"],
    ],
)
def test_an_owner_who_says_no(headers: list[str]) -> None:
    assert opted_out(headers)


@pytest.mark.parametrize(
    "headers",
    [
        *([], [""], ["all"], ["nofollow"], ["noaide"], ["index"], ["otherbot: noai"]),
        *(["otherbot: nofollow, noai"], ["otherbot: noindex", "nofollow"], ["max-snippet: none"]),
        ["imagetag: all, otherbot: none"],
    ],
)
def test_an_owner_who_says_nothing_to_us(headers: list[str]) -> None:
    assert opted_out(headers) is None


@given(st.lists(st.text(max_size=50), max_size=5))
def test_any_header_can_be_read(headers: list[str]) -> None:
    opted_out(headers)


def test_a_picture_that_its_owner_does_not_give_is_left() -> None:
    big = Reply(b"x", headers={"X-Robots-Tag": "nofollow, NoAI"}, length=10**9)
    with serving(lambda request: Reply() if request.path == "/robots.txt" else big) as server:
        with pytest.raises(HttpError) as caught:
            client().get(server.url + "/1.jpg", max_bytes=10, opt_out=True)
    assert (caught.value.reason, caught.value.permanent) == ("opted_out", True)
    assert "noai" in str(caught.value)
    assert len(server.requests) == 2


def test_opt_out_is_asked_for_and_can_be_ignored() -> None:
    reply = Reply(b"ok", headers={"X-Robots-Tag": "noai"})
    with serving(lambda _: reply) as server:
        assert client().get(server.url, max_bytes=10).content == b"ok"
        ignoring = client(obey_robots=False)
        assert ignoring.get(server.url, max_bytes=10, opt_out=True).content == b"ok"
