"""Storage in an S3-compatible bucket, through boto3."""

from __future__ import annotations

import contextlib
import functools
import io
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from imagetag import __version__
from imagetag.errors import TransientError, UsageError, one_line
from imagetag.log import get_logger
from imagetag.storage.base import (
    AccessDenied,
    BucketNotFound,
    EndpointUnreachable,
    ObjectInfo,
    ObjectNotFound,
    Storage,
    checked_key,
    content_type,
    is_key,
)

_MULTIPART = TransferConfig(multipart_threshold=32 << 20, multipart_chunksize=16 << 20)
_DENIED = {
    "403",
    "AccessDenied",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
_MISSING = {"404", "NoSuchKey", "NotFound"}
_PASSING = {
    "429",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
_ATTEMPTS = 3  # of boto3's own, within a second or, where the server throttles, a few
# Seconds between further attempts once there is work to lose: a server restarts in this time.
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)

Result = TypeVar("Result")


class S3Storage(Storage):
    """Objects below a prefix of a bucket.

    One client serves all threads (a client a thread was measured at a third of the rate); its
    pool is as large as the concurrency. Credentials, region, endpoint and checksum behaviour are
    the standard AWS settings.
    """

    def __init__(self, bucket: str, prefix: str, concurrency: int) -> None:
        self._bucket = bucket
        self._prefix = prefix + "/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._transfer = _MULTIPART
        try:
            with self._errors(""):
                self._client: Any = _new_client(concurrency)
                # Fail here, with one line and soon, rather than in the middle of the work.
                self._client.list_objects_v2(Bucket=bucket, Prefix=self._prefix, MaxKeys=1)
        except ValueError as error:
            raise UsageError(
                f"--storage {self.url}: the AWS settings are wrong: {one_line(error)}"
            ) from error

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects below a folder, a page of 1,000 at a time."""
        where = {"Bucket": self._bucket, "Prefix": self._prefix + checked_key(folder, folder=True)}
        position: dict[str, str] = {}
        while True:
            ask = functools.partial(self._client.list_objects_v2, **where, **position)
            page = self._patiently(folder, ask)
            for entry in page.get("Contents", ()):
                key = entry["Key"].removeprefix(self._prefix)
                if is_key(key):
                    yield ObjectInfo(key, entry["Size"])
            if not page.get("IsTruncated"):
                return
            position = {"ContinuationToken": page["NextContinuationToken"]}

    def stat(self, key: str) -> ObjectInfo | None:
        """Return an object's size, None if there is none."""
        where = {"Bucket": self._bucket, "Key": self._full(key)}
        try:
            head = self._patiently(key, lambda: self._client.head_object(**where))
        except ObjectNotFound:
            return None
        return ObjectInfo(key, head["ContentLength"])

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open an object to stream its bytes; a failure in mid-stream is an error too."""
        return self._stream(key, self._full(key))

    @contextlib.contextmanager
    def _stream(self, key: str, full: str) -> Iterator[BinaryIO]:
        where = {"Bucket": self._bucket, "Key": full}
        answer = self._patiently(key, lambda: self._client.get_object(**where))
        with self._errors(key), contextlib.closing(answer["Body"]) as body:
            # Buffered, as a body reads a line byte by byte.
            yield io.BufferedReader(body, 1 << 17)

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        """Store an object; a large one goes up in parts, in parallel."""
        where = {"Bucket": self._bucket, "Key": self._full(key)}
        kind = {"ContentType": content_type(key)}
        if isinstance(data, bytes) and len(data) < self._transfer.multipart_threshold:
            self._patiently(key, lambda: self._client.put_object(**where, **kind, Body=data))
            return
        stream = io.BytesIO(data) if isinstance(data, bytes) else data
        start = stream.tell()

        def upload() -> None:
            stream.seek(start)
            self._client.upload_fileobj(
                _Unclosed(stream), **where, ExtraArgs=kind, Config=self._transfer
            )

        self._patiently(key, upload)

    def copy(self, source: str, key: str) -> None:
        """Let the server copy an object."""
        where = {"Bucket": self._bucket, "Key": self._full(key)}
        origin = {"Bucket": self._bucket, "Key": self._full(source)}
        self._patiently(source, lambda: self._client.copy_object(**where, CopySource=origin))

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        where = {"Bucket": self._bucket, "Key": self._full(key)}
        self._patiently(key, lambda: self._client.delete_object(**where))

    def _patiently(self, key: str, operation: Callable[[], Result]) -> Result:
        """Do an operation, and again after pauses while it fails for a passing reason."""
        for pause in _PAUSES:
            try:
                with self._errors(key):
                    return operation()
            except TransientError as error:
                get_logger().warning("storage fails for now", error=str(error), seconds=pause)
                time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
        with self._errors(key):
            return operation()

    def _full(self, key: str) -> str:
        return self._prefix + checked_key(key)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        where = f"s3://{self._bucket}/{self._prefix}{key}"
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise AccessDenied(
                f"{where}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "a profile, or the pod's service account"
            ) from error
        except ClientError as error:
            raise _translate(error, where, self._bucket) from error
        except (IncompleteReadError, FlexibleChecksumError) as error:
            raise TransientError(f"{where}: the answer was damaged: {one_line(error)}") from error
        except SSLError as error:
            raise UsageError(
                f"{where}: no TLS with {self._client.meta.endpoint_url}: {one_line(error)}"
            ) from error
        except (BotoConnectionError, HTTPClientError) as error:
            endpoint = self._client.meta.endpoint_url
            raise EndpointUnreachable(
                f"{where}: the S3 endpoint {endpoint} does not answer "
                f"({type(error).__name__}); check AWS_ENDPOINT_URL_S3 and the network"
            ) from error
        except BotoCoreError as error:
            raise UsageError(f"{where}: {one_line(error)}") from error


def _new_client(concurrency: int) -> Any:
    return boto3.Session().client(
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


def _translate(error: ClientError, where: str, bucket: str) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return BucketNotFound(f"{where}: there is no bucket {bucket!r}; create it first")
    if code in _MISSING:
        return ObjectNotFound(f"{where}: there is no such object")
    if code in _DENIED:
        return AccessDenied(f"{where}: access denied ({code}); check the credentials and policy")
    if code in _PASSING or status >= 500:
        return TransientError(f"{where}: the S3 server fails for now ({code or status})")
    return UsageError(f"{where}: the S3 server refuses: {one_line(error)}")


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
