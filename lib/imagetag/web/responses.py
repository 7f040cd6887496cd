"""What an answer says: its body up to a bound, when to come again, whether it needs a browser."""

from __future__ import annotations

import email.utils
import http.client
import time

import requests
from urllib3.exceptions import HTTPError

_CHUNK = 1 << 16  # bytes
_MAX_REFUSAL = 8 << 10  # bytes of the body of a refusal
# A page in the place of an answer that only a browser gets past.
_MAX_INTERSTITIAL = 256 << 10  # bytes
_NEEDS_SCRIPTS = (
    *(b"<noscript", b"_cf_chl", b"cf-chl", b"challenge-platform", b"document.cookie"),
    *(b"location.reload", b"enable javascript", b"javascript is required", b"requires javascript"),
)


def read_body(response: requests.Response, most: int) -> bytes:
    """Return an answer's body; if it has more than `most` bytes, its start and more than those."""
    raw = response.raw
    declared = raw.length_remaining
    if declared is not None and not raw.headers.get("Content-Encoding"):
        wanted = min(declared, most + 1)
        content: bytes = raw.read(wanted, decode_content=False) if wanted else b""
        if len(content) < wanted:
            raise http.client.IncompleteRead(content, declared - len(content))
        return content
    chunks = []
    size = 0
    # `read1` gives what has arrived: a full buffer would be waited for as long as it drips in.
    while size <= most and (chunk := raw.read1(_CHUNK, decode_content=True)):
        size += len(chunk)
        chunks.append(chunk)
    return b"".join(chunks)


def read_start(response: requests.Response) -> bytes:
    """Return what has come of the body of a refusal, if anything has."""
    try:
        found: bytes = response.raw.read1(_MAX_REFUSAL, decode_content=True)
    except (HTTPError, OSError, ValueError):
        return b""
    return found


def is_truncated(error: Exception) -> bool:
    """Tell whether an answer ended before all of it had come."""
    return any(isinstance(part, http.client.IncompleteRead) for part in (error, *error.args))


def needs_browser(response: requests.Response) -> bool:
    """Tell whether an answer is a page that only a browser gets past."""
    if "html" not in response.headers.get("Content-Type", "").lower():
        return False
    page = read_body(response, _MAX_INTERSTITIAL).lower()
    return any(sign in page for sign in _NEEDS_SCRIPTS)


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or as a date."""
    if value is None:
        return None
    if (number := value.strip()).isdecimal():
        return float(number)
    try:
        date = email.utils.parsedate_to_datetime(value)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
