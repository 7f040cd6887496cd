"""A proxy before a real HTTP server, on whose way some requests and answers go wrong."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# Of one connection alone: the proxy has its own on each side.
_OF_CONNECTIONS = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
_URL = re.compile(r"^http://[^/]*")
_SECONDS = 60.0  # that a server, or a client, may be silent


@dataclass(frozen=True)
class Asked:
    """A request on its way; `target` is its path and query."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


@dataclass(frozen=True)
class Answer:
    """An answer on its way back; after `sent` bytes of its body the line is dead."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    sent: int | None = None


Mishap = Callable[[Asked, Callable[[], Answer]], Answer | None]
"""What becomes of a request, given how to pass it on; without an answer, the line is dead."""


@dataclass
class Proxy:
    """Where it listens, and what befalls a request: nothing, or a mishap. It may be replaced."""

    url: str
    judge: Callable[[Asked], Mishap | None]


@contextlib.contextmanager
def proxied(
    upstream: str, judge: Callable[[Asked], Mishap | None] = lambda _: None
) -> Iterator[Proxy]:
    """Pass everything on to a server until the block ends.

    The name by which clients call is passed on too: signatures and links are of the proxy. Those
    who have it as HTTP_PROXY may call by any name.

    Args:
        upstream: the server's URL, without a path.
        judge: is asked of each request, in many threads.

    """
    server = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _SECONDS
        disable_nagle_algorithm = True  # head and body are two writes; waiting costs 40 ms

        def setup(self) -> None:
            super().setup()
            self.line: http.client.HTTPConnection | None = None

        def finish(self) -> None:
            if self.line:
                self.line.close()
            with contextlib.suppress(OSError):
                super().finish()

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            # As one asks a proxy that one knows of: the whole URL.
            target = _URL.sub("", self.path)
            asked = Asked(self.command, target, headers, self._body())
            mishap = proxy.judge(asked)
            try:
                answer = mishap(asked, lambda: self._pass_on(asked)) if mishap else None
                if mishap is None:
                    answer = self._pass_on(asked)
            except (OSError, http.client.HTTPException):
                answer = None
            if answer is None:
                self.close_connection = True
                return
            with contextlib.suppress(OSError):
                self._give(answer)

        do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815 - as the base class calls them

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            chunks = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _pass_on(self, asked: Asked) -> Answer:
            if self.line is None:
                self.line = http.client.HTTPConnection(server, timeout=_SECONDS)
            try:
                self.line.putrequest(
                    asked.method, asked.target, skip_host=True, skip_accept_encoding=True
                )
                for name, value in self.headers.items():
                    if name.lower() not in _OF_CONNECTIONS:
                        self.line.putheader(name, value)
                if asked.body or asked.method in ("PUT", "POST"):
                    self.line.putheader("Content-Length", str(len(asked.body)))
                self.line.endheaders(asked.body)
                response = self.line.getresponse()
                body = response.read()
            except BaseException:
                self.line.close()
                raise
            headers = response.getheaders()
            if asked.method != "HEAD":
                headers = [(n, v) for n, v in headers if n.lower() != "content-length"]
            kept = [
                (n, v) for n, v in headers if n.lower() not in _OF_CONNECTIONS - {"content-length"}
            ]
            return Answer(response.status, tuple(kept), body)

        def _give(self, answer: Answer) -> None:
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            if self.command != "HEAD" and answer.status not in (204, 304):
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: answer.sent])
            self.close_connection |= answer.sent is not None

        def log_message(self, *_: object) -> None:
            pass

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 512

        def handle_error(self, *_: object) -> None:
            pass  # clients are killed here

    listener = Listener(("127.0.0.1", 0), Handler)
    proxy = Proxy(f"http://127.0.0.1:{listener.server_port}", judge)
    threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield proxy
    finally:
        listener.shutdown()
        listener.server_close()
