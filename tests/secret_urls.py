"""URLs with a password or a key in them, well formed and not: no part of those may be told."""

from __future__ import annotations

from urllib.parse import quote

PIECES = ("hunter", "hushed")  # whichever part is told, it has one of them

# What follows a scheme and its slashes, or stands for itself.
SECRET = (
    "me:hunterhushed@bucket.example/a",
    *(f"me:hunter{middle}hushed@bucket.example/a" for middle in "/?#@:%+\\[&=\uff20\t"),
    "me:12/hunterhushed@bucket.example/a",
    "me:12/hunter%40hushed@bucket.example/a",
    "hunterhushed@bucket.example",
    "hunterhushed:@bucket.example",
    "one@hunter@hushed@bucket.example/a",
    f"me{quote(':hunterhushed@', safe='')}bucket.example/a",
    f"me{quote(quote(':hunterhushed@', safe=''), safe='')}bucket.example/a",
    "me:hunterhushed\uff20bucket.example/a",
    "me\uff1ahunterhushed@bucket.example/a",
    "[hunterhushed@bucket.example",
    "me:hunterhushed@[bucket.example",
    "bucket.example/a?password=hunterhushed",
    "bucket.example/a?email=a@b&password=hunterhushed",
    "bucket.example/?hunterhushed",
    "bucket.example#hunterhushed",
    "bucket.example/a#hunterhushed@b",
)
SCHEMES = (
    "s3://",
    "S3://",
    "s3:",
    "S3:/",
    "s3:///",
    "s 3://",
    "https://",
    "HTTPS:",
    "file://",
    "ftp://",
)


def told_of(text: str) -> list[str]:
    """Return the pieces of the secrets that a text has."""
    return [piece for piece in PIECES if piece in text]
