"""A small imageboard that speaks the protocol of a known engine: its API, its pages, pictures.

It serves any folder with a `posts.jsonl`, as `scenes.draw_posts` writes it. It is made for the demo
and for tests, which hand it the protocols of other engines.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote

from imagetag.demo.gelbooru02 import Gelbooru02
from imagetag.demo.pages import Answer, error_page
from imagetag.demo.posts import PostIndex, read_posts
from imagetag.demo.protocol import Protocol, Request
from imagetag.errors import UsageError
from imagetag.log import get_logger

_POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'"
_HOST = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


class BoardServer:
    """A board on a port of this machine; as a context manager it serves until the block ends.

    Attributes:
        url: the board's root, such as `http://127.0.0.1:8480`.
        posts: the posts it shows, newest first.
        requests: how many requests were answered so far, by kind: `api`, `list`, `view`, `image`,
            `preview` (thumbnails and samples), `other`, and what a protocol has besides.

    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        host: str = "127.0.0.1",
        protocol: Callable[[PostIndex], Protocol] = Gelbooru02,
    ) -> None:
        """Read the posts and listen; port 0 takes a free one.

        `protocol` makes of the posts what answers; a class derived from `Protocol` will do.

        Raises:
            InputError: if there is no `posts.jsonl` in the folder.
            UsageError: if the port cannot be listened on.

        """
        index = PostIndex(read_posts(folder))
        self._protocol = protocol(index)
        self._lock = threading.Lock()
        self.posts = index.posts
        self.requests: Counter[str] = Counter()
        try:
            self._server = _Server(self, host, port)
        except OSError as error:
            raise UsageError(
                f"cannot listen on port {port} of {host} ({error.strerror}): "
                "try another --port or --host"
            ) from error
        self.url = f"http://{_reachable(host)}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> BoardServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def respond(self, target: str, root: str, headers: Message) -> Answer:
        """Return what a client gets that asks for a path and its query; `root` is as it has it."""
        path, _, query = target.partition("?")
        try:
            params = parse_qs(query, max_num_fields=50)
        except ValueError:
            self._count("other")
            return error_page(HTTPStatus.BAD_REQUEST, "Too many parameters")
        last = {name: values[-1] for name, values in params.items()}
        return self.answer(Request(unquote(path), last, root, headers))

    def answer(self, request: Request) -> Answer:
        """Return what the board says to a request, and count it."""
        kind, answer = self._protocol.answer(request)
        self._count(kind)
        return answer

    def _count(self, kind: str) -> None:
        with self._lock:
            self.requests[kind] += 1


class _Handler(BaseHTTPRequestHandler):
    """One connection, which may ask many times."""

    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60.0  # seconds a client may be silent
    disable_nagle_algorithm = True  # head and body are two writes; waiting costs 40 ms an answer

    def do_GET(self) -> None:
        answer = self.server.board.respond(self.path, self._root(), self.headers)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.media_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", answer.policy or _POLICY)
        if answer.location:
            self.send_header("Location", answer.location)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815

    def version_string(self) -> str:
        """Return what the Server header says."""
        return "board"

    def log_message(self, *_: object) -> None:
        """Keep quiet: the board counts its requests."""

    def _root(self) -> str:
        # The name that the client used works for it, whatever address was listened on.
        host = self.headers.get("Host", "")
        return f"http://{host}" if _HOST.fullmatch(host) else self.server.board.url


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 4096  # hundreds may come in one instant

    def __init__(self, board: BoardServer, host: str, port: int) -> None:
        self.board = board
        self._connections: set[socket.socket] = set()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking the name service who we are: that may take seconds."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stop listening and hang up: a client must not go on talking to a board that is gone."""
        super().server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log what went wrong; clients that hang up are nothing to speak of."""
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):
            get_logger().error("a request failed", exc_info=error)


def _reachable(host: str) -> str:
    """Return the host as a URL has it: this machine's own address where all are listened on."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host else host
