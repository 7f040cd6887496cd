"""What comes back in place of the answer asked for: which of it passes, and which is a setting.

Whatever answers and does not speak S3 (a console, a redirect, another protocol) is a setting that
is wrong: it is told with its status and its cause. What says "later", or breaks off, passes.
"""

from __future__ import annotations

import html
import http.client
import re
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from xml.etree import ElementTree

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ProxyConnectionError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import DecodeError

from imagetag.errors import ImagetagError, TransientError, UsageError, one_line
from imagetag.storage.base import (
    AccessDenied,
    BucketNotFound,
    CredentialsExpired,
    EndpointUnreachable,
    ObjectNotFound,
)

NETWORK = (BotoConnectionError, HTTPClientError)
"""What botocore raises where nothing, or nothing of HTTP, came back."""

_DENIED = {
    "401",
    "403",
    "AccessDenied",
    "AllAccessDisabled",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_MISSING = {"NoSuchKey", "NotFound"}
_PASSING = {
    "IDPCommunicationError",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
}
# Where a bare 404 means that there is no such object.
_OF_OBJECTS = {"CopyObject", "DeleteObject", "GetObject", "HeadObject"}

# The root of what S3 answers to each operation that is answered in XML, and those of which each
# answer has an ETag or at least a date.
_ROOTS = {
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    "CopyObject": "CopyObjectResult",
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "ListObjectsV2": "ListBucketResult",
}
_TAGGED = {
    "GetObject": ("etag", "last-modified"),
    "HeadObject": ("etag", "last-modified"),
    "PutObject": ("etag",),
    "UploadPart": ("etag",),
}

# Of a TLS handshake: what is cut short or damaged on the way, or fails in the server.
_TLS_PASSES = {
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
    "SSLV3_ALERT_BAD_RECORD_MAC",
    "TLSV1_ALERT_INTERNAL_ERROR",
    "UNEXPECTED_EOF_WHILE_READING",
}
_SKEW = 300.0  # seconds between two clocks; servers refuse from 900 on

_CONSOLE = "check that AWS_ENDPOINT_URL_S3 is the S3 API, and not a console or another service"
_OF_CHECKSUMS = re.compile(
    "checksum|trailer|aws-chunked|content-?sha256|MissingContentLength", re.IGNORECASE
)
_CHECKSUMS = (
    "a server that does not know the newer checksums wants "
    "AWS_REQUEST_CHECKSUM_CALCULATION=when_required and "
    "AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"
)


class NoS3Answer(Exception):
    """What answered is no S3 server; the text says what it answered."""


class DamagedAnswer(Exception):
    """What answered is an S3 server, and something on the way is not right."""


def check_answer(operation_model: Any, response_dict: Mapping[str, Any], **_: Any) -> None:
    """Look at an answer before botocore does, to which any text is a success or a passing 500.

    A handler of botocore's event `before-parse`. What is cut short or may pass is left to botocore.

    Raises:
        NoS3Answer: if this is none.
        DamagedAnswer: if this was one.

    """
    operation, status = operation_model.name, int(response_dict["status_code"])
    headers = response_dict["headers"]
    # The body of an object is still to come.
    body = response_dict["body"] if isinstance(response_dict["body"], bytes) else b""
    if passes(status) or (body and _is_cut_short(headers, body)):
        return
    root = _root(body)
    if root == "" and status < 300 and f"<{_ROOTS.get(operation, 'Error')}".encode() in body[:500]:
        raise DamagedAnswer(f"the text that should be a {operation} breaks off or is damaged")
    if status >= 400:
        strange = root not in (None, "Error")
    elif status >= 300:
        # Where a region is told, botocore tries again with it. Elsewhere it would ask the bucket
        # for its region, be redirected, ask again, and so on.
        strange = "x-amz-bucket-region" not in headers
    elif root == "Error":
        strange = False
    elif operation in _ROOTS:
        strange = root != _ROOTS[operation]
    else:
        wanted = _TAGGED.get(operation)
        strange = wanted is not None and not any(name in headers for name in wanted)
    if strange:
        raise NoS3Answer(_said(status, headers, body))


def judged(error: Exception, where: str, *, bucket: str, endpoint: str) -> ImagetagError:
    """Return what an error of an operation means.

    Args:
        error: what boto3 raised, or what became of an answer that could not be understood.
        where: the object or folder, for the text.
        bucket: its bucket.
        endpoint: who was asked.

    """
    if isinstance(error, NoS3Answer):
        return UsageError(f"{where}: {endpoint} gives no S3 answer, but {error}")
    if isinstance(error, NoCredentialsError):
        return AccessDenied(
            f"{where}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "a profile, or the pod's service account"
        )
    if isinstance(error, ClientError):
        return _refusal(error, where, bucket)
    if isinstance(error, IncompleteReadError | FlexibleChecksumError | DamagedAnswer):
        return TransientError(f"{where}: the answer was damaged: {one_line(error)}")
    if isinstance(error, NETWORK):
        return unreachable(
            error, f"{where}: the S3 endpoint {endpoint}", "AWS_ENDPOINT_URL_S3 and the network"
        )
    if isinstance(error, BotoCoreError):
        return UsageError(f"{where}: {one_line(error)}")
    return UsageError(
        f"{where}: {endpoint} gives an answer that cannot be understood "
        f"({one_line(f'{type(error).__name__}: {error}', 150)}); {_CONSOLE}"
    )


def unreachable(error: Exception, who: str, settings: str) -> ImagetagError:
    """Return what it means that a server gave no answer of HTTP.

    Args:
        error: one of `NETWORK`.
        who: the server, for the text.
        settings: what to check.

    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, http.client.RemoteDisconnected | http.client.IncompleteRead):
            break  # it was cut off
        if isinstance(cause, http.client.HTTPException | DecodeError):
            said = one_line(repr(str(cause)), 80)
            return UsageError(f"{who} speaks no HTTP: {said}; check {settings}")
        if isinstance(cause, ssl.SSLError) and not (
            isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            or cause.reason in _TLS_PASSES
        ):
            return UsageError(f"{who} gives no TLS: {one_line(cause)}; check {settings}")
    if isinstance(error, ProxyConnectionError):
        who = f"{who} is behind the proxy {error.kwargs['proxy_url']}, which"
        refused = re.search(r"Tunnel connection failed: (4\d\d[^')]*)", str(causes))
        if refused:
            return UsageError(f"{who} refuses: {one_line(refused[1], 100)}; check HTTPS_PROXY")
        settings = "HTTP_PROXY and HTTPS_PROXY"
    passing = any(
        isinstance(cause, ssl.SSLError | ConnectionError | TimeoutError) for cause in causes
    )
    if isinstance(error, SSLError) and not passing:
        return UsageError(
            f"{who} gives no TLS: {one_line(error.kwargs['error'])}; check AWS_CA_BUNDLE"
        )
    if type(error) is HTTPClientError and any(isinstance(cause, ValueError) for cause in causes):
        # Its text has the value, which may be a secret.
        return UsageError(
            f"{who} cannot be asked: a credential or another of the AWS settings has a character "
            "that cannot be sent, such as a line break"
        )
    return EndpointUnreachable(f"{who} does not answer ({type(error).__name__}); check {settings}")


def shown(error: Exception) -> Exception | None:
    """Return an error as the cause of another, None if its text may have a secret in it.

    A header that cannot be sent and an answer that cannot be parsed are in it word for word.
    """
    hidden = type(error) is HTTPClientError or isinstance(error, ResponseParserError)
    return None if hidden else error


def passes(status: int) -> bool:
    """Tell whether a status says that the same may be answered otherwise later."""
    return status in (408, 425, 429) or (500 <= status < 600 and status not in (501, 505))


def refuses_for_now(error: ClientError) -> bool:
    """Tell whether a server's error is one that passes."""
    return error_code(error) in _PASSING or passes(_status(error))


def error_code(error: ClientError) -> str:
    """Return the code of a server's error, a number where it gave none."""
    code = one_line(str(error.response.get("Error", {}).get("Code") or ""), 100)
    return str(_status(error)) if code in ("", "Unknown") else code


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _refusal(error: ClientError, where: str, bucket: str) -> ImagetagError:
    """Return what an error that a server told, or a bare status of it, means."""
    code, status = error_code(error), _status(error)
    told: Mapping[str, Any] = error.response.get("Error", {})
    headers: Mapping[str, str] = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if code == "NoSuchBucket":
        return BucketNotFound(f"{where}: there is no bucket {bucket!r}; create it first")
    if code in _MISSING or (code == "404" and error.operation_name in _OF_OBJECTS):
        return ObjectNotFound(f"{where}: there is no such object")
    skew = _skew(headers)
    if code in _EXPIRED:
        return CredentialsExpired(
            f"{where}: access denied ({code}); {skew or 'the credentials have expired: renew them'}"
        )
    if code in _DENIED:
        what = skew or (
            "this machine's clock differs from the server's; set it right"
            if code == "RequestTimeTooSkewed"
            else "check the credentials and policy"
        )
        return AccessDenied(f"{where}: access denied ({code}); {what}")
    if refuses_for_now(error):
        return TransientError(f"{where}: the S3 server fails for now ({code})")
    message = one_line(str(told.get("Message") or ""), 200)
    said = f"{where}: the S3 server refuses with status {_named(status)}"
    said += f", {code}" if code != str(status) else ""
    said += f": {message}" if message and message not in said else ""
    region = one_line(str(told.get("Region") or headers.get("x-amz-bucket-region", "")), 100)
    endpoint = str(told.get("Endpoint") or headers.get("location", ""))
    advice = _advice(status, f"{code} {message}", region, endpoint) or skew
    if not advice and code == str(status):
        advice = _CONSOLE
        if status == 400 and error.operation_name == "HeadObject":
            # An answer to a HEAD has no text: it has no other way to say so.
            return CredentialsExpired(
                f"{said}; renew the credentials if they expire, set AWS_DEFAULT_REGION to where "
                f"the bucket is, or {advice}"
            )
    return UsageError(f"{said}; {advice}" if advice else said)


def _advice(status: int, told: str, region: str = "", endpoint: str = "") -> str:
    if 300 <= status < 400 or region:
        there = f"AWS_DEFAULT_REGION={region}" if region else "AWS_DEFAULT_REGION"
        if 300 <= status < 400:
            there += " and AWS_ENDPOINT_URL_S3"
        is_told = f" ({one_line(endpoint, 200)})" if endpoint else ""
        return f"set {there} to where the bucket is{is_told}"
    if status in (411, 501) or _OF_CHECKSUMS.search(told):
        return _CHECKSUMS
    if status == 413:
        return "what is before it (a proxy, an ingress) must let larger uploads through"
    return ""


def _said(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """Describe what is no answer of S3: its status, its cause as far as told, and what to do."""
    told = _gist(body)
    said = f"status {_named(status)}" + (f": {told!r}" if told else "")
    advice = _advice(status, told, endpoint=headers.get("location", "")) or _skew(headers)
    return f"{said}; {advice or _CONSOLE}"


def _named(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


def _gist(body: bytes) -> str:
    """Return a page's title or a short text; never more: it could repeat what it was sent."""
    text = body[:20_000].decode(errors="replace")
    if title := re.search(r"<title[^>]*>(.*?)</title", text, re.IGNORECASE | re.DOTALL):
        return one_line(html.unescape(title[1]), 100)
    text = one_line(re.sub(r"<[^>]*>", " ", text), None)
    return text if len(text) <= 80 else ""


def _root(body: bytes) -> str | None:
    """Return the name of an XML document's root, None if there is no text, "" if it is no XML."""
    if not body.strip():
        return None
    try:
        tag = ElementTree.fromstring(body.lstrip()).tag  # noqa: S314 - botocore does so too
    except (ElementTree.ParseError, ValueError):
        return ""
    return tag.rpartition("}")[2]


def _is_cut_short(headers: Mapping[str, str], body: bytes) -> bool:
    length = headers.get("content-length", "")
    return length.isdecimal() and len(length) < 20 and len(body) < int(length)


def _skew(headers: Mapping[str, str]) -> str:
    """Say by how much this machine's clock differs from a server's, "" if it is little."""
    try:
        ahead = (datetime.now(UTC) - parsedate_to_datetime(headers["date"])).total_seconds()
    except (KeyError, ValueError, TypeError):
        return ""
    if abs(ahead) <= _SKEW:
        return ""
    side = "ahead of" if ahead > 0 else "behind"
    return (
        f"this machine's clock is {abs(ahead) / 60:,.0f} minutes {side} the server's; set it right"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it was made of."""
    waiting, seen = [error], set()
    while waiting:
        cause = waiting.pop()
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        more = [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
        more += getattr(cause, "kwargs", {}).values()
        waiting += [item for item in more if isinstance(item, BaseException)]
