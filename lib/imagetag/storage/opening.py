"""Where data lives: a local folder or an S3-compatible bucket, behind one small interface."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from imagetag.checks import expanded, missing_folder, shown_url
from imagetag.errors import UsageError
from imagetag.storage.base import BucketNotFound, Storage
from imagetag.storage.local import LocalStorage

CACHE_FOLDER = Path(tempfile.gettempdir()) / "imagetag-cache"
"""Local copies of images and weights, shared by all runs, unless told."""

_BUCKET = re.compile(r"[\w.-]+|arn:[\w:.-]+", re.ASCII)  # or an access point; more is S3's to say
_NO_FOLDER = re.compile(r"(ftp|gs|https?|s3):", re.IGNORECASE)


def open_storage(
    url: str, concurrency: int = 16, *, existing: bool = False, option: str = "--storage"
) -> Storage:
    """Open `s3://bucket/prefix`, `file:///folder` or a local folder.

    Args:
        url: where.
        concurrency: how many threads will use it at once; the S3 connection pool's size.
        existing: a local folder must be there already: for what only reads.
        option: that has the URL, for complaints.

    Raises:
        UsageError: if the URL is none of these, or the folder is not there.
        BucketNotFound, AccessDenied, EndpointUnreachable: if S3 answers so to a first listing.

    """
    try:
        scheme = urlsplit(url).scheme if "://" in url else ""
    except ValueError:  # half an IPv6 address
        scheme = "none"
    if scheme == "s3":
        # boto3 takes a quarter of a second to import: only those who use it pay.
        from imagetag.storage.s3 import S3Storage

        parts = urlsplit(url)
        if not _BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
            raise UsageError(
                f"{option} {shown_url(url)!r}: write s3://bucket or s3://bucket/prefix; "
                "credentials come from the standard AWS settings"
            )
        return S3Storage(parts.netloc, parts.path.strip("/"), concurrency)
    if scheme == "file" and urlsplit(url).netloc in ("", "localhost"):
        return _local(Path(unquote(urlsplit(url).path)), existing, option)
    if scheme or not url or _NO_FOLDER.match(url):
        raise UsageError(
            f"{option} {shown_url(url)!r}: use s3://bucket/prefix (any S3-compatible server, with "
            "AWS_ENDPOINT_URL_S3 set) or a local folder"
        )
    return _local(Path(url), existing, option)


Place = Storage | Path | str
"""A storage that is open, or where one is: a folder, or a URL as `open_storage` takes it."""


def opened(
    where: Place, concurrency: int = 16, *, existing: bool = True, option: str = "storage"
) -> Storage:
    """Return a storage that is open already, or open what is there, as `open_storage` does."""
    if isinstance(where, Storage):
        return where
    if not isinstance(where, str | Path):
        raise UsageError(f"{option}={where!r}: take a folder or a URL")
    text = str(where) if "://" in str(where) else expanded(str(where))
    return open_storage(text, concurrency, existing=existing, option=option)


def _local(root: Path, existing: bool, option: str) -> LocalStorage:
    if existing and not os.path.exists(root):  # noqa: PTH110 - of a name too long it says no
        raise BucketNotFound(f"{option} {root}: {missing_folder(root)}")
    return LocalStorage(root)
