"""The local server of a session's page: loopback alone, and only for who knows its address.

Any page of the web may send requests to this machine, and a name of its own may lead here. So all
is below a token, `Host` must be this machine, what is sent must come from this page, and the page
may load nothing from elsewhere.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import socket
import threading
import zlib
from datetime import UTC, datetime, timedelta
from importlib import resources
from types import TracebackType
from typing import Annotated, Any

import waitress
from flask import Blueprint, Flask, Response, abort, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from werkzeug.exceptions import HTTPException

from imagetag.errors import ImagetagError, UsageError, complaint, one_line
from imagetag.log import get_logger
from imagetag.review.session import Given, ItemName, NoPicture, Session
from imagetag.verdicts import Answer

MAX_AT_ONCE = 1000
"""Answers of one request."""

_HOSTS = ["127.0.0.1", "localhost"]
_SIDES = {"large": 1600, "small": 320}  # pixels
_MAX_BODY = 1 << 20  # bytes
_THREADS = 16  # each may wait for a bucket
# A machine gives them to no outgoing connection.
_FIRST_PORT, _PORTS = 20_000, 10_000
_LONGEST = 30 * 86_400_000  # milliseconds that an answer may have waited in a browser
_FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class _Sent(BaseModel):
    """An answer as the page sends it; `ago` is how long ago it was given, in milliseconds.

    A phone's clock may be wrong; the time between two looks at it is not.
    """

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,32}$")]
    item: ItemName
    answer: Answer
    ago: float = Field(ge=0, le=_LONGEST, allow_inf_nan=False)


class _Batch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    answers: list[_Sent] = Field(max_length=MAX_AT_ONCE)


def make_app(session: Session, token: str) -> Flask:
    """Return what answers the page's requests, as a WSGI application.

    Args:
        session: what the page shows, and who takes the answers.
        token: the first part of the path of every address; all others are unknown.

    """
    app = Flask(__name__, static_folder=None)
    app.config.update(TRUSTED_HOSTS=_HOSTS, MAX_CONTENT_LENGTH=_MAX_BODY)
    files = {
        name: (resources.files("imagetag.review") / "static" / file).read_bytes()
        for name, (file, _) in _FILES.items()
    }
    page = Blueprint("page", __name__, url_prefix="/<token>")

    @page.url_value_preprocessor
    def check_token(_endpoint: str | None, values: dict[str, Any] | None) -> None:
        given = str((values or {}).pop("token", ""))
        if not hmac.compare_digest(given.encode(), token.encode()):
            abort(404)

    @page.get("/")
    @page.get("/<any('page.js', 'page.css'):name>")
    def file(name: str = "") -> Response:
        return Response(files[name], content_type=_FILES[name][1])

    @page.get("/state")
    def state() -> Response:
        seen, _ = session.changes(0)  # before the answers: one that comes between is told twice
        return jsonify(
            about=session.about.model_dump(),
            items=session.items,
            answers=session.answers,
            progress=session.progress().model_dump(),
            seen=seen,
        )

    def news(**besides: Any) -> Response:
        seen, changes = session.changes(request.args.get("seen", 0, int))
        progress = session.progress().model_dump()
        return jsonify(progress=progress, seen=seen, changes=changes, **besides)

    @page.get("/news")
    def tell() -> Response:
        return news()

    @page.get("/items/<item>")
    def facts(item: str) -> Response:
        return jsonify(session.facts(item).model_dump())

    @page.get("/neighbours/<item>")
    def neighbours(item: str) -> Response:
        return jsonify([found.model_dump() for found in session.neighbours(item)])

    @page.get("/pictures/<any('large', 'small'):size>/<item>")
    def picture(size: str, item: str) -> Response:
        shown = Response(session.picture(item, _SIDES[size]), content_type="image/jpeg")
        shown.headers["Cache-Control"] = "private, max-age=86400, immutable"
        return shown

    @page.post("/answers")
    def take() -> Response:
        # A browser says where a script's request comes from, and no script can say otherwise.
        if request.headers.get("Origin") != f"http://{request.host}":
            abort(403)
        if not request.is_json:
            abort(415)
        sent = _Batch.model_validate_json(request.get_data()).answers
        now = datetime.now(UTC)
        unknown = [one.id for one in sent if not session.has(one.item)]
        known = [one for one in sent if session.has(one.item)]
        given = (
            Given(
                id=one.id,
                item=one.item,
                answer=one.answer,
                at=now - timedelta(milliseconds=one.ago),
            )
            for one in known
        )
        session.take(given, now)
        return news(saved=[one.id for one in known], unknown=unknown)

    app.register_blueprint(page)
    _tell_errors(app)

    @app.after_request
    def guard(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers[name] = value
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return app


def _tell_errors(app: Flask) -> None:
    """Let errors be JSON with a sentence that the page shows."""

    @app.errorhandler(KeyError)
    def unknown(_error: KeyError) -> tuple[Response, int]:
        return jsonify(error="there is no such picture"), 404

    @app.errorhandler(NoPicture)
    def no_picture(error: NoPicture) -> tuple[Response, int]:
        return jsonify(error=one_line(error)), 410

    @app.errorhandler(ValidationError)
    def wrong(error: ValidationError) -> tuple[Response, int]:
        return jsonify(error=complaint(error)), 422

    @app.errorhandler(ImagetagError)
    @app.errorhandler(OSError)  # such as a full disk: it passes, and the page tries again
    def failed(error: Exception) -> tuple[Response, int]:
        get_logger().warning("could not be done", what=request.endpoint, error=one_line(error))
        return jsonify(error=one_line(error)), 503

    @app.errorhandler(Exception)
    def defect(error: Exception) -> tuple[Response, int] | HTTPException:
        if isinstance(error, HTTPException):
            return error
        text = one_line(f"{type(error).__name__}: {error}")
        get_logger().error(f"unexpected {text}", what=request.endpoint)
        get_logger().debug("where", exc_info=error)
        return jsonify(error=f"unexpected {text}"), 500


class ReviewServer:
    """Serves a session's page on this machine alone; as a context manager, until the block ends.

    Attributes:
        url: the page's address; who does not know it gets nothing.

    """

    def __init__(self, session: Session, port: int = 0) -> None:
        """Listen.

        Args:
            session: what is shown.
            port: to listen on; 0 takes one that is the session's own, or another where that is
                taken. A browser keeps what it could not send for an address with its port.

        Raises:
            UsageError: if the port cannot be listened on.

        """
        listening = _listen(port or _own_port(session.about.key), port)
        token = secrets.token_urlsafe(24)
        self._session = session
        self._map: dict[int, Any] = {}
        # It warns where all threads wait for a bucket, which is nothing to speak of.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self._server = waitress.create_server(
            make_app(session, token),
            map=self._map,
            sockets=[listening],
            threads=_THREADS,
            ident="",
            max_request_body_size=_MAX_BODY,
            clear_untrusted_proxy_headers=True,
        )
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}/{token}/"
        self._thread = threading.Thread(target=self._server.run, name="review", daemon=True)

    def __enter__(self) -> ReviewServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # What is being stored is stored before the threads end.
        self._server.task_dispatcher.shutdown(cancel_pending=False)
        self._server.trigger.pull_trigger(self._close)
        self._thread.join()
        self._session.tidy()

    def _close(self) -> None:
        """Hang up; in the thread that has the connections."""
        for connection in list(self._map.values()):
            connection.close()


def _own_port(key: str) -> int:
    return _FIRST_PORT + zlib.crc32(key.encode()) % _PORTS


def _listen(first: int, otherwise: int) -> socket.socket:
    """Return a socket that is bound to one of two ports of loopback; 0 is any."""
    for port in (first, otherwise):
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
            listening.listen()  # else two could be bound to one port
        except OSError as error:
            listening.close()
            why = error.strerror
        else:
            return listening
    raise UsageError(f"cannot listen on port {otherwise} of 127.0.0.1 ({why}): try another --port")
