"""One polite HTTP client a job: one request rate, bounded answers, retries, no private hosts."""

from __future__ import annotations

import http.client
import random
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.utils import default_headers, requote_uri
from urllib3.exceptions import DecodeError, HTTPError, ProtocolError, ReadTimeoutError, SSLError

from imagetag import __version__
from imagetag.counters import counters
from imagetag.errors import one_line
from imagetag.log import get_logger
from imagetag.web.hosts import Breaker, Host, Hosts, HttpError, Stop, Visit
from imagetag.web.pace import Pace
from imagetag.web.responses import (
    is_truncated,
    needs_browser,
    read_body,
    read_start,
    retry_after,
)
from imagetag.web.robots import MAX_ROBOTS, Robots, opted_out
from imagetag.web.transport import Adapter, PrivateHost, Wire

__all__ = ["Answer", "Breaker", "Client", "HttpError", "user_agent"]

_ATTEMPTS = 5
_HOPS = 6  # requests until a redirect has to have ended
_HEAD_SECONDS = 60.0  # a head that drips in for longer is given up, and so is
_BODY_SECONDS = 300.0  # a body
_LONGEST_BACK_OFF = 60.0  # seconds
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_MANY = 1000
_REFUSAL_SECONDS = 2.0  # for the body of a refusal: the status says already what matters
_MAX_COOKIES = 100
_MAX_COOKIE_BYTES = 4096

_VISITS = 5  # times that a browser is sent for, in a run

_BROKEN = (
    *(requests.ConnectionError, requests.exceptions.InvalidHeader),
    *(ProtocolError, SSLError, http.client.IncompleteRead),
)

_SECRET = re.compile(r"(?i)\b(api_key|login|user_id|key|password_hash|pass_hash)=[^&#\s'\"]*")
_USER_INFO = re.compile(r"//[^/?#@\s]*@")


@dataclass(frozen=True)
class Answer:
    """A whole answer with status 200, and whether its URL is not the one that was asked."""

    url: str
    content: bytes
    redirected: bool = False


class Client:
    """GET requests, safe to make from many threads; as a context, it is stopped at the end.

    Args:
        rate: requests a second of the whole job, over all shards and threads, redirects and
            retries included.
        shard_index: which shard of the job this is, from 0, of
        shard_count: so many.
        concurrency: how many threads will use it.
        per_host: how many requests one host may have at once; as many as threads by default.
        contact: an address or URL for the user agent, so that a board's owner can reach whoever
            runs this.
        obey_robots: whether robots.txt and X-Robots-Tag are obeyed.
        allow_private_hosts: also connect to loopback, private and link-local addresses.
        timeout: seconds to connect in, and seconds of silence before an answer is given up.
        head_seconds: how long an answer's head may take, and
        body_seconds: its body.
        attempts: how often a request is made until it fails for now.
        back_off: seconds; before the second attempt there is a pause of up to so many, drawn
            evenly, and each further one may be twice as long.
        breaker: when a host counts as down.
        unblock: see the attribute.

    Attributes:
        unblock: called with a URL whose answer is a page that needs a browser; returns whether
            the request should be made again, after a call of `adopt`. One thread calls it while
            those that were refused too wait for it.

    """

    def __init__(
        self,
        *,
        rate: float,
        shard_index: int = 0,
        shard_count: int = 1,
        concurrency: int = 16,
        per_host: int | None = None,
        contact: str = "",
        obey_robots: bool = True,
        allow_private_hosts: bool = False,
        timeout: tuple[float, float] = (10.0, 30.0),
        head_seconds: float = _HEAD_SECONDS,
        body_seconds: float = _BODY_SECONDS,
        attempts: int | None = None,
        back_off: float = 2.0,
        breaker: Breaker | None = None,
        unblock: Callable[[str], bool] | None = None,
    ) -> None:
        self._stop = Stop()
        self._pace = Pace(rate, shard_index, shard_count)
        self._hosts = Hosts(per_host or concurrency, breaker or Breaker(), self._stop)
        self._robots = Robots(self._read_robots, self.set_interval) if obey_robots else None
        self._timeout = timeout
        self._body_seconds = body_seconds
        self._attempts = attempts or _ATTEMPTS
        self._back_off = back_off
        self._wire = Wire(self._stop, guarded=not allow_private_hosts, head_seconds=head_seconds)
        self._session = requests.Session()
        self._headers = default_headers()
        self._headers["User-Agent"] = user_agent(contact)
        adapter = Adapter(self._wire, concurrency)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)
        self._environment: dict[str, dict[str, Any]] = {}  # proxies and the like, by host
        self._lock = threading.Lock()
        self._sent = 0
        self.unblock = unblock
        self._unblocking = threading.Lock()
        self._session_number = 0  # counts the browser sessions taken over
        self._visits = 0
        self._in_vain: set[tuple[str, int]] = set()

    @property
    def sent(self) -> int:
        """How many requests were sent."""
        return self._sent

    def get(
        self,
        url: str,
        params: dict[str, str] | None = None,
        *,
        max_bytes: int,
        opt_out: bool = False,
    ) -> Answer:
        """Fetch a URL whole, trying again after failures that may pass.

        With `opt_out`, an answer is refused that its X-Robots-Tag does not give to such as us.

        Raises:
            HttpError: if the server refuses, fails five times, or sends over `max_bytes`.
            Terminated: if `stop` was called.

        """
        opt_out = opt_out and self._robots is not None
        return self._fetch(_Wish(url, params, max_bytes, self._robots, opt_out))

    def set_interval(self, host: str, seconds: float) -> None:
        """Let at least so many seconds pass between requests to a host, over all shards.

        Args:
            host: such as `example.org`, `example.org:8080`, or any URL there.
            seconds: an interval set before holds if it is longer.

        """
        self._pace.set_interval(_host_of(host if "//" in host else "//" + host), seconds)

    def wait_turn(self, url: str) -> None:
        """Wait until a request of somebody else, such as a browser, may be sent; count it.

        Raises:
            HttpError: if the host is down, or asked to be left alone for long.
            Terminated: if `stop` was called.

        """
        try:
            host = self._hosts[_host_of(url)]
        except ValueError as error:
            raise HttpError(
                "bad_url", f"{_masked(url[:300])!r} is no URL", permanent=True
            ) from error
        with host.visit(self._pace) as visit:
            while not visit.keep(visit.take()):
                pass
            self._count()

    def adopt(
        self, cookies: Iterable[tuple[str, str, str, str, bool]], user_agent: str | None = None
    ) -> None:
        """Go on as a browser's session: with its cookies, and its user agent.

        Args:
            cookies: name, value, domain, path, and whether it is for https alone.
            user_agent: what the browser says it is.

        """
        with self._lock:
            for name, value, domain, path, secure in cookies:
                self._session.cookies.set(name, value, domain=domain, path=path, secure=secure)
            if user_agent is not None:
                self._headers["User-Agent"] = user_agent
            self._session_number += 1

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Make every request under way, and every later one, end soon."""
        self._stop.set()
        self._hosts.wake()
        self._wire.hang_up()

    def _count(self) -> None:
        with self._lock:
            self._sent += 1
        counters().request()

    def _fetch(self, wish: _Wish) -> Answer:
        attempt = 1
        while True:
            number = self._session_number
            try:
                return self._follow(wish, again=attempt > 1)
            except _Blocked as blocked:
                if self._unblocked(blocked, number):
                    continue
                failure = blocked.error
                if failure.permanent:
                    raise failure from None
                blocked.host.failed(failure, probe=False, again=attempt > 1)
                waits = False
            except _Passing as passing:
                failure = passing.error
                waits = bool(passing.after)
            if attempt >= self._attempts:
                raise failure
            if not waits:
                seconds = min(self._back_off * 2 ** (attempt - 1), _LONGEST_BACK_OFF)
                seconds = random.uniform(0, seconds)  # noqa: S311 - jitter is no secret
                get_logger().debug("trying again", error=str(failure), seconds=round(seconds, 1))
                self._stop.sleep(seconds)
            attempt += 1

    def _follow(self, wish: _Wish, *, again: bool) -> Answer:
        """Make a request and those that it is redirected to."""
        url, params = wish.url, wish.params
        for hop in range(_HOPS):
            self._stop.check()
            request = self._prepare(url, params, wish)
            assert request.url is not None  # noqa: S101 - it was prepared
            if wish.robots is not None:
                wish.robots.check(request.url, wish.shown)
            answer = self._visit(request, wish, again=again)
            if isinstance(answer, Answer):
                return replace(answer, redirected=hop > 0)
            url, params = answer, None
        raise HttpError("redirects", f"{wish.shown}: too many redirects", permanent=True)

    def _prepare(
        self, url: str, params: dict[str, str] | None, wish: _Wish
    ) -> requests.PreparedRequest:
        # What a session does for every request, without what takes it longer than all the rest:
        # hooks, .netrc, and a look at the environment's proxies.
        request = requests.PreparedRequest()
        request.method = "GET"
        try:
            if urlsplit(url).scheme.lower() not in ("http", "https"):
                raise requests.exceptions.InvalidSchema
            request.prepare_url(url, params)
            with self._lock:
                request.headers = self._headers.copy()
                if len(self._session.cookies):
                    request.prepare_cookies(self._session.cookies)
        except (requests.RequestException, HTTPError, UnicodeError, ValueError) as error:
            raise wish.bad_url(url) from error
        return request

    def _visit(
        self, request: requests.PreparedRequest, wish: _Wish, *, again: bool
    ) -> Answer | str:
        """Make one request; returns the answer, or the URL that it is redirected to."""
        url = str(request.url)
        host = self._hosts[_host_of(url)]
        with host.visit(self._pace) as visit:
            try:
                return self._exchange(request, visit, wish)
            except HttpError:
                if visit.sent:
                    visit.succeeded()  # it refused, but it is there
                raise
            except PrivateHost as error:
                raise wish.error("private_host", str(error), permanent=True) from error
            except _Passing as passing:
                visit.failed(passing.error, again=again)
                if passing.after is not None:
                    host.ask_not_before(passing.after)
                raise
            except (requests.Timeout, ReadTimeoutError) as error:
                failure = wish.error("timeout", "no answer in time", permanent=False)
                cause: Exception = error
            except DecodeError as error:
                failure = wish.error("bad_encoding", _innermost(error), permanent=False)
                cause = error
            except _BROKEN as error:
                reason = "truncated" if is_truncated(error) else "connection"
                failure = wish.error(reason, _innermost(error), permanent=False)
                cause = error
            except (requests.RequestException, HTTPError, UnicodeError, ValueError) as error:
                raise wish.bad_url(url) from error
            finally:
                if visit.sent:
                    self._count()
            visit.failed(failure, again=again)
            raise _Passing(failure) from cause

    def _exchange(
        self, request: requests.PreparedRequest, visit: Visit, wish: _Wish
    ) -> Answer | str:
        self._wire.exchange.turn = visit
        url = str(request.url)
        adapter = self._session.get_adapter(url)
        with adapter.send(
            request, stream=True, timeout=self._timeout, **self._settings(visit.host.name, url)
        ) as response:
            self._keep_cookies(response)
            self._wire.allow(self._body_seconds)
            location = self._session.get_redirect_target(response)
            if location is not None:
                visit.succeeded()
                try:
                    return requote_uri(urljoin(url, location))
                except (requests.RequestException, ValueError) as error:
                    raise wish.bad_url(location) from error
            if response.status_code != 200:
                raise self._refused(response, visit, wish)
            if wish.opt_out:
                tags = response.raw.headers.getlist("X-Robots-Tag")
                if directive := opted_out(tags):
                    detail = f"its owner says {directive} (X-Robots-Tag)"
                    raise wish.error("opted_out", detail, permanent=True)
            content = self._body(response, wish)
            visit.succeeded()
            return Answer(url, content)

    def _settings(self, host: str, url: str) -> dict[str, Any]:
        """Return what the environment says of a host: its proxy, and the certificates to trust."""
        settings = self._environment.get(host)
        if settings is None:
            if len(self._environment) >= _MANY:  # a board can name any number of hosts
                self._environment.clear()
            found = self._session.merge_environment_settings(url, {}, True, None, None)
            settings = {name: found[name] for name in ("proxies", "verify", "cert")}
            self._environment[host] = settings
        return settings

    def _keep_cookies(self, response: requests.Response) -> None:
        cookies = response.raw.headers.getlist("Set-Cookie")
        if cookies and sum(map(len, cookies)) <= _MAX_COOKIE_BYTES:
            with self._lock:
                if len(self._session.cookies) < _MAX_COOKIES:
                    self._session.cookies.update(response.cookies)

    def _refused(self, response: requests.Response, visit: Visit, wish: _Wish) -> Exception:
        """Return what to raise for any status but 200."""
        status = response.status_code
        permanent = status not in _PASSING_STATUS
        error = wish.error(f"http_{status}", f"status {status}", permanent=permanent)
        after = None if permanent else retry_after(response.headers.get("Retry-After"))
        maybe_blocked = status in (403, 503) or (status == 429 and after is None)
        if maybe_blocked and needs_browser(response):
            if self.unblock is not None:
                return _Blocked(error, visit.host, str(response.url))
            detail = f"status {status} and a page that needs JavaScript: see --browser auto"
            error = wish.error(f"http_{status}", detail, permanent=permanent)
        if not permanent:
            return _Passing(error, after)
        self._wire.allow(_REFUSAL_SECONDS)
        error.content = read_start(response)
        return error

    def _body(self, response: requests.Response, wish: _Wish) -> bytes:
        declared = response.headers.get("Content-Length", "")
        if not wish.cut and declared.isdecimal() and int(declared[:20]) > wish.max_bytes:
            content = None
        else:
            content = read_body(response, wish.max_bytes)
            counters().move("fetched", len(content))
        if content is None or (len(content) > wish.max_bytes and not wish.cut):
            raise wish.error("too_large", f"more than {wish.max_bytes} bytes", permanent=True)
        return content

    def _read_robots(self, url: str) -> bytes:
        """Return a robots.txt; empty where there is none, so that all may be fetched."""
        try:
            wish = _Wish(url, None, MAX_ROBOTS, robots=None, opt_out=False, cut=True)
            return self._fetch(wish).content
        except HttpError as error:
            if error.permanent and error.reason != "private_host":
                return b""
            raise

    def _unblocked(self, blocked: _Blocked, number: int) -> bool:
        """Return whether a request should be made again, after sending for a browser if need be.

        Args:
            blocked: what became of it.
            number: the session's number when it was made.

        """
        while not self._unblocking.acquire(timeout=0.5):
            self._stop.check()
        try:
            self._stop.check()
            if self._session_number != number:
                return True  # a browser came meanwhile
            key = blocked.host.name, number
            if self.unblock is None or key in self._in_vain or self._visits >= _VISITS:
                return False
            self._visits += 1
            if not self.unblock(blocked.url):
                self._in_vain.add(key)
                return False
            with self._lock:
                self._session_number = max(self._session_number, number + 1)
            return True
        finally:
            self._unblocking.release()


def user_agent(contact: str) -> str:
    """Return the user agent: what this is, and how to reach whoever runs it."""
    who = f"; contact: {contact}" if contact else ""
    return f"imagetag/{__version__} (batch scraper of tagged images{who})"


@dataclass(frozen=True)
class _Wish:
    """What a caller asked for; `cut` takes the start of what is too large."""

    url: str
    params: dict[str, str] | None
    max_bytes: int
    robots: Robots | None
    opt_out: bool
    cut: bool = False

    @property
    def shown(self) -> str:
        """The URL as the caller gave it, fit for a log."""
        return _masked(self.url[:300])

    def error(self, reason: str, detail: str, *, permanent: bool) -> HttpError:
        """Return an error about it that tells no credentials."""
        text = one_line(f"{self.shown}: {_masked(detail[:300])}", None)
        return HttpError(reason, text, permanent=permanent)

    def bad_url(self, url: str) -> HttpError:
        """Return the error for a URL that cannot be asked, its own or a redirect's."""
        shown = _masked(url[:300])
        text = f"{shown!r} is not an http URL that can be asked"
        detail = text if url == self.url else f"{self.shown} leads to {text}"
        return HttpError("bad_url", detail, permanent=True)


class _Passing(Exception):
    """A failure that may pass, and how many seconds the server asked to be left alone."""

    def __init__(self, error: HttpError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


class _Blocked(Exception):
    """A page in the place of an answer that only a browser gets past."""

    def __init__(self, error: HttpError, host: Host, url: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.host = host
        self.url = url


def _host_of(url: str) -> str:
    """Return the host and port of a URL, as one name."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    usual = {"http": (None, 80), "https": (None, 443)}.get(parts.scheme, (None, 80, 443))
    return host if parts.port in usual else f"{host}:{parts.port}"


def _masked(text: str) -> str:
    """Return a text without the credentials that URLs in it may hold."""
    return _USER_INFO.sub("//***@", _SECRET.sub(r"\1=***", text))


def _innermost(error: BaseException) -> str:
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    reason = getattr(error, "reason", None)
    return _innermost(reason) if isinstance(reason, BaseException) else str(error)
