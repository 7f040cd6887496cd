"""Storage in an S3-compatible bucket, through boto3."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

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
from imagetag.errors import TransientError, UsageError
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
# Attempts, and seconds to wait for an answer. Seven attempts last half a minute on the average.
_FIRST_TRY, _PATIENT = (3, 10), (7, 60)


class S3Storage(Storage):
    """Objects below a prefix of a bucket.

    One client serves all threads (a client a thread was measured at a third of the rate); its
    pool is as large as the concurrency. Credentials, region, endpoint and checksum behaviour are
    the standard AWS settings.
    """

    def __init__(self, bucket: str, prefix: str, concurrency: int) -> None:
        self._client: Any
        self._bucket = bucket
        self._prefix = prefix + "/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._transfer = _MULTIPART
        try:
            # Fail here, with one line and soon, rather than in the middle of the work; but once
            # there is work to lose, be patient.
            with self._errors(""):
                session = boto3.Session()
                self._client = _new_client(session, 1, *_FIRST_TRY)
                self._client.list_objects_v2(Bucket=bucket, Prefix=self._prefix, MaxKeys=1)
                self._client = _new_client(session, concurrency, *_PATIENT)
        except ValueError as error:
            raise UsageError(
                f"--storage {self.url}: the AWS settings are wrong: {_one_line(error)}"
            ) from error

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects below a folder, a page of 1,000 at a time."""
        prefix = self._prefix + checked_key(folder, folder=True)
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        with self._errors(folder):
            for page in pages:
                for entry in page.get("Contents", ()):
                    key = entry["Key"].removeprefix(self._prefix)
                    if is_key(key):
                        yield ObjectInfo(key, entry["Size"])

    def stat(self, key: str) -> ObjectInfo | None:
        """Return an object's size, None if there is none."""
        full = self._full(key)
        try:
            with self._errors(key):
                head = self._client.head_object(Bucket=self._bucket, Key=full)
        except ObjectNotFound:
            return None
        return ObjectInfo(key, head["ContentLength"])

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open an object to stream its bytes; a failure in mid-stream is an error too."""
        return self._stream(key, self._full(key))

    @contextlib.contextmanager
    def _stream(self, key: str, full: str) -> Iterator[BinaryIO]:
        with self._errors(key):
            answer = self._client.get_object(Bucket=self._bucket, Key=full)
            with contextlib.closing(answer["Body"]) as body:
                # Buffered, as a body reads a line byte by byte.
                yield io.BufferedReader(body, 1 << 17)

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        """Store an object; a large one goes up in parts, in parallel."""
        with self._errors(key):
            if isinstance(data, bytes) and len(data) < self._transfer.multipart_threshold:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._full(key),
                    Body=data,
                    ContentType=content_type(key),
                )
                return
            stream = io.BytesIO(data) if isinstance(data, bytes) else _Unclosed(data)
            self._client.upload_fileobj(
                stream,
                self._bucket,
                self._full(key),
                ExtraArgs={"ContentType": content_type(key)},
                Config=self._transfer,
            )

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with self._errors(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._full(key))

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
            raise TransientError(f"{where}: the answer was damaged: {_one_line(error)}") from error
        except SSLError as error:
            raise UsageError(
                f"{where}: no TLS with {self._client.meta.endpoint_url}: {_one_line(error)}"
            ) from error
        except (BotoConnectionError, HTTPClientError) as error:
            endpoint = self._client.meta.endpoint_url
            raise EndpointUnreachable(
                f"{where}: the S3 endpoint {endpoint} does not answer "
                f"({type(error).__name__}); check AWS_ENDPOINT_URL_S3 and the network"
            ) from error
        except BotoCoreError as error:
            raise UsageError(f"{where}: {_one_line(error)}") from error


def _new_client(session: boto3.Session, concurrency: int, attempts: int, patience: int) -> Any:
    return session.client(
        "s3",
        config=Config(
            max_pool_connections=max(concurrency, 10),
            # The newer modes pause 0.05 s, 0.1 s, ...: no server restarts in that time.
            retries={"mode": "legacy", "total_max_attempts": attempts},
            connect_timeout=5,
            read_timeout=patience,
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
    return UsageError(f"{where}: the S3 server refuses: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


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
