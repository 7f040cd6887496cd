"""A small imageboard that speaks the protocol of Gelbooru Beta 0.2: API, HTML pages, pictures.

It serves any folder with a `posts.jsonl`, as `scenes.draw_posts` writes it. It is made for the demo
and for tests, and follows the boards of that engine also where they are odd.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qs, unquote

from imagetag.demo.pages import (
    Answer,
    error_page,
    json_answer,
    json_post,
    list_body,
    page,
    unreadable_page,
    view_body,
    xml_answer,
    xml_post,
)
from imagetag.demo.posts import PostIndex, read_posts, shrunk
from imagetag.errors import UsageError
from imagetag.images import BadImage
from imagetag.log import get_logger

_API_LIMIT = 1000  # posts
_API_DEFAULT_LIMIT = 100
_MEDIA_TYPES = {"jpg": "image/jpeg"}  # the others are called as they end
_HOST = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


class BoardServer:
    """A board on a port of this machine; as a context manager it serves until the block ends.

    Attributes:
        url: the board's root, such as `http://127.0.0.1:8480`.
        posts: the posts it shows, newest first.
        requests: how many requests were answered so far, by kind: `api`, `list`, `view`, `image`,
            `preview` (thumbnails and samples) and `other`.

    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        host: str = "127.0.0.1",
        api: Literal["open", "closed"] = "open",
    ) -> None:
        """Read the posts and listen; port 0 takes a free one.

        With `api="closed"` the API answers as on boards that have switched it off: only the HTML
        pages tell of posts.

        Raises:
            InputError: if there is no `posts.jsonl` in the folder.
            UsageError: if the port cannot be listened on.

        """
        self._index = PostIndex(read_posts(folder))
        self._api_closed = api == "closed"
        self._lock = threading.Lock()
        self.posts = self._index.posts
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

    def answer(self, path: str, query: str, root: str) -> Answer:
        """Return what the board says to a request; `root` is its URL as the client knows it."""
        try:
            params = {
                name: values[-1] for name, values in parse_qs(query, max_num_fields=50).items()
            }
        except ValueError:
            kind, answer = "other", error_page(HTTPStatus.BAD_REQUEST, "Too many parameters")
        else:
            kind, answer = self._routed(unquote(path), params, root)
        with self._lock:
            self.requests[kind] += 1
        return answer

    def _routed(self, path: str, params: Mapping[str, str], root: str) -> tuple[str, Answer]:
        if path in ("/", "/index.php"):
            section = params.get("page", "post")
            what = params.get("s", "list")
            if (section, what, params.get("q")) == ("dapi", "post", "index"):
                return "api", self._api(params, root)
            if (section, what) == ("post", "list"):
                return "list", self._list(params, root)
            if (section, what) == ("post", "view"):
                return "view", self._view(params, root)
        elif path.startswith("/images/"):
            return "image", self._image(path)
        elif path.startswith(("/thumbnails/", "/samples/")):
            return "preview", self._preview(path)
        return "other", error_page(HTTPStatus.NOT_FOUND, "There is no such page")

    def _api(self, params: Mapping[str, str], root: str) -> Answer:
        if self._api_closed:  # with status 200, and in XML even where JSON was asked for
            return xml_answer(
                '<response success="false" reason="Search error: API offline. Feel free to browse '
                'the site the old fashioned way for now."/>'
            )
        limit = min(_number(params.get("limit"), _API_DEFAULT_LIMIT), _API_LIMIT)
        offset = _number(params.get("pid"), 0) * limit
        query = f"id:{_number(params['id'], 0)}" if "id" in params else params.get("tags", "")
        found = self._index.search(query)
        posts = found[offset : offset + limit]
        if params.get("json") == "1":
            return json_answer([json_post(post, root) for post in posts])
        elements = [xml_post(post, root, post.id in self._index.parents) for post in posts]
        count = f'count="{len(found)}" offset="{offset if found else 0}"'
        return xml_answer(
            f"<posts {count}>{''.join(elements)}</posts>" if posts else f"<posts {count}/>"
        )

    def _list(self, params: Mapping[str, str], root: str) -> Answer:
        tags = params.get("tags", "all")
        offset = _number(params.get("pid"), 0)  # in posts, while the API's is in pages
        found = self._index.search(tags)
        body = list_body(self._index, found, tags, offset, root)
        return page(tags, body, tags)

    def _view(self, params: Mapping[str, str], root: str) -> Answer:
        found = self._index.search(f"id:{_number(params.get('id'), 0)}")
        if not found:  # a deleted post: the engine sends people back to the list
            target = "index.php?page=post&s=list&tags=all"
            return Answer(HTTPStatus.FOUND, "text/html", b"", location=target)
        return page(f"Post {found[0].id}", view_body(self._index, found[0], root), "")

    def _image(self, path: str) -> Answer:
        post = self._index.by_image.get(path)
        if post is None:
            return error_page(HTTPStatus.NOT_FOUND, "There is no such picture")
        try:
            data = post.path.read_bytes()
        except OSError as error:
            return unreadable_page(post, error)
        return Answer(HTTPStatus.OK, _MEDIA_TYPES.get(post.ext, f"image/{post.ext}"), data)

    def _preview(self, path: str) -> Answer:
        post, size = self._index.by_preview.get(path, (None, (0, 0)))
        if post is None:
            return error_page(HTTPStatus.NOT_FOUND, "There is no such picture")
        try:
            return Answer(HTTPStatus.OK, "image/jpeg", shrunk(post.path, size))
        except (OSError, BadImage) as error:
            return unreadable_page(post, error)


def _number(text: str | None, default: int) -> int:
    return int(text) if text and re.fullmatch("[0-9]{1,15}", text) else default


class _Handler(BaseHTTPRequestHandler):
    """One connection, which may ask many times."""

    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60.0  # seconds a client may be silent
    disable_nagle_algorithm = True  # head and body are two writes; waiting costs 40 ms an answer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        answer = self.server.board.answer(path, query, self._root())
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.media_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'",
        )
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
    request_queue_size = 128

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
