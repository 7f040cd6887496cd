"""The rows of a Parquet file as JSON lines: `python -m imagetag.boards.parquet FILE COLUMN...`.

A process of its own, as the library ends the one that it is in over some damaged files. The first
line is a list of the file's columns; the others are rows with those of them that were asked for,
in any case, or null where a row cannot be read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

_MAX_ROW_GROUP = 2 << 30  # bytes of the columns that are read; a writer's default has some 100 MB
_BATCH_ROWS = 1000


def main(path: str, *wanted: str) -> None:
    """Write the rows to standard output."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as parquet:
        names = parquet.schema_arrow.names
        print(json.dumps(names))  # noqa: T201 - that is what it is for
        columns = [name for name in names if name.strip().lower() in wanted]
        _check_row_groups(parquet.metadata, set(columns))
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
            for row in _rows(batch):
                print(json.dumps(row, default=_plain))  # noqa: T201


def _check_row_groups(metadata: Any, columns: set[str]) -> None:
    """End where a row group would not fit in memory."""
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        chunks = (group.column(i) for i in range(group.num_columns))
        size = sum(
            chunk.total_uncompressed_size
            for chunk in chunks
            if chunk.path_in_schema.split(".")[0] in columns
        )
        if size > _MAX_ROW_GROUP:
            sys.exit(f"a row group has {size >> 20} MB: write the file with smaller ones")


def _rows(batch: Any) -> Iterator[dict[str, Any] | None]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # text that is no UTF-8, a time out of range: which one?
        for place in range(batch.num_rows):
            try:
                [row] = batch.slice(place, 1).to_pylist()
            except (ValueError, OverflowError):
                row = None
            yield row


def _plain(value: Any) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else None


if __name__ == "__main__":
    main(*sys.argv[1:])
