"""What other programs answer or send: S3, workers, servers' headers, the page of review."""

from __future__ import annotations

import functools
import json
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

from imagetag.checks import weights_problem
from imagetag.predict.resumable import Tally
from imagetag.predict.writers import Answers
from imagetag.review import TagSession, open_tag_session
from imagetag.review.server import make_app
from imagetag.storage.answers import DamagedAnswer, NoS3Answer, check_answer
from imagetag.train.rendezvous import _Peer
from imagetag.web.responses import retry_after
from tests.builders.reviews import TAG, store_reviewable
from tests.fuzz.target import Target
from tests.storages import InMemory

_LISTING = b"<ListBucketResult xmlns='a'><Name>b</Name></ListBucketResult>"


def _s3(data: bytes) -> None:
    """An answer to the listing of a bucket: a status, a line with a header's value, a body."""
    first, _, body = data[1:].partition(b"\n")
    value = first.decode("latin-1")
    status = (200, 301, 403)[data[0] % 3 if data else 0]
    for headers in ({}, {"content-length": value}, {"date": value, "location": value}):
        answer = {"status_code": status, "headers": headers, "body": body}
        check_answer(SimpleNamespace(name="ListObjectsV2"), answer)


def _retry(data: bytes) -> None:
    found = retry_after(data.decode("latin-1"))
    assert found is None or found >= 0


def _message(data: bytes) -> None:
    """What a stranger sends to the port where workers meet, and then is gone."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data[:8000])
        theirs.close()
        peer = _Peer(ours)
        for _ in range(20):
            assert isinstance(peer.read(1.0), dict)


def _weights(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for name in ("a.weights.h5", "a.keras"):
            path = Path(folder) / name
            path.write_bytes(data)
            weights_problem(path)


def _stored_answers(data: bytes) -> None:
    """A line of a part of predictions that a run before has left."""
    Tally().count(Answers.from_json(data))


@functools.cache
def _session() -> TagSession:
    storage = InMemory()
    store_reviewable(storage, 4)
    return open_tag_session(storage, TAG, "suspects")


def _review(data: bytes) -> None:
    """What a page sends that knows the token: an answer is no error of the server."""
    app = make_app(_session(), "token")
    headers = {"Origin": "http://localhost", "Content-Type": "application/json"}
    told = app.test_client().post("/token/answers", data=data, headers=headers)
    assert told.status_code < 500, told.data
    if told.status_code >= 400:
        raise _Refused
    json.loads(told.data)


class _Refused(Exception):
    """The server said no."""


def _sent() -> Iterable[bytes]:
    yield b'{"answers": []}'
    yield b'{"answers": [{"id": "%s", "item": "a", "answer": "yes", "ago": 3}]}' % (b"0" * 16)


def _line() -> Iterable[bytes]:
    yield Answers("a.png", "", None, [0.9, None], [True, None]).as_json().encode()


TARGETS = (
    Target("s3", _s3, (NoS3Answer, DamagedAnswer), lambda: [b"\03\n" + _LISTING]),
    Target("retry-after", _retry, (), lambda: [b"120", b"Wed, 21 Oct 2065 07:28:00 GMT"]),
    Target("worker", _message, (OSError,), lambda: [b'{"say": "hello"}\n' * 20]),
    Target("weights", _weights, (), lambda: [b"\x89HDF\r\n\x1a\n\0" + b"\0" * 60]),
    Target("stored-answers", _stored_answers, (ValueError,), _line),
    Target("review", _review, (_Refused,), _sent),
)
