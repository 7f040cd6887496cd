"""Records of extractors, and features as they may be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagetag.features.extractor import ExtractorRecord


def make_record(**values: Any) -> ExtractorRecord:
    """A record of an extractor of tiny features."""
    content = hashlib.sha256(b"weights").hexdigest()
    usual = {"kind": "keras", "model": "tiny", "content": content, "image_size": (24, 32)}
    return ExtractorRecord(**{**usual, "channels": 3, **values})


def md5s(count: int, first: int = 0) -> list[str]:
    """Names of as many pictures."""
    digests = (hashlib.md5(str(number).encode()) for number in range(first, first + count))
    return [digest.hexdigest() for digest in digests]


def features_of(names: Sequence[str], views: int = 2, channels: int = 3) -> NDArray[np.float16]:
    """Features that tell of which picture they are."""
    values = [int(name[:4], 16) / 65536 for name in names]
    step = np.arange(views * channels).reshape(views, channels)
    return (np.array(values)[:, None, None] + step).astype(np.float16)
