"""Storage in an S3-compatible bucket, through boto3."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from email.utils import mktime_tz, parsedate_tz
from http import HTTPStatus
from typing import Any, BinaryIO, NamedTuple, TypeVar

from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
)
from botocore.parsers import ResponseParserError

from imagetag import __version__
from imagetag.checks import shown_url
from imagetag.counters import counters
from imagetag.errors import ImagetagError, TransientError, UsageError, one_line
from imagetag.log import get_logger
from imagetag.storage.answers import (
    NETWORK,
    DamagedAnswer,
    NoS3Answer,
    check_answer,
    judged,
    shown,
)
from imagetag.storage.aws import Credentials, new_session
from imagetag.storage.base import (
    CredentialsExpired,
    ObjectInfo,
    ObjectNotFound,
    Storage,
    checked_key,
    content_type,
    is_key,
)

_MULTIPART = TransferConfig(multipart_threshold=32 << 20, multipart_chunksize=16 << 20)
_ATTEMPTS = 3  # of boto3's own, within a second or, where the server throttles, a few
# Seconds between further attempts once there is work to lose: a server restarts in this time.
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)

# What is raised where a server does not answer, or refuses; and what boto3 makes of an answer that
# it cannot understand.
_OF_BOTO = (BotoCoreError, ClientError, NoS3Answer, DamagedAnswer)
_FAILURES = (*_OF_BOTO, ResponseParserError, ValueError, LookupError, TypeError, AttributeError)
_RESUMED = 8  # times that an object whose stream breaks off is gone on with
_NAMES = 20  # told in one line of the log
_EMPTY_PAGES = 1_000  # in a row, before a listing is given up

Result = TypeVar("Result")


class _Page(NamedTuple):
    """A page of a listing.

    Names, sizes and ages in seconds, folders' whole names, and the token of the next.
    """

    entries: Sequence[tuple[str, int, float | None]]
    folders: Sequence[str]
    token: str | None


class S3Storage(Storage):
    """Objects below a prefix of a bucket.

    One client serves all threads (a client a thread was measured at a third of the rate); its
    pool is as large as the concurrency. Credentials, region, endpoint and checksum behaviour are
    the standard AWS settings.
    """

    def __init__(self, bucket: str, prefix: str, concurrency: int) -> None:
        self._bucket = bucket
        self._go_to(prefix)
        self._transfer = _MULTIPART
        self._client: Any
        # Of the client's own complaints some have the endpoint in them, word for word.
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
            _check_endpoint(name, os.environ.get(name, "").strip())
        try:
            self._client, self._credentials = _new_client(concurrency)
        except (BotoCoreError, ValueError) as error:
            said, colon, value = one_line(error, None).rpartition(": ")  # "Invalid endpoint: URL"
            told = f"{said[:200]}{colon}{shown_url(value)[:200]}"
            raise UsageError(f"{self.url}: the AWS settings are wrong: {told}") from error
        _check_endpoint("endpoint_url", self._client.meta.endpoint_url)
        # Fail here, with one line and soon, rather than in the middle of the work.
        where = {"Bucket": bucket, "Prefix": self._prefix}
        self._once("", lambda: self._client.list_objects_v2(**where, MaxKeys=1))

    def _go_to(self, prefix: str) -> None:
        self._prefix = prefix + "/" if prefix else ""
        self.url = f"s3://{self._bucket}/{prefix}".rstrip("/")

    def at(self, prefix: str) -> S3Storage:
        """Return what is below another prefix of the bucket, by the same client; it asks nothing.

        A client takes 12 MB and some tenths of a second.
        """
        other = copy.copy(self)
        other._go_to(prefix.strip("/"))
        return other

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects below a folder, a page of 1,000 at a time."""
        for page in self._pages(folder):
            strange = []
            for name, size, age in page.entries:
                key = name.removeprefix(self._prefix)
                if is_key(key):
                    yield ObjectInfo(key, size, age)
                elif size or not name.endswith("/"):  # else the mark that a console leaves
                    strange.append(key)
            if strange:
                get_logger().warning(
                    "left out",
                    files=len(strange),
                    first=strange[:_NAMES],
                    reason="their names are no storage keys",
                )

    def folders(self, folder: str = "") -> Iterator[str]:
        """Yield the names of the folders in a folder, a page of 1,000 names at a time."""
        for page in self._pages(folder, Delimiter="/"):
            for prefix in page.folders:
                name = prefix.removeprefix(self._prefix + folder).removesuffix("/")
                if is_key(name):
                    yield name

    def _pages(self, folder: str, **how: str) -> Iterator[_Page]:
        where = {"Bucket": self._bucket, "Prefix": self._prefix + checked_key(folder, folder=True)}
        token: str | None = ""
        seen: set[tuple[str, str]] = set()  # of each page its first key, and what leads on
        empty = 0
        while token is not None:
            position = {"ContinuationToken": token} if token else {}
            ask = functools.partial(self._page, **where, **how, **position)
            page = self._patiently(folder, ask)
            token = page.token
            empty = 0 if page.entries or page.folders else empty + 1
            marks = {("key", name) for name, *_ in page.entries[:1]} | {("token", token or "")}
            marks |= {("folder", name) for name in page.folders[:1]}
            with self._errors(folder):
                if marks & seen or empty > _EMPTY_PAGES:
                    raise NoS3Answer("a listing that goes on and comes no further")
            seen |= marks
            yield page

    def _page(self, **where: str) -> _Page:
        """Return one page of a listing."""
        page = self._client.list_objects_v2(**where)
        now = _now(page)
        entries = [
            (entry["Key"], entry["Size"], _age(entry, now)) for entry in page.get("Contents", ())
        ]
        token = page.get("NextContinuationToken")
        if page.get("IsTruncated") and not token:
            raise NoS3Answer("a listing that goes on and does not say how (ListObjectsV2)")
        folders = [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
        return _Page(entries, folders, token if page.get("IsTruncated") else None)

    def stat(self, key: str) -> ObjectInfo | None:
        """Return an object's size, None if there is none."""
        where = {"Bucket": self._bucket, "Key": self._full(key)}
        ask = functools.partial(self._client.head_object, **where)
        try:
            return self._patiently(key, lambda: ObjectInfo(key, ask()["ContentLength"]))
        except ObjectNotFound:
            return None

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open an object to stream its bytes; a stream that breaks off is gone on with."""
        return self._stream(key, self._full(key))

    @contextlib.contextmanager
    def _stream(self, key: str, full: str) -> Iterator[BinaryIO]:
        where = {"Bucket": self._bucket, "Key": full}

        def get(**rest: str) -> Any:
            return self._patiently(key, lambda: self._client.get_object(**where, **rest))

        with self._errors(key, _OF_BOTO), contextlib.closing(_Stream(get)) as stream:
            # Buffered, as a body reads a line byte by byte.
            yield io.BufferedReader(stream, 1 << 17)

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        """Store an object; a large one goes up in parts, in parallel."""
        where = {"Bucket": self._bucket, "Key": self._full(key)}
        kind = {"ContentType": content_type(key)}
        if isinstance(data, bytes) and len(data) < self._transfer.multipart_threshold:
            self._patiently(key, lambda: self._client.put_object(**where, **kind, Body=data))
            counters().move("written", len(data))
            return
        stream = io.BytesIO(data) if isinstance(data, bytes) else data
        start = stream.tell()

        def upload() -> None:
            stream.seek(start)
            self._client.upload_fileobj(
                _Unclosed(stream), **where, ExtraArgs=kind, Config=self._transfer
            )

        self._patiently(key, upload)
        counters().move("written", stream.seek(0, io.SEEK_END) - start)

    def copy(self, source: str, key: str) -> None:
        """Let the server copy an object."""
        where = {"Bucket": self._bucket, "Key": self._full(key)}
        origin = {"Bucket": self._bucket, "Key": self._full(source)}
        self._patiently(source, lambda: self._client.copy_object(**where, CopySource=origin))

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        where = {"Bucket": self._bucket, "Key": self._full(key)}
        with contextlib.suppress(ObjectNotFound):  # some servers tell
            self._patiently(key, lambda: self._client.delete_object(**where))

    def _patiently(self, key: str, operation: Callable[[], Result]) -> Result:
        """Do an operation, and again after pauses while it fails for a passing reason."""
        for pause in _PAUSES:
            try:
                return self._once(key, operation)
            except TransientError as error:
                get_logger().warning("storage fails for now", error=str(error), seconds=pause)
                time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
        return self._once(key, operation)

    def _once(self, key: str, operation: Callable[[], Result]) -> Result:
        """Do an operation, and again with new credentials where those it had have expired."""
        credentials = self._credentials
        used = credentials.number if credentials else 0
        try:
            with self._errors(key):
                return operation()
        except CredentialsExpired:
            if credentials is None or not credentials.renew(used):
                raise
        with self._errors(key):
            return operation()

    def _full(self, key: str) -> str:
        return self._prefix + checked_key(key)

    @contextlib.contextmanager
    def _errors(self, key: str, kinds: tuple[type[Exception], ...] = _FAILURES) -> Iterator[None]:
        try:
            yield
        except kinds as error:
            raise judged(
                error,
                f"s3://{self._bucket}/{self._prefix}{key}",
                bucket=self._bucket,
                endpoint=self._client.meta.endpoint_url,
            ) from shown(error)


def _check_endpoint(name: str, given: str) -> None:
    """Check that an endpoint of the AWS settings is a URL that may be told.

    Raises:
        UsageError: if not; it does not tell a password.

    """
    url = given if re.match("(?i)https?://", given) else f"http://{given}"
    if given and (url != given or shown_url(url) != url):
        raise UsageError(
            f"the AWS settings are wrong: {name} {shown_url(url)[len(url) - len(given) :]!r} is no "
            "URL such as http://minio:9000, without a user, a password or a query"
        )


def _now(answer: dict[str, Any]) -> float | None:
    """Return the time of an answer by the server's clock, in seconds; None if it tells none."""
    told = parsedate_tz(answer["ResponseMetadata"]["HTTPHeaders"].get("date", ""))
    return told and mktime_tz(told)


def _age(entry: dict[str, Any], now: float | None) -> float | None:
    written = entry.get("LastModified")
    return None if now is None or written is None else max(0.0, now - written.timestamp())


def _new_client(concurrency: int) -> tuple[Any, Credentials | None]:
    """Return a client of S3 and what it signs with, None if there are no credentials."""
    session = new_session()
    client = session.client(
        "s3",
        config=Config(
            max_pool_connections=max(concurrency + 1, 10),  # and the main thread
            retries={"mode": "adaptive", "total_max_attempts": _ATTEMPTS},
            connect_timeout=5,
            read_timeout=30,
            tcp_keepalive=True,
            user_agent_extra=f"imagetag/{__version__}",
        ),
    )
    # Called before the handler of `before-parse.s3.*`, botocore's, which makes a 500 of any text.
    client.meta.events.register("before-parse.*.*", check_answer)
    return client, session.get_credentials()


class _Stream(io.RawIOBase):
    """An object's bytes; where the connection breaks, the rest is asked for again.

    It is the rest of the same object, by its ETag, and as long as it must be. Where a server tells
    the checksum of a whole object (of what was stored in one piece; Ceph 16 of nothing), boto3
    compares it when the stream ends, and not where a part is asked for: that is done here, over all
    parts. The ETag is compared with nothing, here as by boto3: it is the MD5 of some objects, and
    not of those stored in parts or encrypted with a key of KMS, and some servers make up others.

    Args:
        get: gives GetObject's answer to the whole, or to the part that arguments tell.

    """

    def __init__(self, get: Callable[..., Any]) -> None:
        self._get = get
        self._done, self._resumed = 0, 0
        self._begin(get())

    def _begin(self, answer: dict[str, Any]) -> None:
        """Take the answer to the whole."""
        self._body, self._length = answer["Body"], answer.get("ContentLength")
        self._etag, self._in_part = answer.get("ETag", ""), False
        self._checksum = getattr(self._body, "checksum", None)  # which boto3 compares at the end
        told = answer.keys() - {"ChecksumType"}
        self._told = [answer[name] for name in sorted(told) if name.startswith("Checksum")]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            try:
                data = self._body.read(len(buffer))
            except FlexibleChecksumError:
                if not (self._in_part and self._checksum):
                    raise
                data = b""  # of a part; some servers tell that of the whole
            except (*NETWORK, IncompleteReadError) as error:
                self._resume(error)
                continue
            if self._in_part and self._checksum:
                self._checksum.update(data)
                if not data and (found := self._checksum.b64digest()) not in self._told:
                    told = " or ".join(self._told)
                    raise FlexibleChecksumError(error_msg=f"its checksum is {found}, not {told}")
            buffer[: len(data)] = data
            self._done += len(data)
            counters().move("read", len(data))
            return len(data)

    def _resume(self, error: Exception) -> None:
        """Ask for the rest, or raise the error if that is not to be had."""
        self._resumed += 1
        if self._resumed > _RESUMED or not self._etag:
            raise error
        get_logger().debug("a stream broke off", error=one_line(error), bytes=self._done)
        self._body.close()
        # Of this object, and not of one that has replaced it.
        rest = {"Range": f"bytes={self._done}-"} if self._done else {}
        try:
            answer = self._get(IfMatch=self._etag, **rest)
        except ImagetagError:
            raise error from None
        if not rest:
            self._begin(answer)
            return
        self._body, self._in_part = answer["Body"], True
        status, length = answer["ResponseMetadata"]["HTTPStatusCode"], answer.get("ContentLength")
        known = None not in (self._length, length)
        if status != HTTPStatus.PARTIAL_CONTENT or (known and self._done + length != self._length):
            raise error

    def close(self) -> None:
        self._body.close()
        super().close()


class _Unclosed(io.RawIOBase):
    """A reader that leaves its file open: the transfer manager closes what it was given."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()
