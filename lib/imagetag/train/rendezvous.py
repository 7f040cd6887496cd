"""Where the workers of a distributed training meet before TensorFlow connects them.

TensorFlow waits for ever for a worker that never comes, and takes none back that was started
again. So the workers meet first, on the port that worker 0's TensorFlow is to use right after.
Each line is one JSON object:

    a worker says    worker 0 says
    hello            hello             who they are, and what must be the same for all
    ready N          ready? N          every two seconds, and when a worker came or left
    go               go                when all have answered a round in which none was missing

Strangers can't disturb the meeting by silence, noise or numbers. But whoever speaks this protocol
is believed, as by TensorFlow on the same port: keep both off open networks.
"""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import json
import re
import secrets
import selectors
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any

from imagetag.errors import TransientError, UsageError, one_line
from imagetag.log import get_logger

LINE_BYTES = 4096
PULSE = 2.0  # seconds from one round to the next
SILENCE = 10.0  # seconds without a line after which the other end is given up
PAUSE = 1.0  # seconds between attempts, at most
REPORT = 30.0  # seconds between log lines
STRANGERS = 64  # connections kept that have not said who they are

Message = dict[str, Any]

MUST_AGREE = {
    "version": "the version of their meeting",
    "count": "the number of --worker-addresses",
    "identity": "the digest of their settings",
}
HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def meet(addresses: Sequence[str], index: int, *, identity: str, timeout: float) -> None:
    """Wait until all workers are there; then all of them return, and the ports are free.

    Runs in the calling thread and leaves nothing open, also when a signal handler raises.

    Args:
        addresses: `host:port` of each worker, IPv6 addresses in brackets; the same for all.
        index: which of them this one is. Worker 0 listens, on all interfaces.
        identity: a digest of whatever must be the same for all workers.
        timeout: seconds to wait (`--rendezvous-timeout`).

    Raises:
        UsageError: if an address or the index is wrong, or another worker has other settings.
        TransientError: if some were not there in time, or one left in the very last moment.

    """
    places = [_parse(address) for address in addresses]
    if len(set(places)) < len(places):
        raise UsageError("--worker-addresses: an address is there twice; give each worker its own")
    if not 0 <= index < len(addresses):
        raise UsageError(
            f"--worker-addresses: there is no worker {index} among {len(addresses)}, "
            "which are counted from 0"
        )
    if len(addresses) == 1:
        return
    hello: Message = {
        "say": "hello",
        "protocol": "imagetag-rendezvous",
        "version": 1,
        "index": index,
        "count": len(addresses),
        "identity": identity,
        "token": secrets.token_hex(8),
    }
    started = time.monotonic()
    if index == 0:
        with contextlib.closing(_Chief(addresses, hello, timeout)) as chief:
            chief.gather(places[0][1])
    else:
        _join(addresses, places[0], hello, timeout)
    seconds = round(time.monotonic() - started, 1)
    get_logger().info("all workers are there", workers=len(addresses), seconds=seconds)


def _join(addresses: Sequence[str], chief: tuple[str, int], hello: Message, timeout: float) -> None:
    """Come to worker 0, again and again, until it says go."""
    deadline = time.monotonic() + timeout
    pause = PAUSE / 16
    state = "did not answer"
    report = _Report("waiting for worker 0", address=addresses[0])
    while (left := deadline - time.monotonic()) > 0:
        report(state=state)
        try:
            with socket.create_connection(chief, timeout=min(left, SILENCE)) as sock:
                for missing in _attend(_Peer(sock), hello, deadline):
                    state = f"still waited for {_name(addresses, missing) or 'all to be ready'}"
                    report(state=state)
                return
        except OSError as error:
            if time.monotonic() < deadline:
                state = f"did not answer ({one_line(error)})"
        pause = min(2 * pause, PAUSE)
        time.sleep(max(0, min(pause, deadline - time.monotonic())))
    raise TransientError(
        f"worker 0 at {addresses[0]} {state} after {timeout:g} seconds (--rendezvous-timeout): "
        "see that all workers run at the same time, then start this one again"
    )


def _attend(chief: _Peer, hello: Message, deadline: float) -> Iterator[list[int]]:
    """Answer worker 0 until it says go; yield who is missing whenever it tells."""
    chief.send(**hello)
    while True:
        message = chief.read(min(SILENCE, deadline - time.monotonic()))
        match message:
            case {"say": "hello"} if not chief.known:
                _check_hello(hello, message)
                if message["index"] != 0:  # a port of one's own machine can be connected to itself
                    raise ConnectionError("it is not worker 0")
                _check_agreement(hello, message)
                chief.known = True
            case {"say": "ready?", "round": int(number), "missing": list(missing)} if chief.known:
                chief.send("ready", round=number)
                yield [other for other in range(hello["count"]) if other in missing]
            case {"say": "go"} if chief.known:
                chief.send("go")
                return
            case _:
                raise ConnectionError("something else answers there")


class _Chief:
    """Worker 0's side: all connections, served by one thread."""

    def __init__(self, addresses: Sequence[str], hello: Message, timeout: float) -> None:
        self._addresses, self._hello, self._timeout = addresses, hello, timeout
        self._deadline = time.monotonic() + timeout
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, _Peer] = {}
        self._strangers: list[_Peer] = []
        self._turned_away = 0
        self._replaced: collections.deque[str] = collections.deque(maxlen=256)
        self._round = 0
        self._next_round = 0.0

    def gather(self, port: int) -> None:
        """Return when all workers are there and were told to go."""
        report = _Report("waiting for workers")
        with _listen(port, self._deadline) as listener:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
            while late := self._late():
                report(missing=_name(self._addresses, late), strangers=self._turned_away)
                if time.monotonic() >= self._deadline:
                    raise TransientError(
                        f"worker {_name(self._addresses, late)} did not come within "
                        f"{self._timeout:g} seconds (--rendezvous-timeout): see its log, "
                        "then start all workers again"
                    )
                self._serve(listener)
        self._let_go()

    def _missing(self) -> list[int]:
        return [index for index in range(1, self._hello["count"]) if index not in self._workers]

    def _late(self) -> list[int]:
        """Return who is missing or, if none is, who has not answered this round."""
        return self._missing() or [
            index for index, peer in self._workers.items() if peer.round < self._round
        ]

    def _serve(self, listener: socket.socket) -> None:
        """Ask all if it is time to, take in what has come, and give up who is silent."""
        while (now := time.monotonic()) >= self._next_round:
            self._ask()
        for key, _ in self._selector.select(max(0, min(self._next_round, self._deadline) - now)):
            if key.fileobj is listener:
                self._accept(listener)
            else:
                self._hear(key.data)
        for peer in [*self._strangers, *self._workers.values()]:
            if time.monotonic() - peer.heard > SILENCE:
                self._drop(peer, "it says nothing")

    def _ask(self) -> None:
        """Begin a round: only answers to the last one show who is there now."""
        self._round += 1
        self._next_round = time.monotonic() + PULSE
        missing = self._missing()[:100]
        for peer in list(self._workers.values()):
            try:
                peer.send("ready?", round=self._round, missing=missing)
            except OSError as error:
                self._drop(peer, one_line(error))

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
            # Closing resets the connection, so that nothing of it keeps the port busy.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:  # it has left already
            return
        peer = _Peer(sock)
        self._strangers.append(peer)
        self._selector.register(sock, selectors.EVENT_READ, peer)
        if len(self._strangers) > STRANGERS:
            self._drop(self._strangers[0], "too many say nothing")

    def _hear(self, peer: _Peer) -> None:
        """Take in what one says, up to the first line that is not in order."""
        try:
            while True:
                match peer.read(0):
                    case hello if not peer.known:
                        self._admit(peer, hello)
                    case {"say": "ready", "round": int(number)} if (
                        peer.round < number <= self._round
                    ):
                        peer.round = number
                    case _:
                        raise ConnectionError("it says what it was not asked")
        except BlockingIOError:
            pass
        except OSError as error:
            self._drop(peer, one_line(error))

    def _admit(self, peer: _Peer, hello: Message) -> None:
        _check_hello(self._hello, hello)
        peer.send(**self._hello)
        try:
            _check_agreement(self._hello, hello)
        except UsageError:
            # That worker finds out the same when our hello has arrived, and leaves.
            with contextlib.suppress(OSError):
                peer.read(1)
            raise
        index, token = hello["index"], hello["token"]
        if not 0 < index < hello["count"] or token in self._replaced:
            raise ConnectionError("it is none of the workers")
        if old := self._workers.get(index):
            if old.token != token:
                self._replaced.append(old.token)
            self._drop(old, "it came again")
        self._strangers.remove(peer)
        self._workers[index] = peer
        peer.known, peer.index, peer.token = True, index, token
        self._next_round = 0

    def _drop(self, peer: _Peer, reason: str) -> None:
        if peer in self._strangers:
            self._strangers.remove(peer)
            self._turned_away += 1
        elif self._workers.get(peer.index) is peer:
            del self._workers[peer.index]
            self._next_round = 0
            get_logger().info("a worker left", worker=peer.index, reason=reason)
        else:
            return
        self._selector.unregister(peer.sock)
        peer.sock.close()

    def _let_go(self) -> None:
        """Tell all to go. From the first one on there is no way back: one that fails ends it."""
        deadline = time.monotonic() + SILENCE
        peers = list(self._workers.values())
        try:
            for peer in peers:
                peer.send("go")
            for peer in peers:
                if peer.read(max(0, deadline - time.monotonic())) != {"say": "go"}:
                    raise ConnectionError("it does not go")
        except OSError as error:
            raise TransientError(
                f"worker {_name(self._addresses, [peer.index])} left when all were to begin "
                f"({one_line(error)}): start all workers again"
            ) from error

    def close(self) -> None:
        """Close all connections."""
        for peer in [*self._strangers, *self._workers.values()]:
            peer.sock.close()
        self._selector.close()


class _Peer:
    """The other end of a connection. Whatever goes wrong with it is an OSError."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.known = False  # until its hello
        self.index = 0
        self.token = ""
        self.round = 0
        self.heard = time.monotonic()
        self._buffer = b""

    def send(self, say: str, **fields: Any) -> None:
        """Send a message at once; one that does not read fails."""
        line = json.dumps({"say": say, **fields}).encode() + b"\n"
        if len(line) > LINE_BYTES:
            raise ValueError(f"{len(line)} bytes are too long for a message")
        self.sock.settimeout(0)
        if self.sock.send(line) < len(line):
            raise ConnectionError("it does not read")

    def read(self, seconds: float) -> Message:
        """Return its next message, if it comes whole within so many seconds."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if len(self._buffer) >= LINE_BYTES:
                raise ConnectionError("its line is too long")
            self.sock.settimeout(max(0, deadline - time.monotonic()))
            chunk = self.sock.recv(LINE_BYTES - len(self._buffer))
            if not chunk:
                raise ConnectionError("it closed the connection")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise ConnectionError("something else answers there")
        self.heard = time.monotonic()
        return message


class _Report:
    """Logs what is waited for: at once, and then now and again."""

    def __init__(self, event: str, **fields: Any) -> None:
        self._log = get_logger().bind(**fields)
        self._event = event
        self._next = 0.0

    def __call__(self, **fields: Any) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + REPORT
            self._log.info(self._event, **fields)


def _check_hello(ours: Message, theirs: Message) -> None:
    """Raise ConnectionError if this is no hello of a worker."""
    same = all(theirs.get(field) == ours[field] for field in ("say", "protocol"))
    if not same or any(type(theirs.get(field)) is not type(ours[field]) for field in ours):
        raise ConnectionError("something else answers there")


def _check_agreement(ours: Message, theirs: Message) -> None:
    for field, what in MUST_AGREE.items():
        if theirs[field] != ours[field]:
            raise UsageError(
                f"worker {theirs['index']} and worker {ours['index']} do not agree on {what}: "
                f"{theirs[field]!r:.80} and {ours[field]!r:.80}; start all with the same options"
            )


def _listen(port: int, deadline: float) -> socket.socket:
    """Listen on all interfaces; wait for the port if it is still in use."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    while True:
        try:
            return socket.create_server(("", port), family=family, dualstack_ipv6=dual)
        except PermissionError as error:
            raise UsageError(f"--worker-addresses: port {port}: {one_line(error)}") from error
        except OSError as error:
            if (left := deadline - time.monotonic()) <= 0:
                raise TransientError(
                    f"worker 0 could not listen on port {port} (--worker-addresses) before "
                    f"--rendezvous-timeout: {one_line(error)}"
                ) from error
        time.sleep(min(PAUSE, left))


def _parse(address: str) -> tuple[str, int]:
    """Return the host and the port of an address."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(ValueError):
        if host.startswith("[") and host.endswith("]"):
            host = str(ipaddress.IPv6Address(host[1:-1]))
        elif not HOST.fullmatch(host):
            raise ValueError
        if re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536:
            return host, int(port)
    raise UsageError(
        f"--worker-addresses: {address!r:.100} is no address; write HOST:PORT or [IPV6]:PORT"
    )


def _name(addresses: Sequence[str], indices: Sequence[int]) -> str:
    """Return the first of some workers with their addresses, for people."""
    named = ", ".join(f"{index} ({addresses[index]})" for index in indices[:8])
    return named + (f" and {len(indices) - 8} more" if len(indices) > 8 else "")
