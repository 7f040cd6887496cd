"""One polite HTTP client a job: one request rate, bounded answers, retries, no private hosts."""

from __future__ import annotations

import email.utils
import ipaddress
import random
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import DecodeError, ProtocolError, ReadTimeoutError, SSLError

from imagetag import __version__
from imagetag.errors import Terminated
from imagetag.log import get_logger

_ATTEMPTS = 5
_LONGEST_PAUSE = 300.0  # seconds; a server that asks for more is asked again on the next run
_BODY_SECONDS = 300.0  # a body that drips in for longer is given up
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})


class HttpError(Exception):
    """A request that failed for good or, after retries, for now.

    Attributes:
        reason: one word for counting, such as `http_404`, `timeout`, `too_large`.
        permanent: whether asking again is pointless.

    """

    def __init__(self, reason: str, detail: str, *, permanent: bool) -> None:
        super().__init__(detail)
        self.reason = reason
        self.permanent = permanent


class RateLimiter:
    """Spaces requests evenly, however many threads make them.

    Args:
        rate: requests a second, over 0.

    """

    def __init__(self, rate: float) -> None:
        self._interval = 1.0 / rate
        self._next = 0.0
        self._lock = threading.Lock()
        self.count = 0

    def reserve(self) -> float:
        """Take the next place, and return how many seconds it is away."""
        with self._lock:
            now = time.monotonic()
            place = max(now, self._next)
            self._next = place + self._interval
            self.count += 1
            return place - now

    def pause(self, seconds: float) -> None:
        """Let nobody send anything for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


@dataclass(frozen=True)
class Answer:
    """A whole answer with status 200."""

    url: str
    content: bytes
    content_type: str


class Client:
    """GET requests, safe to make from many threads.

    Args:
        rate: requests a second over all threads, redirects and retries included.
        concurrency: how many threads will use it.
        contact: an address or URL for the user agent, so that a board's owner can reach whoever
            runs this.
        allow_private_hosts: also connect to loopback, private and link-local addresses.

    """

    def __init__(
        self,
        *,
        rate: float,
        concurrency: int = 16,
        contact: str = "",
        allow_private_hosts: bool = False,
        timeout: tuple[float, float] = (10.0, 30.0),
    ) -> None:
        self._limiter = RateLimiter(rate)
        self._timeout = timeout
        self._stop = threading.Event()
        self._session = requests.Session()
        self._session.max_redirects = 5
        self._session.headers["User-Agent"] = user_agent(contact)
        adapter = _Adapter(self._wait_turn, concurrency, guarded=not allow_private_hosts)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    @property
    def sent(self) -> int:
        """How many requests were sent."""
        return self._limiter.count

    def get(self, url: str, params: dict[str, str] | None = None, *, max_bytes: int) -> Answer:
        """Fetch a URL whole, trying again after failures that may pass.

        Raises:
            HttpError: if the server refuses, fails five times, or sends over `max_bytes`.
            Terminated: if `stop` was called.

        """
        if not _is_http(url):
            raise HttpError("bad_url", f"{url[:200]!r} is not an http URL", permanent=True)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._get_once(url, params, max_bytes)
            except _Retry as retry:
                if attempt == _ATTEMPTS:
                    raise retry.error from None
                self._back_off(retry, attempt)
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Make every request under way, and every later one, end soon."""
        self._stop.set()

    def _get_once(self, url: str, params: dict[str, str] | None, max_bytes: int) -> Answer:
        try:
            with self._session.get(
                url, params=params, timeout=self._timeout, stream=True
            ) as response:
                self._check_status(response)
                content = self._body(response, max_bytes)
                content_type = response.headers.get("Content-Type", "")
                return Answer(response.url, content, content_type)
        except _PrivateHost as error:
            raise HttpError("private_host", f"{url}: {error}", permanent=True) from error
        except (requests.Timeout, ReadTimeoutError) as error:
            raise _Retry(
                HttpError("timeout", f"{url}: no answer in time", permanent=False)
            ) from error
        except DecodeError as error:
            raise _Retry(HttpError("bad_encoding", f"{url}: {error}", permanent=False)) from error
        except (requests.ConnectionError, ProtocolError, SSLError) as error:
            detail = f"{url}: {_innermost(error)}"
            raise _Retry(HttpError("connection", detail, permanent=False)) from error
        except (requests.RequestException, UnicodeError, ValueError) as error:
            raise HttpError("bad_url", f"{url}: {error}", permanent=True) from error

    @staticmethod
    def _check_status(response: requests.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        permanent = status not in _PASSING_STATUS
        error = HttpError(f"http_{status}", f"{response.url}: status {status}", permanent=permanent)
        if permanent:
            raise error
        raise _Retry(error, _retry_after(response.headers.get("Retry-After")))

    def _body(self, response: requests.Response, max_bytes: int) -> bytes:
        too_large = HttpError(
            "too_large", f"{response.url}: more than {max_bytes} bytes", permanent=True
        )
        declared = response.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) > max_bytes:
            raise too_large
        deadline = time.monotonic() + _BODY_SECONDS
        chunks = []
        size = 0
        # `read1` gives what has arrived: a full buffer would be waited for as long as it drips in.
        while chunk := response.raw.read1(1 << 16, decode_content=True):
            self._check_stopped()
            size += len(chunk)
            if size > max_bytes:
                raise too_large
            if time.monotonic() > deadline:
                raise requests.Timeout
            chunks.append(chunk)
        return b"".join(chunks)

    def _back_off(self, retry: _Retry, attempt: int) -> None:
        pause = random.uniform(0.5, 1.0) * 2**attempt / 2  # noqa: S311 - jitter is no secret
        if retry.after is not None:
            pause = max(pause, min(retry.after, _LONGEST_PAUSE))
            self._limiter.pause(pause)  # the server spoke to the job, not to this thread
        get_logger().debug("trying again", error=str(retry.error), seconds=round(pause, 1))
        self._sleep(pause)

    def _wait_turn(self) -> None:
        self._check_stopped()
        self._sleep(self._limiter.reserve())

    def _sleep(self, seconds: float) -> None:
        if seconds > 0 and self._stop.wait(seconds):
            raise Terminated

    def _check_stopped(self) -> None:
        if self._stop.is_set():
            raise Terminated


def user_agent(contact: str) -> str:
    """Return the user agent: what this is, and how to reach whoever runs it."""
    who = f"; contact: {contact}" if contact else ""
    return f"imagetag/{__version__} (batch scraper of tagged images{who})"


class _Retry(Exception):
    """A failure that may pass, and how many seconds the server asked to be left alone."""

    def __init__(self, error: HttpError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or as a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _is_http(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https")
    except ValueError:  # half an IPv6 address
        return False


def _innermost(error: BaseException) -> str:
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    reason = getattr(error, "reason", None)
    return _innermost(reason) if isinstance(reason, BaseException) else str(error)


class _PrivateHost(Exception):
    """The connection leads to an address that is not on the public internet."""


def _check_peer(connection: HTTPConnection) -> None:
    # The address that was really connected to: a name may resolve to anything, and differently
    # each time.
    peer = connection.sock.getpeername()[0]
    address: Any = ipaddress.ip_address(peer.split("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if not address.is_global or address.is_multicast:
        connection.close()
        raise _PrivateHost(
            f"{connection.host} is {address}, no public address; --allow-private-hosts permits it"
        )


class _GuardedHTTP(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _check_peer(self)


class _GuardedHTTPS(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _check_peer(self)


class _GuardedHTTPPool(HTTPConnectionPool):
    ConnectionCls = _GuardedHTTP


class _GuardedHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS


class _Adapter(HTTPAdapter):
    """Waits for its turn before each request, redirects included, and checks where it leads."""

    def __init__(self, wait_turn: Any, concurrency: int, *, guarded: bool) -> None:
        self._wait_turn = wait_turn
        self._guarded = guarded
        super().__init__(pool_connections=concurrency, pool_maxsize=concurrency)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        if self._guarded:  # a proxy has a pool of its own, and answers for where it connects to
            self.poolmanager.pool_classes_by_scheme = {
                "http": _GuardedHTTPPool,
                "https": _GuardedHTTPSPool,
            }

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        self._wait_turn()
        response = super().send(*args, **kwargs)
        if response.is_redirect:
            response.close()  # else its body would be read, whatever its size
        return response
