"""The connections under the HTTP client: bounded in time, paced, and to public addresses only."""

from __future__ import annotations

import http.client
import io
import ipaddress
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Protocol

from requests import Response
from requests.adapters import HTTPAdapter
from urllib3 import ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.wait import wait_for_read, wait_for_write

from imagetag.errors import UsageError
from imagetag.web.hosts import Stop

_SLICE = 0.5  # seconds; how long a thread waits for the net before it looks whether to stop
_KEPT = 1.0  # seconds; a connection that was idle for longer may have been closed
_MAX_ADDRESSES = 8
_BUFFER = 1 << 16  # bytes
_EMBEDDED = [  # IPv6 networks whose addresses lead to an IPv4 address, and where in them it is
    (ipaddress.IPv6Network("::/96"), 0),  # IPv4-compatible, RFC 4291
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped, RFC 4291
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),  # IPv4-translated, RFC 2765
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056
]
# All that was ever given out; the rest, such as the prefixes of a site's own NAT64, leads anywhere.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC = [  # beside those that every version of Python knows
    ipaddress.ip_network("168.63.129.16"),  # the host, to each machine of Azure: it has secrets
    ipaddress.ip_network("192.0.0.0/24"),  # protocols' own, RFC 6890; Oracle's metadata
    ipaddress.ip_network("192.88.99.0/24"),  # relays of 6to4, RFC 7526
    ipaddress.ip_network("3fff::/20"),  # documentation, RFC 9637
]

# Its warnings of malformed answers tell whole URLs, and with them credentials.
logging.getLogger("urllib3.connection").setLevel(logging.ERROR)


class PrivateHost(Exception):
    """The connection leads to an address that is not on the public internet."""


class Turn(Protocol):
    """A request's place in the order of all: see `imagetag.web.hosts.Visit`."""

    @property
    def is_near(self) -> bool: ...  # noqa: D102
    def take(self) -> float: ...  # noqa: D102
    def keep(self, start: float) -> bool: ...  # noqa: D102


class _Exchange(threading.local):
    turn: Turn
    deadline = 0.0  # monotonic


class Wire:
    """What all connections of a client share, and each thread's request under way.

    Args:
        stop: ends all waiting.
        guarded: whether only public addresses may be connected to.
        head_seconds: how long an answer's head may take from when its request was sent.

    """

    def __init__(self, stop: Stop, *, guarded: bool, head_seconds: float) -> None:
        self.stop = stop
        self.guarded = guarded
        self.exchange = _Exchange()
        self._head_seconds = head_seconds
        self._connecting: set[socket.socket] = set()

    def sent(self) -> None:
        """Note that this thread's request is sent now."""
        self.allow(self._head_seconds)

    def allow(self, seconds: float) -> None:
        """Let what this thread reads from now on take so long."""
        self.exchange.deadline = time.monotonic() + seconds

    def hang_up(self) -> None:
        """End what connections wait for while they are made; later they see themselves to it."""
        for line in list(self._connecting):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def watch(self, line: socket.socket) -> None:
        """Include a socket in `hang_up`."""
        self._connecting.add(line)

    def forget(self, line: socket.socket) -> None:
        """Close a socket that was watched."""
        self._connecting.discard(line)
        line.close()


class Adapter(HTTPAdapter):
    """The adapter of `requests` over such connections."""

    def __init__(self, wire: Wire, concurrency: int) -> None:
        self._wire = wire
        super().__init__(pool_connections=concurrency, pool_maxsize=concurrency)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the manager of connections that lead straight to their hosts."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pools(self._wire, guarded=self._wire.guarded)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> ProxyManager:
        """Return the manager of connections through a proxy, which guards its own network."""
        if proxy.lower().startswith("socks"):
            raise UsageError("the environment names a SOCKS proxy: only HTTP proxies are supported")
        known = proxy in self.proxy_manager
        manager: ProxyManager = super().proxy_manager_for(proxy, **kwargs)
        if not known:
            manager.pool_classes_by_scheme = _pools(self._wire, guarded=False)
        return manager

    def send(self, *args: Any, **kwargs: Any) -> Response:
        """Send a request when its turn has come; gives the answer's head."""
        response = super().send(*args, **kwargs)
        if response.is_redirect:
            response.close()  # else its body would be read, whatever its size
        return response


def refusal(host: str) -> str | None:
    """Return why an address is not to be connected to; None if it is public."""
    address: Any = ipaddress.ip_address(host.partition("%")[0])
    inner = address
    if address.version == 6:
        for network, shift in _EMBEDDED:
            if address in network:
                inner = ipaddress.IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    public = inner.is_global and not inner.is_multicast
    public = public and (inner.version == 4 or inner in _GLOBAL_UNICAST)
    public = public and not any(inner in network for network in _NOT_PUBLIC)
    return None if public else f"{address} is no public address"


def _pools(wire: Wire, *, guarded: bool) -> dict[str, type[HTTPConnectionPool]]:
    """Return pools of connections that know the wire: urllib3 has no other way to tell them."""

    class Head(_Head):
        shared = wire

    class Plain(_Connection, HTTPConnection):
        shared, checked = wire, guarded
        response_class = Head

    class Secure(_Connection, HTTPSConnection):
        shared, checked = wire, guarded
        response_class = Head

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

        def _validate_conn(self, conn: Any) -> None:
            pass  # would connect at once, long before the request's turn

    return {"http": PlainPool, "https": SecurePool}


class _Connection(HTTPConnection):
    """Sends when its turn has come, over a connection that is alive then."""

    shared: Wire
    checked: bool
    _due = False  # a request is made up and not sent yet

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._due = True
        super().request(*args, **kwargs)

    def send(self, data: Any) -> None:
        if self._due:
            self._due = False
            self._wait()
        super().send(data)

    def _wait(self) -> None:
        """Return at the moment at which the request has to be sent, with a connection for it."""
        turn = self.shared.exchange.turn
        used = self.sock is not None
        while True:
            if self.sock is None and turn.is_near:
                self.connect()
            asked = time.monotonic()
            start = turn.take()
            if used and self.sock is not None and time.monotonic() - asked > _KEPT:
                if not self.proxy and wait_for_read(self.sock, 0):
                    self.close()  # the server did, while we waited
                used = False
            if self.sock is None:
                self.connect()
            if turn.keep(start):
                break
        self.shared.sent()

    def connect(self) -> None:
        self._line: socket.socket | None = None
        self.shared.allow(float(self.timeout or 0))  # for a proxy's answer
        try:
            super().connect()
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no handshake in time") from error
        finally:
            if self._line is not None:
                self.shared.forget(self._line)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"  # as an error begins

    def _new_conn(self) -> socket.socket:
        timeout = float(self.timeout or 0)
        try:
            found = _addresses(self._dns_host, self.port, timeout, self.shared.stop)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        failure: Exception | None = None
        for family, kind, protocol, _, address in found[:_MAX_ADDRESSES]:
            if self.checked and (reason := refusal(str(address[0]))):
                failure = failure or PrivateHost(
                    f"{self.host} leads to a private host: {reason}; --allow-private-hosts permits"
                )
                continue
            try:
                line = _connect(family, kind, protocol, address, timeout, self.shared.stop)
            except OSError as error:
                failure = error
                continue
            for option in self.socket_options or ():
                line.setsockopt(*option)
            # A handshake happens inside a socket that nobody sees before it has ended.
            self._line = line.dup()
            self.shared.watch(self._line)
            self.shared.stop.check()  # `hang_up` may have come before
            return line
        if isinstance(failure, PrivateHost):
            raise failure
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"{self.host} does not answer") from failure
        raise NewConnectionError(self, f"cannot connect to {self.host}: {failure}") from failure


class _Head(http.client.HTTPResponse):
    """Reads an answer within its time."""

    shared: Wire

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Reader(sock, self.shared), _BUFFER)


class _Reader(io.RawIOBase):
    """A socket's bytes; raises TimeoutError after the exchange's deadline, or in a long silence."""

    def __init__(self, sock: socket.socket, wire: Wire) -> None:
        self._sock = sock
        self._wire = wire
        self._silence = sock.gettimeout() or 0.0  # seconds
        self._hold = sock.makefile("rb", buffering=0)  # keeps the socket open as long as this is
        sock.settimeout(min(_SLICE, self._silence))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        started = time.monotonic()
        while True:
            self._wire.stop.check()
            try:
                count = self._sock.recv_into(buffer)
            except TimeoutError:
                count = -1
            now = time.monotonic()
            if now > self._wire.exchange.deadline or (count < 0 and now - started >= self._silence):
                raise TimeoutError("no answer in time")
            if count >= 0:
                return count

    def close(self) -> None:
        self._hold.close()
        super().close()


def _addresses(host: str, port: int, timeout: float, stop: Stop) -> list[Any]:
    """Look a name up, for no longer than `timeout` seconds or until it is time to stop."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found: list[Any] = []
    failed: list[Exception] = []
    done = threading.Event()

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(error)
        done.set()

    # There is no way to end a look-up: it is left behind.
    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    deadline = time.monotonic() + timeout
    while not done.wait(min(_SLICE, timeout)):
        stop.check()
        if time.monotonic() > deadline:
            raise socket.gaierror(socket.EAI_AGAIN, "no answer from the name server in time")
    if failed:
        raise failed[0]
    return found


def _connect(
    family: int, kind: int, protocol: int, address: Any, timeout: float, stop: Stop
) -> socket.socket:
    """Connect, for no longer than `timeout` seconds or until it is time to stop."""
    line = socket.socket(family, kind, protocol)
    try:
        line.setblocking(False)
        deadline = time.monotonic() + timeout
        with suppress(BlockingIOError):
            line.connect(address)
        while not wait_for_write(line, min(_SLICE, timeout)):
            stop.check()
            if time.monotonic() > deadline:
                raise TimeoutError("no connection in time")
        if number := line.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, os.strerror(number))
        line.settimeout(timeout)
    except BaseException:
        line.close()
        raise
    return line
