"""Datasets of rows, as they are and in storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imagetag.dataset import Dataset, Row, summarize, write_dataset, write_part
from imagetag.layout import Layout
from imagetag.storage import Storage
from tests.builders.rows import key_of


def make_dataset(rows: Sequence[Row] = (), **changes: Any) -> Dataset:
    """Return the marker of a dataset of some rows."""
    images, size, fingerprint = summarize(rows)
    values: dict[str, Any] = {
        "tag": "robot",
        "board": "safebooru",
        "request": {"limit": 100},
        "images": images,
        "bytes": size,
        "failures": {"not_found": 2},
        "skipped": {"animated": 5},
        "parts": (),
        "fingerprint": fingerprint,
        "created": "2026-01-01T00:00:00+00:00",
        "software": "imagetag test",
    }
    return Dataset(**{**values, **changes})


def store_dataset(
    storage: Storage, tag: str, rows: Sequence[Row], files: Sequence[bytes] = (), **changes: Any
) -> Dataset:
    """Store a complete dataset; its images are the files, if there are any, a file a row."""
    if files:
        for row, data in zip(rows, files, strict=True):
            storage.write(key_of(row, tag), data)
    parts = (write_part(storage, Layout(tag), "part", rows),)
    dataset = make_dataset(rows, **{"tag": tag, "parts": parts, **changes})
    write_dataset(storage, dataset)
    return dataset
