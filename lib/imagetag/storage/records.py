"""What is stored as JSON, such as markers and results: read with a bound, and checked."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

from imagetag.errors import InputError, complaint
from imagetag.storage.base import Storage

_MAX_BYTES = 64 << 20  # a dataset of a million parts, or a pack of 100,000 shards, is in it

Stored = TypeVar("Stored", bound=BaseModel)


def load_record(
    storage: Storage,
    key: str,
    kind: type[Stored],
    advice: str = "",
    *,
    max_bytes: int = _MAX_BYTES,
    **names: str,
) -> Stored:
    """Return a record that is stored as JSON.

    Args:
        storage: has it.
        key: its key.
        kind: what it is.
        advice: what to do where it cannot be read.
        max_bytes: that it may have.
        names: fields and what they must be: it may have been copied from elsewhere.

    Raises:
        ObjectNotFound: if it is not there.
        InputError: if it is larger, no such record, or of another name.

    """
    with storage.open(key) as stream:
        data = stream.read(max_bytes + 1)
    try:
        if len(data) > max_bytes:
            raise ValueError(f"it is larger than {max_bytes:,} bytes")
        found = kind.model_validate_json(data)
    except ValueError as error:  # pydantic's among them
        what = f"cannot be read: {complaint(error)}"
        raise InputError(_told(storage, key, what, advice)) from error
    told = {field: getattr(found, field) for field in names}
    if told != names:
        what = " of ".join(f"the {field} {name[:100]!r}" for field, name in told.items())
        raise InputError(_told(storage, key, f"is of {what}", advice))
    return found


def _told(storage: Storage, key: str, what: str, advice: str) -> str:
    return f"{storage.url}/{key} {what}" + (f"; {advice}" if advice else "")
